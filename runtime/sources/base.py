"""What every source of pictures and sound looks like.

One thread opens a source, iterates over it and closes it; nobody closes it from outside. Any thread
may ``stop`` it: the iterator then ends after the item at hand.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

from omnidrop_stream.types import Frame, Samples, StreamKind


@dataclass(frozen=True, slots=True)
class SourceInfo:
    """What is known of a source once it is open. Sizes are of the pictures as shown (rotated)."""

    name: str
    """For people and logs: no password is in it."""
    kind: StreamKind
    width: int | None
    height: int | None
    fps: float | None
    """The source's own average rate, not the model's."""
    duration_s: float | None
    """None: live, endless or not told."""
    live: bool
    decoder: str = ""
    """Who decodes the pictures, and why not what was asked for: ``cuda``, or ``software (no cuda
    here)``; empty: the plain software decoder."""


@dataclass(slots=True)
class SourceStats:
    """What went through and what went wrong; only the owning thread writes it."""

    frames: int = 0
    """Pictures handed on."""
    samples: int = 0
    decoded_frames: int = 0
    corrupt_frames: int = 0
    """Pictures that the decoder had to patch; they are used."""
    decode_errors: int = 0
    """Pieces that could not be decoded at all; they are missing."""
    skipped_frames: int = 0
    """Pictures left undecoded because decoding fell behind."""
    hardware_refused: int = 0
    """How often a connection was decoded in software although hardware was asked for."""
    untimed: int = 0
    """Pictures and sounds of a live source that came without a time; they are missing."""
    overflows: int = 0
    """How often the sound system said that it lost sound before it was fetched."""
    dropped_frames: int = 0
    """Pictures that were dropped, oldest first, because the reader was late."""
    dropped_samples: int = 0
    """Sound (at 16 kHz) that was dropped for the same reason."""
    ended_at_s: float = 0.0
    """How far the media reached."""
    skew_s: float | None = None
    """How far sound is ahead of the pictures, as far as their clocks tell; None: not known."""
    clock: Counter[str] = field(default_factory=Counter)
    """Faults of the source's own clock, by kind: ``clock.reset``, ``clock.jump_forward`` ..."""

    def truncated(self, info: SourceInfo) -> bool:
        """Whether the media ended more than a second (and 2 %) before the promised length."""
        promised_s = info.duration_s or 0.0
        return promised_s - self.ended_at_s > max(1.0, 0.02 * promised_s)


@dataclass(frozen=True, slots=True)
class Interruption:
    """The stream was interrupted; the next item starts a new epoch at source time ``at_s``."""

    reason: str
    at_s: float | None = None


REASON_CODES = {
    "": "all is well",
    "connecting": "the first connection, or the first picture or sound, has not come yet",
    "refused": "nothing listens there",
    "unreachable": "no such host, or no way to it",
    "timeout": "no answer, or nothing more came in time",
    "ended": "the other side closed the stream",
    "unauthorized": "user or password is wrong or missing, or may not watch",
    "not_found": "there is no such stream, device or file",
    "busy": "the device is in use by another program",
    "device_lost": "the device was unplugged or failed",
    "no_video": "sound comes, pictures do not",
    "no_audio": "pictures come, sound does not",
    "no_keyframe": "pictures come, but none can be decoded yet",
    "no_media": "neither pictures nor sound that can be decoded",
    "not_a_stream": "what answers is no stream of this kind, or one that may not be opened",
    "tls": "no trusted encrypted connection",
    "server_error": "the server reports an error of its own",
    "unreadable": "anything else that cannot be read",
    "overload": "the model is slower than the stream; the ladder of cheaper settings is in use",
    "closed": "closed by us",
}
"""Why a source is as it is, for programs; the words beside it are for people."""


@dataclass(frozen=True, slots=True)
class SourceState:
    """How a live source is doing: ``connecting``, ``live``, ``degraded`` (a part of it is missing)
    or ``offline``, with a code of `REASON_CODES` and a plain reason.

    A new one replaces it as a whole, so any thread may read it.
    """

    name: str = "live"
    reason: str = ""
    """Empty while all is well; no password is in it."""
    reconnects: int = 0
    """How often the stream went on after an interruption."""
    code: str = ""
    """A key of `REASON_CODES`."""
    since_s: float = 0.0
    """Monotonic time at which name or code last changed."""
    video: bool | None = None
    """Whether pictures come; None: the source promises none, or has not told yet."""
    audio: bool | None = None
    """Whether sound comes; None: the source promises none, or has not told yet."""


class Source(Protocol):
    """A context manager; iterate over it for frames and samples in order of time.

    Live sources keep that order within each medium; between the media things come as they arrive.
    """

    @property
    def info(self) -> SourceInfo:
        """Known inside the ``with`` block."""
        ...

    @property
    def stats(self) -> SourceStats:
        """Counts so far."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def __iter__(self) -> Iterator[Frame | Samples | Interruption]: ...

    def stop(self) -> None:
        """Ask the iterator to end; safe from any thread, and at any time."""
        ...


@runtime_checkable
class LiveSource(Protocol):
    """A source that can be lost and found again."""

    @property
    def state(self) -> SourceState:
        """How it is doing; safe from any thread."""
        ...

    def retry_now(self) -> None:
        """Try again at once instead of waiting out the back-off; safe from any thread."""
        ...
