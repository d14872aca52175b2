"""What the decoder loop asks of a policy, and the checks that policies share."""

from typing import Literal, Protocol

import torch
from torch import Tensor

from omnidrop_stream.method.policies.window import InputStage
from omnidrop_stream.method.schedule import Schedule, token_counts

Guidance = Literal["question", "last", "audio", "none"]
Pace = Literal["sigmoid", "exponential", "retention", "nothing"]


class PruningPolicy(Protocol):
    """Which audiovisual tokens leave after a layer. Implementations hold settings and no state."""

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

    @property
    def paced_by(self) -> Pace:
        """What `counts` follows: a schedule of that kind, the target mean retention by a rule of
        the policy's own, or nothing, because nothing leaves.
        """
        ...

    @property
    def input_stage(self) -> InputStage | None:
        """What chooses among the window's tokens before the first layer; it keeps as many as
        `counts` lets enter. None: all of them enter.
        """
        ...

    @property
    def forgets(self) -> bool:
        """Whether the answer's cache loses a token in every layer once some layer dropped it."""
        ...

    def counts(self, n0: int, n_layers: int, n_unpruned: int) -> tuple[int, ...]:
        """Tokens entering each layer when `n0` of `n_unpruned` are held.

        Raises UnreachableRetention where the policy paces itself and cannot meet its target.
        """
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


def needed(S: Tensor | None, name: str) -> Tensor:
    """The scores; raises ValueError where there are none."""
    if S is None:
        raise ValueError(f"S is None; allowed: scores [n], because {name} ranks tokens by them")
    return S


def nothing(name: str, chunk: Tensor, k: int) -> Tensor:
    """No index; raises ValueError for a k other than 0."""
    if k:
        raise ValueError(f"k is {k}; allowed: 0, because {name} drops nothing inside the decoder")
    return torch.empty(0, dtype=torch.long, device=chunk.device)


def scheduled(schedule: Schedule, n0: int, n_layers: int, n_unpruned: int) -> tuple[int, ...]:
    """The schedule's counts (Eq. 6), for those policies that share them."""
    check_counts(n0, n_unpruned)
    return token_counts(schedule, n0, n_layers)


def check_counts(n0: int, n_unpruned: int) -> None:
    """Refuse more tokens than there were."""
    if not 0 <= n0 <= n_unpruned:
        raise ValueError(
            f"n0 is {n0} with n_unpruned = {n_unpruned}; allowed: 0 <= n0 <= n_unpruned, "
            "because pruning never adds tokens"
        )
