"""Token buckets: what they let through, whatever order things come in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.limits import Limit, Limits


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_a_burst_passes_and_the_next_waits_for_the_rate():
    clock = Clock()
    limits = Limits({"queries": Limit(2.0, 3)}, clock)
    assert [limits.take("a", queries=1) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]
    clock.now_s += 0.5
    assert limits.take("a", queries=1) == 0.0


def test_where_refused_attempts_count_who_does_not_wait_gets_nothing():
    clock = Clock()
    limits = Limits({"queries": Limit(5.0, 20, strict=True)}, clock)
    let_through = 0
    for _ in range(10_000):  # 1,000 a second for 10 s
        let_through += limits.take("flood", queries=1) == 0.0
        clock.now_s += 0.001
    assert let_through == 20
    assert limits.wait_s("flood", queries=1) <= 21 / 5.0 + 1e-9


@pytest.mark.parametrize("attempts", [1, 5, 100])
def test_where_all_limits_are_used_up_an_attempt_counts_as_a_refused_one_does(attempts: int):
    of = {"queries": Limit(1.0, 3, strict=True), "refusals": Limit(1.0, 1)}
    looked, taken = Limits(of, Clock()), Limits(of, Clock())
    for limits in (looked, taken):
        limits.take("a", queries=3)
        assert not limits.exhausted("a", "queries", "refusals")
        limits.take("a", refusals=1)
    for _ in range(attempts):
        assert looked.exhausted("a", "queries", "refusals")
        taken.take("a", queries=1)
    assert looked.wait_s("a", queries=1) == taken.wait_s("a", queries=1)


def test_clients_do_not_share_a_bucket():
    limits = Limits({"queries": Limit(1.0, 1)}, Clock())
    assert limits.take("a", queries=1) == 0.0
    assert limits.take("b", queries=1) == 0.0
    assert limits.take("a", queries=1) == 1.0


def test_of_two_limits_both_are_taken_or_none():
    limits = Limits({"queries": Limit(1.0, 5), "tokens": Limit(1.0, 10)}, Clock())
    assert limits.take("a", queries=1, tokens=8) == 0.0
    assert limits.take("a", queries=1, tokens=8) == 6.0
    assert limits.wait_s("a", queries=4) == 0.0


def test_more_than_the_burst_is_never_to_be_had():
    assert Limits({"tokens": Limit(1.0, 10)}, Clock()).take("a", tokens=11) == float("inf")


def test_what_is_given_back_can_be_taken_again_but_not_more_than_the_burst():
    limits = Limits({"tokens": Limit(0.001, 10)}, Clock())
    assert limits.take("a", tokens=10) == 0.0
    limits.give_back("a", tokens=50)
    assert limits.take("a", tokens=10) == 0.0
    assert limits.wait_s("a", tokens=1) > 0.0


def test_the_least_recently_used_client_is_forgotten_first():
    limits = Limits({"queries": Limit(0.001, 1)}, Clock(), max_clients=2)
    limits.take("a", queries=1)
    limits.take("b", queries=1)
    limits.wait_s("a", queries=1)
    limits.take("c", queries=1)
    assert len(limits) == 2
    assert limits.take("a", queries=1) > 0.0
    assert limits.take("b", queries=1) == 0.0


@given(
    steps=st.lists(
        st.tuples(st.floats(-5, 5), st.floats(0, 12), st.booleans()), min_size=1, max_size=60
    )
)
def test_no_sequence_gets_more_than_burst_plus_rate_times_time(
    steps: list[tuple[float, float, bool]],
):
    clock = Clock()
    limits = Limits({"queries": Limit(2.0, 10)}, clock)
    taken = forward_s = 0.0
    for move_s, amount, give_back in steps:
        clock.now_s += move_s
        forward_s += max(0.0, move_s)
        if limits.take("a", queries=amount) == 0.0:
            taken += amount
            if give_back:
                limits.give_back("a", queries=amount)
                taken -= amount
    assert taken <= 10 + 2.0 * forward_s + 1e-6


@given(amount=st.floats(0.01, 10), used=st.floats(0, 10))
def test_after_the_wait_that_was_named_it_is_there(amount: float, used: float):
    clock = Clock()
    limits = Limits({"queries": Limit(3.0, 10)}, clock)
    limits.take("a", queries=used)
    clock.now_s += limits.wait_s("a", queries=amount) + 1e-9
    assert limits.take("a", queries=amount) == pytest.approx(0.0, abs=1e-6)
