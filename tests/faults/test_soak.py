"""What the soak says of memory and of what chunks cost."""

from __future__ import annotations

import asyncio
import math

import pytest

from tests.faults.soak import Meter, Soak, slope_row


def test_a_rise_before_the_second_half_is_told_but_not_judged() -> None:
    samples = [(5.0 * n, 450 + min(n, 300) / 10, 150.0) for n in range(720)]
    row = slope_row(samples, 1800.0)
    assert row.passed
    assert "at first 450, at half 480, at the end 480 MiB" in row.figure


def test_a_leak_in_the_second_half_is_found() -> None:
    samples = [(5.0 * n, 450 + n / 720 * 6, 150 + n / 720 * 6) for n in range(720)]
    row = slope_row(samples, 1800.0)
    assert not row.passed
    assert row.values["slope_mib_h"] == pytest.approx(6.0, abs=0.01)


def test_a_run_too_short_to_judge_does_not_hold() -> None:
    assert not slope_row([(0.0, 450.0, 150.0)], 0.0).passed
    assert not slope_row([], 0.0).passed


def test_the_first_quarter_is_compared_with_the_last_and_questions_are_left_out() -> None:
    meter = Meter()
    meter.at.extend(range(100))
    meter.cpu_ms.extend([5.0] * 50 + [math.nan, 900.0] + [7.0] * 48)
    assert meter.quarters(meter.cpu_ms, 0.0) == (5.0, 7.0)


def test_a_chunk_beside_a_question_has_no_cost_of_its_own() -> None:
    meter = Meter()
    meter.committed(1.0)
    meter.question()
    meter.committed(1.0)
    meter.replied()
    meter.committed(1.0)
    meter.committed(1.0)
    assert [math.isnan(value) for value in meter.cpu_ms] == [False, True, True, False]


def test_a_sample_that_an_answer_never_lets_happen_is_left_out_and_counted() -> None:
    soak = Soak(60.0, 5, lambda _: None)
    soak._meter.question()
    asyncio.run(soak._take_sample(0.0))
    assert (soak._skipped, soak._memory) == (1, [])
    assert "0 samples, 1 left out" in soak._slope_row().figure


def test_a_sample_is_taken_as_soon_as_the_answer_is_there() -> None:
    soak = Soak(60.0, 5, lambda _: None)

    async def answered_meanwhile() -> None:
        soak._meter.question()
        sampled = asyncio.ensure_future(soak._take_sample(60.0))
        await asyncio.sleep(0)
        assert not soak._memory
        soak._meter.replied()
        await sampled

    asyncio.run(answered_meanwhile())
    assert soak._skipped == 0
    assert len(soak._memory) == 1
