"""Frames to patches: sizes that keep the aspect within a budget, and the order within a patch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from omnidrop_stream.errors import SourceUnreadable
from omnidrop_stream.model.pixels import PixelSettings, fit_size, patchify, resize_frames

sides = st.integers(1, 4320)
SETTINGS = PixelSettings()


@given(sides, sides, st.integers(1, 1024))
def test_a_size_never_passes_the_budget_and_is_a_multiple_of_the_factor(height, width, tokens):
    if max(height, width) > 200 * min(height, width):
        return
    rows, columns = fit_size(height, width, tokens, 28)
    assert rows % 28 == columns % 28 == 0
    assert rows >= 28
    assert columns >= 28
    assert rows // 28 * (columns // 28) <= tokens


@given(sides, sides, st.integers(64, 1024))
def test_a_size_keeps_the_aspect_within_one_step(height, width, tokens):
    if not 1 / 8 <= height / width <= 8:
        return
    rows, columns = (side // 28 for side in fit_size(height, width, tokens, 28))
    ideal = (tokens / (height * width)) ** 0.5
    assert height * ideal - 1 <= rows <= height * ideal + 1e-5
    assert width * ideal - 1 <= columns <= width * ideal + 1e-5


@given(sides, sides, st.integers(1, 1024), st.integers(1, 8))
def test_a_size_depends_on_the_aspect_and_not_on_the_resolution(height, width, tokens, scale):
    if max(height, width) > 200 * min(height, width):
        return
    once = fit_size(height, width, tokens, 28)
    assert fit_size(height * scale, width * scale, tokens, 28) == once


@given(sides, sides, st.integers(1, 1024))
def test_a_picture_on_its_side_gets_the_size_on_its_side(height, width, tokens):
    if not 1 / 8 <= height / width <= 8 or tokens < 64:
        return
    rows, columns = fit_size(height, width, tokens, 28)
    assert fit_size(width, height, tokens, 28) == (columns, rows)


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [(720, 1280, (252, 448)), (480, 640, (280, 364)), (1280, 720, (448, 252)), (9, 9, (336, 336))],
)
def test_the_papers_budget_gives_the_papers_sizes(height, width, size):
    assert fit_size(height, width, 144, 28) == size


@pytest.mark.parametrize(("height", "width"), [(0, 10), (10, 0), (1, 201), (4020, 20)])
def test_a_picture_that_cannot_be_used_is_refused_in_one_sentence(height, width):
    with pytest.raises(SourceUnreadable, match=f"{width} x {height} pixels cannot be used"):
        fit_size(height, width, 144, 28)


def literal(frames: torch.Tensor, s: PixelSettings) -> torch.Tensor:
    """Patch by patch, value by value."""
    frames = frames if len(frames) % 2 == 0 else torch.cat([frames, frames[-1:]])
    p, m = s.patch_size, s.merge_size
    rows, columns = frames.shape[2] // p, frames.shape[3] // p
    out = []
    for pair in range(len(frames) // 2):
        for block_row in range(rows // m):
            for block_column in range(columns // m):
                for row in range(m):
                    for column in range(m):
                        top = (block_row * m + row) * p
                        left = (block_column * m + column) * p
                        values = []
                        for channel in range(3):
                            for moment in range(2):
                                cut = frames[2 * pair + moment, channel]
                                cut = cut[top : top + p, left : left + p].float()
                                mean, std = s.mean[channel], s.std[channel]
                                values.append(((cut / 255 - mean) / std).reshape(-1))
                        out.append(torch.cat(values))
    return torch.stack(out)


@pytest.mark.parametrize(("count", "rows", "columns"), [(1, 2, 2), (2, 2, 4), (3, 4, 6), (4, 6, 2)])
def test_patches_have_the_literal_order_and_values(count, rows, columns):
    frames = torch.randint(0, 256, (count, 3, rows * 14, columns * 14), dtype=torch.uint8)
    ours = patchify(frames, SETTINGS)
    assert ours.shape == ((count + 1) // 2 * rows * columns, 3 * 2 * 14 * 14)
    assert torch.allclose(ours, literal(frames, SETTINGS), atol=1e-5)


def test_a_picture_of_the_right_size_is_not_touched():
    frames = np.random.default_rng(0).integers(0, 256, (2, 28, 56, 3), np.uint8)
    out = resize_frames(frames, (28, 56))
    assert np.array_equal(out.permute(0, 2, 3, 1).numpy(), frames)


def test_a_mirrored_view_of_a_picture_can_be_resized():
    frames = np.random.default_rng(0).integers(0, 256, (2, 40, 56, 3), np.uint8)
    out = resize_frames(frames[:, ::-1], (28, 56))
    assert out.shape == (2, 3, 28, 56)
    assert torch.equal(out, resize_frames(np.ascontiguousarray(frames[:, ::-1]), (28, 56)))
