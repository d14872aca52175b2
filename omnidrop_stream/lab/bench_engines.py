"""Both engines side by side: a question at full depth, and what a chunk costs as the window grows.

One stream of each engine holds the largest window and two chunks more; a smaller window is a
question that looks back so far, which finds it as after an eviction. Rounds take the engines in
turn. Most of the held chunks are copies of the first ones' states, whose values cost nothing else.
What a question has to read is counted, not guessed: the decoder's weights once, the head, and
the keys and values of the tokens that enter each layer, as the answer tells them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from omnidrop_stream.cache import Paged, Storage, lease, slots_of, tensor_bytes
from omnidrop_stream.config import Config
from omnidrop_stream.lab.bench_cost import Ratio, Spread, Stopwatch
from omnidrop_stream.lab.bench_feed import (
    QUESTION,
    WINDOW_CHUNKS,
    KeptTowers,
    encode_all,
    make_chunks,
    open_stream,
)
from omnidrop_stream.lab.bench_floor import Rates, measure_rates
from omnidrop_stream.model.base import ExtendRequest
from omnidrop_stream.model.parts import parts_of
from omnidrop_stream.model.qwen_omni import Engine, QwenOmni
from omnidrop_stream.model.template import ChatTemplate
from omnidrop_stream.stream import OmniStream
from omnidrop_stream.types import CHUNK_SECONDS, Answer, Chunk, Query

ENGINES: tuple[Engine, ...] = ("plain", "fast")
POOL = 4
"""Chunks that are encoded; the stream repeats them."""


@dataclass(frozen=True, slots=True)
class EngineRow:
    """One engine at one window; processor time on a CPU, wall time on a GPU."""

    window: int
    engine: str
    question_ms: Spread
    faster: Ratio
    """Times less than plain at this window."""
    read_bytes: int
    """What the question must read."""
    read_bytes_per_s: float
    arrival_ms: Spread
    """One chunk behind a window that is full, encoders excluded."""
    attention_ms: Spread
    """Of that, attention and all that the engine does for it (rotating, joining, writing)."""


@dataclass(frozen=True, slots=True)
class Engines:
    """All of them, with what the machine can do."""

    rows: tuple[EngineRow, ...]
    rates: Rates
    rounds: int


class _Held:
    """A stream of one engine, and its samples."""

    def __init__(self, model: KeptTowers, config: Config, chunks: int, watch: Stopwatch) -> None:
        pairs = -(-chunks // WINDOW_CHUNKS)
        pair = sum(model.kept(c).tokens.count for c in make_chunks(WINDOW_CHUNKS))
        self.model, self._watch = model, watch
        self.stream: OmniStream = open_stream(model, config, "read_side", pairs * pair, watch.now)
        template = ChatTemplate(model.tokenizer, config.stream.kind)
        self._prompt = model.prefill_prompt(*template.prompt(config.stream.system_prompt))
        self.arrival: dict[int, list[float]] = defaultdict(list)
        self.attention: dict[int, list[float]] = defaultdict(list)
        self.question: dict[int, list[float]] = defaultdict(list)
        self.answer: dict[int, Answer] = {}

    def fill(self, chunks: Sequence[Chunk], windows: Sequence[int]) -> None:
        """Push the first chunks, and timed the two behind each window; the rest are copies of the
        first.
        """
        timed = {window + n: window for window in windows for n in range(WINDOW_CHUNKS)}
        for number, chunk in enumerate(chunks):
            if number >= POOL and number not in timed:
                self._append_copy(number)
                continue
            spent = self._time(lambda chunk=chunk: self.stream.push(chunk))  # type: ignore[misc]
            if number in timed:
                self.arrival[timed[number]].append(spent)
                self.attention[timed[number]].append(self._attention())

    def _append_copy(self, number: int) -> None:
        """A copy of the states of chunk ``number`` modulo POOL, as chunk ``number``."""
        held = self.stream.snapshot()
        segment, last = held[number % POOL], held[-1].paged
        paged, start_s = None, CHUNK_SECONDS * number
        if segment.paged is not None and last is not None:
            first = segment.paged.bands[0]
            sizes = (first.video.count, first.audio.count)
            (band,) = lease(first.layers, first.arena.shape, *sizes, Storage(0, 1.0), last)
            for layer in band.layers:
                rows = segment.paged.layer(layer)
                band.write(layer, rows[:, 0], rows[:, 1])
            paged = Paged(last.slot + 1, (band,))
        copy = replace(
            segment,
            chunk=number,
            window=number // WINDOW_CHUNKS,
            start_s=start_s,
            end_s=start_s + CHUNK_SECONDS,
            keys=segment.keys.clone(),
            values=segment.values.clone(),
            paged=paged,
        )
        # Nobody but a benchmark makes up a stream's states, so there is no public way in.
        self.stream._cache.append(copy)
        self.stream._carry = replace(self.stream._carry, next_chunk=number + 1, window=copy.window)

    def ask(self, window: int) -> None:
        """One question of the last ``window`` chunks."""
        query = Query(QUESTION, look_back_s=window * CHUNK_SECONDS)
        events: list[object] = []
        spent = self._time(lambda: events.extend(self.stream.ask(query)))
        self.question[window].append(spent)
        answer = events[-1]
        if not isinstance(answer, Answer):
            raise TypeError(f"a question ended with {answer!r} instead of an answer")
        self.answer[window] = answer

    def _time(self, work: Callable[[], object]) -> float:
        _, cost = self._watch.time(work)
        return cost.cpu_ms or cost.wall_ms

    def _attention(self) -> float:
        """The newest chunk's attention over again, on rows of noise, in all layers."""
        *past, newest = self.stream.snapshot()
        spec, slots = self.model.spec, slots_of(self.stream.snapshot())
        layers = range(spec.n_layers)
        request = ExtendRequest(
            self._prompt,
            tuple(past),
            slots[:-1],
            newest.tokens,
            slots[-1],
            newest.tokens.embeds,
            layers,
        )
        q = torch.randn(spec.n_heads, newest.count, spec.head_dim).to(newest.tokens.embeds)
        k = q[: spec.n_kv_heads]
        with torch.inference_mode():
            running = self.model.running(request)
            return self._time(lambda: [running.attend(layer, q, k, k, k) for layer in layers])


def measure_engines(
    model: QwenOmni,
    config: Config,
    windows: Sequence[int],
    rounds: int,
    watch: Stopwatch,
    note: Callable[[str], None],
) -> Engines:
    """Fill one stream for each engine, then ask in turn."""
    device = torch.device(model.spec.device)
    pool = make_chunks(POOL)
    encoded = encode_all(model, config, pool)
    longest = max(windows) + WINDOW_CHUNKS
    chunks = [replace(pool[i % POOL], index=i, start_s=CHUNK_SECONDS * i) for i in range(longest)]
    held: dict[Engine, _Held] = {}
    for engine in ENGINES:
        note(f"engines: filling {longest} chunks, {engine}")
        towers = KeptTowers(model.with_engine(engine), encoded)
        held[engine] = _Held(towers, config, longest, watch)
        held[engine].fill(chunks, windows)
    for window in windows:
        for number in range(rounds + 1):
            note(f"engines: {window} chunks, round {number} of {rounds}")
            for engine in ENGINES if number % 2 else ENGINES[::-1]:
                held[engine].ask(window)
    rates = measure_rates(device, getattr(torch, model.spec.dtype))
    weights = decoder_bytes(model)
    rows = [_row(held, engine, w, weights) for w in windows for engine in ENGINES]
    return Engines(tuple(rows), rates, rounds)


def decoder_bytes(model: QwenOmni) -> int:
    """The decoder layers and the head: what every question reads once."""
    layers = list(parts_of(model.thinker).text.layers.parameters())
    return tensor_bytes(*layers, model.thinker.lm_head.weight)


def _row(held: dict[Engine, _Held], engine: Engine, window: int, weights: int) -> EngineRow:
    one, spec = held[engine], held[engine].model.spec
    samples = {name: Spread.of(other.question[window][1:]) for name, other in held.items()}
    tokens = sum(n.video + n.audio for n in one.answer[window].tokens.per_layer)
    item = getattr(torch, spec.dtype).itemsize
    read = weights + tokens * 2 * spec.n_kv_heads * spec.head_dim * item
    return EngineRow(
        window=window,
        engine=engine,
        question_ms=samples[engine],
        faster=Ratio.of(samples["plain"], samples[engine]),
        read_bytes=read,
        read_bytes_per_s=read / samples[engine].median * 1e3,
        arrival_ms=Spread.of(one.arrival[window]),
        attention_ms=Spread.of(one.attention[window]),
    )


HEADS = (
    "chunks",
    "engine",
    "question ms",
    "x less",
    "must read MiB",
    "GB/s",
    "of copy",
    "arrival ms",
    "attention ms",
    "share",
)


def engine_cells(engines: Engines) -> list[list[str]]:
    """The table's body under ``HEADS``."""
    return [
        [
            str(r.window),
            r.engine,
            f"{r.question_ms.median:.0f} ({r.question_ms.min:.0f} - {r.question_ms.max:.0f})",
            f"{r.faster.median:.2f} ({r.faster.min:.2f} - {r.faster.max:.2f})",
            f"{r.read_bytes / 2**20:.0f}",
            f"{r.read_bytes_per_s / 1e9:.2f}",
            f"{2 * r.read_bytes_per_s / engines.rates.copy_bytes_per_s:.0%}",
            f"{r.arrival_ms.median:.0f}",
            f"{r.attention_ms.median:.0f}",
            f"{r.attention_ms.median / r.arrival_ms.median:.0%}",
        ]
        for r in engines.rows
    ]


def engine_lines(engines: Engines) -> list[str]:
    """What the table means, and growth from the smallest window to the largest."""
    rates = engines.rates
    copy = rates.copy_bytes_per_s
    lines = [
        "Question at full depth (read_side, retention as configured) and its one-token answer, "
        f"processor time, median (least - most) of {engines.rounds} rounds in turn after one that "
        "is not counted; x less: plain by this row",
        f"a copy reads {copy / 2e9:.2f} GB/s and writes as much; matrices multiply at "
        f"{rates.matmul_flops_per_s / 1e9:.0f} GFLOP/s; of copy: bytes that must be read in the "
        "question's time, by what a copy reads in the same time",
        "arrival: the chunks behind a full window, encoders excluded, mean of "
        f"{WINDOW_CHUNKS}; attention: their attention "
        "again, with all that the engine does for it; share: of the arrival",
    ]
    for engine in ENGINES:
        own = [r for r in engines.rows if r.engine == engine]
        first, last = own[0], own[-1]
        if first is last:
            continue
        wider = last.window / first.window
        rest = [r.arrival_ms.median - r.attention_ms.median for r in (first, last)]
        lines.append(
            f"{engine}: from {first.window} to {last.window} chunks ({wider:.0f} times) a question "
            f"takes {last.question_ms.median / first.question_ms.median:.1f} times as long; an "
            f"arrival without attention {rest[0]:.0f} and {rest[1]:.0f} ms"
        )
    return lines
