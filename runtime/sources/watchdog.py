"""Whether pictures and sound still come over one connection, each judged by itself. Pure: the
caller brings monotonic time.

| what is missing | state | and then |
|---|---|---|
| everything | the read times out | a new connection |
| pictures, while sound comes | degraded, no_video or no_keyframe | a new connection after 15 s; each time without success after twice as long, up to 5 min |
| sound, while pictures come | degraded, no_audio within 5 s | nothing: pictures matter more than the gap that a new connection costs; ``retry_now`` makes one |
| anything that decoded before and now fails, packet after packet | | a new connection after 2 s, or two keyframe intervals: the codec may have changed |
"""  # noqa: E501

from __future__ import annotations

from dataclasses import dataclass

from omnidrop_stream.errors import SourceUnreadable
from runtime.sources.network import NO_MEDIA, Trouble

LONGEST_AUDIO_GAP_S = 4.0
"""So that missing sound is shown within 5 s."""
KEYFRAME_S = 15.0
"""So long without a picture, and a new connection is tried."""
LONGEST_PATIENCE_S = 300.0
FAILING_S = 2.0
_FAILING_PACKETS = 5

_ADVICE = "Restart the camera's stream, or check its encoder."
NO_VIDEO = Trouble("no_video", "sound comes, pictures do not", _ADVICE, SourceUnreadable)
NO_KEYFRAME = Trouble(
    "no_keyframe", "pictures come, but none can be decoded yet", _ADVICE, SourceUnreadable
)
NO_AUDIO = Trouble("no_audio", "pictures come, sound does not", _ADVICE, SourceUnreadable)
CHANGED = Trouble(
    "no_keyframe",
    "what comes cannot be decoded any more; its codec may have changed",
    _ADVICE,
    SourceUnreadable,
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a connection is doing; the fields are those of `SourceState`."""

    name: str
    code: str
    reason: str
    video: bool | None
    audio: bool | None
    trouble: Trouble | None = None
    """Why to give this connection up."""


class _Medium:
    """When packets of one medium came, decoded, and failed."""

    def __init__(self, now_s: float) -> None:
        self.packet_s: float | None = None
        self.good_s: float | None = None
        self.since_s = now_s
        self._failing_since_s: float | None = None
        self._failed = 0

    def good(self, now_s: float) -> None:
        self.good_s = self.since_s = now_s
        self._failing_since_s, self._failed = None, 0

    def bad(self, now_s: float) -> None:
        self._failed += 1
        if self._failing_since_s is None:
            self._failing_since_s = now_s

    def changed(self, now_s: float, limit_s: float) -> bool:
        """Whether it decoded once, and since ``limit_s`` nothing does."""
        began_s = self._failing_since_s
        if self.good_s is None or began_s is None or self._failed < _FAILING_PACKETS:
            return False
        return now_s - began_s > limit_s


class MediaWatch:
    """One connection, from when it is open. video, audio: what it promises. gap_s: so long without,
    and it is missing. patience_s: so long without pictures, and the connection is given up.
    suspect: the connection before had no pictures either.
    """

    def __init__(
        self,
        now_s: float,
        *,
        video: bool,
        audio: bool,
        gap_s: float,
        patience_s: float = KEYFRAME_S,
        suspect: bool = False,
    ) -> None:
        self._video = _Medium(now_s) if video else None
        self._audio = _Medium(now_s) if audio else None
        self._gap_s, self._audio_gap_s = gap_s, min(gap_s, LONGEST_AUDIO_GAP_S)
        self._patience_s, self._suspect = patience_s, suspect
        self._keyframe_s: float | None = None
        self._keyframes_apart_s = 0.0

    def packet(self, *, video: bool, keyframe: bool, now_s: float) -> None:
        """Something came, decodable or not."""
        medium = self._video if video else self._audio
        if medium is not None:
            medium.packet_s = now_s
        if video and keyframe:
            if self._keyframe_s is not None:
                self._keyframes_apart_s = now_s - self._keyframe_s
            self._keyframe_s = now_s

    def decoded(self, *, video: bool, now_s: float) -> None:
        """A picture or sound came out."""
        medium = self._video if video else self._audio
        if medium is not None:
            medium.good(now_s)

    def failed(self, *, video: bool, now_s: float) -> None:
        """A packet could not be decoded."""
        medium = self._video if video else self._audio
        if medium is not None:
            medium.bad(now_s)

    def verdict(self, now_s: float) -> Verdict:
        """How it is doing now."""
        video = _comes(self._video, self._gap_s, now_s)
        audio = _comes(self._audio, self._audio_gap_s, now_s)
        if self._suspect and video is None and self._video is not None:
            video = False
        trouble = self._trouble(video, audio, now_s)
        if trouble is not None:
            reason, code = trouble.reason, trouble.code
            give_up = trouble if self._hopeless(trouble, now_s) else None
            return Verdict("degraded", code, reason, video, audio, give_up)
        if video is None and (audio is None or self._video is not None):
            return Verdict("connecting", "connecting", "", video, audio)
        return Verdict("live", "", "", video, audio)

    def _trouble(self, video: bool | None, audio: bool | None, now_s: float) -> Trouble | None:
        limit_s = max(FAILING_S, 2 * self._keyframes_apart_s)
        for medium in (self._video, self._audio):
            if medium is not None and medium.changed(now_s, min(limit_s, KEYFRAME_S)):
                return CHANGED
        if video is False and self._video is not None:
            came_s = self._video.packet_s
            undecoded = came_s is not None and now_s - came_s <= self._gap_s
            return NO_KEYFRAME if undecoded else NO_VIDEO
        if audio is False:
            return NO_MEDIA if self._video is None else NO_AUDIO
        return None

    def _hopeless(self, trouble: Trouble, now_s: float) -> bool:
        medium = self._video or self._audio
        waited_s = now_s - medium.since_s if medium is not None else 0.0
        return trouble is CHANGED or waited_s > self._patience_s


def _comes(medium: _Medium | None, gap_s: float, now_s: float) -> bool | None:
    """None: not promised, or it may still come for the first time."""
    if medium is None:
        return None
    if now_s - medium.since_s > gap_s:
        return False
    return True if medium.good_s is not None else None
