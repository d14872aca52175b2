"""An answer's decode step as one launch: CUDA graphs (``model.graphs``).

A token is some hundred kernels, each too short for the host to keep ahead of: on a GPU a step takes
as long as they take to launch. After an answer's first tokens its step is recorded once, over the
whole of the answer's stores (what is not filled is masked), and replayed for every token that
follows. What changes between two tokens lies on the device: the token and the number of the step.

A question's pass is recorded where its shapes come again (``model/recorded_prefill.py``). Recording
was never run on a GPU here; the tests record with a dispatch mode instead, which replays the same
operations on the same memory.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeVar

import torch

from omnidrop_stream.errors import ModelError
from omnidrop_stream.model.decoder import Decoder
from omnidrop_stream.model.fork import Fork, LayerStore
from omnidrop_stream.model.partial import Piece, attend, grouped
from omnidrop_stream.model.rope import rotate

_log = logging.getLogger(__name__)
Work = Callable[[], None]
Capture = Callable[[Work], Work]
"""Does some work on the device once or more; what it returns does it again, on the same memory.
That need not keep ``work`` alive, so who asks keeps all that ``work`` reads.
"""
EAGER_STEPS = 4
"""Steps of an answer before its step is recorded, which costs as much as some steps."""


def worth_recording(fork: Fork) -> bool:
    """Whether the answer has come so far, reads the trunk no longer, and has room for more than one
    token.
    """
    if fork.unrecorded or fork.steps < EAGER_STEPS:
        return False
    return all(store.alone and store.left > 1 for store in fork.layers)


class _Layer:
    """One layer's store as the recorded step sees it: all of its room, of which part is masked."""

    def __init__(self, store: LayerStore, step: torch.Tensor) -> None:
        self.keys, self.values = store.room()
        self._first, self._step = store.count, step
        self._places = torch.arange(self.keys.shape[1], device=step.device)

    def attend(self, q: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """As `LayerStore.attend`, at the place that the step's number says."""
        place = self._step + self._first
        self.keys.index_copy_(1, place, key)
        self.values.index_copy_(1, place, value)
        seen = (self._places <= place)[None]
        # Not by torch's attention kernels: with a mask those for few rows walk all keys in one go.
        queries = grouped(q, self.keys.shape[0])
        rows = seen.expand(queries.shape[1], -1)
        out, _ = attend([Piece(queries, self.keys, self.values, rows)])
        return out.reshape(q.shape)


class RecordedStep:
    """`QwenOmni.decode_step` of one answer, whose stores it fills; freed with its fork."""

    def __init__(
        self, decoder: Decoder, stores: Sequence[LayerStore], position: int, capture: Capture
    ) -> None:
        """``position``: of the next token. Raises ModelError where the step cannot be recorded,
        OutOfMemoryError where there is no room for it.
        """
        device = decoder.device
        self._first = position
        self._token = torch.zeros(1, dtype=torch.long, device=device)
        self._step = torch.zeros(1, dtype=torch.long, device=device)
        self._logits = torch.zeros(decoder.head.out_features, device=device)
        self._stores = stores
        self._layers = [_Layer(store, self._step) for store in stores]
        self._replay = taken(capture, lambda: self._run(decoder), "an answer's step")

    def __call__(self, token: int, position: int) -> torch.Tensor:
        """The next token's logits f32 [vocabulary], valid until the next call; ``token`` stands at
        ``position``.
        """
        for store in self._stores:
            store.advance()
        self._token.fill_(token)
        self._step.fill_(position - self._first)
        self._replay()
        return self._logits

    def _run(self, decoder: Decoder) -> None:
        angles = decoder.rotary.angles((self._step + self._first).expand(3, 1))
        hidden = decoder.embed(self._token)
        for number, layer in enumerate(self._layers):
            new = decoder.project(number, hidden, angles)
            attended = layer.attend(new.q, rotate(new.k, angles), new.v)
            hidden = decoder.finish(number, hidden, attended)
        self._logits.copy_(decoder.logits(hidden))


Record = TypeVar("Record")
SHORTAGE = ("out of memory", "alloc_failed")
"""In what CUDA and its libraries say where memory is short."""


def with_room(make: Callable[[], Record], what: str) -> Record | None:
    """``make()``, a record; None where there is no memory for it, which is logged: ``what`` it is
    goes on kernel by kernel.
    """
    try:
        return make()
    except torch.OutOfMemoryError:
        _log.warning("no memory to record %s as a CUDA graph: launched kernel by kernel", what)
        return None


def taken(capture: Capture, work: Work, what: str) -> Work:
    """``capture(work)``. Raises ModelError where ``what`` it is cannot be recorded at all, and
    OutOfMemoryError as it comes.
    """
    try:
        return capture(work)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise ModelError(
            f"{what} could not be recorded as a CUDA graph ({error}); set model.graphs to false, "
            "and start again"
        ) from error


def is_shortage(error: RuntimeError) -> bool:
    """Whether an error of the device comes of too little memory; not all of them have a class."""
    said = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError) or any(word in said for word in SHORTAGE)


class CudaCapture:
    """A `Capture` for one CUDA device, as torch's documentation wants it: once for real on a stream
    beside, where libraries set themselves up, then for the record. Other threads (hardware
    decoders) may go on meanwhile.

    All records share their memory: it holds nothing from one replay to the next, and they are
    replayed one after the other. What ``torch.cuda.graph`` does besides, emptying all caches of the
    process, would cost every stream new memory at each answer; it is done where memory is short,
    because nothing is given back while a record is taken.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._beside = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()
        self._failed = ""
        # The shared memory ends with its last record; this one stays.
        number = torch.zeros(1, device=device)
        self._kept = number, self._recorded(lambda: _ignored(number + 1))

    def __call__(self, work: Work) -> Work:
        """See `Capture`. What failed once is not tried again: the allocator may be spoilt. Only for
        want of memory, which raises OutOfMemoryError, it is.
        """
        if self._failed:  # the words alone: an exception holds all that its frames hold
            raise RuntimeError(self._failed)
        try:
            graph = self._with_room(work)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self._failed = str(error)
            raise
        replay: Work = graph.replay
        return replay

    def _with_room(self, work: Work) -> torch.cuda.CUDAGraph:
        try:
            return self._recorded(work)
        except RuntimeError as error:
            if not is_shortage(error):
                raise
        torch.cuda.empty_cache()  # the first try's frames have gone by now
        try:
            return self._recorded(work)
        except RuntimeError as error:
            if not is_shortage(error):
                raise
            raise torch.OutOfMemoryError(str(error)) from None

    def _recorded(self, work: Work) -> torch.cuda.CUDAGraph:
        current = torch.cuda.current_stream(self._device)
        self._beside.wait_stream(current)
        collecting = gc.isenabled()
        gc.disable()  # a record that a collector ends has no place in another one
        try:
            with torch.cuda.stream(self._beside):
                work()
                self._beside.synchronize()
                graph = torch.cuda.CUDAGraph()
                graph.capture_begin(self._pool, capture_error_mode="thread_local")
                try:
                    work()
                except BaseException:
                    with suppress(RuntimeError):  # what went wrong first is to be told
                        graph.capture_end()
                    raise
                graph.capture_end()
        finally:
            if collecting:
                gc.enable()
            current.wait_stream(self._beside)  # also behind what failed half-way
        return graph


def _ignored(_: torch.Tensor) -> None:
    return None
