"""budget.py: appendix E in closed form and by iteration."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omnidrop_stream.method import (
    BudgetLimits,
    Schedule,
    UnreachableRetention,
    closed_form_p_final,
    mean_entering,
    pruning_ratio,
    retention_curve,
    solve_budget,
    token_counts,
)

TIGHTEST = Schedule(p_init=0.1, p_final=0.5, t_mid=0.25)  # at the default limits
P_FINAL_ONLY = BudgetLimits(p_init_max=0.0, t_mid_min=0.5)


def literal_means(s: Schedule, L: int, r0: float) -> tuple[float, float]:
    """Appendix E.1, the recurrence as printed: mean entering and mean leaving."""
    r, entering, leaving = r0, 0.0, 0.0
    for layer in range(L):
        entering += r
        r = r * (1 - pruning_ratio(s, layer, L))
        leaving += r
    return entering / L, leaving / L


def test_the_closed_form_rounds_up_to_the_papers_value():
    p_final = closed_form_p_final(0.30, n_layers=28, r0=0.45)
    assert p_final == pytest.approx(1 - (1 / 3) ** (1 / 7))
    assert math.ceil(1000 * p_final) / 1000 == 0.146


def test_the_closed_forms_own_p_final_misses_the_target():
    closed = Schedule(p_final=0.146)
    assert round(100 * literal_means(closed, 28, 0.45)[0], 1) == 31.1


@pytest.mark.parametrize(
    ("target", "t_mid"), [(0.22, 0.5), (0.46, 0.5), (0.3, 1.0)], ids=["below", "above", "no phase"]
)
def test_the_closed_form_has_no_value_where_its_picture_has_no_solution(target, t_mid):
    assert closed_form_p_final(target, n_layers=28, r0=0.45, t_mid=t_mid) is None


@given(st.integers(4, 40), st.floats(0.2, 1.0), st.floats(0.0, 1.0))
@settings(max_examples=60, deadline=None)
def test_every_target_above_the_tightest_schedule_is_reached(n_layers, r0, share):
    minimum = literal_means(TIGHTEST, n_layers, r0)[0]
    target = minimum + share * (r0 - minimum)
    found = solve_budget(target, n_layers=n_layers, r0=r0)
    entering, leaving = literal_means(found.schedule, n_layers, r0)
    assert entering == pytest.approx(target, abs=1e-9)
    assert (found.mean_entering, found.mean_leaving) == pytest.approx((entering, leaving))


@given(st.integers(4, 40), st.floats(0.2, 1.0), st.floats(0.01, 0.99))
@settings(max_examples=30, deadline=None)
def test_every_target_below_the_tightest_schedule_is_refused(n_layers, r0, share):
    minimum = literal_means(TIGHTEST, n_layers, r0)[0]
    with pytest.raises(UnreachableRetention) as caught:
        solve_budget(share * minimum, n_layers=n_layers, r0=r0)
    assert caught.value.minimum == pytest.approx(minimum)


def test_the_exact_value_for_the_papers_target_stands_beside_the_closed_form():
    found = solve_budget(0.30, n_layers=28, r0=0.45)
    assert found.moved == ("p_final",)
    assert 0.146 < found.schedule.p_final < 0.2
    assert found.closed_form == pytest.approx(0.1453, abs=1e-4)


def test_the_solution_holds_for_the_integer_counts_of_a_real_stream():
    found = solve_budget(0.30, n_layers=28, r0=9_734 / 21_632)
    counts = token_counts(found.schedule, 9_734, 28)
    assert mean_entering(counts, 21_632) == pytest.approx(0.30, abs=1e-3)


def test_p_final_moves_alone_while_it_suffices():
    found = solve_budget(0.25, n_layers=28, r0=0.45)
    assert found.moved == ("p_final",)
    assert found.exact_head_start


def test_p_init_moves_once_p_final_is_at_its_bound_and_costs_the_head_start():
    found = solve_budget(0.20, n_layers=28, r0=0.45)
    assert found.moved == ("p_final", "p_init")
    assert found.schedule.p_final == 0.5
    assert not found.exact_head_start
    assert "no exact head start" in found.describe()


def test_t_mid_moves_earlier_last():
    found = solve_budget(0.11, n_layers=28, r0=0.45)
    assert found.moved == ("p_final", "p_init", "t_mid")
    assert (found.schedule.p_final, found.schedule.p_init) == (0.5, 0.1)
    assert 0.25 < found.schedule.t_mid < 0.5


def test_forbidding_p_init_moves_t_mid_and_keeps_the_head_start():
    limits = BudgetLimits(p_init_max=0.0)
    found = solve_budget(0.20, n_layers=28, r0=0.45, limits=limits)
    assert found.moved == ("p_final", "t_mid")
    assert found.exact_head_start


@pytest.mark.parametrize(
    ("n_layers", "r0", "bottom"),
    [(28, 0.40, 21.0), (12, 0.40, 24.6), (12, 0.50, 30.8)],
)
def test_p_final_alone_bottoms_out_and_the_refusal_names_the_reachable_minimum(
    n_layers, r0, bottom
):
    with pytest.raises(UnreachableRetention, match=f"{bottom}%") as caught:
        solve_budget(0.15, n_layers=n_layers, r0=r0, limits=P_FINAL_ONLY)
    assert round(100 * caught.value.minimum, 1) == bottom


def test_asking_for_more_than_enters_the_first_layer_is_refused_with_the_maximum():
    with pytest.raises(UnreachableRetention, match=r"45\.0%") as caught:
        solve_budget(0.50, n_layers=28, r0=0.45)
    assert caught.value.maximum == pytest.approx(0.45)


def test_asking_for_exactly_what_enters_prunes_nothing():
    found = solve_budget(0.45, n_layers=28, r0=0.45)
    assert found.moved == ()
    assert found.schedule.p_final == 0.0


def test_the_solver_keeps_the_exponential_kind_and_gives_it_no_closed_form():
    found = solve_budget(0.30, n_layers=28, r0=0.45, start=Schedule("exponential", 0.01, 0.2))
    assert found.schedule.kind == "exponential"
    assert found.closed_form is None
    assert literal_means(found.schedule, 28, 0.45)[0] == pytest.approx(0.30)


def test_the_curve_begins_at_r0_and_is_flat_over_the_last_layer():
    curve = retention_curve(Schedule(), n_layers=28, r0=0.45)
    assert len(curve) == 29
    assert (curve[0], curve[28]) == (0.45, curve[27])


@pytest.mark.parametrize("values", [{"target": 0.0}, {"target": 30.0}, {"r0": 0.0}, {"r0": 1.1}])
def test_shares_outside_zero_to_one_are_refused(values):
    arguments = {"target": 0.3, "r0": 0.45, **values}
    with pytest.raises(ValueError, match="allowed"):
        solve_budget(arguments["target"], n_layers=28, r0=arguments["r0"])


@pytest.mark.parametrize("values", [{"p_init_max": 0.6}, {"p_final_max": 1.0}, {"t_mid_min": -1}])
def test_limits_that_no_schedule_can_have_are_refused(values):
    with pytest.raises(ValueError, match="allowed"):
        BudgetLimits(**values)
