"""OmniDrop: the paper's method (sections 3.1 to 3.3) and its ablations (section 4.2).

The paper leaves open, and we chose:

- "TDS from layer 14 (7B), 19 (3B)" mixes index bases; `tds_from_layer` is 0-based, by default
  L // 2, and the presets state 14 and 19. In shallower layers tokens leave by S alone.
- Audio guidance replaces the rows of Eq. 5 and nothing else (Algorithm 1 stays). It needs the audio
  tokens' queries of every layer at question time: `requires_depth_zero`.
"""

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from omnidrop_stream.method.diversity import (
    Normalisation,
    lowest_prune,
    temporal_diversity_prune,
)
from omnidrop_stream.method.policies.base import Guidance, Pace, needed, scheduled
from omnidrop_stream.method.schedule import Schedule


@dataclass(frozen=True, slots=True)
class OmniDrop:
    """The paper: question guidance, progressive counts, Algorithm 1 in the deeper layers."""

    guidance: ClassVar[Guidance] = "question"
    intra: ClassVar[bool] = True
    requires_depth_zero: ClassVar[bool] = False
    forgets: ClassVar[bool] = False
    input_stage: ClassVar[None] = None

    schedule: Schedule = field(default_factory=Schedule)
    tds_from_layer: int | None = None  # 0-based; None: L // 2
    div_weight: float = 0.2  # 0: Algorithm 1 is then "the k lowest S", i.e. no TDS
    normalise: Normalisation = "none"
    guard_key_chunk: bool = False
    name: str = "omnidrop"

    @property
    def paced_by(self) -> Pace:
        """By its schedule."""
        return "exponential" if self.schedule.kind == "exponential" else "sigmoid"

    def counts(self, n0: int, n_layers: int, n_unpruned: int) -> tuple[int, ...]:
        """The schedule's counts (Eq. 6)."""
        return scheduled(self.schedule, n0, n_layers, n_unpruned)

    def drop(
        self, layer: int, n_layers: int, S: Tensor | None, chunk: Tensor, modality: Tensor, k: int
    ) -> Tensor:
        """By S alone in the shallow layers, by Algorithm 1 from `tds_from_layer` on."""
        S = needed(S, self.name)
        tds_from = n_layers // 2 if self.tds_from_layer is None else self.tds_from_layer
        if layer < tds_from:
            return lowest_prune(S, k)
        return temporal_diversity_prune(
            S, chunk, k, self.div_weight, self.normalise, self.guard_key_chunk
        )


@dataclass(frozen=True, slots=True)
class AudioGuided:
    """Section 4.2's ablation: OmniDrop's rule on the scores that the audio tokens give."""

    name: ClassVar[str] = "audio-guided"
    guidance: ClassVar[Guidance] = "audio"
    intra: ClassVar[bool] = True
    requires_depth_zero: ClassVar[bool] = True
    forgets: ClassVar[bool] = False
    input_stage: ClassVar[None] = None

    rule: OmniDrop = field(default_factory=OmniDrop)

    @property
    def paced_by(self) -> Pace:
        """As OmniDrop."""
        return self.rule.paced_by

    def counts(self, n0: int, n_layers: int, n_unpruned: int) -> tuple[int, ...]:
        """The schedule's counts (Eq. 6)."""
        return self.rule.counts(n0, n_layers, n_unpruned)

    def drop(
        self, layer: int, n_layers: int, S: Tensor | None, chunk: Tensor, modality: Tensor, k: int
    ) -> Tensor:
        """As OmniDrop."""
        return self.rule.drop(layer, n_layers, needed(S, self.name), chunk, modality, k)
