"""What a session says of itself."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SessionStatus:
    """What a status line shows."""

    state: str
    """``loading``, ``connecting``, ``live``, ``offline``, ``paused``, ``ended`` or ``failed``."""
    reason: str
    stream_s: float
    lag_s: float
    """Age of the newest chunk that the trunk holds."""
    tokens: int
    budget_tokens: int
    depth: int
    ttft_ms: float | None
    dropped: int
    answers: int
    muted: bool
