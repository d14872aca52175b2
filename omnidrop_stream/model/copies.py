"""From the host to where the model is. To a GPU from pinned memory, so that nobody waits for the
copy; that path was never run by its tests, which have no GPU.
"""

from __future__ import annotations

from typing import Literal

import torch


def copy_path(source: torch.device, target: torch.device) -> Literal["none", "pinned", "direct"]:
    """How values get from ``source`` to ``target``."""
    if source == target:
        return "none"
    return "pinned" if (source.type, target.type) == ("cpu", "cuda") else "direct"


def moved(
    values: torch.Tensor, device: torch.device, dtype: torch.dtype | None = None
) -> torch.Tensor:
    """``values`` on ``device``, in ``dtype`` where one is given."""
    if copy_path(values.device, device) == "pinned":
        values = values.pin_memory().to(device, non_blocking=True)
    return values.to(device, dtype or values.dtype)
