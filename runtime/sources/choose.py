"""Which of a feed's streams are taken, and what to say where the one asked for is not there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import av
from av.container import InputContainer

from omnidrop_stream.errors import SourceNotFound
from runtime.sources.network import NO_MEDIA, Broken, Trouble

S = TypeVar("S", av.VideoStream, av.AudioStream)

ENOUGH_HEIGHT = 360
"""The model sees about 450 x 250; a larger picture costs decoding and shows no more."""


@dataclass(frozen=True, slots=True)
class MediaStream:
    """One stream of a feed, in words. Sizes in pixels, rates in Hz."""

    kind: str
    """video or audio."""
    number: int
    """Counted from 0 within its kind: what ``video_stream`` and ``audio_stream`` take."""
    codec: str
    profile: str
    width: int
    height: int
    fps: float | None
    """As the feed tells it."""
    rate: int
    channels: int

    def __str__(self) -> str:
        if self.kind == "video":
            rate = f" {self.fps:g} fps" if self.fps else ""
            size = f" {self.width}x{self.height}" if self.width else ""
            return f"{self.number}: {self.codec}{size}{rate}"
        return f"{self.number}: {self.codec} {self.rate} Hz, {self.channels} channel(s)"


def described(stream: av.VideoStream | av.AudioStream, number: int) -> MediaStream:
    """A stream in words; ``number``: counted within its kind."""
    context = stream.codec_context
    codec = context.name if context is not None else "unknown"
    profile = (context.profile if context is not None else None) or ""
    if isinstance(stream, av.VideoStream):
        fps = float(stream.average_rate or stream.guessed_rate or 0) or None
        size = (stream.width or 0, stream.height or 0)
        return MediaStream("video", number, codec, profile, *size, fps, 0, 0)
    rate, channels = stream.rate or 0, stream.channels or 0
    return MediaStream("audio", number, codec, profile, 0, 0, None, rate, channels)


@dataclass(frozen=True, slots=True, repr=False)
class Chosen:
    """The streams that are taken; at least one is there."""

    video: av.VideoStream | None
    audio: av.AudioStream | None

    @property
    def streams(self) -> list[av.VideoStream | av.AudioStream]:
        """Those that are there."""
        return [stream for stream in (self.video, self.audio) if stream is not None]

    def described(self, container: InputContainer) -> tuple[MediaStream, ...]:
        """Those that are there, in words."""
        found = []
        if self.video is not None:
            found.append(described(self.video, list(container.streams.video).index(self.video)))
        if self.audio is not None:
            found.append(described(self.audio, list(container.streams.audio).index(self.audio)))
        return tuple(found)


def choose(container: InputContainer, video: int | None, audio: int | None) -> Chosen:
    """The streams of these numbers; None: the smallest picture of at least 360 lines, else the
    largest, and the default, else the richest, sound. Raises `Broken`, with what there is.
    """
    chosen = Chosen(
        best_suited(decodable_videos(container))
        if video is None
        else _numbered(container.streams.video, video, "video"),
        best_audio(container)
        if audio is None
        else _numbered(container.streams.audio, audio, "audio"),
    )
    if not chosen.streams:
        raise Broken(NO_MEDIA)
    return chosen


def best_suited(streams: Sequence[av.VideoStream]) -> av.VideoStream | None:
    """Enough for the model, and no more; of equals the first."""
    enough = [stream for stream in streams if stream.height >= ENOUGH_HEIGHT]
    if enough:
        return min(enough, key=lambda stream: stream.width * stream.height)
    return max(streams, key=lambda stream: stream.width * stream.height, default=None)


def of_file(
    container: InputContainer, video: int | None, audio: int | None
) -> tuple[av.VideoStream | None, av.AudioStream | None]:
    """The streams of these numbers; None: the largest picture, and the sound as `choose` takes it.
    Raises `Broken`, with what there is.
    """
    return (
        best_video(container)
        if video is None
        else _numbered(container.streams.video, video, "video"),
        best_audio(container)
        if audio is None
        else _numbered(container.streams.audio, audio, "audio"),
    )


def _numbered(streams: Sequence[S], number: int, kind: str) -> S:
    if number < len(streams) and streams[number].codec_context is not None:
        return streams[number]
    there = "; ".join(str(described(stream, i)) for i, stream in enumerate(streams))
    reason = f"it has no {kind} stream {number}"
    advice = f"There is {there}." if there else f"There is no {kind} in it at all."
    raise Broken(Trouble("not_found", reason, advice, SourceNotFound, hopeless=True))


def best_video(container: InputContainer) -> av.VideoStream | None:
    """The largest; cover art is no video. Of equals the first."""
    streams = decodable_videos(container)
    return max(streams, key=lambda stream: stream.width * stream.height, default=None)


def decodable_videos(container: InputContainer) -> list[av.VideoStream]:
    """Streams of pictures that can be decoded, without cover art."""
    return [
        stream
        for stream in container.streams.video
        if not stream.disposition & av.stream.Disposition.attached_pic and _decodable(stream)
    ]


def best_audio(container: InputContainer) -> av.AudioStream | None:
    """The default one, then the highest rate, then the most channels. Of equals the first."""
    streams = [stream for stream in container.streams.audio if _decodable(stream)]
    return max(streams, key=_audio_rank, default=None)


def _audio_rank(stream: av.AudioStream) -> tuple[bool, int, int]:
    default = bool(stream.disposition & av.stream.Disposition.default)
    return default, stream.rate or 0, stream.channels or 0


def _decodable(stream: av.VideoStream | av.AudioStream) -> bool:
    return getattr(stream, "codec_context", None) is not None and bool(stream.codec_context.codec)
