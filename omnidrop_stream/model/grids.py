"""Where the vision tower's tokens stand and which see each other: worked out on the host, and kept.

Left to itself the stock tower asks the device for the sizes of its grids, and in every layer for
the lengths of the blocks it splits into: the host waits for the device more often than there are
layers, for what it has known all along.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from transformers.vision_utils import get_vision_position_ids, get_vision_window_index

from omnidrop_stream.model.tower_attention import Run, Within

KEPT = 32
"""Layouts: of the sizes of pictures, times how many streams have a chunk due at once."""
Grid = tuple[int, int, int]
"""Temporal patches, rows and columns of patches."""


class Grids:
    """The layouts of a vision tower."""

    def __init__(self, visual: Any, flash: bool) -> None:
        """flash: the stock layers' attention, which reads bounds on the device, instead of ours."""
        config = visual.config
        self._merge, self._window = int(config.spatial_merge_size), int(config.window_size)
        self._patch, self._flash = int(config.patch_size), flash
        self._device: torch.device = next(visual.parameters()).device
        self.layout = lru_cache(maxsize=KEPT)(self._layout)
        """Keyword arguments of the tower's forward for clips of these grids, packed."""

    @torch.inference_mode()
    def _layout(self, grids: tuple[Grid, ...]) -> dict[str, Any]:
        order, pictures, windows, first = [], list[Run](), list[Run](), 0
        for count, rows, columns in grids:
            one, lengths = self._windows(rows, columns)
            starts = torch.arange(count)[:, None] * len(one) + first
            order.append((starts + one).flatten())
            first += count * len(one)
            pictures.append(Run.of(count, [rows * columns]))
            windows.append(Run.of(count, lengths))
        thw = torch.tensor(grids)
        return {
            "grid_thw": thw,
            "position_ids": get_vision_position_ids(thw, self._merge).to(self._device),
            "window_index": torch.cat(order).to(self._device),
            "cu_seqlens": self._placed(pictures),
            "cu_window_seqlens": self._placed(windows),
            **self._attention(pictures, windows),
        }

    def _windows(self, rows: int, columns: int) -> tuple[torch.Tensor, list[int]]:
        """One picture's tokens after merging, window by window, long windows first, and the
        windows' lengths in patches.
        """
        picture = torch.tensor([[1, rows, columns]])
        index, bounds = get_vision_window_index(picture, self._merge, self._window, self._patch)
        lengths: list[int] = bounds.diff().tolist()
        parts = torch.split(index, [length // self._merge**2 for length in lengths])
        order = sorted(range(len(lengths)), key=lambda n: -lengths[n])
        return torch.cat([parts[n] for n in order]), [lengths[n] for n in order]

    def _placed(self, runs: Sequence[Run]) -> torch.Tensor:
        bounds = torch.tensor([0, *(n for run in runs for n in run.each)]).cumsum(0)
        return bounds.int().to(self._device) if self._flash else bounds.int()

    def _attention(self, pictures: Sequence[Run], windows: Sequence[Run]) -> dict[str, Any]:
        if not self._flash:
            return {"within": Within(tuple(pictures), tuple(windows))}
        return {
            "max_seqlen": max(max(run.each) for run in pictures),
            "max_window_seqlen": max(max(run.each) for run in windows),
        }
