"""Does a stream get slower with age? One that has run long against one that has just filled.

Both roll the same window; in each round both take one merging window (four seconds) of new chunks,
encoders and all, and one question, in an order that alternates. The stretch before that is fed from
a pool of chunks that were encoded once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from omnidrop_stream.cache import Segment
from omnidrop_stream.config import Config
from omnidrop_stream.errors import ConfigError
from omnidrop_stream.lab.bench_cost import Spread, Stopwatch
from omnidrop_stream.lab.bench_feed import (
    QUESTION,
    WINDOW_CHUNKS,
    KeptTowers,
    encode_all,
    make_chunks,
    open_stream,
    push_all,
)
from omnidrop_stream.model.qwen_omni import QwenOmni
from omnidrop_stream.stream import OmniStream
from omnidrop_stream.types import CHUNK_SECONDS, Chunk

POOL = 8
RESAMPLES = 4000


@dataclass(frozen=True, slots=True)
class RollingSettings:
    """Chunks that the old stream has run, chunks that both hold, and rounds of measurement."""

    chunks: int = 600
    window: int = 32
    rounds: int = 15

    def __post_init__(self) -> None:
        if self.window % WINDOW_CHUNKS or not WINDOW_CHUNKS <= self.window < self.chunks:
            raise ConfigError(
                f"a rolling window of {self.window} chunks after {self.chunks} is not allowed: "
                "give an even window of 2 or more, and more chunks than that"
            )
        if self.rounds < 2:
            raise ConfigError(f"{self.rounds} rounds are not allowed: give 2 or more")


@dataclass(frozen=True, slots=True)
class Compared:
    """One quantity of the old and the young stream; ratio of medians with its 95 % interval."""

    old: Spread
    young: Spread
    ratio: float
    low: float
    high: float

    @property
    def contains_one(self) -> bool:
        """Whether no difference is within the interval."""
        return self.low <= 1.0 <= self.high


@dataclass(frozen=True, slots=True)
class Rolling:
    """The old stream against the young one. Bytes are those of distinct storages held."""

    settings: RollingSettings
    depth: int
    label: str
    arrival_ms: Compared
    question_ms: Compared
    arrival_cpu_ms: Compared | None
    question_cpu_ms: Compared | None
    old_bytes: int
    young_bytes: int
    old_evicted: int
    young_evicted: int


class _Runner:
    """One endless stream over a pool of chunks."""

    def __init__(self, stream: OmniStream, model: KeptTowers, pool: Sequence[Chunk]) -> None:
        self.stream = stream
        self._model, self._pool, self._next = model, pool, 0
        self.arrival: list[tuple[float, float]] = []
        self.question: list[tuple[float, float]] = []
        self.label = ""

    def _chunk(self) -> Chunk:
        index, self._next = self._next, self._next + 1
        return replace(
            self._pool[index % len(self._pool)], index=index, start_s=CHUNK_SECONDS * index
        )

    def feed(self, count: int) -> None:
        """Push chunks with kept tower results."""
        push_all(self.stream, (self._chunk() for _ in range(count)))

    def measure(self, watch: Stopwatch) -> None:
        """One merging window and one question, for real."""
        self._model.live = True
        chunks = [self._chunk() for _ in range(WINDOW_CHUNKS)]
        _, cost = watch.time(lambda: push_all(self.stream, chunks))
        self.arrival.append((cost.wall_ms / WINDOW_CHUNKS, cost.cpu_ms / WINDOW_CHUNKS))
        events, cost = watch.time(lambda: list(self.stream.ask(QUESTION)))
        self._model.live = False
        answer = events[-1]
        self.label = getattr(answer, "label", "")
        self.question.append((getattr(answer, "ttft_ms", cost.wall_ms), cost.cpu_ms))


def measure_rolling(
    model: QwenOmni,
    config: Config,
    settings: RollingSettings,
    watch: Stopwatch,
    note: Callable[[str], None],
) -> Rolling:
    """Age one stream, fill the other, then measure both in turn."""
    pool = make_chunks(POOL)
    kept = KeptTowers(model, encode_all(model, config, pool))
    budget = sum(kept.kept(pool[i % POOL]).tokens.count for i in range(settings.window))

    def runner() -> _Runner:
        stream = open_stream(kept, config, config.stream.prefill_depth, budget, watch.now)
        return _Runner(stream, kept, pool)

    old, young = runner(), runner()
    note(f"rolling: running {settings.chunks} chunks")
    old.feed(settings.chunks - settings.chunks % WINDOW_CHUNKS)
    young.feed(settings.window)
    both = (old, young)
    for one in both:
        one.measure(watch)
        one.arrival.clear()
        one.question.clear()
    for number in range(settings.rounds):
        note(f"rolling: round {number + 1} of {settings.rounds}")
        for one in both if number % 2 == 0 else both[::-1]:
            one.measure(watch)
    timed_cpu = old.arrival[0][1] > 0
    return Rolling(
        settings=settings,
        depth=old.stream.depth,
        label=old.label,
        arrival_ms=_compared(old.arrival, young.arrival, 0),
        question_ms=_compared(old.question, young.question, 0),
        arrival_cpu_ms=_compared(old.arrival, young.arrival, 1) if timed_cpu else None,
        question_cpu_ms=_compared(old.question, young.question, 1) if timed_cpu else None,
        old_bytes=storage_bytes(old.stream.snapshot()),
        young_bytes=storage_bytes(young.stream.snapshot()),
        old_evicted=old.stream.status().evicted,
        young_evicted=young.stream.status().evicted,
    )


def _compared(
    old: Sequence[tuple[float, float]], young: Sequence[tuple[float, float]], which: int
) -> Compared:
    """Rounds are drawn with replacement, both streams' samples of a round together."""
    a, b = np.array([s[which] for s in old]), np.array([s[which] for s in young])
    drawn = np.random.default_rng(0).integers(0, len(a), (RESAMPLES, len(a)))
    ratios = np.median(a[drawn], axis=1) / np.median(b[drawn], axis=1)
    low, high = np.quantile(ratios, [0.025, 0.975])
    ratio = float(np.median(a) / np.median(b))
    return Compared(Spread.of(a.tolist()), Spread.of(b.tolist()), ratio, float(low), float(high))


def storage_bytes(segments: Sequence[Segment]) -> int:
    """Bytes of all storages that the segments keep alive, each counted once."""
    sizes: dict[int, int] = {}
    for segment in segments:
        tokens = segment.tokens
        tensors = [segment.keys, segment.values, segment.hidden]
        for tensor in (*tensors, tokens.embeds, tokens.modality, tokens.offsets):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                sizes[storage.data_ptr()] = storage.nbytes()
    return sum(sizes.values())
