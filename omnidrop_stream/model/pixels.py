"""Frames to patches in plain torch, bit-identical to the stock ``Qwen2VLVideoProcessor`` at the
same size.

Resizing is bicubic with antialiasing on bytes; values are then normalised and cut into patches of
``temporal_patch_size`` x ``patch_size`` x ``patch_size``, ordered so that ``merge_size``^2
neighbours follow each other (they become one token). torchvision is not needed. The size is fixed
by aspect and a token budget, never by the clip's length (design 3.8); parity is tested in
``tests/model/test_pixels_parity.py``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from omnidrop_stream.errors import SourceUnreadable

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
MAX_ASPECT = 200.0


@dataclass(frozen=True, slots=True)
class PixelSettings:
    """What the checkpoint's ``preprocessor_config.json`` says about pictures."""

    patch_size: int = 14
    merge_size: int = 2
    temporal_patch_size: int = 2
    max_tokens: int = 768
    """Most tokens a temporal patch may have (``max_pixels`` / factor^2)."""
    mean: tuple[float, ...] = CLIP_MEAN
    std: tuple[float, ...] = CLIP_STD

    @property
    def factor(self) -> int:
        """Side of the square that becomes one token, in pixels."""
        return self.patch_size * self.merge_size


def fit_size(height: int, width: int, tokens: int, factor: int) -> tuple[int, int]:
    """The largest (height, width) in multiples of ``factor`` that keeps the aspect within
    ``tokens`` tokens.

    16:9 at 144 tokens and factor 28 gives 252 x 448 (9 x 16 tokens), 4:3 gives 10 x 13. Smaller
    pictures are scaled up to the budget, as the stock processor does below its minimum.

    Raises SourceUnreadable for an empty picture or an aspect beyond 200:1.
    """
    if height < 1 or width < 1 or max(height, width) / min(height, width) > MAX_ASPECT:
        raise SourceUnreadable(
            f"a picture of {width} x {height} pixels cannot be used: sides must be positive and "
            f"their ratio at most {MAX_ASPECT:.0f}:1; use another source"
        )
    scale = math.sqrt(tokens / (height * width))
    rows = max(1, math.floor(height * scale + 1e-6))
    columns = max(1, math.floor(width * scale + 1e-6))
    return min(rows, tokens) * factor, min(columns, tokens // min(rows, tokens)) * factor


def resize_frames(frames: np.ndarray, size: tuple[int, int]) -> torch.Tensor:
    """u8 [F, H, W, 3] -> u8 [F, 3, size...], bicubic, antialiased."""
    pixels = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).contiguous()
    if tuple(pixels.shape[-2:]) == size:
        return pixels
    return F.interpolate(pixels, size=size, mode="bicubic", antialias=True, align_corners=False)


def patchify(frames: torch.Tensor, settings: PixelSettings) -> torch.Tensor:
    """u8 [F, 3, H, W] -> f32 [ceil(F/2) * H/p * W/p, 6 * p * p]; an odd last frame is repeated."""
    p, m, t = settings.patch_size, settings.merge_size, settings.temporal_patch_size
    mean = torch.tensor(settings.mean)[:, None, None] * 255.0
    std = torch.tensor(settings.std)[:, None, None] * 255.0
    values = (frames.float() - mean) / std
    if odd := -values.shape[0] % t:
        values = torch.cat([values, values[-1:].expand(odd, -1, -1, -1)])
    n, channels, height, width = values.shape
    rows, columns = height // p, width // p
    cut = values.view(n // t, t, channels, rows // m, m, p, columns // m, m, p)
    cut = cut.permute(0, 3, 6, 4, 7, 2, 1, 5, 8)
    return cut.reshape(n // t * rows * columns, channels * t * p * p)
