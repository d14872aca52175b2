"""Which schedule reaches a mean retention: appendix E, in closed form and exactly.

In words. The share of tokens that enters a layer shrinks by (1 - p_l) from one layer to the next;
its mean over the layers is to be a given R. Appendix E simplifies: nothing leaves in the first
half, p_final leaves after every layer of the second, and the mean of that second half is what is
left in its middle. Then r0 * (1 - p_final) ** (half of phase 2) = R_phase2, solved by a root.

The paper leaves open, and we chose:

- The closed form for any depth: phase 1 is the first t_mid * L layers, the exponent half of the
  rest. For L = 28, r0 = 0.45, R = 0.30 it gives 0.1453; the paper prints that rounded up, 0.146. It
  is shown beside the exact value and never used: with it the mean is 31.1 %, not 30 %.
- The exact value iterates the recurrence with real-valued ratios of Eq. 3, 4 (no floor; the integer
  counts of a real stream differ by rounding only) and bisects. "Mean" is the mean *entering*
  retention, r_0..r_{L-1}, as in appendix E.1.
- What moves, in this order: p_final up to 0.5 (the paper's largest); then p_init, after which no
  layer can be computed ahead of a question exactly; then t_mid, earlier. Each knob stays at its
  bound when the next one moves. The bounds are arguments.
- r0 is the stream's own: 0.45 holds for a 16:9 picture with sound only.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from omnidrop_stream.method.schedule import Schedule, pruning_ratio

Knob = Literal["p_final", "p_init", "t_mid"]


class UnreachableRetention(ValueError):
    """A mean retention that no allowed schedule reaches; carries the range that is reachable."""

    def __init__(self, target: float, minimum: float, maximum: float, advice: str) -> None:
        """All three are shares of the unpruned tokens; `advice` says what to do instead."""
        self.target = target
        self.minimum = minimum
        self.maximum = maximum
        super().__init__(
            f"a mean retention of {target:.1%} cannot be reached; "
            f"allowed here: {minimum:.1%} to {maximum:.1%}; {advice}"
        )


@dataclass(frozen=True, slots=True)
class BudgetLimits:
    """How far the solver may move each knob. p_init_max = 0 keeps the exact head start."""

    p_final_max: float = 0.5
    p_init_max: float = 0.1
    t_mid_min: float = 0.25

    def __post_init__(self) -> None:
        """Refuse bounds that no schedule can have."""
        if not 0.0 <= self.p_init_max <= self.p_final_max < 1.0:
            raise ValueError(
                f"limits are p_init_max = {self.p_init_max}, p_final_max = {self.p_final_max}; "
                "allowed: 0 <= p_init_max <= p_final_max < 1"
            )
        if not 0.0 <= self.t_mid_min <= 1.0:
            raise ValueError(f"t_mid_min is {self.t_mid_min}; allowed: 0 to 1")


@dataclass(frozen=True, slots=True)
class BudgetSolution:
    """A schedule that reaches the target, and how it was found."""

    schedule: Schedule
    target: float
    r0: float
    n_layers: int
    moved: tuple[Knob, ...]  # in the order moved
    closed_form: float | None  # appendix E's p_final; None where its picture has no solution
    mean_entering: float
    mean_leaving: float

    @property
    def exact_head_start(self) -> bool:
        """Whether the first layers drop nothing, so that a chunk can pass them on arrival."""
        return self.schedule.p_init == 0.0

    def describe(self) -> str:
        """One line for people: what moved, the closed form beside the exact value, the means."""
        s = self.schedule
        closed = "none" if self.closed_form is None else f"{self.closed_form:.3f}"
        moved = ", ".join(f"{name} = {getattr(s, name):.4f}" for name in self.moved) or "nothing"
        note = "" if self.exact_head_start else "; no exact head start (p_init > 0)"
        return (
            f"moved {moved} (closed form of p_final: {closed}); mean entering retention "
            f"{self.mean_entering:.1%}, leaving {self.mean_leaving:.1%}{note}"
        )


def closed_form_p_final(
    target: float, *, n_layers: int, r0: float, t_mid: float = 0.5
) -> float | None:
    """Appendix E.2's p_final; None where phase 2 would have to hold 0 tokens or less, or grow."""
    phase1 = t_mid * n_layers
    phase2 = n_layers - phase1
    if phase2 <= 0.0:
        return None
    r_phase2 = (target * n_layers - r0 * phase1) / phase2  # 2 R - r0 when the halves are equal
    if not 0.0 < r_phase2 <= r0:
        return None
    # r0 * (1 - p_final) ** (phase2 / 2) = r_phase2
    return 1.0 - math.pow(r_phase2 / r0, 2.0 / phase2)


def retention_curve(schedule: Schedule, *, n_layers: int, r0: float) -> tuple[float, ...]:
    """r_0..r_L of appendix E.1: retention entering each layer, and, last, leaving the last one."""
    curve = [r0]
    for layer in range(n_layers):
        curve.append(curve[-1] * (1.0 - pruning_ratio(schedule, layer, n_layers)))
    return tuple(curve)


def solve_budget(
    target: float,
    *,
    n_layers: int,
    r0: float,
    start: Schedule | None = None,
    limits: BudgetLimits | None = None,
) -> BudgetSolution:
    """The schedule whose mean entering retention is `target` (a share of the unpruned tokens).

    `r0` is the share that enters layer 0; `start` gives kind, p_init, t_mid and beta (default: the
    paper's). Raises UnreachableRetention outside what `limits` allow.
    """
    start = start or Schedule()
    limits = limits or BudgetLimits()
    if not 0.0 < r0 <= 1.0:
        raise ValueError(
            f"r0 is {r0}; allowed: 0 < r0 <= 1, the share of the tokens that enters layer 0"
        )
    if not 0.0 < target <= 1.0:
        raise ValueError(
            f"retention is {target}; allowed: 0 < retention <= 1, the mean share of tokens kept; "
            "write 0.3 for 30 %"
        )

    def mean(schedule: Schedule) -> float:
        return sum(retention_curve(schedule, n_layers=n_layers, r0=r0)[:-1]) / n_layers

    loosest = replace(start, p_final=start.p_init)
    stages = _stages(loosest, limits)
    tightest = loosest
    for name, bound in stages:
        tightest = _with(tightest, name, bound)
    minimum, maximum = mean(tightest), mean(loosest)
    if target > maximum + 1e-12:
        raise UnreachableRetention(
            target, minimum, maximum, "ask for less, or weaken the pruning within each modality"
        )
    if target < minimum - 1e-12:
        raise UnreachableRetention(
            target, minimum, maximum, "ask for more, or prune more within each modality"
        )

    schedule, moved = loosest, list[Knob]()
    for name, bound in stages:
        if mean(schedule) <= target + 1e-12:
            break  # the loosest schedule is the answer
        moved.append(name)
        at_bound = _with(schedule, name, bound)
        if mean(at_bound) <= target:
            schedule = _bisect(schedule, name, bound, lambda s: mean(s) <= target)
            break
        schedule = at_bound
    curve = retention_curve(schedule, n_layers=n_layers, r0=r0)
    return BudgetSolution(
        schedule=schedule,
        target=target,
        r0=r0,
        n_layers=n_layers,
        moved=tuple(moved),
        closed_form=closed_form_p_final(target, n_layers=n_layers, r0=r0, t_mid=start.t_mid)
        if start.kind == "sigmoid" and start.p_init == 0.0
        else None,
        mean_entering=sum(curve[:-1]) / n_layers,
        mean_leaving=sum(curve[1:]) / n_layers,
    )


def _stages(loosest: Schedule, limits: BudgetLimits) -> list[tuple[Knob, float]]:
    """The knobs that may still move towards less retention, in order, each with its bound."""
    stages = list[tuple[Knob, float]]()
    if limits.p_final_max > loosest.p_final:
        stages.append(("p_final", limits.p_final_max))
    if limits.p_init_max > loosest.p_init:
        stages.append(("p_init", limits.p_init_max))
    if loosest.kind == "sigmoid" and limits.t_mid_min < loosest.t_mid:
        stages.append(("t_mid", limits.t_mid_min))
    return stages


def _bisect(
    schedule: Schedule, name: Knob, bound: float, reached: Callable[[Schedule], bool]
) -> Schedule:
    """Move one knob towards `bound` as far as `reached` needs (retention is monotone in it)."""
    loose, tight = float(getattr(schedule, name)), bound
    for _ in range(200):
        middle = (loose + tight) / 2.0
        if middle in (loose, tight):
            break
        if reached(_with(schedule, name, middle)):
            tight = middle
        else:
            loose = middle
    return _with(schedule, name, tight)


def _with(schedule: Schedule, name: Knob, value: float) -> Schedule:
    match name:
        case "p_final":
            return replace(schedule, p_final=value)
        case "p_init":
            return replace(schedule, p_init=value)
        case "t_mid":
            return replace(schedule, t_mid=value)
