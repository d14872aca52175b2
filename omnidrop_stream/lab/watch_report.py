"""The report on standing questions as Markdown and JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence

from omnidrop_stream.lab.eval_types import Mean
from omnidrop_stream.lab.watch_eval import Report, Row

LEGEND = (
    "Test streams of the synthetic world (voices and renderings that are never trained on), played "
    "chunk by chunk into `OmniStream`; after each chunk every watch is judged over the last two "
    "chunks, and a `WatchJudge` with the settings below says what is told. The cool-down is 0 "
    "here, so that every event counts.",
    "event: occurrences of what is watched for, at most 2 chunks apart; events that begin while "
    "the baseline is learnt are left out. A message is right from the event's first chunk to the "
    "one after its last; a second message about the same event counts as wrong. precision: right "
    "messages of all; recall: events told of all. ± is one standard error, clustered by stream.",
    "delay: from the end of the event (its first occurrence: the word's last sample, the moment "
    "the thing goes) to the message: stream time until the chunk is whole plus the computing of "
    "the chunk and of the judgements before and with it, on the machine below. "
    "It is negative where it was told before the event's end. grounded: the message's evidence "
    "overlaps an occurrence, in its modality.",
)
HEAD = (
    *("watch", "threshold", "watches", "events", "precision %", "recall %", "told twice"),
    *("false an hour", "delay s median", "p95", "most", "waiting s", "grounded %"),
)


def to_json(report: Report) -> str:
    """Everything."""
    return json.dumps(dataclasses.asdict(report), indent=1) + "\n"


def to_markdown(report: Report) -> str:
    """Tables with their conditions."""
    return "\n".join(_lines(report)).rstrip() + "\n"


def _lines(report: Report) -> Iterator[str]:
    settings, where = report.settings, report.conditions
    model, rule = settings["model"], settings["rule"]
    yield f"# omnidrop bench watches: {model['name']}"
    yield ""
    for text in LEGEND:
        yield text
        yield ""
    yield f"- {', '.join(f'{key}: {value}' for key, value in where.items())}"
    yield (
        f"- model {model['name']}: {model['layers']} layers, width {model['width']}, "
        f"{model['dtype']}, sha256 {model['sha256'][:16]}; trunk at depth {settings['depth']}"
    )
    templates = settings["templates"]
    yield f"- templates: {templates['any']!r}, by sound {templates['sound']!r}"
    yield f"- rule: {', '.join(f'{key} {value:g}' for key, value in rule.items())}"
    watches = ", ".join(f"{count} {name}" for name, count in settings["watches"].items())
    yield (
        f"- {report.streams} streams of {settings['chunks']} chunks, seeds from {settings['seed']} "
        f"on; watches of each: {watches}; bell and words by sound alone; "
        f"{report.totals['judgements']} judgements; {report.unheard} events while learning left out"
    )
    yield ""
    yield from _table("What was told", report.rows)
    yield from _table("The same judgements at other thresholds", report.other_thresholds)
    cost = report.cost
    yield "## Cost"
    yield ""
    yield (
        f"One judgement takes {cost['judge_ms_median']:.1f} ms (median; p95 "
        f"{cost['judge_ms_p95']:.1f}), {cost['share_of_period_one']:.2%} of a chunk's 2 s; all "
        f"{cost['watches']:g} watches of a chunk together {cost['chunk_ms_median']:.0f} ms (p95 "
        f"{cost['chunk_ms_p95']:.0f}), {cost['share_of_period_all']:.1%}, of processor time "
        f"{cost['chunk_cpu_ms_median']:.0f} ms. The chunk itself takes "
        f"{cost['push_ms_median']:.0f} ms."
    )


def _table(title: str, rows: Sequence[Row]) -> Iterator[str]:
    yield f"## {title}"
    yield ""
    yield f"| {' | '.join(HEAD)} |"
    yield f"|{'---|' * len(HEAD)}"
    for row in rows:
        yield f"| {' | '.join(_cells(row))} |"
    yield ""


def _cells(row: Row) -> list[str]:
    delay = [f"{row.delay_s[key]:.2f}" if row.delay_s else "-" for key in ("median", "p95", "most")]
    return [
        row.kind,
        f"{row.threshold:g}",
        str(row.watches),
        str(row.events),
        _percent(row.precision),
        _percent(row.recall),
        str(row.again),
        f"{row.false_per_hour:.2f}",
        *delay,
        f"{row.waiting_s:.2f}",
        _percent(row.grounded),
    ]


def _percent(mean: Mean | None) -> str:
    if mean is None:
        return "-"
    error = "" if mean.error is None else f" ± {100 * mean.error:.1f}"
    return f"{100 * mean.value:.1f}{error}"
