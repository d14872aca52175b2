"""What a stream says of itself."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StreamStatus:
    """What a stream holds and has seen."""

    chunks_held: int
    tokens: int
    budget_tokens: int
    nbytes: int
    fork_bytes: int
    depth: int
    pushed: int
    evicted: int
    dropped: int
    answers_in_progress: int
    last_push_s: float
    end_s: float | None
    depth_reason: str = ""
    """Why ``auto`` moved the depth last; empty where it never did."""
