"""One answer's private state: what each layer saw of the stream, plus the text after it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from omnidrop_stream.cache import tensor_bytes
from omnidrop_stream.model.attention import Attention
from omnidrop_stream.model.partial import Piece, attend, grouped
from omnidrop_stream.model.rope import rotate

SETTLED_AFTER = 3
"""Tokens of an answer after which it begins to copy what it reads in the trunk, because a single
stretch is read faster. On a processor one layer with each token, the one that sees least first: a
copy of all at once took as long as eight tokens behind 128 chunks, and costs more than it saves
where the answer ends soon.
"""


@dataclass(frozen=True, slots=True)
class Read:
    """Keys and values [H_kv, n, hd] that are read where they lie, in the trunk."""

    keys: torch.Tensor
    values: torch.Tensor
    turn: tuple[torch.Tensor, torch.Tensor] | None = None
    """By which angles f32 [1, hd] a query is rotated on to meet these keys; None: not at all."""
    pins: tuple[object, ...] = ()
    """What keeps their memory from being used for something else."""
    gone: torch.Tensor | None = None
    """Those that are not seen, i64; None: all are."""

    @property
    def nbytes(self) -> int:
        """Bytes of what is seen."""
        unseen = 0 if self.gone is None else len(self.gone)
        whole = tensor_bytes(self.keys, self.values)
        return whole - unseen * (whole // max(1, self.keys.shape[1]))

    @property
    def count(self) -> int:
        """Keys that are seen."""
        return int(self.keys.shape[1]) - (0 if self.gone is None else len(self.gone))

    def copy_to(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Put what is seen in ``keys`` and ``values`` [H_kv, count, hd], the keys turned to meet a
        query that is not.
        """
        kept: slice | torch.Tensor = slice(None)
        if self.gone is not None:
            stays = torch.ones(self.keys.shape[1], dtype=torch.bool, device=keys.device)
            kept = stays.index_fill(0, self.gone, False).nonzero()[:, 0]
        # On a processor head by head: what lies between is small enough to stay near.
        heads = range(len(keys)) if keys.device.type == "cpu" else (slice(None),)
        for head in heads:
            keys[head] = self._turned(self.keys[head][..., kept, :])
            values[head] = self.values[head][..., kept, :]

    def _turned(self, keys: torch.Tensor) -> torch.Tensor:
        if self.turn is None:
            return keys
        cos, sin = self.turn
        return rotate(keys.float(), (cos, -sin)).to(keys.dtype)

    def piece(self, q: torch.Tensor) -> Piece:
        """For attention of rotated queries [H, n, hd]."""
        turned = q if self.turn is None else rotate(q.float(), self.turn).to(q.dtype)
        own = grouped(turned, self.keys.shape[0])
        return Piece(own, self.keys, self.values, gone=self.gone)


class LayerStore:
    """Rotated keys and values of one layer [H_kv, capacity, hd], filled from the front."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, spare: int) -> None:
        heads, count, width = keys.shape
        self._keys = keys.new_empty(heads, count + spare, width)
        self._values = values.new_empty(heads, count + spare, width)
        self._keys[:, :count] = keys
        self._values[:, :count] = values
        self._count = count
        self._reads: Sequence[Read] = ()

    @classmethod
    def over(
        cls, keys: torch.Tensor, values: torch.Tensor, count: int, reads: Sequence[Read]
    ) -> LayerStore:
        """A store in the given memory, in which ``count`` positions are filled, of a layer that
        also sees ``reads``.
        """
        store = cls.__new__(cls)
        store._keys, store._values, store._count, store._reads = keys, values, count, reads
        return store

    @property
    def count(self) -> int:
        """Positions filled."""
        return self._count

    @property
    def left(self) -> int:
        """Positions for which there is room."""
        return int(self._keys.shape[1]) - self._count

    def room(self) -> tuple[torch.Tensor, torch.Tensor]:
        """All keys and values [H_kv, capacity, hd]; those not filled yet are zeros from now on."""
        for held in (self._keys, self._values):
            held[:, self._count :].zero_()
        return self._keys, self._values

    def settle(self) -> None:
        """Copy what is read in the trunk in front of what is held: one stretch is read faster than
        several, and the trunk's rows are free again.
        """
        if self.alone:
            return
        heads, room, width = self._keys.shape
        seen = sum(read.count for read in self._reads)
        made = self._keys.new_empty(2, heads, seen + room, width)
        at = 0
        for read in self._reads:
            read.copy_to(*made[:, :, at : at + read.count])
            at += read.count
        for place, held in zip(made, (self._keys, self._values), strict=True):
            place[:, seen : seen + self._count] = held[:, : self._count]
        self._keys, self._values = made
        self._count += seen
        self._reads = ()

    def advance(self) -> None:
        """One position more is filled, by who has the `room`; raises IndexError where there is
        none.
        """
        if not self.left:
            raise IndexError(f"the answer's store is full at {self._count} positions")
        self._count += 1

    def append(self, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Add one position [H_kv, 1, hd] and return everything held (views, valid until the next
        append).
        """
        self.advance()
        self._keys[:, self._count - 1] = key[:, 0]
        self._values[:, self._count - 1] = value[:, 0]
        return self._keys[:, : self._count], self._values[:, : self._count]

    @property
    def alone(self) -> bool:
        """Whether all that the layer sees is held here."""
        return not self._reads

    def attend(
        self, attention: Attention, q: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> torch.Tensor:
        """Add one position and attend with its rotated query [H, 1, hd] to all that the layer sees:
        [H, 1, hd].
        """
        keys, values = self.append(key, value)
        if self.alone:
            return attention.of(q, keys, values)
        own = Piece(grouped(q, keys.shape[0]), keys, values)
        out, _ = attend([own, *(read.piece(q) for read in self._reads)])
        return out.reshape(q.shape)

    def cut(self, start: int, stop: int) -> None:
        """Forget the positions from ``start`` up to ``stop``; what follows moves down. Where the
        layer reads them in the trunk, it no longer does.
        """
        if self._reads:
            self._reads = ()
            return
        for held in (self._keys, self._values):
            held[:, start : start + self._count - stop] = held[:, stop : self._count].clone()
        self._count -= stop - start

    @property
    def nbytes(self) -> int:
        """Bytes allocated, and those read in the trunk, which it pins."""
        pinned = sum(read.nbytes for read in self._reads)
        return tensor_bytes(self._keys, self._values) + pinned


def attend_stores(
    attention: Attention,
    several: Sequence[tuple[LayerStore, torch.Tensor, torch.Tensor, torch.Tensor]],
) -> list[torch.Tensor]:
    """`LayerStore.attend` for one layer's stores of several answers: store, query, key, value of
    each.
    """
    if all(store.alone for store, *_ in several):
        return attention.of_each([(q, *store.append(k, v)) for store, q, k, v in several])
    return [store.attend(attention, q, k, v) for store, q, k, v in several]


@dataclass(slots=True)
class Fork:
    """Mutable: ``decode_step`` appends. Freed with the answer's generator."""

    layers: list[LayerStore]
    next_position: int
    logits: torch.Tensor
    """f32 [vocabulary] of the next token."""
    entering_video: list[int]
    entering_audio: list[int]
    evidence: torch.Tensor
    """f32 [n0]: guidance score before any diversity term, summed over layers >= L/2."""
    steps: int = 0
    """Tokens decoded."""
    recorded: Callable[[int, int], torch.Tensor] | None = None
    """The step as one launch (``model/graphs.py``), once there is one: token and its position ->
    logits.
    """
    unrecorded: bool = False
    """There was no memory to record it."""

    def advance(self, logits: torch.Tensor) -> None:
        """A token was decoded; f32 [vocabulary] of the next. After a few the layers `settle`."""
        self.next_position += 1
        self.steps += 1
        self.logits = logits
        if self.steps >= SETTLED_AFTER:
            waiting = [layer for layer in reversed(self.layers) if not layer.alone]
            for layer in waiting[: 1 if logits.device.type == "cpu" else None]:
                layer.settle()

    @torch.inference_mode()
    def forget_block(self, first: int) -> None:
        """Forget the audiovisual block, which begins at ``first``, in every layer, as a policy
        wants that removes all of it before the last one: decoding reads text alone.
        """
        counts = zip(self.layers, self.entering_video, self.entering_audio, strict=True)
        for store, video, audio in counts:
            store.cut(first, first + video + audio)

    @property
    def nbytes(self) -> int:
        """Bytes allocated for this answer."""
        return sum(layer.nbytes for layer in self.layers) + tensor_bytes(self.logits, self.evidence)
