"""Were the right things told? Occurrences, messages and how they meet. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from omnidrop_stream.types import Evidence
from omnidrop_stream.watch_config import WatchConfig
from omnidrop_stream.watch_judge import WatchJudge
from omnidrop_stream.world import Event

APART = 2
"""Occurrences at most so many chunks apart are one event: no stretch without it was judged between
them.
"""


@dataclass(frozen=True, slots=True)
class Point:
    """One judgement of one standing question, after chunk ``chunk``."""

    chunk: int
    end_s: float
    """Stream time of the end of what was judged."""
    odds: float | None
    evidence: tuple[Evidence, ...]
    late_ms: float
    """Computing from the chunk's last sample until this was judged."""


@dataclass(frozen=True, slots=True)
class Happening:
    """What one standing question waits for: chunks first to last, occurrences in order."""

    first: int
    last: int
    occurrences: tuple[Event, ...]

    @property
    def ended_s(self) -> float:
        """When its first occurrence was over."""
        return self.occurrences[0].to_s


@dataclass(frozen=True, slots=True)
class Hit:
    """An event that was told."""

    delay_s: float
    """From the end of its first occurrence to the end of the chunk that was judged, stream time."""
    late_ms: float
    grounded: bool
    """An evidence span overlaps an occurrence, in the right modality."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One standing question on one stream."""

    hits: tuple[Hit, ...]
    missed: int
    false: int
    """Messages about nothing."""
    again: int
    """Messages about an event that had been told."""
    unheard: int
    """Events that began while the baseline was learnt; not counted anywhere else."""
    judged: int

    @property
    def events(self) -> int:
        """Events that could be told."""
        return len(self.hits) + self.missed

    @property
    def messages(self) -> int:
        """Messages that were counted."""
        return len(self.hits) + self.false + self.again


def happenings(occurrences: Sequence[tuple[int, Event]]) -> list[Happening]:
    """Events from (chunk, occurrence) in order of time."""
    found: list[Happening] = []
    for chunk, event in occurrences:
        if found and chunk - found[-1].last <= APART:
            before = found.pop()
            found.append(Happening(before.first, chunk, (*before.occurrences, event)))
        else:
            found.append(Happening(chunk, chunk, (event,)))
    return found


def messages_of(points: Sequence[Point], rule: WatchConfig) -> list[Point]:
    """The judgements that a `WatchJudge` tells."""
    judge = WatchJudge(rule)
    judged = [(p, judge.step(p.end_s, p.odds)) for p in points if p.odds is not None]
    return [point for point, verdict in judged if verdict.event]


def score(points: Sequence[Point], events: Sequence[Happening], rule: WatchConfig) -> Outcome:
    """A message belongs to an event where it comes from its first chunk on and at the latest after
    the chunk behind its last one, which is judged together with it.
    """
    deaf = rule.learn
    hits: dict[int, Hit] = {}
    false = again = 0
    for point in messages_of(points, rule):
        number = next(
            (n for n, e in enumerate(events) if e.first <= point.chunk <= e.last + 1), None
        )
        if number is None:
            false += 1
        elif events[number].first < deaf:
            continue
        elif number in hits:
            again += 1
        else:
            hits[number] = _hit(point, events[number])
    heard = [n for n, e in enumerate(events) if e.first >= deaf]
    return Outcome(
        hits=tuple(hits.values()),
        missed=len(heard) - len(hits),
        false=false,
        again=again,
        unheard=len(events) - len(heard),
        judged=len(points),
    )


def _hit(point: Point, event: Happening) -> Hit:
    grounded = any(
        span.modality == o.modality and span.from_s < o.to_s and span.to_s > o.from_s
        for span in point.evidence
        for o in event.occurrences
    )
    return Hit(point.end_s - event.ended_s, point.late_ms, grounded)
