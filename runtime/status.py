"""What a session says of itself, made of what its parts say."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from omnidrop_stream.errors import Overloaded
from omnidrop_stream.types import Chunk, StreamKind
from runtime.overload import Step
from runtime.sources.base import REASON_CODES, SourceState
from runtime.stats import Stats

STATES = (
    "connecting",
    "loading",
    "live",
    "degraded",
    "offline",
    "paused",
    "ended",
    "refused",
    "failed",
)
"""What `SessionStatus.state` may be."""
CODES = {
    **REASON_CODES,
    "loading": "the model is being loaded; questions wait for it",
    "model_not_ready": "the model cannot be loaded yet; it is tried again",
    "failed": "an error ended the session",
    "overloaded": "one more stream than the model can carry; a node tries it again",
}
"""What `SessionStatus.code` may be, and what it means."""
_GAUGES = ("state", "code", "video", "audio", "reconnects", "lag_s")
_TOO_SLOW = ("overload", "stale", "skipped", "loading")


@dataclass(frozen=True, slots=True)
class SessionStatus:
    """What a status line shows."""

    state: str
    """One of `STATES`. ``degraded``: a medium is missing, or the overload ladder is in use."""
    reason: str
    """For people; empty while all is well. May hold an address, so redact it before it is shown."""
    stream_s: float
    lag_s: float
    """Age of the newest chunk that the trunk holds."""
    tokens: int
    budget_tokens: int
    depth: int
    ttft_ms: float | None
    dropped: int
    """Chunks lost because the model was too slow or not there."""
    answers: int
    muted: bool
    code: str = ""
    """A key of `CODES`: the reason, for programs."""
    since_s: float = 0.0
    """For how many seconds state and code have been these."""
    video: bool | None = None
    """Whether pictures come; None: there are none in this stream, or it has not begun."""
    audio: bool | None = None
    """Whether sound comes; None: there is none in this stream, it has not begun, or is muted."""
    chunk_age_s: float | None = None
    """How old the newest chunk given to the model was then; None before the first."""
    reconnects: int = 0
    gaps: int = 0
    """Holes in the stream that the source or its times made, so far."""
    step: int = 0
    """The overload ladder's step, 0 to 5."""

    @property
    def step_name(self) -> str:
        """The step in words: ``normal``, ``lower frame rate``, ..."""
        return Step(self.step).title


@dataclass(frozen=True, slots=True)
class Came:
    """What the newest chunk brought; None: the stream has no such medium, or no chunk yet."""

    video: bool | None = None
    audio: bool | None = None

    @classmethod
    def of(cls, chunk: Chunk, kind: StreamKind) -> Came:
        """A picture that only repeats one of an earlier chunk has not come."""
        video = audio = None
        if kind is not StreamKind.AUDIO:
            frames = chunk.frames
            video = frames is not None and chunk.flags.repeated_frames < len(frames)
        if kind is not StreamKind.VIDEO:
            audio = chunk.audio is not None
        return cls(video, audio)


@dataclass(frozen=True, slots=True)
class Condition:
    """State, code, reason."""

    state: str
    code: str = ""
    reason: str = ""


def condition(
    *,
    source: SourceState,
    came: Came,
    live: bool,
    opened: bool,
    loaded: bool,
    trouble: str = "",
    paused: bool = False,
    ended: bool = False,
    failure: BaseException | None = None,
    step: Step = Step.NORMAL,
) -> Condition:
    """The one thing to say first. live: the source can be lost. came: what chunks brought, all None
    where that is by wish (muted). trouble: why the model cannot be loaded yet.
    """
    if failure is not None:
        return failed(failure)
    if ended:
        return Condition("ended")
    if paused:
        return Condition("paused")
    if source.name == "offline":
        return Condition("offline", source.code, source.reason)
    if not opened:
        return Condition("connecting", source.code or "connecting", source.reason)
    if not loaded:
        return Condition("loading", "model_not_ready" if trouble else "loading", trouble)
    if source.name != "live":
        return Condition(source.name, source.code, source.reason)
    if live and came.video is False:
        return Condition("degraded", "no_video", "no picture comes")
    if live and came.audio is False:
        return Condition("degraded", "no_audio", "no sound comes")
    if step:
        return Condition("degraded", "overload", f"the model is too slow: {step.title}")
    return Condition("live", source.code, source.reason)


def failed(error: BaseException) -> Condition:
    """What ended it: an error, or that it was one stream too many."""
    state = "refused" if isinstance(error, Overloaded) else "failed"
    return Condition(state, getattr(error, "code", "failed"), str(error))


class Since:
    """For how long something has been what it is, as far as it was looked at."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen = ("", 0.0)

    def lasted_s(self, what: str) -> float:
        """Seconds since it was something else."""
        now_s = self._clock()
        if what != self._seen[0]:
            self._seen = (what, now_s)
        return now_s - self._seen[1]


def media(source: SourceState, came: Came, *, muted: bool) -> Came:
    """Whether pictures and sound come, by the source's word and by the newest chunk's."""
    return Came(_both(source.video, came.video), None if muted else _both(source.audio, came.audio))


def _both(source: bool | None, chunk: bool | None) -> bool | None:
    if source is False or chunk is False:
        return False
    return source if chunk is None else chunk


def show_in(stats: Stats, read: Callable[[], SessionStatus]) -> None:
    """Make parts of the status gauges; its other parts are in the statistics under other names."""

    def reader(name: str) -> Callable[[], object]:
        return lambda: getattr(read(), name)

    for name in _GAUGES:
        stats.gauge(f"session.{name}", reader(name))


def lost_to_slowness(stats: Stats) -> int:
    """Chunks lost because the model was too slow or not there."""
    return sum(stats.counter(f"feed.dropped.{reason}") for reason in _TOO_SLOW)
