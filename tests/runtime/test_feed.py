"""The hand-over of chunks under load, in simulated time: how old, in which order, what is lost."""

from __future__ import annotations

import threading

from hypothesis import given
from hypothesis import strategies as st

from omnidrop_stream.types import CHUNK_SECONDS, Gap
from runtime.feed import LEDGER, ChunkFeed
from runtime.overload import Step
from runtime.stats import Stats
from tests.helpers import make_chunks
from tests.runtime.simulated import Simulation

TWO_PERIODS_S = 2 * CHUNK_SECONDS
costs = st.lists(st.floats(0.0, 40.0), min_size=1, max_size=12)
ladders = st.sampled_from([(Step.NORMAL,), (Step.NORMAL, Step.SKIP), tuple(Step)])


def run(costs_s: list[float], steps: tuple[Step, ...], chunks: int = 60) -> Simulation:
    def cost_s(chunk: object, share: float) -> float:
        return costs_s[len(simulation.given) % len(costs_s)] * share

    simulation = Simulation(cost_s, chunks, steps)
    return simulation.run()


@given(costs, ladders)
def test_a_chunk_given_to_the_model_is_at_most_two_periods_old_while_newer_ones_come(
    costs_s: list[float], steps: tuple[Step, ...]
) -> None:
    seen = run(costs_s, steps)
    last = seen.given[-1].chunk.index
    late = [g.age_s for g in seen.given if g.chunk.index < last and not g.newest]
    assert all(age_s <= TWO_PERIODS_S for age_s in late)
    assert all(g.age_s <= TWO_PERIODS_S + g.busy_s for g in seen.given)


@given(costs, ladders)
def test_chunks_reach_the_model_in_order_and_none_vanishes_uncounted(
    costs_s: list[float], steps: tuple[Step, ...]
) -> None:
    seen = run(costs_s, steps)
    order = [g.chunk.index for g in seen.given]
    assert order == sorted(set(order))
    counters = seen.stats.snapshot()["counters"]
    dropped = sum(n for name, n in counters.items() if name.startswith("feed.dropped."))
    assert counters["chunk.committed"] + dropped == counters["feed.offered"] == 60
    named = sum(chunks for _, _, _, chunks in seen.dropped)
    assert dropped - named <= 3  # what was lost after the last chunk was taken


@given(costs)
def test_no_more_than_three_chunks_ever_wait(costs_s: list[float]) -> None:
    assert run(costs_s, tuple(Step)).most_waiting <= 3


def test_a_chunk_that_waited_too_long_is_dropped_when_taken_and_named() -> None:
    seen = run([9.0], (Step.NORMAL,))
    assert seen.stats.counter("feed.dropped.stale") > 0
    assert {reason for _, _, reason, _ in seen.dropped} == {"overload", "stale"}


def test_even_the_newest_chunk_is_dropped_once_it_is_older_than_the_rule_allows() -> None:
    simulation = Simulation(lambda chunk, share: 0.0, 0)
    simulation.feed.attach(simulation)  # type: ignore[arg-type]
    simulation.feed.offer(make_chunks(1)[0])
    simulation.now_s = TWO_PERIODS_S + 0.1
    assert simulation.feed.take() is None
    assert simulation.stats.counter("feed.dropped.stale") == 1
    assert [reason for _, _, reason, _ in simulation.dropped] == ["stale"]


def test_at_the_last_step_the_model_gets_the_newest_chunk_and_the_others_are_skipped() -> None:
    seen = run([10.0], (Step.NORMAL, Step.SKIP))
    since = seen.steps_seen.index(Step.SKIP) + 1
    assert all(g.newest for g in seen.given[since:])
    assert seen.stats.counter("feed.dropped.skipped") > 10


def test_the_age_of_the_newest_chunk_is_a_gauge() -> None:
    seen = run([3.0], (Step.NORMAL,))
    assert seen.stats.snapshot()["gauges"]["chunk.age_s"] == seen.given[-1].age_s


def ten_minutes(slow_s: float) -> Simulation:
    """A model that needs five times real time for a full chunk until ``slow_s``, then a tenth."""

    def cost_s(chunk: object, share: float) -> float:
        return (10.0 if simulation.now_s < slow_s else 0.2) * share

    simulation = Simulation(cost_s, 600)
    return simulation.run()


def test_a_model_five_times_too_slow_for_ten_minutes_engages_the_ladder_which_is_undone_later() -> (
    None
):
    seen = ten_minutes(600.0)
    assert max(seen.steps_seen) is Step.SKIP
    assert seen.steps_seen[-1] is Step.NORMAL
    counters = seen.stats.snapshot()["counters"]
    assert counters["overload.engaged"] == counters["overload.disengaged"] >= 5


def test_a_new_epoch_of_the_ladder_is_named_in_the_ledger() -> None:
    reasons = [gap.reason for gap in ten_minutes(600.0).gaps]
    assert reasons == [
        "overload: smaller frames",
        "overload: audio only",
        "overload: audio only undone",
        "overload: smaller frames undone",
    ]


def test_a_model_that_is_half_as_fast_as_needed_stays_on_a_middle_step_without_losing_chunks() -> (
    None
):
    seen = run([2.8], tuple(Step), chunks=400)
    late = seen.steps_seen[200:]
    assert Step.NORMAL not in late[:20]
    assert max(late) < Step.AUDIO_ONLY
    counters = seen.stats.snapshot()["counters"]
    assert counters.get("feed.dropped.overload", 0) <= 10


def test_an_unattached_feed_keeps_no_more_losses_and_gaps_than_its_bound() -> None:
    stats = Stats()
    feed = ChunkFeed(stats, lambda: None, lambda _: None, lambda _: None)
    (chunk,) = make_chunks(1)
    for number in range(3 * LEDGER):
        feed.offer(chunk)
        feed.note_gaps((Gap(number, number, "again"),))
    assert len(feed._lost) <= LEDGER
    assert len(feed._gaps) == LEDGER
    assert sum(loss.chunks for loss in feed._lost) == stats.counter("feed.dropped.loading")
    assert stats.counter("feed.gaps_forgotten") == 2 * LEDGER


def test_a_file_read_as_fast_as_possible_loses_nothing_however_slow_the_model_is() -> None:
    now_s = [0.0]
    stats = Stats()
    feed = ChunkFeed(
        stats, lambda: None, lambda _: None, lambda _: None, clock=lambda: now_s[0], live=False
    )
    simulation = Simulation(lambda chunk, share: 0.0, 0)
    feed.attach(simulation, tuple(Step))  # type: ignore[arg-type]
    for chunk in make_chunks(3):
        feed.offer_waiting(chunk, threading.Event())
    now_s[0] = 1000.0
    while (turns := feed.take()) is not None:
        list(turns)
    assert len(simulation.given) == 3
