"""The report of ``omnidrop bench weights`` as Markdown and JSON."""

from __future__ import annotations

import dataclasses
import json

from omnidrop_stream.lab.bench_fits import Fit
from omnidrop_stream.lab.bench_weights import Report, Row
from omnidrop_stream.lab.markdown import grid, machine_lines, mib

MEASURED = (
    "weights",
    "decoder layers MiB",
    "all weights MiB",
    "questions",
    "right",
    "logits moved",
    "at most",
    "same first token",
)
COUNTED = (
    "model",
    "weights",
    "depth",
    "layers",
    "embedding, head",
    "towers",
    "window",
    "answer",
    "passes (estimate)",
    "together",
    "under",
)
LEGEND = (
    "logits moved: length of the difference by that of the plain logits, of each question's first "
    "token, median; right: equal to the truth after case, outer punctuation and an article are "
    "dropped, ± one standard error clustered by stream.",
    "Quantised are the decoder layers' linears (q, k, v, o, gate, up, down); embedding, head, "
    "norms and towers stay. int8: a scale for each output row; int4: scale and zero point for each "
    "group of inputs, 128 unless said, both by torchao.",
)
NOTES = (
    "GB are 10^9 bytes. layers, embedding, head, towers: from the modules' sizes, packed as for "
    "CUDA (int4 padded to tiles). window: {chunks} chunks ({minutes:.0f} minutes), {tokens} tokens "
    "at 16:9 after pruning within each modality, which takes a `stream.budget_tokens` of as many "
    "(the default holds 12,000); states kept at that depth. answer: keys and values of one "
    "answer's fork at 30 %, 256 tokens.",
    "passes is an estimate by formula, no measurement: the most that one layer of the question's "
    "pass holds beside the states (depths below L run audiovisual rows at question time). CUDA's "
    "own context (some hundred MB) and the allocator's unused blocks are not in it.",
)


def to_json(report: Report) -> str:
    """Everything, with the totals."""
    values = dataclasses.asdict(report)
    for told, row in zip(values["rows"], report.rows, strict=True):
        told["bytes"]["total"] = row.bytes.total
    for told, fit in zip(values["fits"], report.fits, strict=True):
        told["parts"]["total"] = fit.parts.total
        told["total_bytes"] = fit.total_bytes
    return json.dumps(values, indent=1) + "\n"


def to_markdown(report: Report) -> str:
    """What was measured, and what was counted."""
    told = report.settings
    lines = [
        "# int8 and int4 weights",
        "",
        *machine_lines(report.conditions),
        f"- model {told['model']}: {told['layers']} layers, width {told['width']}, {told['dtype']}",
        f"- {told['streams']} test streams of the world from seed {told['seed']} on, asked at "
        f"{told['chunks']} chunks; pruning {told['config']['pruning']}, depth "
        f"{told['config']['stream']['prefill_depth']}",
        "",
        "## Measured",
        "",
        *grid(MEASURED, [_measured(row) for row in report.rows]),
        *(f"- {text}" for text in LEGEND),
        "",
    ]
    if report.fits:
        one = report.fits[0]
        notes = [
            text.format(chunks=one.chunks, minutes=one.chunks / 30, tokens=one.tokens)
            for text in NOTES
        ]
        lines += [
            "## Counted, not measured on a GPU: does it fit?",
            "",
            *grid(COUNTED, [_counted(fit) for fit in report.fits]),
            *(f"- {text}" for text in notes),
            "",
        ]
    return "\n".join(lines)


def _measured(row: Row) -> list[str]:
    right = row.right
    error = "" if right is None or right.error is None else f" ± {right.error:.1%}"
    return [
        row.name,
        mib(row.bytes.layers),
        mib(row.bytes.total),
        "-" if right is None else str(right.n),
        "-" if right is None else f"{right.value:.1%}{error}",
        "-" if row.logits_distance is None else f"{row.logits_distance:.1%}",
        "-" if row.logits_distance_max is None else f"{row.logits_distance_max:.1%}",
        "-" if row.same_token is None else f"{row.same_token:.1%}",
    ]


def _counted(fit: Fit) -> list[str]:
    parts = fit.parts
    limit = f"{fit.limit_bytes / 1e9:.0f} GB"
    return [
        fit.shape.upper(),
        "bf16" if fit.weights == "auto" else fit.weights,
        f"{fit.depth_name} ({fit.depth})",
        _gb(parts.layers + parts.rest),
        _gb(parts.embedding + parts.head),
        _gb(parts.audio + parts.vision),
        _gb(fit.window_bytes),
        _gb(fit.fork_bytes),
        _gb(fit.estimate_bytes),
        _gb(fit.total_bytes),
        f"{'yes' if fit.total_bytes < fit.limit_bytes else 'NO'}: {limit}",
    ]


def _gb(size: int) -> str:
    return f"{size / 1e9:.2f}"
