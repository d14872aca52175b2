"""An evaluation's report as Markdown and JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence

from omnidrop_stream.lab.eval_types import Check, Mean, Report, Row

GROUPS = ("visual", "audio", "order", "yes/no", "absence", "single-hop", "binding", "all")
LEGEND = (
    "Test streams of the synthetic world (voices, renderings and question forms that are never "
    "trained on), played through the chunker into `OmniStream`; every kind of question is asked "
    "once at each length where the stream gives a fair one. Right means: equal to the truth after "
    "case, outer punctuation and an article are dropped. ± is one standard error, clustered by "
    "stream. difference: to the first setting at the same length, question by question.",
    "retention: mean share of the unpruned audiovisual tokens that enter (leave) a layer, as it "
    "came out; label: the promise that the answers kept (exact, exact_schedule, catch_up, "
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
        yield text
        yield ""
    yield from _conditions(report)
    yield f"{report.streams} of {run['streams']} streams, seeds from {run['seed']} on."
    yield ""
    if report.rows:
        yield from _table("Settings", SUMMARY, [_summary(row) for row in report.rows])
        yield from _table(
            "By group", ("setting", "chunks", *GROUPS), list(map(_groups, report.rows))
        )
        yield from _kinds(report.rows)
        yield from _table("Evidence", EVIDENCE, [_evidence(r) for r in report.rows if r.evidence])
    if report.unreachable:
        rows = [(name, reason) for name, reason in report.unreachable.items()]
        yield from _table("Out of reach (not measured)", ("setting", "reason"), rows)
    for check in report.checks:
        yield from _check(check)


def _conditions(report: Report) -> Iterator[str]:
    told, model = report.conditions, report.settings["model"]
    versions = ", ".join(f"{name} {version}" for name, version in told["versions"].items())
    yield f"- {told['device']}, {told['threads']} threads, python {told['python']}, {versions}"
    yield f"- commit {told['commit']}, {told['date']}"
    yield (
        f"- model {model['name']}: {model['layers']} layers, width {model['width']}, "
        f"{model['dtype']}, sha256 {model['sha256'][:16]}"
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
    "tokens",
    "retention entering (leaving) %",
    "label",
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
        f"{row.tokens:.0f}",
        f"{100 * row.entering:.1f} ({100 * row.leaving:.1f})",
        ", ".join(labels),
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
        yield from _grid(heads, body)


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
        yield from _grid(("question", "truth", "first named", "against"), body)


def percent(mean: Mean | None, sign: bool = False) -> str:
    """A share in percent with its standard error."""
    if mean is None:
        return "–"
    value = f"{100 * mean.value:+.1f}" if sign else f"{100 * mean.value:.1f}"
    return value if mean.error is None else f"{value} ± {100 * mean.error:.1f}"


def _table(title: str, heads: Sequence[str], body: Sequence[Sequence[str]]) -> Iterator[str]:
    if body:
        yield f"## {title}"
        yield ""
        yield from _grid(heads, body)


def _grid(heads: Sequence[str], body: Sequence[Sequence[str]]) -> Iterator[str]:
    yield "| " + " | ".join(heads) + " |"
    yield "|" + "---|" * len(heads)
    for row in body:
        cells = (" ".join(cell.split()).replace("|", "\\|") for cell in row)
        yield "| " + " | ".join(cells) + " |"
    yield ""
