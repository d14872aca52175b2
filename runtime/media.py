"""Write H.264 + AAC mp4 from frames and samples: for tests, and to show the synthetic world."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
import numpy as np
from av.audio.stream import AudioStream
from av.video.stream import VideoStream

from omnidrop_stream.types import SAMPLE_RATE, Frame, Samples

_TICKS_HZ = 90_000


def write_mp4(
    path: str | Path,
    frames: Iterable[Frame] | None = None,
    samples: Iterable[Samples] | None = None,
    *,
    crf: int = 18,
    rate_fps: float = 30.0,
) -> None:
    """Encode what is given. Frames keep their times, so any rate works, variable ones too.

    frames: all of one size; odd sizes are stored with full colour (yuv444p), since 4:2:0 cannot.
    samples: gapless, 16 kHz mono. rate_fps: what the container calls its rate; times are exact.
    """
    pictures, first = _peek(frames)
    sounds, heard = _peek(samples)
    if first is None and heard is None:
        raise ValueError("nothing to write: give frames, samples or both")
    with av.open(str(path), "w", format="mp4") as container:
        video: VideoStream | None = None
        audio: AudioStream | None = None
        if isinstance(first, Frame):
            height, width = first.image.shape[:2]
            video = container.add_stream("libx264", rate=Fraction(rate_fps).limit_denominator(1001))
            video.width, video.height = width, height
            video.pix_fmt = "yuv444p" if width % 2 or height % 2 else "yuv420p"
            video.time_base = video.codec_context.time_base = Fraction(1, _TICKS_HZ)
            video.options = {"crf": str(crf), "preset": "veryfast", "bf": "0", "threads": "1"}
        if isinstance(heard, Samples):
            audio = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
            audio.bit_rate = 96_000
        for item in heapq.merge(pictures, sounds, key=lambda item: item.time_s):
            if isinstance(item, Frame) and video is not None:
                container.mux(video.encode(_picture(item)))
            elif isinstance(item, Samples) and audio is not None:
                container.mux(audio.encode(_sound(item)))
        for stream in (video, audio):
            if stream is not None:
                container.mux(stream.encode(None))


def _peek(
    items: Iterable[Frame] | Iterable[Samples] | None,
) -> tuple[Iterator[Frame | Samples], Frame | Samples | None]:
    iterator: Iterator[Frame | Samples] = iter(items or ())
    first = next(iterator, None)
    return (iter(()) if first is None else chain([first], iterator)), first


def _picture(frame: Frame) -> av.VideoFrame:
    picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame.image), format="rgb24")
    picture.pts, picture.time_base = round(frame.time_s * _TICKS_HZ), Fraction(1, _TICKS_HZ)
    return picture


def _sound(samples: Samples) -> av.AudioFrame:
    pcm = np.ascontiguousarray(samples.pcm, dtype=np.float32)[None]
    sound = av.AudioFrame.from_ndarray(pcm, format="fltp", layout="mono")
    sound.sample_rate, sound.time_base = SAMPLE_RATE, Fraction(1, SAMPLE_RATE)
    sound.pts = round(samples.time_s * SAMPLE_RATE)
    return sound
