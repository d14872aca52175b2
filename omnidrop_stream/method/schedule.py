"""How many tokens leave after each layer: Eq. 3, 4 and 6 (paper sections 3.1 and 4.2).

In words. The pruning ratio of layer l rises from p_init to p_final along a sigmoid of the relative
depth l / (L - 2), with midpoint t_mid and slope beta (Eq. 3, 4); the ablation's alternative rises
exponentially, p_init * (p_final / p_init) ** (l / (L - 2)). Of the n audiovisual tokens that layer
l saw, floor(n * p_l) leave after it (Eq. 6).

The paper leaves open, and we chose:

- Layers are 0-based; the attention of layer l scores, the tokens leave *after* it, so layer l + 1
  is the first that does not see them. The last layer never prunes; denominators are L - 2.
- Retention is counted on entry: mean entering retention is the mean over layers of the tokens that
  *enter* a layer, relative to the unpruned count. The leaving figure stands beside it.
- An exponential with p_init = 0 is its own limit as p_init goes to 0: nothing leaves before layer
  L - 2, which prunes p_final.
- A schedule never falls with depth (p_init <= p_final): that is what "progressive" means, and what
  makes the first dropping layer move only towards 0 as the token count grows.
- floor is taken of the floating-point product as it is, without an epsilon: 100 * 0.29 prunes 28.
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

ScheduleKind = Literal["sigmoid", "exponential"]


@dataclass(frozen=True, slots=True)
class Schedule:
    """The shape of the pruning ratio over depth. The default is the paper's 7B, 30 % setting."""

    kind: ScheduleKind = "sigmoid"
    p_init: float = 0.0
    p_final: float = 0.2
    t_mid: float = 0.5  # sigmoid only: relative depth of the midpoint
    beta: float = 20.0  # sigmoid only: slope

    def __post_init__(self) -> None:
        """Refuse values outside the formulas' range."""
        if self.kind not in get_args(ScheduleKind):
            raise ValueError(
                f"schedule kind is {self.kind!r}; allowed: {', '.join(get_args(ScheduleKind))}"
            )
        # `not (a <= x)` rather than `x < a`, so that NaN is refused too.
        for name, p in (("p_init", self.p_init), ("p_final", self.p_final)):
            if not 0.0 <= p < 1.0:
                raise ValueError(
                    f"{name} is {p}; allowed: 0 <= {name} < 1 (the share of tokens that leaves "
                    "after one layer); the paper uses 0 to 0.5"
                )
        if self.p_init > self.p_final:
            raise ValueError(
                f"p_init is {self.p_init}, above p_final = {self.p_final}; allowed: "
                "p_init <= p_final; swap them or raise p_final"
            )
        if not 0.0 <= self.t_mid <= 1.0:
            raise ValueError(
                f"t_mid is {self.t_mid}; allowed: 0 <= t_mid <= 1 (a relative depth); "
                "the paper uses 0.5 and 0.55"
            )
        if not (0.0 < self.beta < math.inf):
            raise ValueError(f"beta is {self.beta}; allowed: beta > 0; the paper uses 20")


def pruning_ratio(schedule: Schedule, layer: int, n_layers: int) -> float:
    """p_l: the share of the audiovisual tokens of `layer` (0-based) that leaves after it."""
    _check_depth(n_layers)
    if not 0 <= layer < n_layers:
        raise ValueError(
            f"layer is {layer}; allowed: 0 to {n_layers - 1} for a decoder of {n_layers} layers"
        )
    if layer == n_layers - 1:
        return 0.0  # section 3.1: pruning is applied up to layer L - 2
    depth = layer / (n_layers - 2)
    p_init, p_final = schedule.p_init, schedule.p_final
    if schedule.kind == "exponential":  # section 4.2
        if p_init < sys.float_info.min:  # the limit; a subnormal p_init would overflow the quotient
            return p_final if layer == n_layers - 2 else 0.0
        return p_init * math.pow(p_final / p_init, depth)
    # Eq. 4; the cap keeps exp() finite for a huge beta and changes nothing below 1e-304.
    sigma = 1.0 / (1.0 + math.exp(min(-schedule.beta * (depth - schedule.t_mid), 700.0)))
    return p_init + (p_final - p_init) * sigma  # Eq. 3


def pruned_count(n: int, p: float) -> int:
    """k_l: how many of `n` audiovisual tokens leave at the ratio `p` (Eq. 6)."""
    return math.floor(n * p)


def token_counts(schedule: Schedule, n0: int, n_layers: int) -> tuple[int, ...]:
    """Audiovisual tokens *entering* each of the layers 0..L-1, when `n0` enter the first."""
    if n0 < 0:
        raise ValueError(f"n0 is {n0}; allowed: a token count of 0 or more")
    _check_depth(n_layers)
    counts = [n0]
    for layer in range(n_layers - 1):
        counts.append(
            counts[-1] - pruned_count(counts[-1], pruning_ratio(schedule, layer, n_layers))
        )
    return tuple(counts)


def leaving_counts(entering: Sequence[int]) -> tuple[int, ...]:
    """Tokens *leaving* each layer, from those entering; the last one, never pruned, passes all."""
    return tuple(entering[1:]) + tuple(entering[-1:])


def catch_up_counts(entering: Sequence[int], depth: int) -> tuple[int, ...]:
    """Tokens entering each layer when the first `depth` layers ran before the question.

    They hold every token; then one cut after layer depth - 1 reaches the schedule's own count, so
    all later layers have the budget that they would have had.
    """
    if not 0 <= depth <= len(entering):
        raise ValueError(
            f"prefill_depth is {depth}; allowed: 0 to {len(entering)}, the number of layers"
        )
    return tuple(entering[:1]) * depth + tuple(entering[depth:])


def mean_entering(entering: Sequence[int], n_unpruned: int) -> float:
    """Mean entering retention: the mean over layers of the tokens that enter, by `n_unpruned`."""
    if n_unpruned < 1:
        raise ValueError(
            f"n_unpruned is {n_unpruned}; allowed: 1 or more, the tokens before any pruning"
        )
    if not entering:
        raise ValueError("no token counts given; allowed: one for each layer")
    return sum(entering) / (len(entering) * n_unpruned)


def mean_leaving(entering: Sequence[int], n_unpruned: int) -> float:
    """Mean leaving retention, from the same *entering* counts as `mean_entering`."""
    return mean_entering(leaving_counts(entering), n_unpruned)


def first_dropping_layer(schedule: Schedule, n0: int, n_layers: int) -> int | None:
    """The first layer after which a token leaves when `n0` enter, or None if none ever does."""
    counts = token_counts(schedule, n0, n_layers)
    for layer in range(n_layers - 1):
        if counts[layer + 1] < n0:
            return layer
    return None


def exact_depth(schedule: Schedule, n_budget: int, n_layers: int) -> int:
    """How many layers tokens may pass before the question without changing the paper's result.

    The first dropping layer itself still sees every token, hence + 1. Fewer tokens than `n_budget`
    never drop earlier, so the depth of a full budget is safe for every smaller window.
    """
    first = first_dropping_layer(schedule, n_budget, n_layers)
    return n_layers if first is None else first + 1


def _check_depth(n_layers: int) -> None:
    if n_layers < 3:
        raise ValueError(
            f"n_layers is {n_layers}; allowed: 3 or more, because the schedule divides by L - 2; "
            "use a deeper model or the keep-all policy"
        )
