"""The controls: what OmniDrop has to beat, and the two settings that drop nothing in the decoder.

Those that prune share the schedule's counts, so that a comparison differs in *which* tokens leave
and in nothing else.

- Last-token is FastV's rule (arXiv 2403.06764): the last text token's attention, by S alone; but at
  the schedule's counts, where FastV itself prunes once, at one layer.
- Random draws anew for each layer from (seed, layer), on the CPU, so that it is the same on every
  device.
- Recent-first looks at nothing but age: what a rolling window would forget first leaves first.
- Keep-all prunes nothing anywhere, intra-only nothing inside the decoder: `intra` says whether a
  stream should prune within its modalities first.
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from omnidrop_stream.method.diversity import check_prune, lowest_prune
from omnidrop_stream.method.policies.base import (
    Guidance,
    Pace,
    check_counts,
    needed,
    nothing,
    scheduled,
)
from omnidrop_stream.method.schedule import Schedule


@dataclass(frozen=True, slots=True)
class LastToken:
    """FastV's rule: the last text token's attention, by S alone."""

    name: ClassVar[str] = "last-token"
    guidance: ClassVar[Guidance] = "last"
    intra: ClassVar[bool] = True
    requires_depth_zero: ClassVar[bool] = False
    paced_by: ClassVar[Pace] = "sigmoid"
    forgets: ClassVar[bool] = False
    input_stage: ClassVar[None] = None

    schedule: Schedule = field(default_factory=Schedule)

    def counts(self, n0: int, n_layers: int, n_unpruned: int) -> tuple[int, ...]:
        """The schedule's counts (Eq. 6)."""
        return scheduled(self.schedule, n0, n_layers, n_unpruned)

    def drop(
        self, layer: int, n_layers: int, S: Tensor | None, chunk: Tensor, modality: Tensor, k: int
    ) -> Tensor:
        """The k lowest S."""
        return lowest_prune(needed(S, self.name), k)


@dataclass(frozen=True, slots=True)
class Random:
    """The same counts, drawn by lot: the control that every method has to beat."""

    name: ClassVar[str] = "random"
    guidance: ClassVar[Guidance] = "none"
    intra: ClassVar[bool] = True
    requires_depth_zero: ClassVar[bool] = False
    paced_by: ClassVar[Pace] = "sigmoid"
    forgets: ClassVar[bool] = False
    input_stage: ClassVar[None] = None

    schedule: Schedule = field(default_factory=Schedule)
    seed: int = 0

    def counts(self, n0: int, n_layers: int, n_unpruned: int) -> tuple[int, ...]:
        """The schedule's counts (Eq. 6)."""
        return scheduled(self.schedule, n0, n_layers, n_unpruned)

    def drop(
        self, layer: int, n_layers: int, S: Tensor | None, chunk: Tensor, modality: Tensor, k: int
    ) -> Tensor:
        """k tokens by lot; the same ones for the same seed, layer and number of tokens."""
        check_prune(chunk, k)
        # The odd factor keeps (seed, layer) pairs of neighbouring seeds apart.
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + layer) % 2**63)
        order = torch.randperm(chunk.shape[0], generator=generator)
        return order[:k].sort().values.to(chunk.device)


@dataclass(frozen=True, slots=True)
class RecentFirst:
    """The same counts, oldest tokens out first."""

    name: ClassVar[str] = "recent-first"
    guidance: ClassVar[Guidance] = "none"
    intra: ClassVar[bool] = True
    requires_depth_zero: ClassVar[bool] = False
    paced_by: ClassVar[Pace] = "sigmoid"
    forgets: ClassVar[bool] = False
    input_stage: ClassVar[None] = None

    schedule: Schedule = field(default_factory=Schedule)

    def counts(self, n0: int, n_layers: int, n_unpruned: int) -> tuple[int, ...]:
        """The schedule's counts (Eq. 6)."""
        return scheduled(self.schedule, n0, n_layers, n_unpruned)

    def drop(
        self, layer: int, n_layers: int, S: Tensor | None, chunk: Tensor, modality: Tensor, k: int
    ) -> Tensor:
        """k tokens of the oldest chunks; within a chunk in the order in which they stand."""
        check_prune(chunk, k)
        return torch.argsort(chunk, stable=True)[:k].sort().values


@dataclass(frozen=True, slots=True)
class IntraOnly:
    """Pruned within each modality on arrival; the decoder keeps all (the paper's 45 %)."""

    name: ClassVar[str] = "intra-only"
    guidance: ClassVar[Guidance] = "none"
    intra: ClassVar[bool] = True
    requires_depth_zero: ClassVar[bool] = False
    paced_by: ClassVar[Pace] = "nothing"
    forgets: ClassVar[bool] = False
    input_stage: ClassVar[None] = None

    def counts(self, n0: int, n_layers: int, n_unpruned: int) -> tuple[int, ...]:
        """All of `n0` enter every layer."""
        check_counts(n0, n_unpruned)
        return (n0,) * n_layers

    def drop(
        self, layer: int, n_layers: int, S: Tensor | None, chunk: Tensor, modality: Tensor, k: int
    ) -> Tensor:
        """Nothing; a k other than 0 is refused."""
        return nothing(self.name, chunk, k)


@dataclass(frozen=True, slots=True)
class KeepAll:
    """No pruning of any kind: the unpruned model."""

    name: ClassVar[str] = "keep-all"
    guidance: ClassVar[Guidance] = "none"
    intra: ClassVar[bool] = False
    requires_depth_zero: ClassVar[bool] = False
    paced_by: ClassVar[Pace] = "nothing"
    forgets: ClassVar[bool] = False
    input_stage: ClassVar[None] = None

    def counts(self, n0: int, n_layers: int, n_unpruned: int) -> tuple[int, ...]:
        """All of `n0` enter every layer."""
        check_counts(n0, n_unpruned)
        return (n0,) * n_layers

    def drop(
        self, layer: int, n_layers: int, S: Tensor | None, chunk: Tensor, modality: Tensor, k: int
    ) -> Tensor:
        """Nothing; a k other than 0 is refused."""
        return nothing(self.name, chunk, k)
