"""What the suite says of a series of figures."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from tests.faults import measure


def test_p95_is_the_value_that_95_of_100_do_not_exceed() -> None:
    assert measure.p95(list(range(1, 101))) == 95
    assert measure.p95([3.0]) == 3.0
    assert math.isnan(measure.p95([]))


@given(some.floats(-100, 100), some.integers(4, 200))
def test_an_exact_line_has_its_own_slope_as_bound(slope: float, count: int) -> None:
    at = [n / 60 for n in range(count)]
    found, bound = measure.slope_with_bound(at, [7 + slope * x for x in at])
    assert found == pytest.approx(slope, abs=1e-6)
    assert bound == pytest.approx(slope, abs=1e-3)


def test_the_bound_covers_the_true_slope_nearly_always() -> None:
    random, at = np.random.default_rng(3), np.arange(50) / 60
    bounds = [
        measure.slope_with_bound(at, 2 * at + random.normal(0, 0.5, 50))[1] for _ in range(400)
    ]
    assert 0.92 < np.mean([bound > 2 for bound in bounds]) < 0.99


def test_samples_that_resemble_each_other_widen_the_bound() -> None:
    random, at = np.random.default_rng(3), np.arange(60) / 60
    noise = random.normal(0, 0.5, 60)
    drifting = np.convolve(noise, np.ones(8) / 8**0.5, "same")
    _, independent = measure.slope_with_bound(at, noise)
    slope, dependent = measure.slope_with_bound(at, drifting)
    assert dependent - slope > independent


def test_three_samples_tell_nothing() -> None:
    assert measure.slope_with_bound([0, 1, 2], [0, 1, 2])[1] == math.inf


def test_what_is_asked_of_malloc_is_counted() -> None:
    before = measure.allocated_mib()
    block = np.ones(20 * measure.MIB, np.uint8)
    assert measure.allocated_mib() - before == pytest.approx(20, abs=1)
    del block
    assert measure.allocated_mib() - before == pytest.approx(0, abs=1)


def test_memory_and_files_of_this_process_are_read() -> None:
    assert 10 < measure.resident_mib() < 100_000
    before = measure.open_files()
    with open("/dev/null", "rb"):
        assert measure.open_files() == before + 1
