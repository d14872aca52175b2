"""Which card the published shapes fit, counted from their sizes: weights, a window of four minutes,
one answer, and an estimate of what the passes need on top. Not measured on a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from omnidrop_stream.config import Config, merged
from omnidrop_stream.model.counted import Counted, count
from omnidrop_stream.model.quantised import PartBytes
from omnidrop_stream.model.shapes import SHAPES
from omnidrop_stream.plan import nominal_r0, plan_question, resolve_depth

CHUNKS = 120
"""Four minutes."""
PICTURE_TOKENS = 144
TEXT_TOKENS = 100
"""Rows after the block: template and question."""
ANSWER_TOKENS = 256
LIMITS = {"3b": 8_000_000_000, "7b": 12_000_000_000}
DEPTHS: tuple[int | str, ...] = ("exact", "half", "read_side")


@dataclass(frozen=True, slots=True)
class Fit:
    """One shape, kind of weights and depth; bytes, in bf16, packed as for CUDA."""

    shape: str
    weights: str
    depth_name: str
    depth: int
    chunks: int
    tokens: int
    """Of the window, after pruning within each modality."""
    parts: PartBytes
    window_bytes: int
    fork_bytes: int
    """One answer of the longest length."""
    estimate_bytes: int
    """Estimated: the most that one layer of the question's pass, or the towers, have at once."""
    limit_bytes: int

    @property
    def total_bytes(self) -> int:
        """All of it, the estimate included."""
        return self.parts.total + self.window_bytes + self.fork_bytes + self.estimate_bytes


def fits() -> Iterator[Fit]:
    """3B and 7B with each kind of weights at each depth, at the default settings otherwise."""
    for shape in LIMITS:
        for weights in ("auto", "int8", "int4"):
            counted = count(SHAPES[shape], weights, torch.bfloat16, "cuda")
            for depth in DEPTHS:
                yield _fit(shape, weights, counted, depth)


def _fit(shape: str, weights: str, counted: Counted, name: int | str) -> Fit:
    config = Config()
    r0 = nominal_r0(config.stream, config.intra, PICTURE_TOKENS)
    unpruned = CHUNKS * (2 * PICTURE_TOKENS + 50)
    each = round(unpruned * r0 / CHUNKS)
    tokens = each * CHUNKS
    config = merged(config, {"stream": {"prefill_depth": name, "budget_tokens": tokens}})
    depth = resolve_depth(
        config.stream, config.intra, config.pruning, counted.layers, PICTURE_TOKENS
    )
    plan = plan_question(
        config.pruning, tokens, unpruned, counted.layers, depth, r0, remembers=False
    )
    rows = plan.entering[depth] if depth < counted.layers else 0
    asked = counted.question_estimate(rows + TEXT_TOKENS, tokens, weights)
    return Fit(
        shape=shape,
        weights=weights,
        depth_name=str(name),
        depth=depth,
        chunks=CHUNKS,
        tokens=tokens,
        parts=counted.weights,
        window_bytes=counted.window_bytes(CHUNKS, each, depth),
        fork_bytes=counted.fork_bytes(plan.entering, TEXT_TOKENS + ANSWER_TOKENS),
        estimate_bytes=max(asked, counted.towers_estimate(2 * PICTURE_TOKENS)),
        limit_bytes=LIMITS[shape],
    )
