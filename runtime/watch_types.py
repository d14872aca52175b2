"""What a session tells of its standing questions."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from omnidrop_stream.errors import OmniDropError
from omnidrop_stream.types import Answer, Evidence


class WatchStage(enum.StrEnum):
    """Where a standing question stands."""

    WAITING = "waiting"
    """For the model, or for the first chunk."""
    LEARNING = "learning"
    """What is usual; nothing is told yet."""
    WATCHING = "watching"
    HAPPENING = "happening"
    """It was told, and lasts."""
    REFUSED = "refused"
    """``reason`` says why; it costs nothing and can only be removed."""


@dataclass(frozen=True, slots=True)
class WatchState:
    """One standing question as it is now."""

    id: str
    text: str
    sound_only: bool
    stage: WatchStage
    reason: str = ""
    """Why it is refused."""
    events: int = 0
    odds: float | None = None
    """Log-odds of yes over no of the last judgement, in nats."""
    baseline: float | None = None
    """The same in quiet time."""
    judge_ms: float | None = None
    """The model's time for a judgement, median of the last ones."""
    refusal: OmniDropError | None = None
    """The same as an error."""
    learn: int = 0
    """Chunks that tell what is usual; nothing is told before."""


@dataclass(frozen=True, slots=True)
class KeyFrame:
    """The picture that shows an event best."""

    time_s: float
    jpeg: bytes


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """It happens: told once, when it begins."""

    id: str
    """The standing question's."""
    seq: int
    """1 for its first event."""
    text: str
    time_s: float
    """Stream time of the end of what was judged."""
    from_s: float
    """Stream time of its beginning."""
    wall_s: float
    """POSIX time at which it was judged."""
    confidence: float
    """0 to 1."""
    odds: float
    baseline: float
    evidence: tuple[Evidence, ...]
    key_frame: KeyFrame | None
    """None where no picture of that stretch is at hand."""
    answer: Answer | None = None
    """To the follow-up question, where one was asked for."""
    problem: str = ""
    """Why there is no such answer."""


@dataclass(frozen=True, slots=True)
class Happened:
    """An event for a face, with what only the session knows: the source's name."""

    event: WatchEvent
    source: str
