"""Whose turn it is on the model thread: one small pure function (design section 7).

1. Work that has waited a whole period goes first, the longest-waiting before the others: a chunk
   and a question's prefill count from when they were due, an answer's decoding and a judgement from
   their last turn. So none of them starves when the model is slower than the streams.
2. A question's prefill.
3. Chunks, the one that was due first.
4. Decode steps and the judgements of standing questions, in turn.
5. Work in the background (raising the depth).
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass


class Kind(enum.IntEnum):
    """Kinds of work, in the order they are served when nothing is late; `IN_TURN` are equals."""

    PREFILL = 0
    CHUNK = 1
    DECODE = 2
    WATCH = 3
    BACKGROUND = 4


IN_TURN = (Kind.DECODE, Kind.WATCH)


@dataclass(frozen=True, slots=True)
class Candidate:
    """Work that could have the next turn. Times are of the worker's clock, in seconds."""

    kind: Kind
    due: float
    """When it was handed over."""
    last_turn: float
    """When it last had a turn (``due`` before the first)."""
    period_s: float = 2.0


def is_late(candidate: Candidate, now: float) -> bool:
    """Whether it has waited a whole period."""
    if candidate.kind in (Kind.CHUNK, Kind.PREFILL):
        return now - candidate.due >= candidate.period_s
    if candidate.kind in IN_TURN:
        return now - candidate.last_turn >= candidate.period_s
    return False


def choose(candidates: Sequence[Candidate], now: float) -> int:
    """Index of the candidate whose turn it is; ``candidates`` must not be empty."""

    def rank(index: int) -> tuple[int, float, float]:
        candidate = candidates[index]
        if is_late(candidate, now):
            return (-1, candidate.last_turn, candidate.due)
        if candidate.kind in IN_TURN:
            return (int(Kind.DECODE), candidate.last_turn, candidate.due)
        return (int(candidate.kind), candidate.due, candidate.last_turn)

    return min(range(len(candidates)), key=rank)
