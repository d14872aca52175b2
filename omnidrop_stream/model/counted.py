"""What a model of a given shape takes in memory, counted from the shape without building it.

The thinker stands on torch's meta device: modules and sizes, no storage. Nothing here was measured
on a GPU; that the count of weights is what quantising really stores is tested on the CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from omnidrop_stream.cache import expected_bytes
from omnidrop_stream.model.decoder import MLP_ROWS
from omnidrop_stream.model.parts import parts_of
from omnidrop_stream.model.quantised import GROUPS, PartBytes, weight_bytes
from omnidrop_stream.model.shapes import Shape, byte_tokenizer, random_thinker
from omnidrop_stream.types import ChunkTokens

TILE_INPUTS, TILE_OUTPUTS = 1024, 8
"""What tinygemm's tiles on CUDA pad a matrix to."""


@dataclass(frozen=True, slots=True)
class Counted:
    """A shape's weights in bytes, and the widths that its states have."""

    weights: PartBytes
    layers: int
    hidden: int
    inner: int
    heads: int
    kv_width: int
    """Numbers of a token's key in one layer."""
    vocabulary: int
    largest_linear: int
    """Values of the largest quantised matrix."""
    itemsize: int
    patch_rows: int
    """Rows of the vision tower for one token of a picture: its merged patches."""
    tower_width: int
    tower_inner: int

    def window_bytes(self, chunks: int, tokens: int, depth: int) -> int:
        """The cache: ``chunks`` segments of ``tokens`` tokens each after ``depth`` layers."""
        dtype = {2: torch.bfloat16, 4: torch.float32}[self.itemsize]
        with torch.device("meta"):
            one = ChunkTokens(
                embeds=torch.empty(tokens, self.hidden, dtype=dtype),
                modality=torch.empty(tokens, dtype=torch.uint8),
                offsets=torch.empty(3, tokens, dtype=torch.long),
                n_unpruned=tokens,
                n_unpruned_video=tokens,
                saliency=torch.empty(tokens, dtype=torch.float32),
            )
        return chunks * expected_bytes(one, depth, self.layers, self.kv_width)

    def fork_bytes(self, entering: Sequence[int], text: int) -> int:
        """One answer: keys and values of what each layer saw, ``text`` rows more in each."""
        states = sum(n + text for n in entering) * 2 * self.kv_width * self.itemsize
        return states + 4 * (self.vocabulary + entering[0])

    def question_estimate(self, rows: int, seen: int, weights: str) -> int:
        """An estimate of the most that one layer of a question's pass has at once beside states:
        ``rows`` rows with normed, projected, attended and added copies; the three inner ones of
        those that go through the feed-forward network together; keys and values of ``seen`` tokens
        gathered, rotated and, where many rows attend, repeated for all heads; with int8 the largest
        matrix widened.
        """
        width = self.itemsize
        own = (rows * 6 * self.hidden + min(rows, MLP_ROWS) * 3 * self.inner) * width
        read = seen * self.kv_width * width * 5
        repeated = 2 * seen * self.hidden * width if 2 * rows > seen else 0
        widened = self.largest_linear * width if weights == "int8" else 0
        return own + read + repeated + widened

    def towers_estimate(self, picture_tokens: int) -> int:
        """An estimate of the most that the vision tower has at once for a chunk's pictures."""
        rows = picture_tokens * self.patch_rows
        return rows * (6 * self.tower_width + 3 * self.tower_inner) * self.itemsize


def count(shape: Shape, weights: str, dtype: torch.dtype, device: str) -> Counted:
    """``shape`` with its decoder's linears as ``weights`` (auto, int8, int4), packed as for
    ``device`` (cpu or cuda).
    """
    thinker = random_thinker(shape, byte_tokenizer(), 0, "meta", dtype)
    text, vision = thinker.config.text_config, thinker.config.vision_config
    layers = parts_of(thinker).text.layers
    linears = [m for layer in layers for m in layer.modules() if isinstance(m, nn.Linear)]
    spared = sum(_spared(linear, weights, device) for linear in linears)
    plain = weight_bytes(thinker)
    return Counted(
        weights=replace(plain, layers=plain.layers - spared),
        layers=len(layers),
        hidden=int(text.hidden_size),
        inner=int(text.intermediate_size),
        heads=int(text.num_attention_heads),
        kv_width=int(layers[0].self_attn.k_proj.out_features),
        vocabulary=int(text.vocab_size),
        largest_linear=max(linear.weight.numel() for linear in linears),
        itemsize=dtype.itemsize,
        patch_rows=int(vision.spatial_merge_size) ** 2,
        tower_width=int(vision.hidden_size),
        tower_inner=int(vision.intermediate_size),
    )


def _spared(linear: Any, weights: str, device: str) -> int:
    """Bytes less of one linear; its bias stays as it is."""
    if weights == "auto":
        return 0
    matrix = linear.weight
    rows, columns = matrix.shape
    stored = packed_bytes(rows, columns, weights, matrix.itemsize, device)
    return int(matrix.numel()) * int(matrix.itemsize) - stored


def packed_bytes(rows: int, columns: int, weights: str, itemsize: int, device: str) -> int:
    """Of a matrix [rows, columns] as torchao stores it: int8 with an fp32 scale and an int8 zero
    for each row; int4 with scale and zero in the model's type for each group.
    """
    if weights == "int8":
        return rows * (columns + 4 + 1)
    group = next(g for g in GROUPS if columns % g == 0)
    if device == "cuda":
        rows = -(-rows // TILE_OUTPUTS) * TILE_OUTPUTS
        columns = -(-columns // TILE_INPUTS) * TILE_INPUTS
    return rows * columns // 2 + columns // group * rows * 2 * itemsize
