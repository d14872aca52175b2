"""Histograms of durations."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from runtime.histogram import BOUNDS_MS, Histogram
from runtime.stats import Stats


@given(st.lists(st.floats(0, 1e6)))
def test_each_bound_counts_what_is_at_most_that_long(durations):
    histogram = Histogram()
    for ms in durations:
        histogram.add(ms)
    rows = dict(histogram.cumulative())
    assert rows == {b: sum(ms <= b for ms in durations) for b in (*BOUNDS_MS, float("inf"))}


def test_a_session_keeps_counting_after_its_timings_were_forgotten():
    stats = Stats()
    for _ in range(600):
        stats.timing("answer.ttft", 3.0)
    assert stats.snapshot()["timings_ms"]["answer.ttft"]["n"] == 512
    rows, total_ms = stats.histograms()["answer.ttft"]
    assert (rows[-1], total_ms) == ((float("inf"), 600), 1800.0)
