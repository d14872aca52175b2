"""A benchmark's report as plain text, Markdown and JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

from omnidrop_stream.lab.bench_cost import Ratio, Spread
from omnidrop_stream.lab.bench_engines_report import (
    engine_lines,
    engine_tables,
)
from omnidrop_stream.lab.bench_rolling import Compared, Rolling
from omnidrop_stream.lab.bench_types import MOMENTS, Report, Row
from omnidrop_stream.lab.markdown import grid

TITLES = {
    "boundary": "Question at a chunk boundary",
    "mid_chunk": "Question in mid-chunk (half a chunk is open)",
}
ENGINES_TITLE = "Both engines, side by side"
COLUMNS = (
    "chunks",
    "path",
    "label",
    "depth",
    "tokens",
    "entering first..last",
    "mean",
    "first token ms",
    "CPU ms",
    "x faster",
    "x CPU",
    "arrival ms",
    "real time",
    "held MiB",
    "peak MiB",
)
LEGEND = (
    "stock_layers: the checkpoint's own layers over the whole unpruned window, last position "
    "through the head, encoders excluded; stock_with_encoders: its towers too; stock_as_shipped: "
    "the unchanged forward (towers, layers, all positions through the head). Patches and log-mel "
    "frames are given to the stock rows ready made.",
    "Ours at a boundary: encoders ran on arrival (arrival ms, for each chunk, everything "
    "included); in mid-chunk the open half is pre-processed, encoded and prefilled at question "
    "time.",
    "first token ms: median (least - most) of wall time from the question to the first token. CPU "
    "ms: median processor time of the same, which other programs on the machine disturb less (with "
    "a load average above the cores, read x CPU rather than x faster, whose terms may fall on a "
    "quiet and a busy minute); "
    "x faster and x CPU: stock_layers of the same window and moment by this row, medians (extremes "
    "against each other).",
    "entering: audiovisual tokens entering the first and the last layer; mean: mean entering "
    "retention; held: the stream's states between questions; peak: tensors allocated while the "
    "question ran, beyond weights and held.",
)

NOT_MEASURED = (
    "Not measured: this run had no CUDA device. The same tables come from `omnidrop bench latency "
    "--random-weights 7b --device cuda --chunks 32,64` (and `3b`)."
)


def to_json(report: Report) -> str:
    """Everything, samples included."""
    return json.dumps(dataclasses.asdict(report), indent=1) + "\n"


def to_text(report: Report) -> str:
    """Aligned columns for a terminal or a pipe."""
    parts = []
    for moment in MOMENTS:
        rows = [r for r in report.rows if r.moment == moment]
        if rows:
            table = [COLUMNS, *(_cells(row) for row in rows)]
            widths = [max(len(line[i]) for line in table) for i in range(len(COLUMNS))]
            lines = ["  ".join(c.ljust(w) for c, w in zip(x, widths, strict=True)) for x in table]
            parts.append("\n".join([TITLES[moment], *(line.rstrip() for line in lines)]))
    if report.rolling is not None:
        parts.append("\n".join(_rolling(report.rolling)))
    if report.engines is not None:
        tables = engine_tables(report.engines)
        lines = ["  ".join(row) for heads, rows in tables for row in (heads, *rows)]
        parts.append("\n".join([ENGINES_TITLE, *lines, *engine_lines(report.engines)]))
    return "\n\n".join(parts)


def to_markdown(report: Report) -> str:
    """Conditions, tables and legend."""
    lines = ["# Latency: from question to first token", "", *_conditions(report), ""]
    for moment in MOMENTS:
        rows = [r for r in report.rows if r.moment == moment]
        if rows:
            lines += [f"## {TITLES[moment]}", "", _line(COLUMNS), _line(["---"] * len(COLUMNS))]
            lines += [*(_line(_cells(row)) for row in rows), ""]
    if report.rows:
        lines += [*(f"- {text}" for text in LEGEND), ""]
    if report.rolling is not None:
        title, *rest = _rolling(report.rolling)
        lines += [f"## {title}", "", *(f"- {text}" for text in rest), ""]
    if report.engines is not None:
        lines += [f"## {ENGINES_TITLE}", ""]
        for heads, cells in engine_tables(report.engines):
            lines += grid(heads, cells)
        lines += [*(f"- {text}" for text in engine_lines(report.engines)), ""]
    if str(report.conditions["device"]).startswith("cpu"):
        lines += ["## On a GPU", "", NOT_MEASURED, ""]
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _conditions(report: Report) -> list[str]:
    told, settings = report.conditions, report.settings
    versions = ", ".join(f"{name} {value}" for name, value in told["versions"].items())
    shape = (
        f"{settings['model']}{' (random weights)' if settings['random_weights'] else ''}: "
        f"{settings['layers']} layers, width {settings['width']}, {settings['heads']} heads, "
        f"{settings['kv_heads']} key heads, vocabulary {settings['vocabulary']}, "
        f"{settings['dtype']}"
    )
    config = settings["config"]
    return [
        f"- {told['device']}, {told['cores']} cores, {told['threads']} thread(s), load average at "
        f"the start {told['load_average']}",
        f"- Python {told['python']}, {versions}; commit {told['commit']}; {told['date']}",
        f"- model {shape}",
        f"- {settings['frame_tokens']} tokens a temporal patch at most; pruning "
        f"{config['pruning']}; question {settings['question']!r}",
        f"- {settings['repeats']} rounds, every path once in each; stock rows in the first "
        f"{settings['stock_repeats']} (until {settings['stock_seconds']:.0f} s at a window, at "
        "least one; as shipped in mid-chunk: one); one warm-up before",
    ]


def _cells(row: Row) -> list[str]:
    return [
        str(row.window),
        row.path,
        row.label or "-",
        "-" if row.depth is None else str(row.depth),
        str(row.unpruned),
        f"{row.per_layer[0]}..{row.per_layer[-1]}",
        f"{row.mean_entering:.1%}",
        _spread(row.ttft_ms),
        f"{row.cpu_ms.median:.0f}" if row.cpu_ms.median else "-",
        _ratio(row.speedup),
        _ratio(row.cpu_speedup),
        _spread(row.arrival_ms),
        "-" if row.real_time_factor is None else f"{row.real_time_factor:.3f}",
        _mib(row.held_bytes),
        _mib(row.peak_bytes),
    ]


def _spread(spread: Spread | None) -> str:
    if spread is None:
        return "-"
    if len(spread.samples) == 1:
        return f"{spread.median:.0f} (one)"
    return f"{spread.median:.0f} ({spread.min:.0f} - {spread.max:.0f})"


def _ratio(ratio: Ratio | None) -> str:
    return "-" if ratio is None else f"{ratio.median:.2f} ({ratio.min:.2f} - {ratio.max:.2f})"


def _mib(size: int | None) -> str:
    return "-" if size is None else f"{size / 2**20:.1f}"


def _rolling(rolling: Rolling) -> list[str]:
    s = rolling.settings
    lines = [
        f"A stream after {s.chunks} chunks against one that has just filled its {s.window}",
        f"depth {rolling.depth} ({rolling.label}), {s.rounds} rounds in alternating order; the "
        "timed chunks and questions do all their work, the stretch before came from tower results "
        "kept of 8 chunks",
        f"arrival of a chunk, wall: {_compared(rolling.arrival_ms)}",
        f"question to first token, wall: {_compared(rolling.question_ms)}",
    ]
    if rolling.arrival_cpu_ms is not None and rolling.question_cpu_ms is not None:
        lines += [
            f"arrival of a chunk, processor time: {_compared(rolling.arrival_cpu_ms)}",
            f"question and its one-token answer, processor time: "
            f"{_compared(rolling.question_cpu_ms)}",
        ]
    same = "equal" if rolling.old_bytes == rolling.young_bytes else "NOT EQUAL"
    return [
        *lines,
        f"bytes of storages held at the same phase of the merging window: {rolling.old_bytes} and "
        f"{rolling.young_bytes}, {same}; evicted chunks: {rolling.old_evicted} and "
        f"{rolling.young_evicted}",
    ]


def _compared(value: Compared) -> str:
    inside = "contains 1" if value.contains_one else "does NOT contain 1"
    return (
        f"{value.old.median:.1f} ms against {value.young.median:.1f} ms, ratio of medians "
        f"{value.ratio:.3f}, 95 % bootstrap interval {value.low:.3f} to {value.high:.3f} ({inside})"
    )
