"""Clips that the faults encode themselves: small, of closed groups of known pictures."""

from __future__ import annotations

import io
from fractions import Fraction

import av
import numpy as np
from av.container import InputContainer, OutputContainer
from av.video.stream import VideoStream

SIZE = (96, 64)
FPS, GOP = 5, 5
SOUND_HZ = {"aac": 16_000, "pcm_alaw": 8_000}
_ENCODERS = {
    "h264": ("libx264", {"preset": "ultrafast", "tune": "zerolatency", "threads": "1"}),
    "hevc": (
        "libx265",
        {
            "preset": "ultrafast",
            "tune": "zerolatency",
            "x265-params": "scenecut=0:log-level=none:pools=none:frame-threads=1:repeat-headers=1",
        },
    ),
}


def picture(number: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """u8 [H, W, 3]: a gradient over which a bright bar falls."""
    width, height = size
    image = np.zeros((height, width, 3), np.uint8)
    image[:, :, 0] = np.linspace(0, 200, width, dtype=np.uint8)
    image[:, :, 2] = np.linspace(0, 120, height, dtype=np.uint8)[:, None]
    top = 4 + (number * 3) % (height - 16)
    image[top : top + 8, width // 8 : width // 2] = 240
    return image


def pictures(codec: str, count: int) -> InputContainer:
    """An open MPEG-TS, parameter sets before each keyframe, every ``GOP`` pictures one."""
    buffer = io.BytesIO()
    name, options = _ENCODERS[codec]
    with av.open(buffer, "w", format="mpegts") as container:
        stream = container.add_stream(name, rate=FPS)
        stream.width, stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        stream.codec_context.gop_size = GOP
        stream.options = options
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    buffer.seek(0)
    return av.open(buffer)


def sound(codec: str, seconds: float) -> InputContainer:
    """An open NUT file with a tone of 440 Hz at a fifth of full scale."""
    rate = SOUND_HZ[codec]
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="nut") as container:
        stream = container.add_stream(codec, rate=rate, layout="mono")
        pcm = 0.2 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate)) / rate)
        step = 1024 if codec == "aac" else rate // 10
        for first in range(0, len(pcm) - step + 1, step):
            piece = pcm[first : first + step]
            if codec == "aac":
                frame = av.AudioFrame.from_ndarray(
                    piece[None].astype(np.float32), format="fltp", layout="mono"
                )
            else:
                frame = av.AudioFrame.from_ndarray(
                    (piece[None] * 32767).astype(np.int16), format="s16", layout="mono"
                )
            frame.sample_rate, frame.pts, frame.time_base = rate, first, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    buffer.seek(0)
    return av.open(buffer)


def of_two_sizes(path: str, sizes: list[tuple[int, int]], each_s: float, fps: int = 10) -> None:
    """An MPEG-TS whose pictures change their size in the middle, by new parameter sets alone."""
    with av.open(path, "w", format="mpegts") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.width, stream.height, stream.pix_fmt = *sizes[0], "yuv420p"
        number = 0
        for size in sizes:
            encoder = av.CodecContext.create("libx264", "w")
            encoder.width, encoder.height, encoder.pix_fmt = *size, "yuv420p"
            encoder.time_base, encoder.framerate = Fraction(1, fps), Fraction(fps)
            encoder.gop_size = fps
            encoder.options = _ENCODERS["h264"][1]
            for _ in range(round(each_s * fps)):
                frame = av.VideoFrame.from_ndarray(picture(number, size), format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, fps)
                number += 1
                _mux(container, stream, encoder.encode(frame))
            _mux(container, stream, encoder.encode(None))


def _mux(container: OutputContainer, stream: VideoStream, packets: list[av.Packet]) -> None:
    for packet in packets:
        packet.stream = stream
        container.mux(packet)
