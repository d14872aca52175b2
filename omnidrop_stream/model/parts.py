"""Where a thinker keeps its parts; transformers moved them between 5.17 and 5.23."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True, slots=True)
class Parts:
    """The modules that our loops drive."""

    text: Any
    """``Qwen2_5OmniThinkerTextModel``"""
    audio: Any
    visual: Any


def parts_of(thinker: Any) -> Parts:
    """The parts of a stock thinker: beside the text model (5.17) or together with it (5.23)."""
    if "audio_tower" in dict(thinker.named_children()):
        return Parts(thinker.model, thinker.audio_tower, thinker.visual)
    inner = thinker.model
    return Parts(inner.language_model, inner.audio_tower, inner.visual)


def exchanged(module: Any, **parts: nn.Module) -> Any:
    """A copy of ``module`` with other parts; the given one stays as it is, weights are shared."""
    made = copy.copy(module)
    made.__dict__["_modules"] = {**module._modules, **parts}
    return made
