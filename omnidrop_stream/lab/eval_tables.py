"""Tables of an evaluation that compare: the grid at a glance, differences, and the gate."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence

from omnidrop_stream.lab.eval_score import half_width
from omnidrop_stream.lab.eval_types import Cell, Gate, Mean, Report, Versus

GATE_POINTS = 20
BUILT = (
    " A built model looks before it reads because its layers were placed so by hand: it tells "
    "implementations and scores apart, and is no evidence for the method."
)


def by_layer(shares: Sequence[float]) -> str:
    """Shares in percent, runs of the same one once: ``47.8 x5, 45, 36``."""
    texts = [f"{100 * share:.1f}" for share in shares]
    runs = [(text, len(list(same))) for text, same in itertools.groupby(texts)]
    return ", ".join(text if n == 1 else f"{text} ×{n}" for text, n in runs)


def grid_tables(report: Report) -> Iterator[str]:
    """Accuracy at a glance, one table a length: policies and depths down, retentions across."""
    cells = [row.cell for row in report.rows] + list(report.missing)
    retentions = sorted({c.retention or 1.0 for c in cells}, reverse=True)
    heads = ("policy, depth", *(_column(r, cells) for r in retentions))
    for count in dict.fromkeys(row.chunks for row in report.rows):
        found = {r.cell: percent(r.accuracy["all"]) for r in report.rows if r.chunks == count}
        found |= {c: f"out of reach{_least(report.unreachable[c.name])}" for c in report.missing}
        body = []
        for policy, depth in dict.fromkeys((c.policy, c.depth) for c in cells):
            own = {c.retention or 1.0: text for c, text in found.items() if _is(c, policy, depth)}
            body.append((f"{policy}, {depth}", *(own.get(r, "–") for r in retentions)))
        yield from table(f"Right answers in percent, {count} chunks", heads, body)


def _is(cell: Cell, policy: str, depth: int | str) -> bool:
    return (cell.policy, cell.depth) == (policy, depth)


def _column(retention: float, cells: Sequence[Cell]) -> str:
    own = any(c.retention is None for c in cells) and retention == 1.0
    return "no target" if own else f"{100 * retention:g} %"


def _least(reason: str) -> str:
    """The minimum that a refusal names."""
    found = re.search(r"allowed here: ([0-9.]+)%", reason)
    return f" (least {found[1]} %)" if found else ""


def versus_tables(report: Report) -> Iterator[str]:
    """Paired differences with their 95 % intervals, one table for each baseline."""
    for name in dict.fromkeys(v.baseline.policy for v in report.versus):
        own = [v for v in report.versus if v.baseline.policy == name]
        title = f"Less {name}, in points, with 95 % intervals"
        heads = ("setting", "less", "chunks", "streams", "questions", "difference", "from", "to")
        yield from table(title, heads, [_versus(v) for v in own])


def _versus(v: Versus) -> tuple[str, ...]:
    value, half = 100 * v.difference.value, half_width(v.difference, v.streams)
    ends = ("–", "–")
    if half is not None:
        ends = (f"{value - 100 * half:+.1f}", f"{value + 100 * half:+.1f}")
    return (
        v.cell.name,
        v.baseline.name,
        "all" if v.chunks is None else str(v.chunks),
        str(v.streams),
        str(v.difference.n),
        f"{value:+.1f}",
        *ends,
    )


def past_table(report: Report) -> Iterator[str]:
    """Eviction policies on questions about the older and the newer half of a stream."""
    if not report.past:
        return
    run = report.settings["eval"]
    halves = list(report.past[0].right)
    heads = ["eviction", "tokens held", "bytes", "chunks reached"]
    heads += [f"{half} half %" for half in halves]
    heads += [f"{half} half, less oldest_window" for half in halves]
    body = [
        (
            row.policy,
            f"{row.tokens:.0f}",
            f"{row.bytes:.0f}",
            f"{row.chunks:.1f}",
            *(f"{percent(row.right.get(half))}" for half in halves),
            *(_interval(row.less.get(half), row.streams) for half in halves),
        )
        for row in report.past
    ]
    asked = ", ".join(f"{row.n} on the {half}" for half, row in report.past[0].right.items())
    yield "## What is left of the past"
    yield ""
    yield (
        f"{report.past[0].streams} streams of {run['past_chunks']} chunks at a budget of "
        f"{100 * run['past_share']:g} % of their bytes, depth 0, nothing pruned at question time; "
        f"questions that rest on one half of the stream: {asked}. Differences with 95 % intervals."
    )
    yield ""
    yield from grid(heads, body)


def _interval(mean: Mean | None, streams: int) -> str:
    half = None if mean is None else half_width(mean, streams)
    if mean is None or half is None:
        return "–"
    value, wide = 100 * mean.value, 100 * half
    return f"{value:+.1f} ({value - wide:+.1f} to {value + wide:+.1f})"


def gate_table(gate: Gate, made: str) -> Iterator[str]:
    """What a blind drop costs after each layer, and whether the instrument passes."""
    yield "## The gate"
    yield ""
    passes = 100 * gate.middle.value > GATE_POINTS
    verdict = (
        "passed: what leaves after the middle layer is missed"
        if passes
        else "NOT passed: this model has read before the middle layer, so no table of policies "
        "below tells which of them is better"
    )
    yield (
        f"{100 * gate.share:.0f} % of the audiovisual tokens dropped once, at random, after one "
        f"layer; all kept: {percent(gate.kept)} % right ({gate.kept.n} questions). After half of "
        f"the layers that costs {percent(gate.middle)} points (wanted: more than {GATE_POINTS}): "
        f"{verdict}. The model: {made}."
        f"{BUILT if made.startswith('built') else ''}"
    )
    yield ""
    heads = ("after layer", *(str(layer) for layer in range(len(gate.dropped))))
    rows = [
        ("right %", *(percent(mean) for mean in gate.dropped)),
        ("loss", *(percent(mean) for mean in gate.loss)),
    ]
    yield from grid(heads, rows)


def percent(mean: Mean | None, sign: bool = False) -> str:
    """A share in percent with its standard error."""
    if mean is None:
        return "–"
    value = f"{100 * mean.value:+.1f}" if sign else f"{100 * mean.value:.1f}"
    return value if mean.error is None else f"{value} ± {100 * mean.error:.1f}"


def table(title: str, heads: Sequence[str], body: Sequence[Sequence[str]]) -> Iterator[str]:
    """A section of its own; nothing where it has no rows."""
    if body:
        yield f"## {title}"
        yield ""
        yield from grid(heads, body)


def grid(heads: Sequence[str], body: Sequence[Sequence[str]]) -> Iterator[str]:
    """The table alone."""
    yield "| " + " | ".join(heads) + " |"
    yield "|" + "---|" * len(heads)
    for row in body:
        cells = (" ".join(cell.split()).replace("|", "\\|") for cell in row)
        yield "| " + " | ".join(cells) + " |"
    yield ""
