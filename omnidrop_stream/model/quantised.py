"""Weight-only int8 and int4 by torchao: smaller cards, the same loop.

The decoder layers' linears are quantised (seven in each layer; 6.5 of the 8.9 billion values that
the 7B thinker has), one layer at a time, so that the highest memory while loading stays near the
final size. Embedding and head stay as they are: an embedding is looked up, not multiplied, and the
head's rounding falls on the logits directly. The towers stay too: their cost is compute.

int8: one scale for each output row. int4: scale and zero point for each group of 128 inputs (64 or
32 where 128 does not divide the row), torchao's layout for the device: tinygemm's tiles on CUDA,
its processor layout elsewhere. Only memory is promised: without compilation int8 weights are
widened before each product, which costs time.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from omnidrop_stream.errors import ConfigError, MissingDependency, ModelMismatch
from omnidrop_stream.model.heap import malloc_trim
from omnidrop_stream.model.parts import parts_of

GROUPS = (128, 64, 32)
"""Group sizes of int4, the first that divides a row is taken."""
INSTALL = "pip install 'omnidrop-stream[small]'"
LOWEST_CAPABILITY = (8, 0)
"""CUDA devices that int4 by tiles runs on."""


def check_weights(weights: str, device: torch.device, dtype: torch.dtype) -> None:
    """Raise what loading would run into, before anything is read.

    MissingDependency without torchao; ConfigError for int4 on a CUDA device too old for it, or
    there in fp32.
    """
    if weights == "auto":
        return
    if importlib.util.find_spec("torchao") is None:
        raise MissingDependency(
            f"weights = {weights!r} needs the torchao package: {INSTALL}, or use weights auto"
        )
    if weights != "int4" or device.type != "cuda":
        return
    if dtype != torch.bfloat16:
        raise ConfigError(
            "weights = 'int4' on a CUDA device needs dtype bf16: use --dtype bf16, or int8"
        )
    if torch.cuda.get_device_capability(device) < LOWEST_CAPABILITY:
        raise ConfigError(
            "weights = 'int4' needs a CUDA device of capability 8.0 or newer (Ampere on); "
            f"{torch.cuda.get_device_name(device)} is older: use int8"
        )


def place(
    thinker: Any,
    weights: str,
    device: torch.device,
    dtype: torch.dtype,
    groups: tuple[int, ...] = GROUPS,
) -> None:
    """Move a thinker to ``device`` in ``dtype`` with its decoder linears as ``weights`` (int8 or
    int4), in place, layer by layer: each is brought over, quantised, and its source let go.

    Values that lie in a mapped file are read there, so that beyond the result only one layer is
    ever held whole. Buffers keep their type (the rotation's frequencies are fp32).
    """
    text = parts_of(thinker).text
    layers, text.layers = text.layers, nn.ModuleList()
    cast(thinker, device, dtype)
    text.layers = layers
    # The C library would keep what each layer's rounding needed for a while, in scattered heaps.
    trim = malloc_trim() or (lambda: None)
    for layer in layers:
        cast(layer, device, dtype)
        quantise(layer, weights, groups)
        trim()


def cast(module: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """All parameters to ``device`` and ``dtype``, one by one; buffers to ``device`` alone."""
    for parameter in module.parameters():
        parameter.data = parameter.data.to(device=device, dtype=dtype)
    module.to(device)


def quantise(layer: nn.Module, weights: str, groups: tuple[int, ...] = GROUPS) -> None:
    """The linears of ``layer``, where they are. Raises ModelMismatch for rows that int4 cannot
    group.
    """
    quantize_, config_for = _library(weights)
    for name, linear in layer.named_modules():
        if not isinstance(linear, nn.Linear):
            continue
        group = next((g for g in groups if linear.in_features % g == 0), None)
        if weights == "int4" and group is None:
            raise ModelMismatch(
                f"weights = 'int4' needs rows of a multiple of {min(groups)} values, and {name} "
                f"has {linear.in_features}: use int8"
            )
        config = config_for(group, linear.weight.device)
        quantize_(linear, config, lambda module, _: isinstance(module, nn.Linear))


def _library(
    weights: str,
) -> tuple[Callable[..., None], Callable[[int | None, torch.device], object]]:
    """torchao's ``quantize_``, and its configuration for a group size on a device."""
    from torchao.quantization import Int4WeightOnlyConfig, Int8WeightOnlyConfig, quantize_

    # set_inductor_config would change torch.compile's settings for the whole process.
    if weights == "int8":
        return quantize_, lambda group, device: Int8WeightOnlyConfig(set_inductor_config=False)

    def int4(group: int | None, device: torch.device) -> object:
        if device.type == "cuda":
            return Int4WeightOnlyConfig(
                group_size=group,
                int4_packing_format="tile_packed_to_4d",
                set_inductor_config=False,
            )
        # The processor's layout stands among torchao's prototypes; nothing else there packs int4.
        from torchao.prototype.quantization.int4 import PrototypeInt4WeightOnlyConfig

        return PrototypeInt4WeightOnlyConfig(group_size=group, set_inductor_config=False)

    return quantize_, int4


@dataclass(frozen=True, slots=True)
class PartBytes:
    """Bytes that the weights of a thinker really take, by part."""

    layers: int
    embedding: int
    head: int
    audio: int
    vision: int
    rest: int
    """Norms and buffers outside of the parts named."""

    @property
    def total(self) -> int:
        """All of them."""
        return self.layers + self.embedding + self.head + self.audio + self.vision + self.rest


def weight_bytes(thinker: Any) -> PartBytes:
    """What is stored, quantised tensors with their scales and zero points."""
    parts = parts_of(thinker)
    named = {
        "layers": parts.text.layers,
        "embedding": parts.text.embed_tokens,
        "head": thinker.lm_head,
        "audio": parts.audio,
        "vision": parts.visual,
    }
    sizes = {name: stored_bytes(module) for name, module in named.items()}
    return PartBytes(**sizes, rest=stored_bytes(thinker) - sum(sizes.values()))


def stored_bytes(module: nn.Module) -> int:
    """Bytes of the parameters and buffers of ``module``, each tensor once."""
    tensors = {id(t): t for t in (*module.parameters(), *module.buffers())}
    return sum(_tensor_bytes(t) for t in tensors.values())


def plain_tensors(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """What is stored: a quantised tensor is a wrapper around plain ones, which torch's own protocol
    names.
    """
    flatten = getattr(tensor, "__tensor_flatten__", None)
    if flatten is None:
        yield tensor
        return
    for name in flatten()[0]:
        yield from plain_tensors(getattr(tensor, name))


def _tensor_bytes(tensor: torch.Tensor) -> int:
    return sum(plain.numel() * plain.element_size() for plain in plain_tensors(tensor))
