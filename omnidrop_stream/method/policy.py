"""A policy: which audiovisual tokens leave after a layer (paper sections 3 and 4.2).

OmniDrop is the paper's method; the others are its controls and ablations. All that prune share the
schedule's counts, so that a comparison differs in *which* tokens leave and in nothing else.

The paper leaves open, and we chose:

- "TDS from layer 14 (7B), 19 (3B)" mixes index bases; `tds_from_layer` is 0-based, by default
  L // 2, and the presets state 14 and 19. In shallower layers tokens leave by S alone.
- Audio guidance replaces the rows of Eq. 5 and nothing else (Algorithm 1 stays). It needs the audio
  tokens' queries of every layer at question time: `requires_depth_zero`.
- FastV's rule is its guidance, the last text token, by S alone, at the schedule's counts (FastV
  itself prunes once, at one layer).
- Keep-all prunes nothing anywhere, intra-only nothing inside the decoder: `intra` says whether a
  stream should prune within its modalities first.
- Random draws anew for each layer from (seed, layer), on the CPU, so that it is the same on every
  device.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor

from omnidrop_stream.method.diversity import (
    Normalisation,
    check_prune,
    lowest_prune,
    temporal_diversity_prune,
)
from omnidrop_stream.method.schedule import Schedule, token_counts

Guidance = Literal["question", "last", "audio", "none"]


class PruningPolicy(Protocol):
    """What the decoder loop asks of a policy. Implementations hold settings and no state."""

    @property
    def name(self) -> str:
        """The key in POLICIES."""
        ...

    @property
    def guidance(self) -> Guidance:
        """Whose attention scores the tokens; with "none", `drop` gets S = None."""
        ...

    @property
    def intra(self) -> bool:
        """Whether chunks are pruned within their modalities on arrival (section 3.4)."""
        ...

    @property
    def requires_depth_zero(self) -> bool:
        """Whether no layer may run before the question."""
        ...

    def counts(self, n0: int, n_layers: int, n_unpruned: int) -> tuple[int, ...]:
        """Tokens entering each layer when `n0` of `n_unpruned` enter the first."""
        ...

    def drop(
        self, layer: int, n_layers: int, S: Tensor | None, chunk: Tensor, modality: Tensor, k: int
    ) -> Tensor:
        """Ascending indices [k] of the tokens that leave after `layer`.

        S [n] is the guidance score, chunk [n] the window-relative chunk index, modality [n] the
        `types.Modality` of each token. k is the caller's, and may exceed the schedule's own step
        where earlier layers held tokens back.
        """
        ...


@dataclass(frozen=True, slots=True)
class OmniDrop:
    """The paper: question guidance, progressive counts, Algorithm 1 in the deeper layers."""

    name: ClassVar[str] = "omnidrop"
    guidance: ClassVar[Guidance] = "question"
    intra: ClassVar[bool] = True
    requires_depth_zero: ClassVar[bool] = False

    schedule: Schedule = field(default_factory=Schedule)
    tds_from_layer: int | None = None  # 0-based; None: L // 2
    div_weight: float = 0.2
    normalise: Normalisation = "none"
    guard_key_chunk: bool = False

    def counts(self, n0: int, n_layers: int, n_unpruned: int) -> tuple[int, ...]:
        """The schedule's counts (Eq. 6)."""
        _check_counts(n0, n_unpruned)
        return token_counts(self.schedule, n0, n_layers)

    def drop(
        self, layer: int, n_layers: int, S: Tensor | None, chunk: Tensor, modality: Tensor, k: int
    ) -> Tensor:
        """By S alone in the shallow layers, by Algorithm 1 from `tds_from_layer` on."""
        S = _needed(S, self.name)
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

    rule: OmniDrop = field(default_factory=OmniDrop)

    def counts(self, n0: int, n_layers: int, n_unpruned: int) -> tuple[int, ...]:
        """The schedule's counts (Eq. 6)."""
        return self.rule.counts(n0, n_layers, n_unpruned)

    def drop(
        self, layer: int, n_layers: int, S: Tensor | None, chunk: Tensor, modality: Tensor, k: int
    ) -> Tensor:
        """As OmniDrop."""
        return self.rule.drop(layer, n_layers, _needed(S, self.name), chunk, modality, k)


@dataclass(frozen=True, slots=True)
class LastToken:
    """FastV's rule: the last text token's attention, by S alone."""

    name: ClassVar[str] = "last-token"
    guidance: ClassVar[Guidance] = "last"
    intra: ClassVar[bool] = True
    requires_depth_zero: ClassVar[bool] = False

    schedule: Schedule = field(default_factory=Schedule)

    def counts(self, n0: int, n_layers: int, n_unpruned: int) -> tuple[int, ...]:
        """The schedule's counts (Eq. 6)."""
        _check_counts(n0, n_unpruned)
        return token_counts(self.schedule, n0, n_layers)

    def drop(
        self, layer: int, n_layers: int, S: Tensor | None, chunk: Tensor, modality: Tensor, k: int
    ) -> Tensor:
        """The k lowest S."""
        return lowest_prune(_needed(S, self.name), k)


@dataclass(frozen=True, slots=True)
class Random:
    """The same counts, drawn by lot: the control that every method has to beat."""

    name: ClassVar[str] = "random"
    guidance: ClassVar[Guidance] = "none"
    intra: ClassVar[bool] = True
    requires_depth_zero: ClassVar[bool] = False

    schedule: Schedule = field(default_factory=Schedule)
    seed: int = 0

    def counts(self, n0: int, n_layers: int, n_unpruned: int) -> tuple[int, ...]:
        """The schedule's counts (Eq. 6)."""
        _check_counts(n0, n_unpruned)
        return token_counts(self.schedule, n0, n_layers)

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
class IntraOnly:
    """Pruned within each modality on arrival; the decoder keeps all (the paper's 45 %)."""

    name: ClassVar[str] = "intra-only"
    guidance: ClassVar[Guidance] = "none"
    intra: ClassVar[bool] = True
    requires_depth_zero: ClassVar[bool] = False

    def counts(self, n0: int, n_layers: int, n_unpruned: int) -> tuple[int, ...]:
        """All of `n0` enter every layer."""
        _check_counts(n0, n_unpruned)
        return (n0,) * n_layers

    def drop(
        self, layer: int, n_layers: int, S: Tensor | None, chunk: Tensor, modality: Tensor, k: int
    ) -> Tensor:
        """Nothing; a k other than 0 is refused."""
        return _nothing(self.name, chunk, k)


@dataclass(frozen=True, slots=True)
class KeepAll:
    """No pruning of any kind: the unpruned model."""

    name: ClassVar[str] = "keep-all"
    guidance: ClassVar[Guidance] = "none"
    intra: ClassVar[bool] = False
    requires_depth_zero: ClassVar[bool] = False

    def counts(self, n0: int, n_layers: int, n_unpruned: int) -> tuple[int, ...]:
        """All of `n0` enter every layer."""
        _check_counts(n0, n_unpruned)
        return (n0,) * n_layers

    def drop(
        self, layer: int, n_layers: int, S: Tensor | None, chunk: Tensor, modality: Tensor, k: int
    ) -> Tensor:
        """Nothing; a k other than 0 is refused."""
        return _nothing(self.name, chunk, k)


@dataclass(frozen=True, slots=True)
class PolicySettings:
    """Everything that some policy reads; each takes what concerns it."""

    schedule: Schedule = field(default_factory=Schedule)
    tds_from_layer: int | None = None
    div_weight: float = 0.2
    normalise: Normalisation = "none"
    guard_key_chunk: bool = False
    seed: int = 0


def _omnidrop(s: PolicySettings) -> OmniDrop:
    return OmniDrop(s.schedule, s.tds_from_layer, s.div_weight, s.normalise, s.guard_key_chunk)


POLICIES: dict[str, Callable[[PolicySettings], PruningPolicy]] = {
    "omnidrop": _omnidrop,
    "audio-guided": lambda s: AudioGuided(_omnidrop(s)),
    "last-token": lambda s: LastToken(s.schedule),
    "random": lambda s: Random(s.schedule, s.seed),
    "intra-only": lambda s: IntraOnly(),
    "keep-all": lambda s: KeepAll(),
}


def make_policy(name: str, settings: PolicySettings | None = None) -> PruningPolicy:
    """The policy called `name`, with `settings` (default: the paper's)."""
    if name not in POLICIES:
        raise ValueError(f"policy is {name!r}; allowed: {', '.join(sorted(POLICIES))}")
    return POLICIES[name](settings or PolicySettings())


def _needed(S: Tensor | None, name: str) -> Tensor:
    if S is None:
        raise ValueError(f"S is None; allowed: scores [n], because {name} ranks tokens by them")
    return S


def _nothing(name: str, chunk: Tensor, k: int) -> Tensor:
    if k:
        raise ValueError(f"k is {k}; allowed: 0, because {name} keeps every token")
    return torch.empty(0, dtype=torch.long, device=chunk.device)


def _check_counts(n0: int, n_unpruned: int) -> None:
    if not 0 <= n0 <= n_unpruned:
        raise ValueError(
            f"n0 is {n0} with n_unpruned = {n_unpruned}; allowed: 0 <= n0 <= n_unpruned, "
            "because pruning never adds tokens"
        )
