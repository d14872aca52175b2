"""``omnidrop bench table2``: the paper's Table 2 on this machine, and where its savings come from.

One clip, one question, everything offline: the clip is encoded, pruned within its modalities and
prefilled at question time (depth 0). The paper's definitions, as its peers' published code has
them: prefill is the first forward (towers, layers, head), latency of a sample is that and the rest
of a short answer, memory is the most that is allocated, weights included; and the head multiplies
*every* position that is left in the last layer, because the stock ``forward`` cannot do otherwise.
The second half of the table gives the last position alone to the head, as this project does: what
the pruned rows still save there is their own, and the rest was the logits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from omnidrop_stream.cache import Segment
from omnidrop_stream.config import Config, merged
from omnidrop_stream.errors import ConfigError
from omnidrop_stream.lab.bench import build_model
from omnidrop_stream.lab.bench_cost import Cost, Spread, Stopwatch, conditions
from omnidrop_stream.lab.bench_feed import (
    QUESTION,
    frame_tokens,
    make_chunks,
    model_facts,
    push_all,
)
from omnidrop_stream.lab.bench_floor import Rates, flops_of, measure_rates
from omnidrop_stream.lab.bench_stock import StockWindow
from omnidrop_stream.lab.bench_types import BenchSettings
from omnidrop_stream.method import UnreachableRetention, solve_budget
from omnidrop_stream.model.base import Prompt, Question
from omnidrop_stream.model.fork import Fork
from omnidrop_stream.model.prefill import PrunedPrefill
from omnidrop_stream.model.quantised import PartBytes, weight_bytes
from omnidrop_stream.model.qwen_omni import QwenOmni
from omnidrop_stream.plan import nominal_r0
from omnidrop_stream.stream import OmniStream
from omnidrop_stream.types import Answer, Chunk

Note = Callable[[str], None]
HEADS = ("all", "last")
STOCK = "stock forward"
FULL = "full tokens"
_UNPRUNED: dict[str, dict[str, Any]] = {
    "intra": {"enabled": False},
    "pruning": {"policy": "keep-all", "retention": None},
}
PRINTED: dict[int, dict[float, dict[str, Any]]] = {
    28: {
        0.30: {"p_init": 0.0, "p_final": 0.2, "t_mid": 0.5},
        0.20: {"p_init": 0.02, "p_final": 0.5, "t_mid": 0.5},
    },
    36: {
        0.30: {"p_init": 0.0, "p_final": 0.15, "t_mid": 0.5},
        0.20: {"p_init": 0.02, "p_final": 0.5, "t_mid": 0.55},
    },
}
"""The paper's schedules by the number of layers (7B, 3B) and mean retention."""
TDS_FROM = {28: 14, 36: 19}


@dataclass(frozen=True, slots=True)
class Table2Settings:
    """What is measured. chunks: length of the clip, 2 s each (32 are the paper's 128 frames)."""

    config: Config
    shape: str | None = "bench"
    """A shape for random weights; None: ``config.model`` is loaded."""
    chunks: int = 32
    repeats: int = 3
    answer_tokens: int = 4
    """Tokens of the short answer; in the paper prefill is all of a sample's latency but 0.09 s."""
    stock: bool = True
    """Also the unchanged forward of the stock class."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.chunks < 2 or self.chunks % 2:
            raise ConfigError(
                f"--chunks = {self.chunks} is not allowed: give an even number from 2 on, because "
                "merging windows hold two chunks"
            )
        for name, value in (("repeats", self.repeats), ("answer-tokens", self.answer_tokens)):
            if value < 1:
                raise ConfigError(f"--{name} = {value} is not allowed: give 1 or more")


@dataclass(frozen=True, slots=True)
class Row:
    """One method under one reading of the head (``all`` positions, or the ``last`` alone)."""

    method: str
    head: str
    unpruned: int
    entering: tuple[int, ...]
    """Audiovisual tokens entering each layer."""
    mean_entering: float
    towers_ms: Spread | None
    """Pre-processing, towers and pruning within modalities; None where they are inside."""
    prefill_ms: Spread
    """The first forward, towers included."""
    latency_ms: Spread
    """The same and the rest of the answer."""
    answer_tokens: int
    flops: int
    """Of the first forward, launched."""
    prefill_floor_ms: float
    """Those operations at the measured rate, or the weights read once, whichever is more."""
    latency_floor_ms: float
    """And the language model's weights read once for each further token."""
    peak_bytes: int
    """Most bytes allocated at once, weights included."""
    work_bytes: int
    """Of those, beyond the weights."""
    logits_bytes: int
    """Of those, at most: the head's result, as the model's type holds it."""


@dataclass(frozen=True, slots=True)
class Report:
    """What came out, with everything it depends on."""

    conditions: dict[str, Any]
    settings: dict[str, Any]
    rates: Rates
    weights: PartBytes
    rows: tuple[Row, ...] = ()


class WholeHead(QwenOmni):
    """The same weights; a question's prefill gives all positions that are left to the head."""

    def __init__(self, model: QwenOmni, whole: bool) -> None:
        super().__init__(model.thinker, model.tokenizer, model.spec)
        self._whole = whole
        self.logits_rows = 1

    def pruned_prefill(
        self, prompt: Prompt, segments: Sequence[Segment], slots: Sequence[int], question: Question
    ) -> Generator[None, None, Fork]:
        """As the model does it, the head's rows apart."""
        kind = _AllPositions if self._whole else PrunedPrefill
        with torch.inference_mode():
            prefill = kind(self._decoder, self.spec, prompt, segments, slots, question)
        fork = yield from prefill.run()
        self.logits_rows = len(question.ids) + question.entering[-1] if self._whole else 1
        return fork


class _AllPositions(PrunedPrefill):
    @torch.inference_mode()
    def _fork(self) -> Fork:
        """The stock head: every row left, and only then is one of them taken."""
        rows = self._text if self._block is None else torch.cat([self._block, self._text])
        logits = self._decoder.head(self._decoder.norm(rows))
        fork = super()._fork()
        fork.logits = logits[-1].float()
        return fork


def methods(config: Config, layers: int, tokens: int) -> dict[str, Config]:
    """The rows' settings. OmniDrop as printed for 28 and 36 layers; elsewhere as the budget solver
    reaches the same mean, or the least that it reaches. tokens: of a temporal patch.
    """
    changes: dict[str, dict[str, dict[str, Any]]] = {
        FULL: _UNPRUNED,
        "intra-modality only": {"pruning": {"policy": "intra-only", "retention": None}},
    }
    for target in (0.30, 0.20):
        reached, schedule = _schedule(config, layers, tokens, target)
        note = "" if reached == target else f" (reaches {reached:.1%})"
        changes[f"OmniDrop {target:.0%}{note}"] = {
            "pruning": {
                **schedule,
                "policy": "omnidrop",
                "diversity_from_layer": TDS_FROM.get(layers),
                "diversity_normalise": "none",
                "diversity_guard": False,
            }
        }
    return {name: merged(config, new, "table2") for name, new in changes.items()}


def _schedule(
    config: Config, layers: int, tokens: int, target: float
) -> tuple[float, dict[str, Any]]:
    """The mean retention that is to be had, and how the settings say it."""
    if layers in PRINTED:
        return target, {"retention": None, "schedule": PRINTED[layers][target]}
    nominal = nominal_r0(config.stream, config.intra, tokens)
    try:
        solve_budget(target, n_layers=layers, r0=nominal)
    except UnreachableRetention as error:
        target = math.ceil(error.minimum * 1000) / 1000
    return target, {"retention": target, "schedule": None}


def run(settings: Table2Settings, note: Note = lambda _: None) -> Iterator[Report]:
    """Measure; yields the growing report after each row."""
    note("building the model")
    model = build_model(BenchSettings(settings.config, settings.shape, ()))
    device = torch.device(model.spec.device)
    note("measuring copies and products")
    rates = measure_rates(device, getattr(torch, model.spec.dtype))
    report = Report(conditions(device), _told(settings, model), rates, weight_bytes(model.thinker))
    chunks = make_chunks(settings.chunks, settings.seed)
    bench = _Bench(settings, model, chunks, report)
    for row in bench.rows(note):
        report = Report(
            report.conditions, report.settings, rates, report.weights, (*report.rows, row)
        )
        yield report


class _Bench:
    def __init__(
        self, settings: Table2Settings, model: QwenOmni, chunks: Sequence[Chunk], report: Report
    ) -> None:
        self._settings, self._model, self._chunks = settings, model, chunks
        self._watch = Stopwatch(torch.device(model.spec.device))
        self._rates, self._weights = report.rates, report.weights

    def rows(self, note: Note) -> Iterator[Row]:
        if self._settings.stock:
            note(f"{STOCK}, all positions")
            yield self._stock_row()
        config, spec = self._settings.config, self._model.spec
        wanted = methods(config, spec.n_layers, frame_tokens(config, spec))
        for head in HEADS:
            for name, config in wanted.items():
                note(f"{name}, {head} positions")
                yield self._row(name, head, config)

    def _row(self, name: str, head: str, config: Config) -> Row:
        model = WholeHead(self._model, head == "all")
        samples = [self._sample(model, config) for _ in range(self._settings.repeats + 1)][1:]
        answer = samples[0][1]
        towers = Spread.of([s[0] for s in samples])
        prefill = Spread.of([s[0] + s[1].ttft_ms for s in samples])
        latency = Spread.of([s[0] + s[1].total_ms for s in samples])
        work, flops = self._counted(model, config)
        entering = tuple(n.video + n.audio for n in answer.tokens.per_layer)
        return Row(
            method=name,
            head=head,
            unpruned=answer.tokens.unpruned,
            entering=entering,
            mean_entering=answer.tokens.mean_entering,
            towers_ms=towers,
            prefill_ms=prefill,
            latency_ms=latency,
            answer_tokens=answer.answer_tokens,
            logits_bytes=self._logits_bytes(model.logits_rows),
            **self._floors(flops, answer.answer_tokens),
            **self._memory(work),
        )

    def _opened(self, model: QwenOmni, config: Config, tokens: int) -> OmniStream:
        changes: dict[str, dict[str, Any]] = {
            "stream": {"prefill_depth": 0, "budget_tokens": 10**6, "kind": "av"},
            "decode": {"max_tokens": tokens},
        }
        clock = self._watch.now if self._watch.cpu() == 0.0 else self._watch.cpu
        return OmniStream(model, merged(config, changes, "table2"), clock)

    def _sample(self, model: QwenOmni, config: Config) -> tuple[float, Answer]:
        """Milliseconds of the towers, and the answer that follows."""
        stream = self._opened(model, config, self._settings.answer_tokens)
        _, towers = self._watch.time(lambda: push_all(stream, self._chunks))
        answer = list(stream.ask(QUESTION))[-1]
        if not isinstance(answer, Answer):
            raise TypeError(f"a question ended with {answer!r} instead of an answer")
        return _ms(towers), answer

    def _counted(self, model: QwenOmni, config: Config) -> tuple[int, int]:
        """Most bytes at once beyond the weights, and the operations of the first forward."""
        stream = self._opened(model, config, 1)
        made = self._watch.peak_bytes(lambda: push_all(stream, self._chunks))
        held = stream.status().nbytes
        asked = self._watch.peak_bytes(lambda: list(stream.ask(QUESTION)))
        again = self._opened(model, config, 1)

        def forward() -> None:
            push_all(again, self._chunks)
            list(again.ask(QUESTION))

        return max(made, held + asked), flops_of(forward)

    def _stock_row(self) -> Row:
        """The unchanged class: its own towers and forward, one token."""
        config, model = self._settings.config, self._model
        system = config.stream.system_prompt
        stock = StockWindow(model, self._chunks, system, frame_tokens(config, model.spec))
        work = self._watch.peak_bytes(stock.as_shipped)
        flops = flops_of(stock.as_shipped)
        costs = [
            self._watch.time(lambda: int(stock.as_shipped().argmax()))[1]
            for _ in range(self._settings.repeats)
        ]
        taken = Spread.of([_ms(cost) for cost in costs])
        return Row(
            method=STOCK,
            head="all",
            unpruned=stock.tokens,
            entering=(stock.tokens,) * model.spec.n_layers,
            mean_entering=1.0,
            towers_ms=None,
            prefill_ms=taken,
            latency_ms=taken,
            answer_tokens=1,
            logits_bytes=self._logits_bytes(stock.tokens),
            **self._floors(flops, 1),
            **self._memory(work),
        )

    def _logits_bytes(self, rows: int) -> int:
        return rows * self._model.spec.vocabulary * int(self._model.thinker.lm_head.weight.itemsize)

    def _floors(self, flops: int, tokens: int) -> dict[str, Any]:
        language = self._rates.read_ms(self._weights.layers + self._weights.head)
        read = self._weights.total - self._weights.embedding  # which is looked up, not read
        first = max(self._rates.compute_ms(flops), self._rates.read_ms(read))
        return {
            "flops": flops,
            "prefill_floor_ms": first,
            "latency_floor_ms": first + (tokens - 1) * language,
        }

    def _memory(self, work: int) -> dict[str, Any]:
        return {"work_bytes": work, "peak_bytes": self._weights.total + work}


def _ms(cost: Cost) -> float:
    """Processor time on a CPU, wall time on a GPU."""
    return cost.cpu_ms or cost.wall_ms


def _told(settings: Table2Settings, model: QwenOmni) -> dict[str, Any]:
    spec = model.spec
    return {
        **model_facts(model, settings.shape is not None),
        "weights": spec.weights,
        "frame_tokens": frame_tokens(settings.config, spec),
        "chunks": settings.chunks,
        "repeats": settings.repeats,
        "answer_tokens": settings.answer_tokens,
        "seed": settings.seed,
        "question": QUESTION,
        "config": settings.config.model_dump(mode="json"),
    }
