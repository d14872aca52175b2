"""Both engines side by side: a question at full depth, and what a chunk costs as the window grows.

One stream of each engine holds the largest window and two chunks more; a smaller window is a
question that looks back so far, which finds it as after an eviction. Rounds take the engines in
turn. Most of the held chunks get copies of the first ones' states, whose values cost nothing else.
What a question has to read is counted, not guessed: the decoder's weights once, the head, and
the keys and values of the tokens that enter each layer, as the answer tells them. So is what it has
to compute; how fast the machine copies and multiplies is measured in the same run.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace

import torch

from omnidrop_stream.cache import Paged, Segment, lease, slots_of, tensor_bytes
from omnidrop_stream.config import Config
from omnidrop_stream.lab.bench_cost import Ratio, Spread, Stopwatch
from omnidrop_stream.lab.bench_decode import ANSWERS, DecodeRow, token_bytes, token_times
from omnidrop_stream.lab.bench_feed import (
    QUESTION,
    WINDOW_CHUNKS,
    KeptTowers,
    encode_all,
    make_chunks,
    open_stream,
)
from omnidrop_stream.lab.bench_floor import Rates, measure_rates
from omnidrop_stream.lab.flops import token_flops
from omnidrop_stream.lab.held import sizes_of
from omnidrop_stream.model.base import LOOSE, ExtendRequest, Place, Prompt, States
from omnidrop_stream.model.parts import parts_of
from omnidrop_stream.model.qwen_omni import Engine, QwenOmni
from omnidrop_stream.model.template import ChatTemplate
from omnidrop_stream.stream import OmniStream
from omnidrop_stream.types import CHUNK_SECONDS, Answer, Chunk, ChunkTokens, Query

ENGINES: tuple[Engine, ...] = ("plain", "fast")
POOL = 4
"""Chunks that are encoded; the stream repeats them."""


SHORT_QUESTION = "Now?"
"""Few rows, of which the memory sets the pace sooner than the products."""


@dataclass(frozen=True, slots=True)
class QuestionRow:
    """One engine's question at one window; processor time on a CPU, wall time on a GPU."""

    window: int
    engine: str
    text_rows: int
    """Rows that run through the layers: the question and the template around it."""
    first_ms: float
    """The first of them, which no other figure counts."""
    question_ms: Spread
    faster: Ratio
    """Times less than plain at this window."""
    read_bytes: int
    """What the question must read."""
    flops: int
    """What it must compute."""
    floor_ms: float
    """The larger of what these two take at the machine's rates."""

    @property
    def read_bytes_per_s(self) -> float:
        """Of what it must read, in the time it takes."""
        return self.read_bytes / self.question_ms.median * 1e3


@dataclass(frozen=True, slots=True)
class ArrivalRow:
    """What one chunk costs one engine behind a window that is full, encoders excluded."""

    window: int
    engine: str
    arrival_ms: Spread
    attention_ms: Spread
    """Of that, attention and all that the engine does for it (rotating, joining, writing)."""


@dataclass(frozen=True, slots=True)
class Engines:
    """All of them, with what the machine can do."""

    rows: tuple[QuestionRow, ...]
    arrivals: tuple[ArrivalRow, ...]
    tokens: tuple[DecodeRow, ...]
    rates: Rates
    rounds: int


class _CopiedStates(KeptTowers):
    """The same weights; while ``copying``, a chunk behind the first ones gets the states of the one
    that it repeats instead of a pass through the layers.
    """

    copying = False

    def extend(
        self,
        prompt: Prompt,
        past: Sequence[Segment],
        past_slots: Sequence[int],
        tokens: ChunkTokens,
        slot: int,
        hidden: torch.Tensor,
        layers: range,
        place: Place = LOOSE,
    ) -> Generator[None, None, States]:
        """For real, or a copy in memory of its own."""
        if not self.copying:
            run = super().extend(prompt, past, past_slots, tokens, slot, hidden, layers, place)
            return (yield from run)
        source = past[len(past) % POOL]
        states = States(source.keys.clone(), source.values.clone(), hidden)
        last = past[-1].paged
        if source.paged is None or last is None:
            return states
        (first,) = source.paged.bands
        sizes = (first.video.count, first.audio.count)
        (band,) = lease(layers, first.arena.shape, *sizes, place.storage, last)
        for layer in layers:
            keys, values = first.read(layer)
            band.write(layer, keys, values)
        return replace(states, paged=Paged(last.slot + 1, (band,)))


class _Held:
    """A stream of one engine, and its samples."""

    def __init__(self, model: _CopiedStates, config: Config, chunks: int, watch: Stopwatch) -> None:
        pairs = -(-chunks // WINDOW_CHUNKS)
        pair = sum(model.kept(c).tokens.count for c in make_chunks(WINDOW_CHUNKS))
        self.model, self._watch = model, watch
        self.stream: OmniStream = open_stream(model, config, "read_side", pairs * pair, watch.now)
        self._template = ChatTemplate(model.tokenizer, config.stream.kind)
        prompt, markers = self._template.prompt(config.stream.system_prompt)
        self.prompt = model.prefill_prompt(prompt, markers)
        self.arrival: dict[int, list[float]] = defaultdict(list)
        self.attention: dict[int, list[float]] = defaultdict(list)
        self.question: dict[tuple[int, str], list[float]] = defaultdict(list)
        self.answer: dict[tuple[int, str], Answer] = {}
        self.early: dict[int, list[float]] = defaultdict(list)
        self.token: dict[int, list[float]] = defaultdict(list)
        self._decode = config.decode

    def fill(self, chunks: Sequence[Chunk], windows: Sequence[int]) -> None:
        """Push the first chunks, and timed the two behind each window; the rest are copies of the
        first.
        """
        timed = {window + n: window for window in windows for n in range(WINDOW_CHUNKS)}
        for number, chunk in enumerate(chunks):
            self.model.copying = number >= POOL and number not in timed
            spent = self._time(lambda chunk=chunk: self.stream.push(chunk))  # type: ignore[misc]
            if number in timed:
                self.arrival[timed[number]].append(spent)
                self.attention[timed[number]].append(self._attention())

    def text_rows(self, question: str) -> int:
        """Rows of ``question`` with the template around it."""
        return len(self._template.tail(question).ids)

    def ask(self, window: int, question: str) -> None:
        """One question of the last ``window`` chunks."""
        query = Query(question, look_back_s=window * CHUNK_SECONDS)
        events: list[object] = []
        spent = self._time(lambda: events.extend(self.stream.ask(query)))
        self.question[window, question].append(spent)
        answer = events[-1]
        if not isinstance(answer, Answer):
            raise TypeError(f"a question ended with {answer!r} instead of an answer")
        self.answer[window, question] = answer

    def answer_at_length(self, window: int) -> None:
        """One answer about the last ``window`` chunks, its tokens timed."""
        query = Query(QUESTION, look_back_s=window * CHUNK_SECONDS)
        early, later = token_times(self.stream, query, self._decode, self._watch)
        self.early[window] += early
        self.token[window] += later

    def _time(self, work: Callable[[], object]) -> float:
        _, cost = self._watch.time(work)
        return cost.cpu_ms or cost.wall_ms

    def _attention(self) -> float:
        """The newest chunk's attention over again, on rows of noise, in all layers."""
        *past, newest = self.stream.snapshot()
        spec, slots = self.model.spec, slots_of(self.stream.snapshot())
        layers = range(spec.n_layers)
        request = ExtendRequest(
            self.prompt,
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
        towers = _CopiedStates(model.with_engine(engine), encoded)
        held[engine] = _Held(towers, config, longest, watch)
        held[engine].fill(chunks, windows)
    asked = [(window, question) for window in windows for question in (QUESTION, SHORT_QUESTION)]
    for window, question in asked:
        for number in range(rounds + 1):
            note(f"engines: {window} chunks, round {number} of {rounds}")
            for engine in ENGINES if number % 2 else ENGINES[::-1]:
                held[engine].ask(window, question)
    for window in windows:
        for number in range(ANSWERS):
            note(f"engines: {window} chunks, answer {number + 1} of {ANSWERS}")
            for engine in ENGINES if number % 2 else ENGINES[::-1]:
                held[engine].answer_at_length(window)
    rates = measure_rates(device, getattr(torch, model.spec.dtype))
    rows = [_row(held, engine, *one, model, rates) for one in asked for engine in ENGINES]
    arrivals = [_arrival(held[engine], engine, w) for w in windows for engine in ENGINES]
    tokens = [_token(held, engine, w, model, rates) for w in windows for engine in ENGINES]
    return Engines(tuple(rows), tuple(arrivals), tuple(tokens), rates, rounds)


def decoder_bytes(model: QwenOmni) -> int:
    """The decoder layers and the head: what every question reads once."""
    layers = list(parts_of(model.thinker).text.layers.parameters())
    return tensor_bytes(*layers, model.thinker.lm_head.weight)


def _row(
    held: dict[Engine, _Held],
    engine: Engine,
    window: int,
    question: str,
    model: QwenOmni,
    rates: Rates,
) -> QuestionRow:
    one, spec = held[engine], model.spec
    samples = {
        name: Spread.of(other.question[window, question][1:]) for name, other in held.items()
    }
    entering = [n.video + n.audio for n in one.answer[window, question].tokens.per_layer]
    rows, item = one.text_rows(question), getattr(torch, spec.dtype).itemsize
    read = decoder_bytes(model) + sum(entering) * 2 * spec.n_kv_heads * spec.head_dim * item
    flops = token_flops(sizes_of(model), one.prompt.count, entering, rows)
    return QuestionRow(
        window=window,
        engine=engine,
        text_rows=rows,
        first_ms=one.question[window, question][0],
        question_ms=samples[engine],
        faster=Ratio.of(samples["plain"], samples[engine]),
        read_bytes=read,
        flops=flops,
        floor_ms=rates.floor_ms(read, flops),
    )


def _token(
    held: dict[Engine, _Held], engine: Engine, window: int, model: QwenOmni, rates: Rates
) -> DecodeRow:
    one, spec = held[engine], model.spec
    samples = {name: Spread.of(other.token[window]) for name, other in held.items()}
    layers = one.answer[window, QUESTION].tokens.per_layer
    read = token_bytes(
        decoder_bytes(model),
        spec,
        [n.video + n.audio for n in layers],
        one.prompt.count + one.text_rows(QUESTION),
        getattr(torch, spec.dtype).itemsize,
    )
    return DecodeRow(
        window=window,
        engine=engine,
        early_ms=Spread.of(one.early[window]),
        token_ms=samples[engine],
        faster=Ratio.of(samples["plain"], samples[engine]),
        read_bytes=read,
        floor_ms=rates.floor_ms(read, 0),
    )


def _arrival(one: _Held, engine: Engine, window: int) -> ArrivalRow:
    arrival, attention = Spread.of(one.arrival[window]), Spread.of(one.attention[window])
    return ArrivalRow(window, engine, arrival, attention)
