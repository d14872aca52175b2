"""Small exact streams for the chunker's tests: a picture tells its time, a sample its number."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from omnidrop_stream.chunker import Chunker, ChunkerSettings
from omnidrop_stream.types import SAMPLE_RATE, Chunk, Frame, Samples, StreamKind

Item = Frame | Samples
AV, VIDEO, AUDIO = StreamKind.AV, StreamKind.VIDEO, StreamKind.AUDIO


def sound(from_s: float, to_s: float) -> np.ndarray:
    """f32: the value tells the sample's number (never 0), exactly."""
    first, last = round(from_s * SAMPLE_RATE), round(to_s * SAMPLE_RATE)
    return (np.arange(first, last) + 1).astype(np.float32)


def audio(from_s: float, to_s: float, block_s: float = 0.1) -> list[Samples]:
    pcm, block = sound(from_s, to_s), round(block_s * SAMPLE_RATE)
    starts = range(0, len(pcm), block)
    return [Samples(pcm[i : i + block], from_s + i / SAMPLE_RATE) for i in starts]


def picture(value: int, shape: tuple[int, int] = (4, 6)) -> np.ndarray:
    return np.full((*shape, 3), value % 256, dtype=np.uint8)


def video(
    from_s: float, to_s: float, fps: float = 10, shape: tuple[int, int] = (4, 6)
) -> list[Frame]:
    """Frames whose value is their time in units of 0.1 s."""
    times = [from_s + n / fps for n in range(math.ceil((to_s - from_s) * fps - 1e-9))]
    return [Frame(picture(round(t * 10), shape), t) for t in times]


def merged(*media: Iterable[Item]) -> list[Item]:
    return sorted((item for medium in media for item in medium), key=lambda item: item.time_s)


def run(chunker: Chunker, items: Iterable[Item], flush: bool = True) -> list[Chunk]:
    chunks = [chunk for item in items for chunk in chunker.push(item)]
    return chunks + (chunker.flush() if flush else [])


def chunked(kind: StreamKind, *media: Iterable[Item], **settings: float) -> list[Chunk]:
    return run(Chunker(ChunkerSettings(kind=kind, **settings)), merged(*media))


def shown(chunk: Chunk) -> list[int]:
    assert chunk.frames is not None
    return [int(frame[0, 0, 0]) for frame in chunk.frames]


def heard(chunks: Iterable[Chunk]) -> np.ndarray:
    return np.concatenate([chunk.audio for chunk in chunks if chunk.audio is not None])


def same(a: Chunk, b: Chunk) -> bool:
    arrays = ("frames", "audio", "audio_left", "audio_right")
    plain = ("index", "epoch", "start_s", "duration_s", "fps", "flags")
    return all(np.array_equal(getattr(a, n), getattr(b, n)) for n in arrays) and all(
        getattr(a, n) == getattr(b, n) for n in plain
    )


def all_same(a: list[Chunk], b: list[Chunk]) -> bool:
    return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
