"""``omnidrop bench profile``: a Chrome trace of one chunk and one question, and what they spend.

Both run once before, so that nothing is compiled or allocated for the first time while it is
watched. The trace opens in Perfetto or chrome://tracing; the two stretches carry names of their
own. The profiler itself slows small operators down: shares tell more than times.
"""

from __future__ import annotations

import dataclasses
import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function

from omnidrop_stream.config import Config
from omnidrop_stream.errors import ConfigError
from omnidrop_stream.lab.bench import build_model
from omnidrop_stream.lab.bench_cost import Stopwatch, conditions
from omnidrop_stream.lab.bench_feed import (
    QUESTION,
    WINDOW_CHUNKS,
    KeptTowers,
    encode_all,
    make_chunks,
    open_stream,
    push_all,
)
from omnidrop_stream.lab.bench_types import BenchSettings
from omnidrop_stream.lab.markdown import grid, machine_lines
from omnidrop_stream.stream import OmniStream
from omnidrop_stream.types import CHUNK_SECONDS, Chunk

Note = Callable[[str], None]
BETWEEN = "(between operators)"
CHUNK, ASK = "omnidrop: one chunk", "omnidrop: one question"


@dataclass(frozen=True, slots=True)
class ProfileSettings:
    """What is watched. chunks: the window; depth: ``prefill_depth``."""

    config: Config
    shape: str | None = "bench"
    """A shape for random weights; None: ``config.model`` is loaded."""
    chunks: int = 32
    depth: int | str = "exact"
    answer_tokens: int = 4
    top: int = 12
    """Operators told of each stretch."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.chunks < WINDOW_CHUNKS or self.chunks % WINDOW_CHUNKS:
            raise ConfigError(
                f"--chunks = {self.chunks} is not allowed: give an even number from 2 on, because "
                "merging windows hold two chunks"
            )
        for name, value in (("answer-tokens", self.answer_tokens), ("top", self.top)):
            if value < 1:
                raise ConfigError(f"--{name} = {value} is not allowed: give 1 or more")


@dataclass(frozen=True, slots=True)
class Operator:
    """One kind of operator within a stretch; self time, without what it called."""

    name: str
    calls: int
    cpu_ms: float
    device_ms: float
    """On a GPU, of the kernels it launched."""
    share: float
    """Of the stretch's own time on the device that it ran on."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """One chunk, or one question."""

    name: str
    wall_ms: float
    cpu_ms: float
    device_ms: float
    operators: tuple[Operator, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """What came out, with everything it depends on."""

    conditions: dict[str, Any]
    settings: dict[str, Any]
    trace: str
    trace_bytes: int
    stretches: tuple[Stretch, ...]


def run(settings: ProfileSettings, trace: Path, note: Note = lambda _: None) -> Report:
    """Watch one chunk and one question, write the trace (``.gz``: compressed), sum up."""
    note("building the model")
    model = build_model(BenchSettings(settings.config, settings.shape, ()))
    device = torch.device(model.spec.device)
    about = conditions(device)
    chunks = make_chunks(settings.chunks, settings.seed)
    note("filling the window")
    kept = KeptTowers(model, encode_all(model, settings.config, chunks))
    budget = sum(kept.kept(chunk).tokens.count for chunk in chunks)
    watch = Stopwatch(device)
    stream = open_stream(kept, settings.config, settings.depth, budget, watch.now)
    push_all(stream, chunks)
    kept.live = True
    turn = _Turn(stream, chunks, settings)
    note("watching one chunk and one question")
    turn.chunk()
    turn.ask()
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    turn.make_room()
    watch.now()
    with profile(activities=activities) as watched:
        with record_function(CHUNK):
            turn.push()
            watch.now()
        with record_function(ASK):
            turn.ask()
            watch.now()
    watched.export_chrome_trace(str(trace))
    events = list(watched.events() or ())
    stretches = tuple(_stretch(name, events, settings.top) for name in (CHUNK, ASK))
    told = {
        "model": model.spec.name,
        "random_weights": settings.shape is not None,
        "layers": model.spec.n_layers,
        "width": model.spec.hidden_size,
        "vocabulary": model.spec.vocabulary,
        "dtype": model.spec.dtype,
        "weights": model.spec.weights,
        "chunks": settings.chunks,
        "tokens": stream.status().tokens,
        "depth": stream.depth,
        "answer_tokens": settings.answer_tokens,
        "question": QUESTION,
        "config": settings.config.model_dump(mode="json"),
    }
    return Report(about, told, trace.name, trace.stat().st_size, stretches)


class _Turn:
    """The window's last chunk, which can be taken back and pushed again, and the question."""

    def __init__(
        self, stream: OmniStream, chunks: Sequence[Chunk], settings: ProfileSettings
    ) -> None:
        self._stream, self._last = stream, chunks[-WINDOW_CHUNKS:]
        self._decode = settings.config.decode.model_copy(
            update={"max_tokens": settings.answer_tokens}
        )

    def make_room(self) -> None:
        """Take the last merging window back, and push its chunks but the last."""
        self._stream.forget(CHUNK_SECONDS * WINDOW_CHUNKS)
        push_all(self._stream, self._last[:-1])

    def push(self) -> None:
        push_all(self._stream, self._last[-1:])

    def chunk(self) -> None:
        self.make_room()
        self.push()

    def ask(self) -> None:
        list(self._stream.ask(QUESTION, decode=self._decode))


def _stretch(name: str, events: Sequence[FunctionEvent], top: int) -> Stretch:
    """Everything that began while ``name`` ran, summed by operator."""
    whole = next(e for e in events if e.name == name and not e.is_async)
    sums: dict[str, list[float]] = defaultdict(lambda: [0, 0.0, 0.0])
    for event in events:
        inside = whole.time_range.start <= event.time_range.start <= whole.time_range.end
        if not inside or event.device_type != whole.device_type:
            continue  # a kernel's time is also that of the operator that launched it
        found = sums[event.name]
        found[0] += 1
        found[1] += event.self_cpu_time_total / 1e3
        found[2] += event.self_device_time_total / 1e3
    cpu = sum(found[1] for found in sums.values())
    device = sum(found[2] for found in sums.values())
    place, total = (2, device) if device else (1, cpu)
    ranked = sorted(sums.items(), key=lambda item: -item[1][place])
    operators = tuple(
        Operator(
            BETWEEN if key == name else key,
            int(n),
            own,
            kernels,
            (kernels if device else own) / total,
        )
        for key, (n, own, kernels) in ranked
    )
    wall = (whole.time_range.end - whole.time_range.start) / 1e3
    return Stretch(name, wall, cpu, device, operators[:top])


def to_json(report: Report) -> str:
    """Everything."""
    return json.dumps(dataclasses.asdict(report), indent=1) + "\n"


def to_markdown(report: Report) -> str:
    """Conditions and, for each stretch, the operators that took most."""
    told = report.settings
    random = " (random weights)" if told["random_weights"] else ""
    lines = [
        "# One chunk and one question, operator by operator",
        "",
        *machine_lines(report.conditions),
        f"- model {told['model']}{random}: {told['layers']} layers, width {told['width']}, "
        f"vocabulary {told['vocabulary']}, {told['dtype']}, weights {told['weights']}",
        f"- a window of {told['chunks']} chunks, {told['tokens']} tokens, depth {told['depth']}; "
        f"an answer of {told['answer_tokens']} tokens",
        f"- trace {report.trace}, {report.trace_bytes / 1024:.0f} KiB; times are with the profiler "
        "running, self time of each operator, without what it called",
        "",
    ]
    for stretch in report.stretches:
        device = f", {stretch.device_ms:.1f} ms on the GPU" if stretch.device_ms else ""
        lines += [
            f"## {stretch.name.removeprefix('omnidrop: ').capitalize()}: {stretch.wall_ms:.1f} ms "
            f"({stretch.cpu_ms:.1f} ms on the processor{device})",
            "",
        ]
        rows = [
            [o.name, str(o.calls), f"{o.cpu_ms:.2f}", f"{o.device_ms:.2f}", f"{o.share:.1%}"]
            for o in stretch.operators
        ]
        lines += grid(("operator", "calls", "CPU ms", "GPU ms", "share"), rows)
    return "\n".join(lines)
