"""From packets to frames and samples; what does not decode is counted and left out."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import av
import av.error
import numpy as np
from av.codec.hwaccel import HWAccel
from av.container import InputContainer
from av.video.reformatter import VideoReformatter

from omnidrop_stream.types import SAMPLE_RATE, Frame, Samples
from runtime.sources.base import SourceStats
from runtime.sources.complaints import complaints
from runtime.sources.doubt import GROUPS, Habit
from runtime.sources.units import Headers

LONGEST_HOLD_S = 30.0
"""A picture that stays up longer than this is taken for a jump of the file's clock."""
_NOISE_S = 1e-6
_UNMARKED = ("hevc",)
_STRICT = {"err_detect": "explode"}


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded frame, not RGB yet. ``broken_before``: something before it did not decode."""

    frame: av.VideoFrame
    time_s: float
    duration_s: float
    broken_before: bool
    corrupt: bool = False
    """Patched by the decoder, or after something that was, up to the next keyframe."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height as shown."""
        sideways = round(self.frame.rotation / 90) % 2 == 1
        width, height = self.frame.width, self.frame.height
        return (height, width) if sideways else (width, height)


def _packets(
    container: InputContainer, stream: av.VideoStream | av.AudioStream, stats: SourceStats
) -> Iterator[av.Packet[Any]]:
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except (av.error.FFmpegError, OSError):
            stats.decode_errors += 1  # the container itself is broken here: this is its end
            return
        if packet is None:
            return
        yield packet


class PictureDecoder:
    """Packets of one stream in, frames with their times (the stream's clock) out.

    A frame without a time is put after the one before it; ``live``: its time is not a number, and
    it is counted. What follows something broken is corrupt until a keyframe that came later, since
    it rests on it. Of live HEVC, whose decoder marks nothing, what is damaged is left out as an
    error. What FFmpeg passes over in silence is looked for in live streams: headers that no encoder
    writes, a keyframe that gives no picture. accel: for a decoder that is made anew.
    """

    def __init__(
        self,
        stream: av.VideoStream,
        stats: SourceStats,
        *,
        live: bool = False,
        accel: HWAccel | None = None,
    ) -> None:
        self._context, self._accel = stream.codec_context, accel
        self._stats, self._live = stats, live
        self._strict = live and self._context.name in _UNMARKED
        if self._strict:
            self._context.options = _STRICT
        self._headers = Headers(stream) if live else None
        self._strange, self._complained = Habit(), Habit()  # found in them; said in FFmpeg's log
        self._prompt = False  # keyframes give a picture at once
        self._errors, self._spoilt = False, 0  # in this group of pictures; groups in a row with any
        self._renewed = False
        self._interval_s = float(1 / stream.average_rate) if stream.average_rate else 0.04
        self._next_s, self._broken = 0.0, False
        self._doubtful = False
        self._keyframe: int | None = None  # pts of the first one after what is in doubt
        self._depth: int | None = None  # pictures held back to be put in order, of a sound stream

    def leave_out(self, level: str) -> None:
        """What the decoder need not decode: DEFAULT (nothing of use), NONREF or NONKEY."""
        if self._context.skip_frame != level:
            self._context.skip_frame = level  # type: ignore[assignment]  # one of its own words

    def push(self, packet: av.Packet[Any]) -> Iterator[Picture]:
        """The frames that this packet completes."""
        if packet.is_keyframe:
            self._strange.next_group()
            self._complained.next_group()
            held = self._mended()
            for frame in held:
                frame.time_base = packet.time_base  # no packet brings them, so they have none
            if self._doubtful and self._keyframe is None:
                self._keyframe = packet.pts or 0
            yield from self._pictures(held)
        if packet.is_corrupt or self._spoilt_header(packet):
            self._doubt()
        frames = self._decoded(packet)
        if frames is None:
            return
        if packet.is_keyframe and self._live:
            if self._prompt and not frames:
                self._doubt()  # what follows rests on older pictures
            self._prompt = self._prompt or bool(frames)
        if not frames and self._context.skip_frame != "DEFAULT":
            self._stats.skipped_frames += 1
        yield from self._pictures(frames)

    def _spoilt_header(self, packet: av.Packet[Any]) -> bool:
        if self._headers is None:
            return False
        found = self._headers.spoilt(packet)
        return self._strange.is_news(found, at_first=self._depth is None)

    def _decoded(self, packet: av.Packet[Any]) -> list[av.VideoFrame] | None:
        """None: it is broken."""
        frames = None
        with complaints() as said:
            try:
                frames = self._context.decode(packet)
            except (av.error.FFmpegError, ValueError):
                self._stats.decode_errors += 1
        at_first = self._depth is None
        if self._complained.is_news(self._live and bool(said), at_first=at_first):
            self._doubt()
        if frames is not None:
            return frames
        if self._strict and packet.is_keyframe and self._depth is None:
            self._strict = False  # its very first keyframe: FFmpeg complains about all it sends
            self._anew()
            return self._decoded(packet)
        self._errors = self._broken = True
        self._doubt()
        return None

    def _pictures(self, frames: list[av.VideoFrame]) -> Iterator[Picture]:
        for frame in frames:
            self._stats.decoded_frames += 1
            if self._is_corrupt(frame):
                self._stats.corrupt_frames += 1
            untimed = frame.time is None and self._live
            self._stats.untimed += untimed
            time_s = self._next_s if frame.time is None else frame.time
            long_s = float(frame.duration * (frame.time_base or 0)) or self._interval_s
            self._next_s = time_s + long_s
            shown_s = math.nan if untimed else time_s
            yield Picture(frame, shown_s, long_s, self._broken, self._doubtful)
            self._broken = False

    def _doubt(self) -> None:
        self._doubtful, self._keyframe = True, None

    def _is_corrupt(self, frame: av.VideoFrame) -> bool:
        """Also notes what it means for the frames after it."""
        if frame.is_corrupt:
            self._doubt()
        elif self._doubtful and frame.key_frame and self._keyframe is not None:
            self._doubtful = frame.pts is not None and frame.pts < self._keyframe
        elif not self._doubtful and self._depth is None:
            self._depth = self._context.reorder_depth
        return self._doubtful

    def _mended(self) -> list[av.VideoFrame]:
        """Before a keyframe: a new decoder where the old one is of no use any more, and what the
        old one still held. A damaged header may have told it to hold back more pictures, for good.
        """
        depth = self._context.reorder_depth
        grown = self._depth is not None and depth > self._depth
        if grown and self._renewed:  # again: so it is the stream itself
            self._depth, grown = depth, False
        self._renewed = grown
        if grown:
            self._doubt()
        self._spoilt, self._errors = self._spoilt + 1 if self._errors else 0, False
        if self._strict and self._spoilt >= GROUPS:
            self._strict, grown = False, True
        return self._anew() if grown else []

    def _anew(self) -> list[av.VideoFrame]:
        old = self._context
        new = av.CodecContext.create(old.codec.name, "r", hwaccel=self._accel)
        if not isinstance(new, av.VideoCodecContext):
            return []
        new.extradata, new.thread_count = old.extradata, old.thread_count
        new.skip_frame = old.skip_frame
        if self._strict:
            new.options = _STRICT
        self._context = new
        with complaints(), contextlib.suppress(av.error.FFmpegError, ValueError):
            return old.decode(None)
        return []


def decoded_pictures(
    container: InputContainer, stream: av.VideoStream, stats: SourceStats
) -> Iterator[Picture]:
    """Every frame of a stream with its time in the file's clock."""
    decoder = PictureDecoder(stream, stats)
    for packet in _packets(container, stream, stats):
        yield from decoder.push(packet)


def thinned(pictures: Iterator[Picture], fps: float | None, zero_s: float) -> Iterator[Frame]:
    """The frame nearest to each slot of the model's grid, with its own time from ``zero_s`` on.

    The rule is the chunker's: from half a period before a slot to half a period after it, of two
    equally near the earlier. Slots between two frames far apart show the first again. After a jump
    of the file's clock the grid starts anew. fps None: every frame.
    """
    to_rgb = ToRgb()
    if fps is None:
        yield from (_shown(to_rgb, picture, zero_s) for picture in pictures)
        return
    origin_s, best, last = zero_s, None, None
    for picture in pictures:
        if last is not None and not -0.25 <= picture.time_s - last.time_s <= LONGEST_HOLD_S:
            if best is not None:
                yield _shown(to_rgb, best, zero_s)
            best, last, origin_s = picture, picture, picture.time_s
            continue
        if best is not None and last is not None:
            slot = slot_of(best.time_s - origin_s, fps)
            new_slot = slot_of(picture.time_s - origin_s, fps)
            if new_slot == slot:
                target_s = origin_s + slot / fps
                nearer = abs(picture.time_s - target_s) < abs(best.time_s - target_s) - _NOISE_S
                best, last = picture if nearer else best, picture
                continue
            yield _shown(to_rgb, best, zero_s)
            if new_slot - slot > 1 and not picture.broken_before:
                yield from _held(to_rgb, last, origin_s - zero_s, range(slot + 1, new_slot), fps)
        best = last = picture
    if best is None or last is None:
        return
    # A frame just before a slot that the pictures do not reach any more is not that slot's.
    slot, end_s = slot_of(best.time_s - origin_s, fps), last.time_s + last.duration_s - origin_s
    if slot / fps < end_s - last.duration_s / 2:
        yield _shown(to_rgb, best, zero_s)
        stop = min(int(np.ceil((end_s - 1e-3) * fps)), slot + int(LONGEST_HOLD_S * fps))
        yield from _held(to_rgb, last, origin_s - zero_s, range(slot + 1, stop), fps)


def slot_of(at_s: float, fps: float) -> int:
    """The slot of the model's grid that is nearest; of two equally near the later."""
    return int(np.floor(at_s * fps + 0.5 + _NOISE_S))


def _shown(to_rgb: ToRgb, picture: Picture, zero_s: float) -> Frame:
    return Frame(to_rgb(picture), picture.time_s - zero_s, picture.corrupt)


def _held(
    to_rgb: ToRgb, picture: Picture, from_s: float, slots: range, fps: float
) -> Iterator[Frame]:
    image = to_rgb(picture)
    for number in slots:
        yield Frame(image, from_s + number / fps, picture.corrupt)


class ToRgb:
    """Decoded frame -> u8 [H, W, 3], turned upright; one scaler for the whole source."""

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()

    def __call__(self, picture: Picture) -> np.ndarray:
        """The picture as shown."""
        image = self._reformatter.reformat(picture.frame, format="rgb24").to_ndarray()
        quarter_turns = round(picture.frame.rotation / 90) % 4
        return np.ascontiguousarray(np.rot90(image, quarter_turns))


class SoundDecoder:
    """Packets of one stream in, its sound at 16 kHz (the mean of its channels) out, timed by the
    stream's clock. Sound without a time goes after what was before; ``live``: its time is not a
    number, and it is counted.
    """

    def __init__(self, stats: SourceStats, *, live: bool = False) -> None:
        self._stats, self._live = stats, live
        self._resampler: av.AudioResampler | None = None
        self._layout = ""
        self._next_s = 0.0

    def push(self, packet: av.Packet[Any]) -> Iterator[Samples]:
        """The sound that this packet completes."""
        with complaints():
            try:
                frames = packet.decode()
            except (av.error.FFmpegError, ValueError):
                self._stats.decode_errors += 1
                return
        for frame in frames:
            if not isinstance(frame, av.AudioFrame) or not frame.samples:
                continue
            if frame.time is None and self._live:
                self._stats.untimed += 1
                self._next_s = math.nan
            shape = f"{frame.format.name} {frame.layout.name} {frame.sample_rate}"
            if self._resampler is None or shape != self._layout:
                yield from self.rest()
                self._resampler = av.AudioResampler(format="fltp", rate=SAMPLE_RATE)
                self._layout = shape
            yield from self._resampled(frame)

    def rest(self) -> Iterator[Samples]:
        """What the resampler still holds; nothing follows it."""
        return self._resampled(None)

    def _resampled(self, frame: av.AudioFrame | None) -> Iterator[Samples]:
        for run in _mono(self._resampler, frame, self._next_s):
            self._next_s = run.time_s + len(run.pcm) / SAMPLE_RATE
            yield run


def decoded_sound(
    container: InputContainer, stream: av.AudioStream, stats: SourceStats
) -> Iterator[Samples]:
    """A stream's sound at 16 kHz with times in the file's clock."""
    decoder = SoundDecoder(stats)
    for packet in _packets(container, stream, stats):
        yield from decoder.push(packet)
    yield from decoder.rest()


def _mono(
    resampler: av.AudioResampler | None, frame: av.AudioFrame | None, next_s: float
) -> Iterator[Samples]:
    """The plain mean over channels: FFmpeg's own downmix of floats can exceed 1."""
    for out in resampler.resample(frame) if resampler is not None else []:
        if out.samples:
            pcm = np.clip(out.to_ndarray().mean(axis=0, dtype=np.float32), -1.0, 1.0)
            yield Samples(pcm, next_s if out.time is None else out.time)
