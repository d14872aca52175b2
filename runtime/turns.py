"""Whose turn it is on the model thread, and what goes with it: one small pure function (design
section 7).

1. Work that has waited a whole period goes first, the longest-waiting before the others: a
   question's prefill counts from when it was due, an answer's decoding and a judgement from their
   last turn. So none of them starves when the model is slower than the streams. A chunk counts as
   late already when it would be late if the chunks due before it, and a turn of other work, came
   first: at the earliest after half a period, which belongs to the questions.
2. A question's prefill.
3. Chunks, the one that was due first.
4. Decode steps and the judgements of standing questions, in turn.
5. Work in the background (raising the depth).

What has the turn is joined by work of the same kind and phase, as much as fits in a turn that a
question just asked would not notice.
"""

from __future__ import annotations

import enum
from collections.abc import Hashable, Sequence
from dataclasses import dataclass


class Kind(enum.IntEnum):
    """Kinds of work, in the order they are served when nothing is late; `IN_TURN` are equals."""

    PREFILL = 0
    CHUNK = 1
    DECODE = 2
    WATCH = 3
    BACKGROUND = 4


IN_TURN = (Kind.DECODE, Kind.WATCH)
MOST_TOGETHER = 16
MOST_TOGETHER_S = 0.2
"""Work that is done together takes at most so long altogether, where it is known how long it takes:
all its turns, the towers and each layer; one alone may take any time.
"""
QUESTIONS_SHARE = 0.5
"""Share of a period in which no chunk that waits is called late."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """Work that could have the next turn. Times are of the worker's clock, in seconds."""

    kind: Kind
    due: float
    """When it was handed over."""
    last_turn: float
    """When it last had a turn (``due`` before the first)."""
    period_s: float = 2.0
    group: Hashable = None
    """Work of equal kind and group can be done together; None: only alone."""
    needs_s: float = 0.0
    """The model's time that it will still take; 0 where that is not known."""
    turn_s: float = 0.0
    """How long its last turn took."""


def is_late(candidate: Candidate, now: float) -> bool:
    """Whether it has waited a whole period."""
    if candidate.kind in (Kind.CHUNK, Kind.PREFILL):
        return now - candidate.due >= candidate.period_s
    if candidate.kind in IN_TURN:
        return now - candidate.last_turn >= candidate.period_s
    return False


def choose(candidates: Sequence[Candidate], now: float) -> int:
    """Index of the candidate whose turn it is; ``candidates`` must not be empty."""
    pressing = _pressing_chunk(candidates, now)

    def rank(index: int) -> tuple[int, float, float]:
        candidate = candidates[index]
        if index == pressing or (candidate.kind is not Kind.CHUNK and is_late(candidate, now)):
            return (-1, candidate.last_turn, candidate.due)
        if candidate.kind in IN_TURN:
            return (int(Kind.DECODE), candidate.last_turn, candidate.due)
        return (int(candidate.kind), candidate.due, candidate.last_turn)

    return min(range(len(candidates)), key=rank)


def choose_together(candidates: Sequence[Candidate], now: float) -> tuple[int, ...]:
    """The candidate whose turn it is, and those that go with it, in the order of their turns."""
    first = choose(candidates, now)
    leader = candidates[first]
    if leader.group is None:
        return (first,)

    def order(index: int) -> tuple[float, float]:
        one = candidates[index]
        in_turn = one.kind in IN_TURN
        return (one.last_turn, one.due) if in_turn else (one.due, one.last_turn)

    chosen, needs_s = [first], leader.needs_s
    same = [
        index
        for index, one in enumerate(candidates)
        if index != first and (one.kind, one.group) == (leader.kind, leader.group)
    ]
    for index in sorted(same, key=order):
        needs_s += candidates[index].needs_s
        if len(chosen) == MOST_TOGETHER or needs_s > MOST_TOGETHER_S:
            break
        chosen.append(index)
    return tuple(chosen)


def _pressing_chunk(candidates: Sequence[Candidate], now: float) -> int | None:
    """The chunk that was due first, where it or one behind it would be late if it did not go now;
    finished one after the other, as many as possible are on time.
    """
    chunks = [index for index, one in enumerate(candidates) if one.kind is Kind.CHUNK]
    if not chunks:
        return None
    chunks.sort(key=lambda index: (candidates[index].due, candidates[index].last_turn))
    ahead_s = max((one.turn_s for one in candidates if one.kind is not Kind.CHUNK), default=0.0)
    for index in chunks:
        one = candidates[index]
        ahead_s += one.needs_s
        margin_s = min(ahead_s, (1.0 - QUESTIONS_SHARE) * one.period_s)
        if now - one.due >= one.period_s - margin_s:
            return chunks[0]
    return None
