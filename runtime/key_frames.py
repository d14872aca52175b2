"""The last pictures as they came from the source, for the events of standing questions."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from fractions import Fraction

import av
import av.error
import numpy as np
import numpy.typing as npt

from omnidrop_stream.types import Chunk
from runtime.watch_types import KeyFrame

KEPT_CHUNKS = 3
"""The two that are judged, and the next one."""
LONGEST_EDGE = 640
QUALITY = 4
"""The encoder's scale: 2 (best) to 31."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One raw picture u8 [H, W, 3] RGB and the stream time it is shown from."""

    time_s: float
    image: npt.NDArray[np.uint8]


class KeyFrames:
    """A bounded ring of the last chunks' pictures; safe from any thread."""

    def __init__(self, chunks: int = KEPT_CHUNKS) -> None:
        self._lock = threading.Lock()
        self._chunks: deque[Chunk] = deque(maxlen=chunks)

    def add(self, chunk: Chunk) -> None:
        """Keep a chunk's pictures; the oldest chunk's go."""
        with self._lock:
            self._chunks.append(chunk)

    def clear(self) -> None:
        """Keep nothing."""
        with self._lock:
            self._chunks.clear()

    def at(self, time_s: float) -> Picture | None:
        """The picture shown at ``time_s``, or the nearest one; None where there is none."""
        with self._lock:
            chunks = tuple(self._chunks)
        best: Picture | None = None
        for chunk in chunks:
            for number, image in enumerate(() if chunk.frames is None else chunk.frames):
                picture = Picture(chunk.start_s + number / chunk.fps, image)
                if best is None or _distance(picture, time_s) < _distance(best, time_s):
                    best = picture
        return best


def _distance(picture: Picture, time_s: float) -> float:
    """A picture is shown until the next one: one that began just before is nearer than one that
    begins just after.
    """
    ahead = time_s - picture.time_s
    return ahead if ahead >= -1e-6 else 1e3 - ahead


def key_frame(picture: Picture) -> KeyFrame | None:
    """The picture as it is told; None where it cannot be encoded. Blocks for milliseconds."""
    try:
        return KeyFrame(picture.time_s, jpeg(picture.image))
    except (av.error.FFmpegError, ValueError):
        return None


def jpeg(image: npt.NDArray[np.uint8], longest_edge: int = LONGEST_EDGE) -> bytes:
    """A picture u8 [H, W, 3] RGB as JPEG, made smaller where an edge is longer; blocks."""
    height, width = image.shape[:2]
    scale = min(1.0, longest_edge / max(height, width))
    wide, high = (max(2, round(edge * scale) // 2 * 2) for edge in (width, height))
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
    shrunk = frame.reformat(wide, high, format="yuvj420p", interpolation="AREA")
    encoder = av.CodecContext.create("mjpeg", "w")
    if not isinstance(encoder, av.VideoCodecContext):
        raise TypeError("mjpeg is a video codec")
    encoder.width, encoder.height, encoder.pix_fmt = wide, high, "yuvj420p"
    encoder.time_base = shrunk.time_base = Fraction(1, 1)
    encoder.qmin = encoder.qmax = QUALITY
    shrunk.pts = 0
    return b"".join(bytes(packet) for packet in [*encoder.encode(shrunk), *encoder.encode(None)])
