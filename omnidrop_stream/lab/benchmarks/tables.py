"""A run's report as Markdown: first the paper's own table, then what it leaves out, and JSON."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Iterator, Sequence

from omnidrop_stream.lab.benchmarks import BENCHMARKS
from omnidrop_stream.lab.benchmarks.report import BenchmarkReport, CellScore, SetScore
from omnidrop_stream.lab.eval_tables import percent
from omnidrop_stream.lab.markdown import grid

BY_GROUP = {6: "worldsense", 7: "avut"}
"""Tables of the paper that show one benchmark's groups."""
TITLES = {
    1: "OmniZip without its anchors (the form of the paper's Table 1)",
    2: "Performance and cost (the form of the paper's Table 2)",
    3: "Schedule and diversity (the form of the paper's Table 3)",
    4: "Guidance (the form of the paper's Table 4)",
    6: "WorldSense by domain (the form of the paper's Table 6)",
    7: "AVUT by task (the form of the paper's Table 7)",
}
MOST_NAMED = 200


def to_json(report: BenchmarkReport) -> str:
    """Everything."""
    return json.dumps(dataclasses.asdict(report), indent=1) + "\n"


def to_markdown(report: BenchmarkReport) -> str:
    """Tables with their conditions."""
    return "\n".join(_lines(report)).rstrip() + "\n"


def _lines(report: BenchmarkReport) -> Iterator[str]:
    table = report.head["table"] or 2
    yield f"# omnidrop benchmark: {report.head['model']['name']}"
    yield ""
    yield from _conditions(report)
    yield f"## {TITLES[table]}"
    yield ""
    if table in BY_GROUP:
        chosen = report.set(BY_GROUP[table])
        yield from _groups(report, chosen) if chosen else _unmeasured(BY_GROUP[table])
    else:
        yield from _performance(report) if table == 2 else _ablation(report)
    yield (
        "Accuracy in percent over questions; an answer without a letter is wrong. –: not measured. "
        "Ratio: as the row is called; the mean share of the towers' tokens that entered a layer "
        "stands below, as it came out."
    )
    yield ""
    for score in report.sets:
        if BY_GROUP.get(table) != score.name:
            yield f"## {BENCHMARKS[score.name].title} by group"
            yield ""
            yield from _groups(report, score)
    yield from _differences(report)
    for score in report.sets:
        yield from _tasks(report, score)
    yield from _left_out(report)


def _unmeasured(name: str) -> Iterator[str]:
    yield f"Not measured: {name} is not among the run's benchmarks."
    yield ""


def _conditions(report: BenchmarkReport) -> Iterator[str]:
    head, config = report.head, report.head["config"]
    model, stream = head["model"], config["stream"]
    size = f"{model['layers']} layers, width {model['width']}, {model['dtype']}, {model['sha256']}"
    yield f"- model {model['name']}: {size}"
    for told in _distinct(report):
        yield f"- {told}"
    yield (
        f"- {stream['fps']:g} pictures a second at most, at most {head['frame_tokens']} tokens for "
        f"two of them, prefill depth {stream['prefill_depth']}, window of "
        f"{stream['budget_tokens']} tokens, answers of at most {config['decode']['max_tokens']} "
        f"tokens, temperature {config['decode']['temperature']:g}"
    )
    for score in report.sets:
        about = head["sets"][score.name]
        yield (
            f"- {BENCHMARKS[score.name].title}: {score.played} of {score.clips} clips played, "
            f"{len(score.skipped)} skipped; at most {about['max_frames']} pictures a clip, "
            f"for which {score.thinned} were thinned; {score.in_part} longer than the window, seen "
            f"at their end only; annotations {about['sha256']}"
        )
    yield ""


def _distinct(report: BenchmarkReport) -> list[str]:
    told = [
        f"{c['device']}, {c['threads']} threads, python {c['python']}, "
        + ", ".join(f"{name} {version}" for name, version in c["versions"].items())
        + f"; commit {c['commit']}, {c['date'][:10]}"
        for c in report.conditions
    ]
    return list(dict.fromkeys(told))


def _performance(report: BenchmarkReport) -> Iterator[str]:
    titles = [BENCHMARKS[s.name].title for s in report.sets]
    heads = ["Method", "Retained Ratio (%)", *titles, "Avg. Δ", "To first token (s)"]
    heads += ["Latency / Sample (s)", "GPU Mem (GiB)"]
    body = []
    for number, cell in enumerate(report.head["cells"]):
        scores = _row(report, number)
        known = [s for s in scores if s is not None]
        peaks = [s.peak_mib for s in known if s.peak_mib is not None]
        row = [cell["method"], f"{cell['ratio']:g}", *map(_total, scores), _step(report, number)]
        row += [_middle([s.first_token_s for s in known]), _middle([s.total_s for s in known])]
        body.append([*row, f"{max(peaks) / 1024:.2f}" if peaks else "–"])
    yield from grid(heads, body)
    yield (
        "Avg. Δ: mean change over the benchmarks from the method's row above to this one, in "
        "points. Times: the mean of the benchmarks' medians over questions; the towers' work on "
        "the clip is not in them. Memory: the most that one answer held, weights and window "
        "included."
    )
    yield ""


def _ablation(report: BenchmarkReport) -> Iterator[str]:
    heads = ["Method", "Ratio", *(BENCHMARKS[s.name].title for s in report.sets)]
    yield from grid(
        heads,
        [
            [cell["method"], f"{cell['ratio']:g}", *map(_total, _row(report, number))]
            for number, cell in enumerate(report.head["cells"])
        ],
    )


def _groups(report: BenchmarkReport, score: SetScore) -> Iterator[str]:
    columns = BENCHMARKS[score.name].columns
    found = {group for cell in score.cells if cell for group in cell.groups}
    groups = [*columns, *sorted(found - set(columns))]
    heads = ["Method", "Ret. Ratio (%)", *(columns.get(g, g) for g in groups), "Avg."]
    body = []
    for cell, own in zip(report.head["cells"], score.cells, strict=True):
        means = [own.groups.get(g) if own else None for g in groups]
        shown = ["–" if m is None else f"{100 * m.value:.2f}" for m in means]
        body.append([cell["method"], f"{cell['ratio']:g}", *shown, _total(own)])
    yield from grid(heads, body)


def _differences(report: BenchmarkReport) -> Iterator[str]:
    yield "## What came out, row by row"
    yield ""
    heads = ["row", "benchmark", "questions", "accuracy %", "to the first row", "of lettered %"]
    heads += ["no letter", "refused", "entering (leaving) %"]
    body = []
    for number, cell in enumerate(report.head["cells"]):
        for score in report.sets:
            own = score.cells[number]
            if own is None:
                continue
            lettered = "–" if own.of_answered is None else f"{100 * own.of_answered:.2f}"
            change = "first" if own.difference is None else percent(own.difference, sign=True)
            body.append(
                [
                    cell["name"],
                    BENCHMARKS[score.name].title,
                    str(own.total.n),
                    percent(own.total),
                    change if number else "first",
                    lettered,
                    str(own.no_letter),
                    str(own.refused),
                    f"{100 * own.entering:.1f} ({100 * own.leaving:.1f})",
                ]
            )
    yield from grid(heads, body)
    yield "± is one standard error, clustered by clip."
    yield ""


def _tasks(report: BenchmarkReport, score: SetScore) -> Iterator[str]:
    tasks = sorted({task for cell in score.cells if cell for task in cell.tasks})
    if not tasks or tasks == sorted(BENCHMARKS[score.name].columns):
        return
    yield f"## {BENCHMARKS[score.name].title} by kind of question"
    yield ""
    heads = ["kind", "n", *(cell["name"] for cell in report.head["cells"])]
    body = []
    for task in tasks:
        means = [cell.tasks.get(task) if cell else None for cell in score.cells]
        counts = [str(m.n) for m in means if m is not None]
        body.append([task, counts[0], *(percent(m) for m in means)])
    yield from grid(heads, body)


def _left_out(report: BenchmarkReport) -> Iterator[str]:
    for score in report.sets:
        title = BENCHMARKS[score.name].title
        for name, reason in score.reasons.items():
            yield f"- {title}: {name} could not be asked everywhere: {' '.join(reason.split())}"
        for clip, reason in list(score.skipped.items())[:MOST_NAMED]:
            yield f"- {title}: {clip} was skipped: {' '.join(reason.split())}"
        if len(score.skipped) > MOST_NAMED:
            yield f"- {title}: and {len(score.skipped) - MOST_NAMED} more; the JSON names all"


def _row(report: BenchmarkReport, number: int) -> list[CellScore | None]:
    return [score.cells[number] for score in report.sets]


def _total(score: CellScore | None) -> str:
    return "–" if score is None else f"{100 * score.total.value:.2f}"


def _middle(values: Sequence[float]) -> str:
    return f"{statistics.fmean(values):.2f}" if values else "–"


def _step(report: BenchmarkReport, number: int) -> str:
    """The mean change from the row above, where that is of the same method."""
    cells = report.head["cells"]
    if not number or cells[number - 1]["method"] != cells[number]["method"]:
        return ""
    pairs = zip(_row(report, number - 1), _row(report, number), strict=True)
    steps = [b.total.value - a.total.value for a, b in pairs if a and b]
    return f"{100 * statistics.fmean(steps):+.2f}" if len(steps) == len(report.sets) else "–"
