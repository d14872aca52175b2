"""From a run's records to figures: accuracy by group and task, with what was not measured named."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from omnidrop_stream.lab.benchmarks import BENCHMARKS
from omnidrop_stream.lab.eval_score import clustered, difference
from omnidrop_stream.lab.eval_types import Mean, Record

Answers = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class CellScore:
    """One row of settings on one benchmark. Shares are of the questions that could be asked."""

    total: Mean
    groups: dict[str, Mean]
    tasks: dict[str, Mean]
    difference: Mean | None
    """To the first cell, question by question; None for the first itself."""
    no_letter: int
    """Answers without a letter; they count as wrong."""
    of_answered: float | None
    """Share of right ones among answers with a letter."""
    refused: int
    """Questions that these settings could not be asked, left out of everything else."""
    entering: float
    leaving: float
    first_token_s: float
    """Median."""
    total_s: float
    peak_mib: float | None


@dataclass(frozen=True, slots=True)
class SetScore:
    """One benchmark."""

    name: str
    clips: int
    played: int
    in_part: int
    """Clips that did not fit the window: only their end was seen."""
    thinned: int
    """Clips of which not every chunk has its pictures, or fewer a second, for the limit's sake."""
    skipped: dict[str, str]
    """Clip to reason."""
    cells: tuple[CellScore | None, ...]
    """None: nothing could be asked."""
    reasons: dict[str, str]
    """Cell to its first reason for refusing."""


@dataclass(frozen=True, slots=True)
class BenchmarkReport:
    """Everything, with its conditions."""

    head: Record
    conditions: tuple[Record, ...]
    sets: tuple[SetScore, ...]

    def set(self, name: str) -> SetScore | None:
        """The benchmark called ``name``."""
        return next((s for s in self.sets if s.name == name), None)


def report_of(lines: Sequence[Record]) -> BenchmarkReport:
    """From a state file's lines, its head first. Of a clip's records the last one counts."""
    head, records = lines[0], lines[1:]
    found = tuple(r for r in records if r["type"] == "conditions")
    sets = tuple(_set(name, about, head, records) for name, about in head["sets"].items())
    return BenchmarkReport(head, found, sets)


def _set(name: str, about: Mapping[str, Any], head: Record, records: Sequence[Record]) -> SetScore:
    own = {r["clip"]: r for r in records if r.get("set") == name}
    played = [r for r in own.values() if r["type"] == "clip"]
    full_fps = head["config"]["stream"]["fps"]
    cells = range(len(head["cells"]))
    by_cell = [[[a for a in r["answers"] if a["cell"] == c] for r in played] for c in cells]
    reasons = {
        head["cells"][c]["name"]: reason
        for c in cells
        if (reason := next((a["refused"] for s in by_cell[c] for a in s if "refused" in a), None))
    }
    return SetScore(
        name=name,
        clips=about["clips"],
        played=len(played),
        in_part=sum(r["held"] < r["chunks"] for r in played),
        thinned=sum(
            r["fps"] < full_fps or r["pictured"] < r["chunks"]
            for r in played
            if r["kind"] != "audio"
        ),
        skipped={r["clip"]: r["reason"] for r in own.values() if r["type"] == "skipped"},
        cells=tuple(_cell(name, by_cell[c], by_cell[0] if c else None) for c in cells),
        reasons=reasons,
    )


def _cell(name: str, clips: Sequence[Answers], first: Sequence[Answers] | None) -> CellScore | None:
    asked = [[a for a in clip if "refused" not in a] for clip in clips]
    flat = [a for clip in asked for a in clip]
    total = _share(asked)
    if total is None:
        return None
    lettered = [a for a in flat if a["letter"]]
    groups = [*BENCHMARKS[name].columns, *sorted({a["group"] for a in flat})]
    tasks = sorted({a["task"] for a in flat})
    peaks = [a["peak_mib"] for a in flat if a["peak_mib"] is not None]
    return CellScore(
        total=total,
        groups=_shares(asked, dict.fromkeys(groups), "group"),
        tasks=_shares(asked, tasks, "task"),
        difference=None if first is None else _paired(first, asked),
        no_letter=len(flat) - len(lettered),
        of_answered=sum(a["ok"] for a in lettered) / len(lettered) if lettered else None,
        refused=sum(map(len, clips)) - len(flat),
        entering=statistics.fmean(a["entering"] for a in flat),
        leaving=statistics.fmean(a["leaving"] for a in flat),
        first_token_s=statistics.median(a["first_token_ms"] for a in flat) / 1e3,
        total_s=statistics.median(a["total_ms"] for a in flat) / 1e3,
        peak_mib=max(peaks) if peaks else None,
    )


def _share(clips: Sequence[Answers]) -> Mean | None:
    return clustered((sum(a["ok"] for a in clip), len(clip)) for clip in clips)


def _shares(clips: Sequence[Answers], names: Iterable[str], key: str) -> dict[str, Mean]:
    found = {}
    for name in names:
        mean = _share([[a for a in clip if a[key] == name] for clip in clips])
        if mean is not None:
            found[name] = mean
    return found


def _paired(first: Sequence[Answers], own: Sequence[Answers]) -> Mean | None:
    """Over the questions that both were asked."""
    triples = []
    for one, two in zip(first, own, strict=True):
        known = {a["question"]: a["ok"] for a in one if "refused" not in a}
        both = [(known[a["question"]], a["ok"]) for a in two if a["question"] in known]
        triples.append((float(sum(a for a, _ in both)), float(sum(b for _, b in both)), len(both)))
    return difference(triples)
