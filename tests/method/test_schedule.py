"""schedule.py against Eq. 3, 4, 6 written out, and against the paper's numbers."""

import itertools
import math
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omnidrop_stream.method import (
    Schedule,
    catch_up_counts,
    exact_depth,
    first_dropping_layer,
    leaving_counts,
    mean_entering,
    mean_leaving,
    pruned_count,
    pruning_ratio,
    token_counts,
)

N0, N_UNPRUNED = 9_734, 21_632  # 64 chunks of 338 tokens, 45 % of them
S7B_30 = Schedule(p_init=0.0, p_final=0.2)
S7B_20 = Schedule(p_init=0.02, p_final=0.5)
S3B_30 = Schedule(p_init=0.0, p_final=0.15)
S3B_20 = Schedule(p_init=0.02, p_final=0.5, t_mid=0.55)

# fmt: off
COUNTS_7B_30 = (
    9734, 9734, 9734, 9734, 9734, 9733, 9729, 9721, 9702, 9662, 9577, 9404, 9072, 8498, 7649, 6604,
    5517, 4514, 3651, 2937, 2356, 1887, 1511, 1210, 969, 776, 621, 497,
)
K_7B_30 = (
    0, 0, 0, 0, 1, 4, 8, 19, 40, 85, 173, 332, 574, 849, 1045, 1087, 1003, 863, 714, 581, 469, 376,
    301, 241, 193, 155, 124, 0,
)
COUNTS_7B_20 = (
    9734, 9540, 9349, 9162, 8977, 8794, 8610, 8419, 8212, 7966, 7639, 7155, 6405, 5304, 3925, 2560,
    1498, 815, 425, 217, 110, 56, 29, 15, 8, 5, 3, 2,
)
COUNTS_3B_30 = (
    9734, 9734, 9734, 9734, 9734, 9734, 9733, 9731, 9727, 9720, 9707, 9684, 9643, 9571, 9447, 9240,
    8914, 8437, 7805, 7053, 6245, 5446, 4701, 4032, 3445, 2937, 2501, 2128, 1810, 1539, 1309, 1113,
    947, 805, 685, 583,
)
# fmt: on

probabilities = st.floats(0.0, 0.9)


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    low, high = sorted((draw(probabilities), draw(probabilities)))
    kind = draw(st.sampled_from(("sigmoid", "exponential")))
    return Schedule(kind, low, high, draw(st.floats(0.0, 1.0)), draw(st.floats(0.5, 60.0)))


def literal_ratio(s: Schedule, layer: int, L: int) -> float:
    """Eq. 3 and 4, and the exponential of section 4.2, as they are printed."""
    if layer > L - 2:
        return 0.0
    if s.kind == "exponential":
        if s.p_init < sys.float_info.min:  # the limit at p_init = 0
            return s.p_final if layer == L - 2 else 0.0
        return s.p_init * (s.p_final / s.p_init) ** (layer / (L - 2))
    sigma = 1 / (1 + math.exp(-s.beta * (layer / (L - 2) - s.t_mid)))
    return s.p_init + (s.p_final - s.p_init) * sigma


@given(schedules(), st.integers(3, 40))
@settings(max_examples=60, deadline=None)
def test_the_ratio_of_every_layer_equals_the_printed_equations(s, n_layers):
    for layer in range(n_layers):
        assert pruning_ratio(s, layer, n_layers) == literal_ratio(s, layer, n_layers)


@given(schedules(), st.integers(3, 40), st.integers(0, 30_000))
@settings(max_examples=60, deadline=None)
def test_the_token_counts_equal_a_loop_over_equation_six(s, n_layers, n0):
    n, expected = n0, []
    for layer in range(n_layers):
        expected.append(n)
        n = n - math.floor(n * literal_ratio(s, layer, n_layers))
    assert token_counts(s, n0, n_layers) == tuple(expected)


@given(schedules(), st.integers(3, 40))
@settings(max_examples=40, deadline=None)
def test_the_ratio_never_falls_before_the_last_layer(s, n_layers):
    ratios = [pruning_ratio(s, layer, n_layers) for layer in range(n_layers - 1)]
    assert all(b >= a - 1e-12 for a, b in itertools.pairwise(ratios))


@given(schedules(), st.integers(3, 40))
@settings(max_examples=40, deadline=None)
def test_the_last_layer_never_prunes(s, n_layers):
    assert pruning_ratio(s, n_layers - 1, n_layers) == 0.0


def test_the_ratio_is_halfway_at_the_midpoint():
    assert pruning_ratio(Schedule(p_init=0.02, p_final=0.5), 13, 28) == pytest.approx(0.26)


def test_the_exponential_starts_at_p_init_and_ends_at_p_final():
    s = Schedule("exponential", 0.02, 0.5)
    assert pruning_ratio(s, 0, 28) == 0.02
    assert pruning_ratio(s, 26, 28) == pytest.approx(0.5)


def test_an_exponential_from_zero_prunes_only_after_the_penultimate_layer():
    assert token_counts(Schedule("exponential", 0.0, 0.5), 100, 5) == (100, 100, 100, 100, 50)


def test_an_exponential_from_a_subnormal_p_init_does_not_overflow():
    s = Schedule("exponential", 5e-324, 0.5)
    assert [pruning_ratio(s, layer, 4) for layer in range(4)] == [0.0, 0.0, 0.5, 0.0]


def test_a_huge_slope_is_a_step_and_does_not_overflow():
    s = Schedule(p_final=0.5, beta=1e9)
    assert [pruning_ratio(s, layer, 6) for layer in range(6)] == pytest.approx(
        [0.0, 0.0, 0.25, 0.5, 0.5, 0.0]
    )


def test_the_pruned_count_is_the_floor_of_the_float_product_as_it_is():
    assert [pruned_count(n, p) for n, p in ((9, 0.5), (100, 0.29), (0, 0.9))] == [4, 28, 0]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [(S7B_30, COUNTS_7B_30), (S7B_20, COUNTS_7B_20), (S3B_30, COUNTS_3B_30)],
    ids=["7B-30", "7B-20", "3B-30"],
)
def test_the_counts_per_layer_are_those_of_the_reference_note(schedule, expected):
    assert token_counts(schedule, N0, len(expected)) == expected


def test_the_pruned_counts_of_7b_at_30_percent_are_those_of_the_reference_note():
    entering = token_counts(S7B_30, N0, 28)
    pruned = tuple(a - b for a, b in zip(entering, leaving_counts(entering), strict=True))
    assert pruned == K_7B_30


@pytest.mark.parametrize(
    ("schedule", "n_layers", "entering", "leaving", "last"),
    [
        (S7B_30, 28, 28.8, 27.3, 497),
        (S7B_20, 28, 20.6, 19.0, 2),
        (S3B_30, 36, 29.2, 28.0, 583),
        (S3B_20, 36, 20.6, 19.4, 2),
    ],
    ids=["7B-30", "7B-20", "3B-30", "3B-20"],
)
def test_the_papers_settings_reach_their_mean_retention(
    schedule, n_layers, entering, leaving, last
):
    counts = token_counts(schedule, N0, n_layers)
    means = (mean_entering(counts, N_UNPRUNED), mean_leaving(counts, N_UNPRUNED))
    assert [round(100 * m, 1) for m in means] == [entering, leaving]
    assert counts[-1] == last


@pytest.mark.parametrize(
    ("n0", "layer"),
    [(500, 8), (1_000, 7), (2_000, 6), (4_867, 5), (9_734, 4), (12_000, 3), (20_000, 3),
     (50_000, 2)],
)  # fmt: skip
def test_the_first_dropping_layer_moves_up_as_the_window_grows(n0, layer):
    assert first_dropping_layer(S7B_30, n0, 28) == layer


@given(schedules(), st.integers(3, 40), st.integers(0, 20_000), st.integers(0, 20_000))
@settings(max_examples=60, deadline=None)
def test_a_smaller_window_never_drops_earlier(s, n_layers, a, b):
    small, large = sorted((a, b))
    assert exact_depth(s, small, n_layers) >= exact_depth(s, large, n_layers)


def test_a_positive_p_init_leaves_an_exact_depth_of_one():
    assert exact_depth(S7B_20, N0, 28) == 1


def test_the_exact_depth_is_all_layers_when_nothing_ever_drops():
    s = Schedule(p_init=0.0, p_final=0.0)
    assert first_dropping_layer(s, N0, 28) is None
    assert exact_depth(s, N0, 28) == 28


@given(schedules(), st.integers(3, 40), st.integers(0, 20_000))
@settings(max_examples=60, deadline=None)
def test_running_ahead_to_the_exact_depth_changes_no_count(s, n_layers, n0):
    entering = token_counts(s, n0, n_layers)
    assert catch_up_counts(entering, exact_depth(s, n0, n_layers)) == entering


@pytest.mark.parametrize(
    ("schedule", "n_layers", "drop_layer", "mean"),
    [(S7B_30, 28, 10, 28.9), (S7B_30, 28, 12, 29.0), (S7B_30, 28, 14, 29.6),
     (S7B_20, 28, 12, 23.4), (S3B_30, 36, 14, 29.2), (S3B_30, 36, 18, 29.8)],
)  # fmt: skip
def test_catching_up_costs_the_retention_of_the_reference_note(
    schedule, n_layers, drop_layer, mean
):
    counts = catch_up_counts(token_counts(schedule, N0, n_layers), drop_layer + 1)
    assert round(100 * mean_entering(counts, N_UNPRUNED), 1) == mean


def test_catching_up_keeps_the_budget_of_every_later_layer():
    entering = token_counts(S7B_30, N0, 28)
    held = catch_up_counts(entering, 14)
    assert held[:14] == (N0,) * 14
    assert held[14:] == entering[14:]


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"p_init": -0.1}, "p_init"),
        ({"p_init": math.nan}, "p_init"),
        ({"p_final": 1.0}, "p_final"),
        ({"p_init": 0.4, "p_final": 0.2}, "p_init <= p_final"),
        ({"t_mid": 1.5}, "t_mid"),
        ({"beta": 0.0}, "beta"),
        ({"beta": math.inf}, "beta"),
        ({"kind": "linear"}, "sigmoid, exponential"),
    ],
)
def test_a_schedule_out_of_range_is_refused_with_what_is_allowed(values, name):
    with pytest.raises(ValueError, match=name):
        Schedule(**values)


@pytest.mark.parametrize(
    "call",
    [
        lambda: token_counts(S7B_30, 10, 2),
        lambda: token_counts(S7B_30, -1, 28),
        lambda: pruning_ratio(S7B_30, 28, 28),
        lambda: catch_up_counts((10, 5, 2), 4),
        lambda: mean_entering((10, 5, 2), 0),
        lambda: mean_entering((), 10),
    ],
)
def test_arguments_without_a_meaning_are_refused_with_what_is_allowed(call):
    with pytest.raises(ValueError, match="allowed"):
        call()
