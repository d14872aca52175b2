"""Sound whose clock is off: measured through a jittery network, corrected without a click."""

from __future__ import annotations

import random
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnidrop_stream.types import SAMPLE_RATE, Samples
from runtime.sources.drift import KEPT_WINDOWS, ClockEstimate, DriftResampler, Interpolator


def tone(count: int, hertz: float, step: float = 1.0) -> np.ndarray:
    return np.sin(2 * np.pi * hertz * np.arange(count) * step / SAMPLE_RATE).astype(np.float32)


def pieces(pcm: np.ndarray, size: int = 320) -> list[np.ndarray]:
    return [pcm[at : at + size] for at in range(0, len(pcm), size)]


def drifting(
    ppm: float, seconds: float, jitter_s: float = 0.01, run_s: float = 0.1
) -> tuple[DriftResampler, list[Samples], list[float]]:
    """A microphone ``ppm`` too fast beside pictures of true time; what came out, and how far the
    sound was ahead after each run.
    """
    draw, sync = random.Random(1), DriftResampler()
    out: list[Samples] = []
    skews: list[float] = []
    count, runs = round(run_s * SAMPLE_RATE), round(seconds * (1 + ppm * 1e-6) / run_s)
    for number in range(runs):
        true_s = (number + 1) * run_s / (1 + ppm * 1e-6)
        sync.reference(true_s, true_s + 0.2 + draw.expovariate(1 / jitter_s))
        run = Samples(np.full(count, 0.5, np.float32), number * run_s)
        out += sync.push(run, true_s + 0.1 + draw.expovariate(1 / jitter_s))
        inside_s = 16 / SAMPLE_RATE if sync.engaged else 0.0
        skews.append(out[-1].time_s + len(out[-1].pcm) / SAMPLE_RATE + inside_s - true_s)
    return sync, out, skews


# The interpolation


@pytest.mark.parametrize("step", [1 + 200e-6, 1 - 200e-6, 1.002])
@pytest.mark.parametrize("hertz", [200, 1000, 5500])
def test_a_tone_read_at_another_rate_is_clean_by_60_db(hertz: float, step: float) -> None:
    lens = Interpolator()
    got = np.concatenate([lens.push(piece, step) for piece in pieces(tone(32_000, hertz))])
    wanted = tone(len(got), hertz, step)
    error = (got - wanted)[50:-50]
    assert 10 * np.log10(np.mean(wanted**2) / np.mean(error**2)) > 60


def test_what_was_heard_before_makes_the_first_samples_clean() -> None:
    pcm = tone(2000, 5500)
    got = Interpolator(pcm[:999]).push(pcm[999:], 1.002)[:16]
    wanted = np.sin(2 * np.pi * 5500 * (999 + 1.002 * np.arange(16)) / SAMPLE_RATE)
    assert np.abs(got - wanted).max() < 0.001


def test_at_its_own_rate_sound_passes_bit_for_bit() -> None:
    pcm = np.random.default_rng(0).standard_normal(5000).astype(np.float32)
    lens = Interpolator()
    got = np.concatenate([*(lens.push(piece) for piece in pieces(pcm)), lens.rest()])
    assert np.array_equal(got, pcm)


def test_the_way_sound_is_cut_into_runs_does_not_matter() -> None:
    pcm = np.random.default_rng(0).standard_normal(4000).astype(np.float32)
    many, one = Interpolator(), Interpolator()
    by_piece = np.concatenate([many.push(piece, 1.001) for piece in pieces(pcm, 77)])
    assert np.allclose(by_piece, one.push(pcm, 1.001), atol=1e-5)


def test_beginning_to_resample_makes_no_click() -> None:
    sync, out = DriftResampler(), list[np.ndarray]()
    pcm = tone(80 * SAMPLE_RATE, 440)
    for number, piece in enumerate(pieces(pcm, 1600)):
        run = Samples(piece, number / 10)
        out += [r.pcm for r in sync.push(run, number / 10 * (1 - 1e-3))]
    heard = np.concatenate(out)
    assert sync.engaged
    assert np.abs(np.diff(heard)).max() < 1.02 * np.abs(np.diff(pcm)).max()


# The estimate


@pytest.mark.parametrize("ppm", [200, -200, 30])
def test_a_clocks_rate_is_found_through_the_jitter_of_a_network(ppm: float) -> None:
    draw, estimate = random.Random(0), ClockEstimate()
    for number in range(6000):
        true_s = number / 10
        estimate.reference(true_s, true_s + draw.expovariate(50))
        estimate.own(true_s * (1 + ppm * 1e-6), true_s + draw.expovariate(50))
    assert estimate.ppm == pytest.approx(ppm, abs=10)
    assert estimate.skew_s == pytest.approx(600e-6 * ppm, abs=0.005)


def test_a_delay_that_both_clocks_suffer_is_no_drift() -> None:
    estimate = ClockEstimate()
    for number in range(2000):
        true_s = number / 10
        late_s = 0.0 if true_s < 100 else 0.4
        estimate.reference(true_s, true_s + late_s)
        estimate.own(true_s, true_s + late_s)
    assert abs(estimate.skew_s) < 0.001


def test_an_estimate_holds_no_more_windows_the_longer_it_runs() -> None:
    estimate = ClockEstimate()
    for number in range(20_000):
        estimate.own(number / 2, number / 2)
    assert estimate.windows == KEPT_WINDOWS


def test_pictures_that_begin_late_do_not_move_the_sound() -> None:
    sync = DriftResampler()
    for number in range(3000):
        now_s = number / 10
        if now_s > 100:
            sync.reference(now_s - 5000, now_s)
        sync.push(Samples(np.zeros(1600, np.float32), now_s), now_s + 0.1)
    assert not sync.engaged
    assert sync.steps == 0


# Both together


@pytest.mark.parametrize("ppm", [400, -400])
def test_sound_stays_within_40_ms_of_the_pictures(ppm: float) -> None:
    sync, _, skews = drifting(ppm, 300, run_s=0.2)
    assert max(map(abs, skews)) < 0.040
    assert abs(ppm) * 1e-6 * 300 > 0.04  # left alone it would not have
    assert abs(skews[-1]) < 0.010
    assert sync.steps == 0


def test_sound_of_a_true_clock_passes_bit_for_bit() -> None:
    sync, rng, draw = DriftResampler(), np.random.default_rng(0), random.Random(2)
    for number in range(3000):
        now_s, pcm = number / 10, rng.standard_normal(1600).astype(np.float32)
        sync.reference(now_s, now_s + draw.expovariate(100))
        (run,) = sync.push(Samples(pcm, now_s), now_s + 0.1 + draw.expovariate(100))
        assert run.pcm is pcm
        assert run.time_s == pytest.approx(now_s)


def test_corrected_sound_has_no_holes() -> None:
    _, out, _ = drifting(500, 120)
    for a, b in pairwise(out):
        assert b.time_s == pytest.approx(a.time_s + len(a.pcm) / SAMPLE_RATE, abs=1e-9)


def test_a_hole_in_the_sound_stays_a_hole_of_its_length() -> None:
    sync = DriftResampler()
    pcm = np.ones(1600, np.float32)
    times = [run.time_s for at in (0.0, 0.1, 0.5, 0.6) for run in sync.push(Samples(pcm, at), at)]
    assert times == pytest.approx([0.0, 0.1, 0.5, 0.6])


def test_sound_that_was_lost_unseen_is_put_right_in_one_step_and_counted() -> None:
    sync, ends = DriftResampler(), list[tuple[float, float]]()
    for number in range(2000):
        true_s = number / 10 + (1.0 if number >= 1000 else 0.0)  # a second nobody tells of
        out = sync.push(Samples(np.ones(1600, np.float32), number / 10), true_s + 0.1)
        ends.append((true_s, out[-1].time_s))
    assert sync.steps == 1
    true_s, time_s = ends[-1]
    assert time_s == pytest.approx(true_s, abs=0.015)


@given(st.lists(st.tuples(st.integers(1, 4000), st.floats(-3, 3), st.floats(0, 5)), max_size=60))
def test_whatever_comes_no_sample_is_lost_without_a_step(
    runs: list[tuple[int, float, float]],
) -> None:
    sync, at_s, now_s = DriftResampler(), 0.0, 0.0
    given_, got = 0, 0
    for count, gap_s, wait_s in runs:
        at_s, now_s = at_s + gap_s, now_s + wait_s
        out = sync.push(Samples(np.ones(count, np.float32), at_s), now_s)
        given_ += count
        got += sum(len(run.pcm) for run in out)
    got += sum(len(run.pcm) for run in sync.rest())
    assert abs(got - given_) <= 0.002 * given_ + len(runs) + 1
