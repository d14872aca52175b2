"""``omnidrop bench ways``: every way that a model can compute, beside the plain one.

Engines, attention kernels, CUDA graphs, a CUDA stream for the towers, torch's compiler: which of
them pays is a matter of the device, so it is measured there. All ways share the weights; each holds
a stream with the same window, rounds take them in turn, and each tells how far its logits are from
the plain way's. A way that this machine does not have says why instead.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from omnidrop_stream.cache import Segment
from omnidrop_stream.config import Config
from omnidrop_stream.errors import ConfigError, OmniDropError
from omnidrop_stream.lab.bench import build_model
from omnidrop_stream.lab.bench_cost import Ratio, Spread, Stopwatch, conditions
from omnidrop_stream.lab.bench_decode import token_times
from omnidrop_stream.lab.bench_feed import (
    QUESTION,
    WINDOW_CHUNKS,
    encode_all,
    make_chunks,
    model_facts,
    open_stream,
    push_all,
)
from omnidrop_stream.lab.bench_types import BenchSettings
from omnidrop_stream.model.base import Prompt, Question
from omnidrop_stream.model.compiled import check_compiler
from omnidrop_stream.model.fork import Fork
from omnidrop_stream.model.pick import pick_ways
from omnidrop_stream.model.qwen_omni import QwenOmni
from omnidrop_stream.model.recorded_prefill import EAGER_PASSES
from omnidrop_stream.types import CHUNK_SECONDS, Answer, Chunk, Query

Note = Callable[[str], None]
PLAIN = "plain"
WAYS: dict[str, dict[str, Any]] = {
    PLAIN: {"engine": "plain"},
    "fast": {"engine": "fast"},
    "flash": {"engine": "plain", "attention": "flash"},
    "graphs": {"engine": "plain", "graphs": True},
    "fast+graphs": {"engine": "fast", "graphs": True},
    "overlap": {"engine": "plain", "overlap": True},
    "compile": {"engine": "plain", "compile": True},
}
"""Settings under ``model``; what is not named there is off."""
FAILURES = (OmniDropError, RuntimeError)
"""What a way may end with that this device or its memory does not take."""
OFF: dict[str, Any] = {"attention": "sdpa", "graphs": False, "overlap": False, "compile": False}

USUAL = tuple(name for name in WAYS if name != "compile")
"""All but the one that takes minutes."""


@dataclass(frozen=True, slots=True)
class WaysSettings:
    """What is measured. shape: random weights; None: ``config.model`` is loaded. chunks: the
    window, whole merging windows.
    """

    config: Config
    shape: str | None = "bench"
    ways: tuple[str, ...] = USUAL
    chunks: int = 32
    depth: int | str = "read_side"
    repeats: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        unknown = [name for name in self.ways if name not in WAYS]
        if unknown:
            raise ConfigError(f"--ways = {unknown[0]} is not known: give some of {', '.join(WAYS)}")
        if self.chunks < WINDOW_CHUNKS or self.chunks % WINDOW_CHUNKS:
            raise ConfigError(f"--chunks = {self.chunks} is not allowed: give an even number")
        if self.repeats < 1:
            raise ConfigError(f"--repeats = {self.repeats} is not allowed: give 1 or more")


@dataclass(frozen=True, slots=True)
class Row:
    """One way; processor time on a CPU, wall time on a GPU."""

    name: str
    missing: str = ""
    """Why there are no figures."""
    first_ms: float = 0.0
    """The first three questions together: what is loaded, recorded or compiled is done then."""
    question_ms: Spread | None = None
    """At a chunk's end, with an answer of one token."""
    faster: Ratio | None = None
    """Times less than plain."""
    behind_ms: Spread | None = None
    """Wall time of a question asked just after a chunk's encoding was begun."""
    token_ms: Spread | None = None
    arrival_ms: Spread | None = None
    """Of one chunk, encoders and all."""
    logits_distance: float | None = None
    """Largest, relative to the length of the plain way's; None for plain."""
    same_token: float | None = None
    """Share of questions with the plain way's first token."""


@dataclass(frozen=True, slots=True)
class Report:
    """What came out, with everything it depends on."""

    conditions: dict[str, Any]
    settings: dict[str, Any]
    rows: tuple[Row, ...] = ()


class _Heard(QwenOmni):
    """The same weights another way; keeps the last question's logits."""

    heard: torch.Tensor | None = None

    def pruned_prefill(
        self, prompt: Prompt, segments: Sequence[Segment], slots: Sequence[int], question: Question
    ) -> Generator[None, None, Fork]:
        """As the model does it."""
        fork = yield from super().pruned_prefill(prompt, segments, slots, question)
        self.heard = fork.logits.float().cpu()
        return fork


class _Way:
    """A stream of one way, and its samples."""

    def __init__(self, model: _Heard, settings: WaysSettings, chunks: Sequence[Chunk]) -> None:
        config, self._window, self._next = settings.config, chunks[:-1], chunks[-1]
        self._model, self._decode = model, config.decode
        self._watch = Stopwatch(torch.device(model.spec.device))
        pair = encode_all(model, config, chunks[:WINDOW_CHUNKS])
        budget = sum(one.tokens.count for one in pair) * (settings.chunks // WINDOW_CHUNKS)
        # A clock that waits for the device would end what goes on beside.
        self._stream = open_stream(model, config, settings.depth, budget, time.perf_counter)
        push_all(self._stream, self._window)
        self.question: list[float] = []
        self.behind: list[float] = []
        self.token: list[float] = []
        self.arrival: list[float] = []
        self.logits: list[torch.Tensor] = []
        self.answer()
        self.first_ms = sum(self._ask() for _ in range(EAGER_PASSES + 1))

    def round(self) -> None:
        """One sample of each."""
        self.question.append(self._ask())
        if self._model.heard is not None:
            self.logits.append(self._model.heard)
        self.behind.append(self._ask_behind())
        self._stream.forget(CHUNK_SECONDS * WINDOW_CHUNKS)
        arriving = self._window[-WINDOW_CHUNKS:]
        spent = self._time(lambda: push_all(self._stream, arriving))
        self.arrival.append(spent / WINDOW_CHUNKS)

    def answer(self) -> None:
        """One answer at length, its tokens timed; what they record is recorded then."""
        _, later = token_times(self._stream, Query(QUESTION), self._decode, self._watch)
        self.token += later

    def _ask(self) -> float:
        events: list[object] = []
        spent = self._time(lambda: events.extend(self._stream.ask(QUESTION)))
        if not isinstance(events[-1], Answer):
            raise TypeError(f"a question ended with {events[-1]!r} instead of an answer")
        return spent

    def _ask_behind(self) -> float:
        """A question between a chunk's encoding and its prefill, which is then given up."""
        self._watch.now()
        arriving = self._stream.push_steps(self._next)
        next(arriving)
        started = time.perf_counter()
        for _ in self._stream.ask(QUESTION):
            pass
        spent = time.perf_counter() - started
        arriving.close()
        return spent * 1e3

    def _time(self, work: Callable[[], object]) -> float:
        _, cost = self._watch.time(work)
        return cost.cpu_ms or cost.wall_ms


def run(settings: WaysSettings, note: Note = lambda _: None) -> Iterator[Report]:
    """Measure; yields the report after each round. The plain way is always one of them."""
    note("building the model")
    base = settings.config.model.model_copy(update=OFF)
    config = settings.config.model_copy(update={"model": base})
    model = build_model(BenchSettings(config, settings.shape))
    report = Report(conditions(torch.device(model.spec.device)), _told(settings, model))
    chunks = make_chunks(settings.chunks + 1, settings.seed)
    held: dict[str, _Way] = {}
    missing: list[Row] = []
    for name in dict.fromkeys((PLAIN, *settings.ways)):
        note(f"{name}: filling {settings.chunks} chunks")
        try:
            held[name] = _Way(_computing(model, settings, name), settings, chunks)
        except FAILURES as error:
            if name == PLAIN:
                raise
            missing.append(Row(name, str(error)))
    for number in range(settings.repeats):
        note(f"round {number + 1} of {settings.repeats}")
        names = list(held)
        turned = number % len(names)
        for name in names[turned:] + names[:turned]:
            try:
                held[name].round()
            except FAILURES as error:
                if name == PLAIN:
                    raise
                del held[name]
                missing.append(Row(name, str(error)))
        measured = [_row(name, way, held[PLAIN]) for name, way in held.items()]
        yield replace(report, rows=(*measured, *missing))


def _computing(model: QwenOmni, settings: WaysSettings, name: str) -> _Heard:
    """The same weights this way. Raises ConfigError and MissingDependency where it is not here."""
    chosen = settings.config.model.model_copy(update={**OFF, **WAYS[name]})
    device, dtype = torch.device(model.spec.device), getattr(torch, model.spec.dtype)
    if chosen.compile:
        check_compiler(device)
    spec = replace(model.spec, compiled=chosen.compile)
    return _Heard(model.thinker, model.tokenizer, spec, pick_ways(chosen, device, dtype))


def _row(name: str, way: _Way, plain: _Way) -> Row:
    question = Spread.of(way.question)
    pairs = list(zip(plain.logits, way.logits, strict=True))
    far = max(float((b - a).norm() / a.norm()) for a, b in pairs)
    same = statistics.mean(int(a.argmax()) == int(b.argmax()) for a, b in pairs)
    return Row(
        name,
        first_ms=way.first_ms,
        question_ms=question,
        faster=Ratio.of(Spread.of(plain.question), question),
        behind_ms=Spread.of(way.behind),
        token_ms=Spread.of(way.token),
        arrival_ms=Spread.of(way.arrival),
        logits_distance=None if way is plain else far,
        same_token=None if way is plain else same,
    )


def _told(settings: WaysSettings, model: QwenOmni) -> dict[str, Any]:
    return {
        **model_facts(model, settings.shape is not None),
        "chunks": settings.chunks,
        "depth": settings.depth,
        "repeats": settings.repeats,
        "seed": settings.seed,
        "question": QUESTION,
        "config": settings.config.model_dump(mode="json"),
    }
