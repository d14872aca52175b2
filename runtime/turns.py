"""Whose turn it is on the model thread: one small pure function (design section 7).

1. Work that has waited a whole period goes first, the longest-waiting before the others: a chunk
   counts from when it was due, an answer's decoding from its last turn. So neither starves when
   the model is slower than the stream.
2. A question's prefill.
3. Chunks, the one that was due first.
4. Decode steps, in turn.
5. Work in the background (raising the depth).
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass


class Kind(enum.IntEnum):
    """Kinds of work, in the order they are served when nothing is late."""

    PREFILL = 0
    CHUNK = 1
    DECODE = 2
    BACKGROUND = 3


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
    if candidate.kind is Kind.CHUNK:
        return now - candidate.due >= candidate.period_s
    if candidate.kind is Kind.DECODE:
        return now - candidate.last_turn >= candidate.period_s
    return False


def choose(candidates: Sequence[Candidate], now: float) -> int:
    """Index of the candidate whose turn it is; ``candidates`` must not be empty."""

    def rank(index: int) -> tuple[int, float, float]:
        candidate = candidates[index]
        if is_late(candidate, now):
            return (-1, candidate.last_turn, candidate.due)
        first = candidate.last_turn if candidate.kind is Kind.DECODE else candidate.due
        return (int(candidate.kind), first, candidate.last_turn)

    return min(range(len(candidates)), key=rank)
