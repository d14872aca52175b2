"""The quick part of ``tests/faults/clocks.py``: the same code over minutes instead of hours."""

from __future__ import annotations

import pytest

from tests.faults.clocks import MOST_OBJECTS, SKEW_MS, drift, holds, simulated_day


@pytest.fixture(scope="module")
def day() -> dict[str, object]:
    return simulated_day(0.08, seed=6)


def test_a_few_simulated_minutes_of_faults_hold(day: dict[str, object]) -> None:
    assert day["faults"] != {}
    assert day["connections"] == 1
    assert holds(day)


@pytest.mark.parametrize(
    ("figure", "bad"),
    [
        ("wrong_lengths", 1),
        ("steps_back", 1),
        ("worst_skew_ms", SKEW_MS + 1),
        ("ledger", 1001),
        ("cache_tokens", 601),
        ("highest_position", 40_000),
        ("objects_grown", MOST_OBJECTS),
        ("chunker_held", 200),
    ],
)
def test_each_figure_of_a_day_can_fail(day: dict[str, object], figure: str, bad: float) -> None:
    assert not holds({**day, figure: bad})


def test_a_sound_clock_that_is_off_leaves_chunks_whole_and_together() -> None:
    got = drift(0.1, 400.0)
    assert got["worst_skew_ms"] < SKEW_MS < got["unmended_skew_ms"]
    assert got["wrong_lengths"] == got["silence_filled_samples"] == 0
    assert got["faults"] == {}
