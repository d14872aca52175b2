"""Where the towers' tokens stand and which see each other, worked out on the host and kept.

Left to itself the stock vision tower asks the device for the sizes of its grids, and every layer of
both towers for the lengths of the blocks it splits into: the host waits for the device more often
than there are layers, for what it has known all along.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from transformers.utils.generic import is_flash_attention_requested
from transformers.vision_utils import (
    get_vision_cu_seqlens,
    get_vision_position_ids,
    get_vision_window_index,
)

KEPT = 32
"""Layouts: of the sizes of pictures, times how many streams have a chunk due at once."""
Grid = tuple[int, int, int]
"""Temporal patches, rows and columns of patches."""


class Bounds:
    """Where blocks that attend within themselves begin and end, as a tower's attention wants it."""

    def __init__(self, tower: Any) -> None:
        # Flash attention's kernel reads them on the device; else the host splits by them.
        self._on_device: bool = is_flash_attention_requested(tower.config)
        self._device: torch.device = next(tower.parameters()).device

    def placed(self, bounds: torch.Tensor) -> torch.Tensor:
        """Cumulative lengths i32 [blocks + 1] where attention reads them."""
        return bounds.to(self._device) if self._on_device else bounds

    def longest(self, bounds: torch.Tensor, name: str) -> dict[str, int]:
        """The length of the longest, under this name, where attention asks for it."""
        return {name: int(bounds.diff().max())} if self._on_device else {}


class Grids:
    """A vision tower's layouts."""

    def __init__(self, visual: Any) -> None:
        config = visual.config
        self._merge, self._window = int(config.spatial_merge_size), int(config.window_size)
        self._patch = int(config.patch_size)
        self._bounds = Bounds(visual)
        self._device: torch.device = next(visual.parameters()).device
        self.layout = lru_cache(maxsize=KEPT)(self._layout)
        """Keyword arguments of the tower's forward for clips of these grids, packed."""

    @torch.inference_mode()
    def _layout(self, grids: tuple[Grid, ...]) -> dict[str, Any]:
        thw = torch.tensor(grids)
        whole = get_vision_cu_seqlens(thw)
        index, windows = get_vision_window_index(thw, self._merge, self._window, self._patch)
        return {
            "grid_thw": thw,
            "position_ids": get_vision_position_ids(thw, self._merge).to(self._device),
            "cu_seqlens": self._bounds.placed(whole),
            "window_index": index.to(self._device),
            "cu_window_seqlens": self._bounds.placed(windows),
            **self._bounds.longest(whole, "max_seqlen"),
            **self._bounds.longest(windows, "max_window_seqlen"),
        }
