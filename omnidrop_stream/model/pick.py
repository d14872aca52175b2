"""What the settings of a model come to on this machine; each mistake in one sentence."""

from __future__ import annotations

from typing import Literal, Protocol

import torch

from omnidrop_stream.errors import ConfigError, MissingDependency
from omnidrop_stream.model.beside import Beside, CudaBeside, InTurn
from omnidrop_stream.model.graphs import Capture, CudaCapture
from omnidrop_stream.model.qwen_omni import Engine, Ways
from omnidrop_stream.model.varlen import VarlenAttention, flash_kernel


class WaySettings(Protocol):
    """The part of a model's settings that says how it computes."""

    @property
    def engine(self) -> Engine | Literal["auto"]:
        """``auto``, ``plain`` or ``fast``."""

    @property
    def attention(self) -> str:
        """``auto``, ``sdpa`` or ``flash``."""

    @property
    def overlap(self) -> bool:
        """Whether the towers have a CUDA stream of their own."""

    @property
    def graphs(self) -> bool:
        """Whether an answer's steps and questions' passes are recorded as CUDA graphs."""


def pick_ways(settings: WaySettings, device: torch.device, dtype: torch.dtype) -> Ways:
    """All of it. Raises ConfigError and MissingDependency."""
    return Ways(
        pick_engine(settings.engine, device),
        pick_attention(settings.attention, device, dtype),
        pick_capture(settings.graphs, device),
        pick_beside(settings.overlap, device),
    )


def pick_engine(name: Engine | Literal["auto"], device: torch.device) -> Engine:
    """``auto`` as an engine: fast where it was measured."""
    if name == "auto":
        return "fast" if device.type == "cpu" else "plain"
    return name


def pick_device(name: str) -> torch.device:
    """``auto``, ``cpu`` or ``cuda[:n]`` as a device; raises ConfigError where it is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (
        not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()
    ):
        raise ConfigError(
            f"device = {name!r} is not there: torch sees {torch.cuda.device_count()} CUDA devices; "
            "use --device cpu or auto, or install a CUDA build of torch"
        )
    return device


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """``auto`` is bf16 on CUDA and fp32 on a CPU."""
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return {"bf16": torch.bfloat16, "fp32": torch.float32}[name]


def pick_attention(name: str, device: torch.device, dtype: torch.dtype) -> VarlenAttention | None:
    """The decoder's attention; None for torch's own kernels."""
    if name in ("auto", "sdpa"):
        return None
    if device.type != "cuda":
        raise ConfigError("attention = 'flash' needs a CUDA device; use sdpa or auto on a CPU")
    if dtype != torch.bfloat16:
        raise ConfigError(
            "attention = 'flash' computes in bf16 alone; set dtype to bf16 or auto, or use sdpa"
        )
    try:
        return VarlenAttention(flash_kernel())
    except ImportError:
        raise MissingDependency(
            "attention = 'flash' needs the flash-attn package: pip install "
            "'omnidrop-stream[cuda]', or use sdpa"
        ) from None


def pick_capture(graphs: bool, device: torch.device) -> Capture | None:
    """What records an answer's steps; None where they are launched kernel by kernel."""
    if not graphs:
        return None
    if device.type != "cuda":
        raise ConfigError(
            "model.graphs = true needs a CUDA device; a processor has nothing to launch: leave it "
            "false there"
        )
    return CudaCapture(device)


def pick_beside(overlap: bool, device: torch.device) -> Beside:
    """Where the towers' work goes."""
    if not overlap:
        return InTurn()
    if device.type != "cuda":
        raise ConfigError(
            "model.overlap = true needs a CUDA device; a processor's work has one order: leave it "
            "false there"
        )
    return CudaBeside(device)
