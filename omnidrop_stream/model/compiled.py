"""``model.compile``: the feed-forward networks through torch's compiler, off by default.

On a processor it was measured and does not pay: medians 7 % below to 8 % above those of the plain
modules at 1 to 300 rows of the benchmark's shape, after half a minute of compiling (torch 2.13,
AVX-512). On a GPU it was never run.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable
from typing import Any

import torch

from omnidrop_stream.errors import MissingDependency

COMPILERS = ("g++", "clang++")
Feed = Callable[[Any, torch.Tensor], torch.Tensor]


def feed_forward(block: Any, rows: torch.Tensor) -> torch.Tensor:
    """A decoder layer's norm and network of ``rows`` [n, d], without what is added to."""
    fed: torch.Tensor = block.mlp(block.post_attention_layernorm(rows))
    return fed


def feed_of(compiled: bool) -> Feed:
    """`feed_forward`, or the same compiled at its first call, for any number of rows."""
    return torch.compile(feed_forward, dynamic=True) if compiled else feed_forward


def check_compiler(
    device: torch.device,
    found: Callable[[str], object] = shutil.which,
    importable: Callable[[str], object] = importlib.util.find_spec,
) -> None:
    """Raise MissingDependency where nothing is at hand that torch compiles with."""
    if device.type == "cuda":
        if not importable("triton"):
            raise MissingDependency(
                "model.compile needs triton on a CUDA device: pip install triton, or set "
                "model.compile to false"
            )
    elif not any(found(name) for name in COMPILERS):
        raise MissingDependency(
            f"model.compile needs a C++ compiler ({' or '.join(COMPILERS)}) on a processor: "
            "install one, or set model.compile to false"
        )
