"""All paths over one window, in turn: the rounds of the latency benchmark."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from omnidrop_stream.cache import tensor_bytes
from omnidrop_stream.lab.bench_cost import Cost, Ratio, Spread, Stopwatch
from omnidrop_stream.lab.bench_feed import (
    DEPTHS,
    QUESTION,
    WINDOW_CHUNKS,
    KeptTowers,
    first_half,
    frame_tokens,
    open_stream,
    push_all,
)
from omnidrop_stream.lab.bench_stock import StockWindow
from omnidrop_stream.lab.bench_types import MOMENTS, STOCK, BenchSettings, Row
from omnidrop_stream.stream import OmniStream
from omnidrop_stream.types import CHUNK_SECONDS, Answer, Chunk

Note = Callable[[str], None]


@dataclass(slots=True)
class _Samples:
    costs: list[Cost] = field(default_factory=list)
    answer: Answer | None = None
    peak: int | None = None


class WindowBench:
    """One window with its streams and its stock inputs, and the samples taken so far."""

    def __init__(
        self,
        settings: BenchSettings,
        model: KeptTowers,
        chunks: Sequence[Chunk],
        window: int,
        note: Note,
    ) -> None:
        self._settings, self._model, self._window, self._note = settings, model, window, note
        self._watch = Stopwatch(torch.device(model.spec.device))
        self._chunks = chunks[:window]
        self._open = first_half(chunks[window])
        self._samples: dict[tuple[str, str], _Samples] = defaultdict(_Samples)
        self._arrival: dict[str, list[float]] = defaultdict(list)
        self._streams = {name: self._filled(depth) for name, depth in DEPTHS.items()}
        config, tokens = settings.config, frame_tokens(settings.config, model.spec)
        seen = {"boundary": self._chunks, "mid_chunk": [*self._chunks, self._open]}
        system = config.stream.system_prompt
        self._stock = {m: StockWindow(model, c, system, tokens) for m, c in seen.items()}

    def rows(self) -> list[Row]:
        """Warm up (peak memory is taken then), measure in turn, and sum up."""
        self._note(f"window of {self._window} chunks: warming up")
        self._warm_up()
        names = list(self._streams)
        for number in range(self._settings.repeats):
            self._note(f"window of {self._window} chunks: round {number + 1}")
            turned = number % len(names)
            for name in names[turned:] + names[:turned]:
                self._arrive(name)
                for moment in MOMENTS:
                    self._ask(name, moment)
            if self._wants_stock(number):
                for moment in MOMENTS:
                    self._ask_stock(moment, shipped=moment == "boundary" or number == 0)
        return [self._row(m, p) for m in MOMENTS for p in (*STOCK, *names)]

    def _wants_stock(self, number: int) -> bool:
        costs = [c for m in MOMENTS for p in STOCK for c in self._samples[m, p].costs]
        spent_s = sum(c.cpu_ms or c.wall_ms for c in costs) / 1e3
        settings = self._settings
        return number == 0 or (number < settings.stock_repeats and spent_s < settings.stock_seconds)

    def _filled(self, depth: int | str) -> OmniStream:
        """A stream with the window in it, its budget exactly that."""
        model = self._model
        encoded = [model.kept(chunk) for chunk in self._chunks]
        budget = sum(e.tokens.count for e in encoded)
        stream = open_stream(model, self._settings.config, depth, budget, self._watch.now)
        push_all(stream, self._chunks)
        return stream

    def _warm_up(self) -> None:
        stock, watch = self._stock["boundary"], self._watch
        for name in self._streams:
            self._arrive(name)
            self._samples["boundary", name].peak = watch.peak_bytes(
                lambda name=name: self._ask(name, "boundary")  # type: ignore[misc]
            )
        towers = watch.peak_bytes(stock.towers)
        embeds = stock.towers()
        layers = watch.peak_bytes(lambda: stock.layers(embeds))
        both = max(towers, tensor_bytes(embeds) + layers)
        shipped = watch.peak_bytes(stock.as_shipped)
        for path, peak in zip(STOCK, (layers, both, shipped), strict=True):
            self._samples["boundary", path].peak = peak
        for samples in self._samples.values():
            samples.costs.clear()
        self._arrival.clear()

    def _arrive(self, name: str) -> None:
        """Take the last merging window back and push it again, encoders and all."""
        stream, last = self._streams[name], self._chunks[-WINDOW_CHUNKS:]
        stream.forget(CHUNK_SECONDS * WINDOW_CHUNKS)
        self._model.live = True
        _, cost = self._watch.time(lambda: push_all(stream, last))
        self._model.live = False
        self._arrival[name].append(cost.wall_ms / WINDOW_CHUNKS)

    def _ask(self, name: str, moment: str) -> None:
        stream = self._streams[name]
        open_chunk = self._open if moment == "mid_chunk" else None
        self._model.live = True
        events, cost = self._watch.time(lambda: list(stream.ask(QUESTION, open_chunk=open_chunk)))
        self._model.live = False
        answer = events[-1]
        if not isinstance(answer, Answer):
            raise TypeError(f"a question ended with {answer!r} instead of an answer")
        samples = self._samples[moment, name]
        samples.costs.append(Cost(answer.ttft_ms, cost.cpu_ms))
        samples.answer = answer

    def _ask_stock(self, moment: str, shipped: bool) -> None:
        stock = self._stock[moment]
        embeds, towers = self._watch.time(stock.towers)
        _, layers = self._watch.time(lambda: int(stock.layers(embeds).argmax()))
        both = Cost(towers.wall_ms + layers.wall_ms, towers.cpu_ms + layers.cpu_ms)
        self._samples[moment, "stock_layers"].costs.append(layers)
        self._samples[moment, "stock_with_encoders"].costs.append(both)
        if shipped:
            _, cost = self._watch.time(lambda: int(stock.as_shipped().argmax()))
            self._samples[moment, "stock_as_shipped"].costs.append(cost)

    def _row(self, moment: str, path: str) -> Row:
        samples, answer = self._samples[moment, path], self._samples[moment, path].answer
        base = self._samples[moment, STOCK[0]].costs
        wall, cpu = _spreads(samples.costs)
        base_wall, base_cpu = _spreads(base)
        unpruned = self._stock[moment].tokens
        everything = (unpruned,) * self._model.spec.n_layers
        arrival = Spread.of(self._arrival[path]) if path in self._streams else None
        return Row(
            window=self._window,
            moment=moment,
            path=path,
            label=answer.label if answer else "",
            depth=answer.prefill_depth if answer else None,
            unpruned=answer.tokens.unpruned if answer else unpruned,
            per_layer=tuple(n.video + n.audio for n in answer.tokens.per_layer)
            if answer
            else everything,
            mean_entering=answer.tokens.mean_entering if answer else 1.0,
            ttft_ms=wall,
            cpu_ms=cpu,
            parts_ms=dict(answer.ttft_parts_ms) if answer else {},
            speedup=Ratio.of(base_wall, wall),
            cpu_speedup=Ratio.of(base_cpu, cpu) if cpu.min > 0 else None,
            arrival_ms=arrival,
            real_time_factor=arrival.median / (CHUNK_SECONDS * 1e3) if arrival else None,
            held_bytes=self._streams[path].status().nbytes if path in self._streams else None,
            peak_bytes=samples.peak,
        )


def _spreads(costs: Sequence[Cost]) -> tuple[Spread, Spread]:
    return Spread.of([c.wall_ms for c in costs]), Spread.of([c.cpu_ms for c in costs])
