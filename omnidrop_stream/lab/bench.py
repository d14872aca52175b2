"""``omnidrop bench latency``: time from question to first token, ours against the stock path.

Everything in one run on one model and one seeded stream. In each round every path is measured once,
in an order that turns, so that a slower minute of the machine falls on all of them; medians are
compared. At question time each path does all it must: the stock layers read the whole unpruned
window, ours run what was not done when the chunks came. The clock runs from the question to the
first token; with an open chunk ours includes its encoders, pre-processing too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from omnidrop_stream.lab.bench_cost import Stopwatch, conditions
from omnidrop_stream.lab.bench_engines import measure_engines
from omnidrop_stream.lab.bench_feed import (
    QUESTION,
    KeptTowers,
    encode_all,
    frame_tokens,
    make_chunks,
    model_facts,
)
from omnidrop_stream.lab.bench_rolling import RollingSettings, measure_rolling
from omnidrop_stream.lab.bench_types import BenchSettings, Report
from omnidrop_stream.lab.bench_window import Note, WindowBench
from omnidrop_stream.model.load import load_model, random_model
from omnidrop_stream.model.qwen_omni import QwenOmni
from omnidrop_stream.model.shapes import shape_of

__all__ = ["BenchSettings", "Report", "RollingSettings", "build_model", "run"]


def build_model(settings: BenchSettings) -> QwenOmni:
    """The checkpoint, or real shapes with random values on the device."""
    if settings.shape is None:
        return load_model(settings.config.model)
    return random_model(settings.shape, shape_of(settings.shape), settings.config.model)


def run(settings: BenchSettings, note: Note = lambda _: None) -> Iterator[Report]:
    """Measure; yields the report after each window and after the rolling part, growing."""
    note("building the model")
    model = build_model(settings)
    device = torch.device(model.spec.device)
    report = Report(conditions(device), _told(settings, model))
    chunks = make_chunks(max(settings.windows, default=0) + 1, settings.seed)
    if settings.windows:
        note("encoding the stream once")
        kept = KeptTowers(model, encode_all(model, settings.config, chunks[:-1]))
        for window in settings.windows:
            rows = WindowBench(settings, kept, chunks, window, note).rows()
            report = Report(report.conditions, report.settings, (*report.rows, *rows))
            yield report
    if settings.rolling is not None:
        watch = Stopwatch(device)
        rolling = measure_rolling(model, settings.config, settings.rolling, watch, note)
        report = Report(report.conditions, report.settings, report.rows, rolling)
        yield report
    if settings.engines:
        watch, windows = Stopwatch(device), settings.engine_windows
        both = measure_engines(model, settings.config, windows, settings.repeats, watch, note)
        yield replace(report, engines=both)


def _told(settings: BenchSettings, model: QwenOmni) -> dict[str, Any]:
    spec = model.spec
    return {
        **model_facts(model, settings.shape is not None),
        "frame_tokens": frame_tokens(settings.config, spec),
        "windows": list(settings.windows),
        "repeats": settings.repeats,
        "stock_repeats": settings.stock_repeats,
        "stock_seconds": settings.stock_seconds,
        "seed": settings.seed,
        "question": QUESTION,
        "config": settings.config.model_dump(mode="json"),
    }
