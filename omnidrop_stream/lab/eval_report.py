"""An evaluation's report as Markdown and JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence

from omnidrop_stream.lab.eval_tables import (
    by_layer,
    gate_table,
    grid,
    grid_tables,
    past_table,
    percent,
    table,
    versus_tables,
)
from omnidrop_stream.lab.eval_types import Check, Mean, Report, Row

GROUPS = ("visual", "audio", "order", "yes/no", "absence", "single-hop", "binding", "all")
SPLITS = {
    "test": "Test streams of the synthetic world (voices, renderings and question forms that are "
    "never trained on)",
    "dev": "Development streams of the synthetic world (the training voices, renderings and "
    "question forms, streams that training never drew)",
}
LEGEND = (
    "{split}, played through the chunker into `OmniStream`; every kind of question is asked "
    "once at each length where the stream gives a fair one. Right means: equal to the truth after "
    "case, outer punctuation and an article are dropped. ± is one standard error, clustered by "
    "stream. difference: to the first setting at the same length, question by question.",
    "retention: mean share of the unpruned audiovisual tokens that enter (leave) a layer, as it "
    "came out; by layer: the same for each layer, equal ones once; GFLOP: counted, of a prefill in "
    "all and after the question came; ms: processor time of a prefill after the question, one at a "
    "time, median; label: the promise that the answers kept (exact, exact_schedule, catch_up, "
    "read_side).",
    "Evidence, over correct answers that rest on something: hit: a true event lies in a named "
    "chunk; chance: the same for as many chunks named at random; all: every true event does; "
    "precision: share of named chunks that hold a true event; named: share of the window.",
)


def to_json(report: Report) -> str:
    """Everything."""
    return json.dumps(dataclasses.asdict(report), indent=1) + "\n"


def to_markdown(report: Report) -> str:
    """Tables with their conditions."""
    return "\n".join(_lines(report)).rstrip() + "\n"


def _lines(report: Report) -> Iterator[str]:
    model, run = report.settings["model"], report.settings["eval"]
    yield f"# omnidrop eval: {model['name']}"
    yield ""
    for text in LEGEND:
        yield text.format(split=SPLITS[run["split"]])
        yield ""
    yield from _conditions(report)
    yield f"{report.streams} of {run['streams']} streams, seeds from {run['seed']} on."
    yield ""
    if report.plain is not None:
        same, asked = report.plain
        yield f"Asked again one by one through `OmniStream`: {same} of {asked} texts the same."
        yield ""
    if report.gate is not None:
        yield from gate_table(report.gate, model["made"])
    if report.rows:
        yield from grid_tables(report)
        yield from table("Settings", SUMMARY, [_summary(row) for row in report.rows])
        yield from table("Cost", COST, [_costs(row) for row in report.rows])
        yield from versus_tables(report)
        yield from table(
            "By group", ("setting", "chunks", *GROUPS), list(map(_groups, report.rows))
        )
        yield from _kinds(report.rows)
        yield from table("Evidence", EVIDENCE, [_evidence(r) for r in report.rows if r.evidence])
    yield from past_table(report)
    if report.unreachable:
        rows = [(name, reason) for name, reason in report.unreachable.items()]
        yield from table("Out of reach (not measured)", ("setting", "reason"), rows)
    for check in report.checks:
        yield from _check(check)


def _conditions(report: Report) -> Iterator[str]:
    told, model = report.conditions, report.settings["model"]
    versions = ", ".join(f"{name} {version}" for name, version in told["versions"].items())
    yield f"- {told['device']}, {told['threads']} threads, python {told['python']}, {versions}"
    yield f"- commit {told['commit']}, {told['date']}"
    yield (
        f"- model {model['name']}: {model['layers']} layers, width {model['width']}, "
        f"{model['dtype']}, sha256 {model['sha256'][:16]}; made: {model['made']}"
    )
    yield ""


SUMMARY = (
    "setting",
    "chunks",
    "n",
    "all %",
    "difference",
    "single-hop %",
    "binding %",
    "worst kind %",
    "label",
)
COST = (
    "setting",
    "chunks",
    "tokens",
    "retention entering (leaving) %",
    "entering by layer %",
    "GFLOP in all",
    "after the question",
    "ms",
)
EVIDENCE = ("setting", "chunks", "n", "hit %", "chance", "all %", "precision %", "named %", "spans")


def _summary(row: Row) -> tuple[str, ...]:
    worst = min(row.kinds.items(), key=lambda item: item[1].value)
    labels = sorted(row.labels, key=lambda name: -row.labels[name])
    return (
        row.cell.name,
        str(row.chunks),
        str(row.accuracy["all"].n),
        percent(row.accuracy["all"]),
        "first" if row.difference is None else percent(row.difference, sign=True),
        percent(row.accuracy.get("single-hop")),
        percent(row.accuracy.get("binding")),
        f"{worst[0]} {100 * worst[1].value:.0f}",
        ", ".join(labels),
    )


def _costs(row: Row) -> tuple[str, ...]:
    flops, later, ms = (row.cost[key] for key in ("flops", "flops_question", "prefill_ms"))
    return (
        row.cell.name,
        str(row.chunks),
        f"{row.tokens:.0f}",
        f"{100 * row.entering:.1f} ({100 * row.leaving:.1f})",
        by_layer(row.schedule),
        f"{(flops or 0) / 1e9:.3g}",
        f"{(later or 0) / 1e9:.3g}",
        "–" if ms is None else f"{ms:.3g}",
    )


def _groups(row: Row) -> tuple[str, ...]:
    return (row.cell.name, str(row.chunks), *(percent(row.accuracy.get(g)) for g in GROUPS))


def _kinds(rows: Sequence[Row]) -> Iterator[str]:
    yield "## By kind of question"
    yield ""
    cells = list(dict.fromkeys(row.cell for row in rows))
    for cell in cells:
        own = [row for row in rows if row.cell == cell]
        names = list(dict.fromkeys(kind for row in own for kind in row.kinds))
        body = [(name, *(_counted(row.kinds.get(name)) for row in own)) for name in names]
        heads = ("kind", *(f"{row.chunks} chunks % (n)" for row in own))
        yield f"### {cell.name}"
        yield ""
        yield from grid(heads, body)


def _counted(mean: Mean | None) -> str:
    return "–" if mean is None else f"{percent(mean)} ({mean.n})"


def _evidence(row: Row) -> tuple[str, ...]:
    found = row.evidence
    if found is None:
        return ()
    return (
        row.cell.name,
        str(row.chunks),
        str(found.hit.n),
        percent(found.hit),
        f"{100 * found.chance:.1f}",
        percent(found.all_hit),
        percent(found.precision),
        f"{100 * found.named:.1f}",
        f"at most {found.most_spans}",
    )


def _check(check: Check) -> Iterator[str]:
    yield f"## Check: {check.name}"
    yield ""
    yield "; ".join(f"{key}: {value}" for key, value in check.about.items())
    yield ""
    yield (
        f"{check.same_text} of {check.n} answers have the same text. Right: "
        f"{percent(check.second)} % against {percent(check.first)} %, difference "
        f"{percent(check.difference, sign=True)} points."
    )
    yield ""
    if check.unlike:
        body = [(a["question"], a["truth"], a["second"], a["first"]) for a in check.unlike]
        yield from grid(("question", "truth", "first named", "against"), body)
