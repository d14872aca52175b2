"""The report of ``omnidrop bench ways`` as Markdown and JSON."""

from __future__ import annotations

import dataclasses
import json

from omnidrop_stream.lab.bench_cost import Spread
from omnidrop_stream.lab.bench_ways import WAYS, Report, Row
from omnidrop_stream.lab.markdown import grid, machine_lines

COLUMNS = (
    "way",
    "question ms",
    "x less",
    "first three ms",
    "behind an encoding ms",
    "a token ms",
    "a chunk ms",
    "logits moved",
    "same first token",
)
LEGEND = (
    "question: at a chunk's end, with an answer of one token, median (least - most) of rounds that "
    "take the ways in turn; x less: plain by this row. Processor time on a CPU, else wall time.",
    "first three: the first three questions together, in which what is loaded, compiled or "
    "recorded is; behind an encoding: wall time of a question asked when a chunk's encoding has "
    "just been begun; a token: of an answer at length; a chunk: its arrival, encoders and all.",
    "logits moved: length of the difference from the plain way's by the length of those, the "
    "largest; ways differ by rounding, so it should be near that of the type.",
)


def to_json(report: Report) -> str:
    """Everything, samples included."""
    return json.dumps(dataclasses.asdict(report), indent=1) + "\n"


def to_markdown(report: Report) -> str:
    """The table, its conditions, and what is not here."""
    told = report.settings
    values = " (random weights)" if told["random_weights"] else ""
    measured = [row for row in report.rows if not row.missing]
    lines = [
        "# Ways to compute",
        "",
        *machine_lines(report.conditions),
        f"- model {told['model']}{values}: {told['layers']} layers, width {told['width']}, "
        f"{told['heads']} heads, {told['kv_heads']} key heads, {told['dtype']}",
        f"- window of {told['chunks']} chunks, depth {told['depth']}, {told['repeats']} rounds; "
        f"pruning {told['config']['pruning']}",
        "",
        *grid(COLUMNS, [_cells(row) for row in measured]),
        *(f"- {row.name}: {_setting(row.name)}" for row in measured),
        *(f"- {text}" for text in LEGEND),
        *(f"- not measured: {row.name}: {row.missing}" for row in report.rows if row.missing),
        "",
    ]
    return "\n".join(lines)


def _setting(name: str) -> str:
    words = [f"{key}: {str(value).lower()}" for key, value in WAYS[name].items()]
    return f"`model: {{{', '.join(words)}}}`"


def _cells(row: Row) -> list[str]:
    faster = row.faster
    return [
        row.name,
        _spread(row.question_ms),
        "-" if faster is None else f"{faster.median:.2f} ({faster.min:.2f} - {faster.max:.2f})",
        f"{row.first_ms:.0f}",
        _spread(row.behind_ms),
        _spread(row.token_ms),
        _spread(row.arrival_ms),
        "-" if row.logits_distance is None else f"{row.logits_distance:.1e}",
        "-" if row.same_token is None else f"{row.same_token:.0%}",
    ]


def _spread(spread: Spread | None) -> str:
    if spread is None:
        return "-"
    digits = 1 if spread.median < 100 else 0
    return f"{spread.median:.{digits}f} ({spread.min:.{digits}f} - {spread.max:.{digits}f})"
