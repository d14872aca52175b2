"""The report of ``omnidrop bench table2`` as Markdown and JSON."""

from __future__ import annotations

import dataclasses
import json

from omnidrop_stream.lab.bench_cost import Spread
from omnidrop_stream.lab.bench_table2 import FULL, Report, Row
from omnidrop_stream.lab.markdown import grid, machine_lines, mib

COLUMNS = (
    "method",
    "tokens, first .. last layer",
    "mean",
    "towers ms",
    "prefill ms",
    "to full",
    "floor ms",
    "x floor",
    "latency ms",
    "floor ms",
    "peak MiB",
    "to full",
    "beyond weights MiB",
    "logits MiB",
)
TITLES = {
    "all": "The paper's definitions: the head over every position that is left",
    "last": "The last position alone through the head",
}
LEGEND = (
    "prefill: the first forward, pre-processing and towers in it; latency: that and the rest of a "
    "short answer. median (least - most), on a CPU in processor time of all threads, on a GPU in "
    "wall time. to full: change against full tokens of the same table.",
    "floor: matrix operations of the first forward, as launched, at the rate of one large product "
    "measured in the same run, or all weights read once at the speed of a copy, whichever is "
    "more; for latency also the language model's weights once for each further token.",
    "peak: weights and the most that was allocated beyond them at once (on a CPU counted from "
    "torch's own allocations, so without the libraries' scratch memory). logits: the head's "
    "result, part of it.",
    "stock forward: the unchanged class, patches and log-mel frames given ready made; it has no "
    "pruning, and its latency is its first token.",
    "The schedules are the paper's as printed for 28 (7B) and 36 layers (3B); elsewhere the budget "
    "solver's for the same mean, or for the least that it reaches. mean: share of the "
    "unpruned tokens that enters a layer, mean over layers, as it came out.",
)
PAPER = (
    "The paper's Table 2 (another machine, trained weights, WorldSense): prefill of OmniDrop at 30 "
    "% against full tokens -39.9 % (7B) and -28.1 % (3B), memory -11.3 % and -14.7 %."
)


def to_json(report: Report) -> str:
    """Everything, samples included."""
    return json.dumps(dataclasses.asdict(report), indent=1) + "\n"


def to_markdown(report: Report) -> str:
    """Conditions, both tables, where the memory went, and what was not measured."""
    lines = ["# The paper's Table 2, and where its savings come from", ""]
    lines += [*machine_lines(report.conditions), *_settings(report), ""]
    for head, title in TITLES.items():
        rows = [row for row in report.rows if row.head == head]
        if rows:
            full = next((row for row in rows if row.method == FULL), None)
            lines += [f"## {title}", "", *grid(COLUMNS, [_cells(row, full) for row in rows])]
    lines += [*(f"- {text}" for text in LEGEND), ""]
    if findings := _findings(report):
        lines += ["## Where the memory saving comes from", ""]
        lines += [*(f"- {text}" for text in findings), ""]
    lines += [PAPER, ""]
    if str(report.conditions["device"]).startswith("cpu"):
        lines += ["## On a GPU", "", *grid(("model", *COLUMNS[4:11:6]), _unmeasured())]
        lines += [
            "This run had no CUDA device. The same tables come from `omnidrop bench table2 "
            "--random-weights 7b --device cuda` (and `3b`).",
            "",
        ]
    return "\n".join(lines)


def _unmeasured() -> list[list[str]]:
    return [[name, "not measured", "not measured"] for name in ("7B", "3B")]


def _settings(report: Report) -> list[str]:
    told, rates = report.settings, report.rates
    random = " (random weights)" if told["random_weights"] else ""
    return [
        f"- model {told['model']}{random}: {told['layers']} layers, width {told['width']}, "
        f"{told['heads']} heads, {told['kv_heads']} key heads, vocabulary {told['vocabulary']}, "
        f"{told['dtype']}, weights {told['weights']}: {mib(report.weights.total)} MiB",
        f"- a clip of {told['chunks']} chunks ({2 * told['chunks']} s), {told['frame_tokens']} "
        f"tokens a temporal patch at most; an answer of {told['answer_tokens']} tokens; "
        f"{told['repeats']} rounds after one warm-up",
        f"- measured in the same run: copy {rates.copy_bytes_per_s / 1e9:.1f} GB/s (read and "
        f"written), product {rates.matmul_flops_per_s / 1e9:.0f} GFLOP/s",
    ]


def _cells(row: Row, full: Row | None) -> list[str]:
    return [
        row.method,
        f"{row.entering[0]} .. {row.entering[-1]}",
        f"{row.mean_entering:.1%}",
        _spread(row.towers_ms),
        _spread(row.prefill_ms),
        _change(row.prefill_ms.median, full.prefill_ms.median if full else None),
        f"{row.prefill_floor_ms:.0f}",
        f"{row.prefill_ms.median / row.prefill_floor_ms:.1f}",
        _spread(row.latency_ms),
        f"{row.latency_floor_ms:.0f}",
        mib(row.peak_bytes),
        _change(row.peak_bytes, full.peak_bytes if full else None),
        mib(row.work_bytes),
        mib(row.logits_bytes),
    ]


def _spread(spread: Spread | None) -> str:
    return "-" if spread is None else f"{spread.median:.0f} ({spread.min:.0f} - {spread.max:.0f})"


def _change(value: float, base: float | None) -> str:
    return "-" if not base or value == base else f"{value / base - 1:+.1%}"


def _findings(report: Report) -> list[str]:
    rows = {(row.method, row.head): row for row in report.rows}
    whole, last = rows.get((FULL, "all")), rows.get((FULL, "last"))
    if whole is None or last is None:
        return []
    spared = whole.peak_bytes - last.peak_bytes
    lines = [
        f"Full tokens with the last position alone: {mib(spared)} MiB less "
        f"({-spared / whole.peak_bytes:+.1%}) than the paper's full-token row, with nothing pruned."
    ]
    for method in dict.fromkeys(row.method for row in report.rows):
        ours, lean = rows.get((method, "all")), rows.get((method, "last"))
        if method == FULL or ours is None or lean is None:
            continue
        paper, alone = whole.peak_bytes - ours.peak_bytes, last.peak_bytes - lean.peak_bytes
        lines.append(
            f"{method}: {mib(paper)} MiB less in the paper's definition; {mib(alone)} MiB less "
            "where both give the last position alone to the head: the rest was logits of rows "
            "that pruning had removed."
        )
    return lines
