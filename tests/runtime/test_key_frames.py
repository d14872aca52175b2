"""The last raw pictures, and one of them as JPEG."""

from __future__ import annotations

import io

import av
import numpy as np
import pytest

from omnidrop_stream.types import Chunk
from runtime.key_frames import KeyFrames, Picture, jpeg, key_frame


def chunk(index: int, frames: bool = True) -> Chunk:
    images = np.stack([np.full((4, 6, 3), 10 * index + n, np.uint8) for n in range(4)])
    return Chunk(index, 0, 2.0 * index, images if frames else None, None)


def decoded(data: bytes) -> np.ndarray:
    with av.open(io.BytesIO(data)) as container:
        return next(container.decode(video=0)).to_ndarray(format="rgb24")


@pytest.mark.parametrize(
    ("time_s", "shown_s"), [(2.0, 2.0), (2.4, 2.0), (2.5, 2.5), (99.0, 7.5), (-5.0, 2.0)]
)
def test_the_picture_that_was_shown_at_a_time(time_s, shown_s):
    ring = KeyFrames()
    for index in (1, 2, 3):
        ring.add(chunk(index))
    found = ring.at(time_s)
    assert found is not None
    assert found.time_s == shown_s
    assert found.image[0, 0, 0] == 10 * int(shown_s // 2) + round(shown_s % 2 * 2)


def test_only_the_last_chunks_are_kept():
    ring = KeyFrames(chunks=2)
    for index in range(5):
        ring.add(chunk(index))
    assert ring.at(0.0).time_s == 6.0


def test_without_pictures_there_is_none():
    ring = KeyFrames()
    assert ring.at(1.0) is None
    ring.add(chunk(1, frames=False))
    assert ring.at(1.0) is None
    ring.add(chunk(2))
    ring.clear()
    assert ring.at(1.0) is None


@pytest.mark.parametrize("shape", [(36, 64, 3), (37, 63, 3), (1, 1, 3), (120, 5, 3)])
def test_a_picture_of_any_size_becomes_a_jpeg_that_looks_the_same(shape):
    rows = np.linspace(0, 200, shape[0]).astype(np.uint8)[:, None, None]
    image = np.broadcast_to(rows, shape).copy()
    shown = decoded(jpeg(image))
    assert abs(shown.shape[0] - shape[0]) <= 1
    assert abs(float(shown.mean()) - float(image.mean())) < 6


def test_a_large_picture_is_made_smaller_and_keeps_its_shape():
    data = jpeg(np.zeros((1080, 1920, 3), np.uint8))
    assert decoded(data).shape == (360, 640, 3)
    assert data.startswith(b"\xff\xd8\xff")


def test_what_cannot_be_encoded_gives_no_key_frame():
    assert key_frame(Picture(0.0, np.zeros((4, 4), np.uint8))) is None
