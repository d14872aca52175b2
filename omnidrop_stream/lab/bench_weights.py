"""``omnidrop bench weights``: what int8 and int4 weights cost and spare.

Measured, on a checkpoint that understands the world: bytes of the weights, how far the first
token's logits move, and how many questions of unseen test streams are still answered right, all
with the same streams and questions. Counted, for the published shapes: what card they fit with a
window of four minutes.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from omnidrop_stream.cache import Segment
from omnidrop_stream.config import Config, merged
from omnidrop_stream.errors import ConfigError
from omnidrop_stream.lab.bench_cost import conditions
from omnidrop_stream.lab.bench_fits import Fit, fits
from omnidrop_stream.lab.eval_play import chunks_of, questions_for
from omnidrop_stream.lab.eval_score import clustered, is_right
from omnidrop_stream.lab.eval_types import Mean
from omnidrop_stream.model.base import Prompt, Question
from omnidrop_stream.model.fork import Fork
from omnidrop_stream.model.load import load_model
from omnidrop_stream.model.quantised import GROUPS, PartBytes, check_weights, place, weight_bytes
from omnidrop_stream.model.qwen_omni import QwenOmni
from omnidrop_stream.stream import OmniStream
from omnidrop_stream.types import Answer
from omnidrop_stream.world import World

Note = Callable[[str], None]
PLAIN = "auto"
VARIANTS: dict[str, tuple[str, tuple[int, ...]]] = {
    PLAIN: (PLAIN, GROUPS),
    "int8": ("int8", GROUPS),
    "int4": ("int4", GROUPS),
    "int4, groups of 32": ("int4", (32,)),
}
"""Weights and the group sizes that are tried; the last shows what smaller groups buy."""


@dataclass(frozen=True, slots=True)
class WeightsSettings:
    """What is measured. chunks: the length at which each stream is asked."""

    config: Config
    streams: int = 3
    chunks: int = 8
    seed: int = 100_000
    """Of the first test stream."""

    def __post_init__(self) -> None:
        for name, value, most in (("streams", self.streams, 1000), ("chunks", self.chunks, 64)):
            if not 1 <= value <= most:
                raise ConfigError(f"--{name} = {value} is not allowed: give 1 to {most}")


@dataclass(frozen=True, slots=True)
class Row:
    """One kind of weights."""

    name: str
    bytes: PartBytes
    right: Mean | None
    logits_distance: float | None
    """Relative to the plain logits' length, median over questions; None for plain weights."""
    logits_distance_max: float | None
    same_token: float | None
    """Share of questions whose first token is that of plain weights."""


@dataclass(frozen=True, slots=True)
class Report:
    """What came out, with everything it depends on."""

    conditions: dict[str, Any]
    settings: dict[str, Any]
    rows: tuple[Row, ...] = ()
    fits: tuple[Fit, ...] = ()


class Heard(QwenOmni):
    """The same weights; keeps the logits of every question's first token."""

    def __init__(self, model: QwenOmni) -> None:
        super().__init__(model.thinker, model.tokenizer, model.spec)
        self.logits: list[torch.Tensor] = []

    def pruned_prefill(
        self, prompt: Prompt, segments: Sequence[Segment], slots: Sequence[int], question: Question
    ) -> Generator[None, None, Fork]:
        """As the model does it."""
        fork = yield from super().pruned_prefill(prompt, segments, slots, question)
        self.logits.append(fork.logits.clone())
        return fork


def run(
    settings: WeightsSettings,
    note: Note = lambda _: None,
    variants: Sequence[str] = tuple(VARIANTS),
    counted: Sequence[Fit] | None = None,
) -> Iterator[Report]:
    """Measure ``variants``, plain weights first, and count, unless ``counted`` is given; yields
    the growing report. Raises MissingDependency without torchao.
    """
    plain = load_model(settings.config.model.model_copy(update={"weights": PLAIN}))
    device, dtype = torch.device(plain.spec.device), getattr(torch, plain.spec.dtype)
    check_weights("int4", device, dtype)
    told = {
        "model": plain.spec.name,
        "layers": plain.spec.n_layers,
        "width": plain.spec.hidden_size,
        "dtype": plain.spec.dtype,
        "streams": settings.streams,
        "chunks": settings.chunks,
        "seed": settings.seed,
        "config": settings.config.model_dump(mode="json"),
    }
    report = Report(conditions(device), told)
    if counted is None:
        note("counting the published shapes")
        counted = tuple(fits())
    report = replace(report, fits=tuple(counted))
    base: list[torch.Tensor] = []
    for name in variants:
        weights, groups = VARIANTS[name]
        note(f"weights {name}")
        model = plain
        if weights != PLAIN:
            model = load_model(settings.config.model.model_copy(update={"weights": PLAIN}))
            place(model.thinker, weights, device, dtype, groups)
        heard = Heard(model)
        right = clustered(_played(heard, settings, seed) for seed in _seeds(settings))
        base = base or heard.logits
        row = _row(name, heard, right, base if weights != PLAIN else [])
        report = replace(report, rows=(*report.rows, row))
        yield report


def _seeds(settings: WeightsSettings) -> range:
    return range(settings.seed, settings.seed + settings.streams)


def _played(model: QwenOmni, settings: WeightsSettings, seed: int) -> tuple[float, int]:
    """Right answers and questions of one test stream, asked at its end, one unseen by the other."""
    changes: dict[str, dict[str, Any]] = {
        "stream": {"kind": "av", "history_tokens": 0},
        "decode": {"max_tokens": 8},
    }
    stream = OmniStream(model, merged(settings.config, changes, "weights"))
    world = World(seed, "test")
    indices = list(range(settings.chunks))
    for chunk in chunks_of(indices, world.chunk):
        stream.push(chunk)
    right = asked = 0
    for question in questions_for(world, indices, seed):
        answer = list(stream.ask(question.text))[-1]
        right += isinstance(answer, Answer) and is_right(answer.text, question.answer)
        asked += 1
    return float(right), asked


def _row(name: str, heard: Heard, right: Mean | None, base: Sequence[torch.Tensor]) -> Row:
    size = weight_bytes(heard.thinker)
    if not base:
        return Row(name, size, right, None, None, None)
    pairs = list(zip(base, heard.logits, strict=True))
    far = [float((b - a).norm() / a.norm()) for a, b in pairs]
    same = sum(int(a.argmax()) == int(b.argmax()) for a, b in pairs) / len(pairs)
    return Row(name, size, right, statistics.median(far), max(far), same)
