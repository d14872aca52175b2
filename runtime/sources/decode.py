"""From packets to frames and samples; what does not decode is counted and left out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import av
import av.error
import numpy as np
from av.container import InputContainer
from av.video.reformatter import VideoReformatter

from omnidrop_stream.types import SAMPLE_RATE, Frame, Samples
from runtime.sources.base import SourceStats

LONGEST_HOLD_S = 30.0
"""A picture that stays up longer than this is taken for a jump of the file's clock."""
_NOISE_S = 1e-6


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded frame, not RGB yet. ``broken_before``: something before it did not decode."""

    frame: av.VideoFrame
    time_s: float
    duration_s: float
    broken_before: bool

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


def decoded_pictures(
    container: InputContainer, stream: av.VideoStream, stats: SourceStats
) -> Iterator[Picture]:
    """Every frame of a stream with its time in the file's clock."""
    interval_s = float(1 / stream.average_rate) if stream.average_rate else 0.04
    next_s, broken = 0.0, False
    for packet in _packets(container, stream, stats):
        try:
            frames = packet.decode()
        except (av.error.FFmpegError, ValueError):
            stats.decode_errors += 1
            broken = True
            continue
        for frame in frames:
            if not isinstance(frame, av.VideoFrame):
                continue
            time_s = next_s if frame.time is None else frame.time
            long_s = float(frame.duration * (frame.time_base or 0)) or interval_s
            next_s = time_s + long_s
            stats.decoded_frames += 1
            stats.corrupt_frames += frame.is_corrupt
            yield Picture(frame, time_s, long_s, broken)
            broken = False


def thinned(pictures: Iterator[Picture], fps: float | None, zero_s: float) -> Iterator[Frame]:
    """The frame nearest to each slot of the model's grid, with its own time from ``zero_s`` on.

    The rule is the chunker's: from half a period before a slot to half a period after it, of two
    equally near the earlier. Slots between two frames far apart show the first again. After a jump
    of the file's clock the grid starts anew. fps None: every frame.
    """
    to_rgb = _Rgb()
    if fps is None:
        yield from (Frame(to_rgb(picture), picture.time_s - zero_s) for picture in pictures)
        return
    origin_s, best, last = zero_s, None, None
    for picture in pictures:
        if last is not None and not -0.25 <= picture.time_s - last.time_s <= LONGEST_HOLD_S:
            if best is not None:
                yield Frame(to_rgb(best), best.time_s - zero_s)
            best, last, origin_s = picture, picture, picture.time_s
            continue
        if best is not None and last is not None:
            slot = _slot(best.time_s - origin_s, fps)
            new_slot = _slot(picture.time_s - origin_s, fps)
            if new_slot == slot:
                target_s = origin_s + slot / fps
                nearer = abs(picture.time_s - target_s) < abs(best.time_s - target_s) - _NOISE_S
                best, last = picture if nearer else best, picture
                continue
            yield Frame(to_rgb(best), best.time_s - zero_s)
            if new_slot - slot > 1 and not picture.broken_before:
                yield from _held(to_rgb(last), origin_s - zero_s, slot + 1, new_slot, fps)
        best = last = picture
    if best is None or last is None:
        return
    # A frame just before a slot that the pictures do not reach any more is not that slot's.
    slot, end_s = _slot(best.time_s - origin_s, fps), last.time_s + last.duration_s - origin_s
    if slot / fps < end_s - last.duration_s / 2:
        yield Frame(to_rgb(best), best.time_s - zero_s)
        stop = min(int(np.ceil((end_s - 1e-3) * fps)), slot + int(LONGEST_HOLD_S * fps))
        yield from _held(to_rgb(last), origin_s - zero_s, slot + 1, stop, fps)


def _slot(at_s: float, fps: float) -> int:
    return int(np.floor(at_s * fps + 0.5 + _NOISE_S))


def _held(image: np.ndarray, from_s: float, slot: int, stop: int, fps: float) -> Iterator[Frame]:
    for number in range(slot, stop):
        yield Frame(image, from_s + number / fps)


class _Rgb:
    """Decoded frame -> u8 [H, W, 3], turned upright; one scaler for the whole file."""

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()

    def __call__(self, picture: Picture) -> np.ndarray:
        image = self._reformatter.reformat(picture.frame, format="rgb24").to_ndarray()
        quarter_turns = round(picture.frame.rotation / 90) % 4
        return np.ascontiguousarray(np.rot90(image, quarter_turns))


def decoded_sound(
    container: InputContainer, stream: av.AudioStream, stats: SourceStats
) -> Iterator[Samples]:
    """A stream's sound at 16 kHz, the mean of its channels, with times in the file's clock."""
    resampler, layout = None, ""
    next_s = 0.0
    for packet in _packets(container, stream, stats):
        try:
            frames = packet.decode()
        except (av.error.FFmpegError, ValueError):
            stats.decode_errors += 1
            continue
        for frame in frames:
            if not isinstance(frame, av.AudioFrame) or not frame.samples:
                continue
            shape = f"{frame.format.name} {frame.layout.name} {frame.sample_rate}"
            if resampler is None or shape != layout:
                yield from _mono(resampler, None, next_s)
                resampler, layout = av.AudioResampler(format="fltp", rate=SAMPLE_RATE), shape
            for run in _mono(resampler, frame, next_s):
                next_s = run.time_s + len(run.pcm) / SAMPLE_RATE
                yield run
    yield from _mono(resampler, None, next_s)


def _mono(
    resampler: av.AudioResampler | None, frame: av.AudioFrame | None, next_s: float
) -> Iterator[Samples]:
    """The plain mean over channels: FFmpeg's own downmix of floats can exceed 1."""
    for out in resampler.resample(frame) if resampler is not None else []:
        if out.samples:
            pcm = np.clip(out.to_ndarray().mean(axis=0, dtype=np.float32), -1.0, 1.0)
            yield Samples(pcm, next_s if out.time is None else out.time)
