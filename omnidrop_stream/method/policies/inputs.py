"""Pruning before the decoder: the policy around a stage, a control, and what the stages share.

The peers OmniZip, DASH and DyCoke choose from embeddings and from the audio encoder's attention,
before the first layer and over all of a clip. So they need every token of the window, none pruned
on arrival (`intra` False), and no layer run before the question (`requires_depth_zero`); then the
same tokens pass all layers, a flat schedule at the target retention.

`apportion` turns the rates that a source wishes for, group by group, into whole counts that add up
to what was asked, so that every method is compared at the same number of tokens.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from omnidrop_stream.method.policies.base import Guidance, Pace, check_counts, nothing
from omnidrop_stream.method.policies.window import InputStage, Selection, Window


@dataclass(frozen=True, slots=True)
class InputPruned:
    """A stage before the decoder; then all that it kept passes every layer."""

    guidance: ClassVar[Guidance] = "none"
    intra: ClassVar[bool] = False
    requires_depth_zero: ClassVar[bool] = True
    paced_by: ClassVar[Pace] = "retention"
    forgets: ClassVar[bool] = False

    name: str
    input_stage: InputStage
    retention: float = 0.3

    def counts(self, n0: int, n_layers: int, n_unpruned: int) -> tuple[int, ...]:
        """The target share of the unpruned tokens, in every layer."""
        check_counts(n0, n_unpruned)
        return (min(n0, round(self.retention * n_unpruned)),) * n_layers

    def drop(
        self, layer: int, n_layers: int, S: Tensor | None, chunk: Tensor, modality: Tensor, k: int
    ) -> Tensor:
        """Nothing; a k other than 0 is refused."""
        return nothing(self.name, chunk, k)


@dataclass(frozen=True, slots=True)
class RandomInput:
    """Tokens by lot before the decoder: the control for everything that chooses there."""

    seed: int = 0

    def least(self, n_audio: int, sizes: Sequence[int]) -> int:
        """None at all."""
        return 0

    def select(self, window: Window, keep: int) -> Selection:
        """`keep` tokens by lot, the same ones for the same seed and number of tokens."""
        generator = torch.Generator().manual_seed(self.seed)
        order = torch.randperm(window.modality.shape[0], generator=generator)
        return Selection(order[:keep].sort().values.to(window.modality.device))


def apportion(wanted: Sequence[float], caps: Sequence[int], total: int) -> list[int]:
    """Whole counts that add up to `total`, each within its cap and as near to `wanted` as can be.

    wanted: counts, not whole, that need not add up. All rates wanted / cap are moved by the same
    amount, within 0 to 1, until they do; then the largest remainders are rounded up, ties to the
    lower index. Raises ValueError where the caps do not hold `total`.
    """
    if not 0 <= total <= sum(caps):
        raise ValueError(f"total is {total}; allowed: 0 to {sum(caps)}, the tokens there are")
    low, high = -2.0, 2.0
    rates = [w / cap if cap else 0.0 for w, cap in zip(wanted, caps, strict=True)]
    rates = [min(max(rate, 0.0), 1.0) for rate in rates]
    if abs(sum(r * cap for r, cap in zip(rates, caps, strict=True)) - total) < 1e-9:
        low = high = 0.0
    for _ in range(60):
        shift = (low + high) / 2
        if sum(min(max(r + shift, 0.0), 1.0) * c for r, c in zip(rates, caps, strict=True)) < total:
            low = shift
        else:
            high = shift
    exact = [min(max(r + high, 0.0), 1.0) * c for r, c in zip(rates, caps, strict=True)]
    # A hair below a whole number is that number: 60 halvings leave about 1e-15 of a token.
    counts = [min(math.floor(e + 1e-9), cap) for e, cap in zip(exact, caps, strict=True)]
    order = sorted(range(len(counts)), key=lambda i: (counts[i] - exact[i], i))
    for i in [i for i in order if counts[i] < caps[i]][: total - sum(counts)]:
        counts[i] += 1
    return counts


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine similarities [len(a), len(b)] in fp32."""
    return normalize(a.float(), dim=-1) @ normalize(b.float(), dim=-1).T


def highest(scores: Tensor, count: int) -> Tensor:
    """Ascending indices of the `count` highest scores; ties go to the lower index."""
    return torch.argsort(scores, stable=True, descending=True)[:count].sort().values


def in_order(parts: Sequence[Tensor], device: torch.device) -> Tensor:
    """Indices gathered from several parts, ascending."""
    empty = torch.empty(0, dtype=torch.long, device=device)
    return torch.cat([empty, *parts]).sort().values
