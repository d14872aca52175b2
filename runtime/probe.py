"""Look at a source for some seconds and tell what it is: ``omnidrop probe``.

Measured are what arrives and when; nothing is given to a model. The figures of clocks are estimates
over the few seconds looked at, and say how sure they are.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from statistics import median
from typing import Any

import av
import numpy as np

from omnidrop_stream.errors import UsageError
from omnidrop_stream.types import SAMPLE_RATE, Frame, Samples
from runtime.sources import FileSource, SourceOptions, StreamSource, open_source
from runtime.sources.base import Interruption, Source
from runtime.sources.choose import Chosen, MediaStream, of_file

LONGEST_S = 600.0
_EVERY_PICTURE_FPS = 30.0
_SETTLING_S = 0.5
"""What a server sends at once when one connects says nothing about its clock."""
_OFFSET_QUANTILE = 0.1
"""The packets that were least delayed on their way tell when their time was."""
_LONG_KEYFRAME_S = 4.0
_LARGE_LINES = 720
_LARGE_OFFSET_MS = 200.0


@dataclass(frozen=True, slots=True)
class Drift:
    """How much faster (positive) a stream's clock runs than this machine's, and how sure that is
    (two standard errors), in parts per million.
    """

    ppm: float
    plus_minus_ppm: float

    @property
    def certain(self) -> bool:
        """Whether it can be told from no drift."""
        return abs(self.ppm) > self.plus_minus_ppm


@dataclass(frozen=True, slots=True)
class Report:
    """What was found. None: not known, or not to be had from this kind of source."""

    source: str
    live: bool
    seconds: float
    """For how long was looked; what is not live: how much of it."""
    video: MediaStream | None
    audio: MediaStream | None
    decoder: str
    fps: float | None
    """Pictures a second, counted."""
    keyframe_every_s: float | None
    """Median; None where fewer than two came."""
    connect_s: float
    first_picture_s: float | None
    """From the beginning of the connect on, as `first_sound_s`."""
    first_sound_s: float | None
    av_offset_ms: float | None
    """Live: how much later sound arrives than the pictures of the same time. A file: how much later
    it begins.
    """
    video_drift: Drift | None
    audio_drift: Drift | None
    corrupt_frames: int
    decode_errors: int
    untimed: int
    interruptions: int
    advice: str = ""


@dataclass(slots=True)
class PacketNotes:
    """When packets of one medium arrived, and what time they carry. Times in seconds."""

    times_s: list[float] = field(default_factory=list)
    arrivals_s: list[float] = field(default_factory=list)
    keyframes_s: list[float] = field(default_factory=list)

    def add(self, packet: av.Packet[Any], arrival_s: float) -> None:
        """One packet; those without a time say nothing."""
        if packet.pts is None or packet.time_base is None:
            return
        at_s = float(packet.pts * packet.time_base)
        self.times_s.append(at_s)
        self.arrivals_s.append(arrival_s)
        if packet.is_keyframe:
            self.keyframes_s.append(at_s)

    def rate(self) -> float | None:
        """Packets a second of their own time."""
        long_s = max(self.times_s) - min(self.times_s) if len(self.times_s) > 1 else 0.0
        return (len(self.times_s) - 1) / long_s if long_s > 0 else None

    def keyframe_every_s(self) -> float | None:
        """The median distance of keyframes."""
        apart = [b - a for a, b in pairwise(self.keyframes_s)]
        return median(apart) if apart else None

    def settled(self) -> tuple[np.ndarray, np.ndarray]:
        """Times and arrivals, f64 [n] each, without those of the first half second."""
        times, arrivals = np.array(self.times_s), np.array(self.arrivals_s)
        keep = arrivals >= arrivals[0] + _SETTLING_S if len(arrivals) else arrivals > 0
        return times[keep], arrivals[keep]

    def delay_s(self) -> float | None:
        """Arrival minus time, of those that were least delayed."""
        times, arrivals = self.settled()
        return float(np.quantile(arrivals - times, _OFFSET_QUANTILE)) if len(times) > 4 else None

    def drift(self) -> Drift | None:
        """The slope of time over arrival, by least squares."""
        times, arrivals = self.settled()
        if len(times) < 20 or np.ptp(arrivals) < 1.0:
            return None
        x, y = arrivals - arrivals.mean(), times - times.mean()
        spread = float(x @ x)
        slope = float(x @ y) / spread
        rest = y - slope * x
        error = float(np.sqrt(rest @ rest / (len(x) - 2) / spread))
        return Drift((slope - 1) * 1e6, 2e6 * error)


class _Look:
    """One look at a source: what came, and when."""

    def __init__(self) -> None:
        self.video, self.audio = PacketNotes(), PacketNotes()
        self.began_s = time.monotonic()
        self.first_s: dict[type, float] = {}
        self.frames: list[float] = []
        self.begins_s: dict[type, float] = {}
        self.interruptions = 0

    def packet(self, packet: av.Packet[Any], arrival_s: float) -> None:
        notes = self.video if packet.stream.type == "video" else self.audio
        notes.add(packet, arrival_s)

    def item(self, item: Frame | Samples | Interruption) -> None:
        if isinstance(item, Interruption):
            self.interruptions += 1
            return
        kind = type(item)
        self.first_s.setdefault(kind, time.monotonic() - self.began_s)
        self.begins_s.setdefault(kind, item.time_s)
        if isinstance(item, Frame):
            self.frames.append(item.time_s)


def probe(text: str, options: SourceOptions | None = None, seconds: float = 6.0) -> Report:
    """Look at the source that ``text`` names for so many seconds (of media, for a file).

    Raises SourceError where it cannot be had, UsageError where ``seconds`` is out of range.
    """
    if not 0.5 <= seconds <= LONGEST_S:
        raise UsageError(f"seconds = {seconds:g}: must lie between 0.5 and {LONGEST_S:g}.")
    options = (options or SourceOptions()).model_copy(update={"wait_for_first": False})
    look = _Look()
    source = open_source(text, fps=_EVERY_PICTURE_FPS, options=options)
    if isinstance(source, StreamSource):
        source.observe = look.packet
    with source:
        connect_s = time.monotonic() - look.began_s
        _watch(source, look, seconds)
        streams = _streams(source, look, seconds)
        report = _report(source, look, streams, connect_s)
    return replace(report, advice=advice(report))


def _watch(source: Source, look: _Look, seconds: float) -> None:
    end = threading.Timer(seconds, source.stop)
    end.daemon = True
    end.start()
    try:
        for item in source:
            look.item(item)
            if isinstance(item, Frame | Samples) and item.time_s >= seconds:
                break
    finally:
        end.cancel()
        source.stop()


def _streams(source: Source, look: _Look, seconds: float) -> Sequence[MediaStream]:
    if isinstance(source, StreamSource):
        return source.media
    if isinstance(source, FileSource):
        return _file_streams(source, look, seconds)
    return ()


def _file_streams(source: FileSource, look: _Look, seconds: float) -> Sequence[MediaStream]:
    """The packets of a file's first seconds; nothing is decoded."""
    name = f"file:{source.path}"
    with av.open(name, "r", options={"protocol_whitelist": "file"}) as container:
        chosen = Chosen(*of_file(container, *source.wanted))
        for packet in container.demux(chosen.streams):
            if packet.pts is not None and packet.pts * packet.time_base > seconds:
                break
            look.packet(packet, 0.0)
        return chosen.described(container)


def _report(
    source: Source, look: _Look, streams: Sequence[MediaStream], connect_s: float
) -> Report:
    info, stats = source.info, source.stats
    by_kind = {stream.kind: stream for stream in streams}
    network = isinstance(source, StreamSource)
    offset_s: float | None = None
    if network:
        late, early = look.audio.delay_s(), look.video.delay_s()
        offset_s = late - early if late is not None and early is not None else None
    elif {Frame, Samples} <= look.begins_s.keys():
        offset_s = look.begins_s[Samples] - look.begins_s[Frame]
    return Report(
        source=info.name,
        live=info.live,
        seconds=time.monotonic() - look.began_s - connect_s if info.live else stats.ended_at_s,
        video=by_kind.get("video", _plain_video(source)),
        audio=by_kind.get("audio", _plain_audio(source)),
        decoder=info.decoder or "software",
        fps=look.video.rate() or _rate(look.frames),
        keyframe_every_s=look.video.keyframe_every_s(),
        connect_s=connect_s,
        first_picture_s=look.first_s.get(Frame),
        first_sound_s=look.first_s.get(Samples),
        av_offset_ms=None if offset_s is None else offset_s * 1e3,
        video_drift=look.video.drift() if network else None,
        audio_drift=look.audio.drift() if network else None,
        corrupt_frames=stats.corrupt_frames,
        decode_errors=stats.decode_errors,
        untimed=stats.untimed,
        interruptions=look.interruptions,
    )


def _plain_video(source: Source) -> MediaStream | None:
    """What the source says of itself: it is no stream of a codec."""
    info = source.info
    if info.width is None or info.height is None or isinstance(source, FileSource | StreamSource):
        return None
    return MediaStream("video", 0, "raw", "", info.width, info.height, info.fps, 0, 0)


def _plain_audio(source: Source) -> MediaStream | None:
    if not source.stats.samples or isinstance(source, FileSource | StreamSource):
        return None
    return MediaStream("audio", 0, "raw", "", 0, 0, None, SAMPLE_RATE, 1)


def _rate(times_s: Sequence[float]) -> float | None:
    long_s = times_s[-1] - times_s[0] if len(times_s) > 1 else 0.0
    return (len(times_s) - 1) / long_s if long_s > 0 else None


def advice(report: Report) -> str:
    """The one thing that is most worth doing, in a sentence or two."""
    video, audio = report.video, report.audio
    if report.interruptions:
        return "The connection was lost while looking: check the network and the camera's power."
    if video is not None and report.first_picture_s is None:
        return "No picture came: restart the camera's stream, or choose another --video-stream."
    if report.corrupt_frames or report.decode_errors:
        return (
            "Pictures or sound arrive damaged: use --transport tcp, a cable instead of wireless, "
            "or a lower bit rate in the camera."
        )
    every_s = report.keyframe_every_s
    rare = every_s is None or every_s > _LONG_KEYFRAME_S
    if report.live and video is not None and not _intra_only(video) and rare:
        now = f"longer than {report.seconds:.0f} s" if every_s is None else f"{every_s:.1f} s"
        return (
            f"Set the camera's keyframe interval to 1 or 2 s (it is {now}): until one comes, "
            "nothing can be shown after a reconnect."
        )
    if report.decoder.startswith("software ("):
        return f"Pictures are decoded in {report.decoder}: leave --hwaccel out, or mend the driver."
    if video is not None and video.height > _LARGE_LINES:
        return (
            f"Use the camera's sub-stream of about 640x360: the model sees no more of "
            f"{video.width}x{video.height}, and decoding costs less."
        )
    offset_ms = report.av_offset_ms
    if offset_ms is not None and abs(offset_ms) > _LARGE_OFFSET_MS:
        return (
            f"Sound and pictures are {abs(offset_ms):.0f} ms apart: check the camera's own clock "
            "settings, or pair a microphone with --microphone."
        )
    if audio is None and report.live:
        return "There is no sound: pair a microphone with --microphone default, or go on without."
    command = "live" if report.live else "ask"
    return f"All is well: omnidrop {command} takes it as it is."


def _intra_only(video: MediaStream) -> bool:
    return video.codec in ("mjpeg", "raw", "png")
