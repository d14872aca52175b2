"""A live connection whose clocks fail: counted by name, an epoch each, and both media together."""

from __future__ import annotations

import gc
import math
import random
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omnidrop_stream.chunker import Chunker
from omnidrop_stream.types import CHUNK_SAMPLES, Frame, Samples
from runtime.sources.base import Interruption
from runtime.sources.clock import MediumClock, Reading
from runtime.sources.decode import Picture
from runtime.sources.live import LiveItems, Timeline
from runtime.sources.rate import RateGuard
from tests.runtime.feeds import Camera, Seen, Shot, to_rgb, watch

Stamp = Callable[[bool, float], float]


def from_20(changed: Callable[[float], float], sound: bool = True, video: bool = True) -> Camera:
    """A clock of both media, or of one, that is right until 20 s."""

    def stamp(is_sound: bool, at_s: float) -> float:
        concerned = sound if is_sound else video
        return changed(at_s) if concerned and at_s >= 20 else at_s + 50

    return Camera(stamp=stamp)


def whole(seen: Seen) -> bool:
    """Whether every chunk that is not the end of an epoch is 2.0 s with all its samples."""
    return all(
        chunk.duration_s == 2.0 and chunk.audio is not None and len(chunk.audio) == CHUNK_SAMPLES
        for chunk in seen.chunks
        if not chunk.flags.partial
    )


# Clocks that are set


@pytest.mark.parametrize(
    ("name", "camera"),
    [
        ("reset", from_20(lambda t: t - 20)),
        ("jump_forward", from_20(lambda t: t + 3650)),
        ("jump_backward", from_20(lambda t: t - 3550)),
        ("jump_forward", from_20(lambda t: t + 3650, sound=False)),
        ("jump_forward", from_20(lambda t: t + 3650, video=False)),
        ("jump_backward", from_20(lambda t: t - 3550, sound=False)),
        ("jump_backward", from_20(lambda t: t + 49.8)),
    ],
)
def test_a_clock_that_is_set_is_counted_once_and_begins_one_epoch(
    name: str, camera: Camera
) -> None:
    seen = watch(camera, 40)
    assert seen.faults == {f"clock.{name}": 1}
    assert len(seen.reasons) == 1
    assert {chunk.epoch for chunk in seen.chunks} == {0, 1}
    assert [gap.reason for gap in seen.chunker.gaps] == seen.reasons
    assert seen.chunks[-1].end_s == pytest.approx(40, abs=0.05)
    assert whole(seen)


@pytest.mark.parametrize("sound", [True, False])
@pytest.mark.parametrize("video", [True, False])
def test_sound_and_pictures_stay_together_through_a_jump(sound: bool, video: bool) -> None:
    seen = watch(from_20(lambda t: t + 3650, sound=sound, video=video), 60)
    assert max(map(abs, seen.skews_s[:-1])) < 0.040


def test_media_that_jump_at_different_moments_make_one_epoch() -> None:
    camera = Camera(stamp=lambda sound, t: t if t < (20 if sound else 23) else t + 3600)
    seen = watch(camera, 40)
    assert seen.faults == {"clock.jump_forward": 1}
    assert max(map(abs, seen.skews_s[:-1])) < 0.040


def test_media_that_jump_by_different_amounts_are_two_faults() -> None:
    camera = Camera(stamp=lambda sound, t: t if t < 20 else t + (3600 if sound else 50))
    seen = watch(camera, 40)
    assert seen.faults == {"clock.jump_forward": 2}
    assert max(map(abs, seen.skews_s[:-1])) < 0.040


def test_nothing_is_lost_at_a_jump() -> None:
    seen = watch(from_20(lambda t: t - 20), 40)
    heard = np.concatenate([chunk.audio for chunk in seen.chunks if chunk.audio is not None])
    assert np.all(np.abs(np.diff(heard * 8000 * 16000)) < 60)  # gapless, up to fp32's steps
    assert len(heard) == 40 * 16000


def test_a_small_step_back_of_one_medium_is_believed_and_stays() -> None:
    camera = from_20(lambda t: t + 49.8, sound=False)
    camera.fps, camera.run_s = 10, 0.1
    seen = watch(camera, 120)
    assert seen.faults == {"clock.jump_backward": 1}
    assert seen.skews_s[-2] == pytest.approx(0.2, abs=0.015)


def test_a_single_strange_time_is_left_out_and_no_jump() -> None:
    camera = Camera(stamp=lambda sound, t: t + (999 if abs(t - 20) < 0.001 else 0))
    seen = watch(camera, 40)
    assert seen.faults == {"clock.outlier": 2}
    assert seen.reasons == []


def test_a_true_hole_is_no_jump_of_the_clock() -> None:
    seen = watch(Camera(lost=lambda sound, t: 20 < t < 30), 40)
    assert seen.faults == {}
    (gap,) = seen.chunker.gaps
    assert (gap.from_s, gap.to_s) == (pytest.approx(20.5), pytest.approx(30.0))


def test_a_stall_and_the_burst_after_it_are_no_fault() -> None:
    class Stalling(Camera):
        def events(self, seconds: float) -> Iterator[tuple[float, bool, float, int]]:
            for arrived_s, *rest in super().events(seconds):
                yield (24.0 if 20 < arrived_s < 24 else arrived_s), *rest

    seen = watch(Stalling(), 60)
    assert seen.faults == {}
    assert len(seen.chunks) == 30
    assert not any(chunk.flags.audio_absent for chunk in seen.chunks)


def test_a_burst_at_the_start_is_no_fast_clock() -> None:
    class Bursting(Camera):
        def events(self, seconds: float) -> Iterator[tuple[float, bool, float, int]]:
            for arrived_s, *rest in super().events(seconds):
                yield max(arrived_s - 4.0, arrived_s / 10), *rest  # 4 s ahead within half a second

    seen = watch(Bursting(), 60)
    assert seen.faults == {}
    assert len(seen.chunks) == 30


def test_a_line_that_is_too_slow_is_no_slow_clock() -> None:
    class Slow(Camera):
        def events(self, seconds: float) -> Iterator[tuple[float, bool, float, int]]:
            for arrived_s, *rest in super().events(seconds):
                yield arrived_s * 2, *rest

    assert "clock.wrong_rate" not in watch(Slow(), 30).faults


# Wrong rates


@pytest.mark.parametrize(
    ("rate", "within_s"), [(10.0, 10), (0.1, 10), (1.5, 20), (0.8, 20), (1.07, 45), (0.93, 45)]
)
@pytest.mark.parametrize("media", ["both", "video"])
def test_a_clock_at_a_wrong_rate_is_found_and_left(
    rate: float, within_s: float, media: str
) -> None:
    camera = Camera(stamp=lambda sound, t: t if sound and media == "video" else rate * t)
    seen = watch(camera, 80)
    assert set(seen.faults) <= {"clock.wrong_rate", "clock.sound_steps"}
    assert 1 <= seen.faults["clock.wrong_rate"] <= 2
    last = max(chunk.epoch for chunk in seen.chunks)
    kept = [chunk for chunk in seen.chunks if chunk.epoch == last]
    assert sum(chunk.duration_s for chunk in kept) > 80 - within_s
    assert all(len(chunk.audio) == CHUNK_SAMPLES for chunk in kept if not chunk.flags.partial)
    assert max(map(abs, seen.skews_s[-1500:-1])) < 0.040


@pytest.mark.parametrize("rate", [10.0, 0.1])
def test_pictures_alone_at_a_wrong_rate_go_by_their_arrival(rate: float) -> None:
    seen = watch(Camera(sound=False, stamp=lambda sound, t: rate * t), 40)
    assert seen.faults == {"clock.wrong_rate": 1}
    assert sum(chunk.duration_s for chunk in seen.chunks if chunk.epoch) == pytest.approx(38, abs=4)


def test_sound_alone_at_a_wrong_rate_goes_by_its_samples() -> None:
    seen = watch(Camera(video=False, stamp=lambda sound, t: 10 * t), 40)
    assert seen.faults == {"clock.wrong_rate": 1}
    later = [chunk for chunk in seen.chunks if chunk.epoch]
    assert sum(len(chunk.audio) for chunk in later) == pytest.approx(40 * 16000, rel=0.01)


def test_sound_that_comes_at_half_its_rate_is_timed_by_arrival() -> None:
    seen = watch(Camera(ppm=-500_000), 60)
    assert seen.faults["clock.wrong_rate"] == 1
    assert seen.chunks[-1].end_s == pytest.approx(60, abs=4)
    assert seen.chunks[-2].flags.audio_absent


def test_times_that_make_no_sense_are_not_used() -> None:
    draw = random.Random(3)
    seen = watch(Camera(stamp=lambda sound, t: draw.uniform(0, 1e4)), 40)
    assert seen.faults["clock.wrong_rate"] == 2
    assert max(map(abs, seen.skews_s[-500:-1])) < 0.1  # pictures by arrival: as the network jitters
    assert seen.chunks[-1].end_s == pytest.approx(40, abs=2)


@settings(max_examples=25)
@given(st.floats(0, 0.3), st.integers(0, 1000))
def test_a_true_clock_is_never_found_wrong_however_it_jitters(jitter_s: float, seed: int) -> None:
    guard, draw, newest_s = RateGuard(), random.Random(seed), 0.0
    for number in range(1500):
        newest_s = max(newest_s, number * 0.04 + draw.uniform(0, jitter_s))
        assert guard.push(number * 0.04, newest_s) is None


def test_a_backlog_that_comes_faster_and_faster_is_no_fast_clock() -> None:
    guard, time_s = RateGuard(), 0.0
    for number in range(40):
        time_s += 0.06 * 2 ** ((number + 1) // 10 + 1) / 2
        assert guard.push(time_s, number * 0.06) is None


# Times that are missing


def test_a_stream_without_any_times_goes_by_arrival() -> None:
    seen = watch(Camera(stamp=lambda sound, t: math.nan), 40)
    assert seen.faults["clock.missing"] > 0
    assert sum(chunk.duration_s for chunk in seen.chunks) == pytest.approx(39, abs=1)
    assert max(map(abs, seen.skews_s[:-1])) < 0.1


def test_times_that_stop_coming_begin_an_epoch_and_the_stream_goes_on() -> None:
    seen = watch(Camera(stamp=lambda sound, t: t if t < 20 else math.nan), 40)
    assert set(seen.reasons) == {"the stream has no times any more"}
    assert max(map(abs, seen.skews_s[:-1])) < 0.040
    assert seen.chunks[-1].end_s == pytest.approx(40, abs=0.5)


def test_a_missing_time_here_and_there_is_counted_and_sound_goes_on() -> None:
    seen = watch(Camera(stamp=lambda s, t: math.nan if int(t * 50) % 16 == 3 else t), 20)
    assert seen.faults["clock.missing"] > 50
    assert seen.reasons == []
    assert len(seen.chunks) == 10
    assert not any(chunk.flags.silence_filled_samples for chunk in seen.chunks)


def test_media_whose_clocks_begin_apart_are_put_together_by_arrival() -> None:
    seen = watch(Camera(stamp=lambda sound, t: t + 5000 * sound), 20)
    assert seen.faults == {"clock.apart": 1}
    assert max(map(abs, seen.skews_s[:-1])) < 0.060  # as far as they arrive apart


# Drift


@pytest.mark.parametrize("ppm", [400, -400])
def test_the_cameras_sound_stays_with_its_pictures_for_minutes(ppm: float) -> None:
    seen = watch(Camera(ppm=ppm, run_s=0.1, fps=10), 200)
    assert max(map(abs, seen.skews_s[:-1])) < 0.040
    assert abs(seen.skews_s[-2]) < 0.010 < abs(ppm) * 1e-6 * 200
    assert whole(seen)
    assert seen.faults == {}


def test_sound_follows_the_pictures_clock_not_ours() -> None:
    camera = Camera(ppm=300, run_s=0.1, fps=5)
    camera.stamp = lambda sound, t: t if sound else t * (1 + 300e-6)
    seen = watch(camera, 200)
    assert max(map(abs, seen.skews_s[:-1])) < 0.005


def test_a_camera_of_one_true_clock_is_passed_on_bit_for_bit() -> None:
    seen = watch(Camera(), 60)
    heard = np.concatenate([chunk.audio for chunk in seen.chunks])
    runs = [0.02 * n + np.arange(320) / 16000 for n in range(3000)]
    assert np.array_equal(heard, (np.concatenate(runs) / 8000).astype(np.float32))


# Whatever comes


@st.composite
def faulty_clocks(draw: st.DrawFn) -> Stamp:
    """Up to four faults, each of one medium or of both, at any moment."""
    kinds = st.sampled_from(["set", "rate", "none", "back", "noise", "frozen"])
    faults = draw(
        st.lists(
            st.tuples(st.floats(0, 20), kinds, st.sampled_from("avb"), st.floats(-4000, 4000)),
            max_size=4,
        )
    )
    noise = random.Random(draw(st.integers(0, 99)))

    def stamp(sound: bool, at_s: float) -> float:
        stamp_s = at_s
        for from_s, kind, medium, size in sorted(faults):
            if at_s < from_s or medium == ("v" if sound else "a"):
                continue
            changes = {
                "set": stamp_s + size,
                "rate": stamp_s + (at_s - from_s) * size / 400,
                "none": math.nan,
                "back": stamp_s - abs(size) / 10_000,
                "noise": stamp_s + noise.uniform(-1, 1) * size / 1000,
                "frozen": from_s,
            }
            stamp_s = changes[kind]
        return stamp_s

    return stamp


@settings(max_examples=25)
@given(faulty_clocks(), st.integers(0, 5))
def test_whatever_the_clocks_do_the_stream_goes_on_in_order(stamp: Stamp, seed: int) -> None:
    seen = watch(Camera(stamp=stamp, seed=seed, run_s=0.1, fps=10), 25)
    end_s = 0.0
    for chunk in seen.chunks:
        assert chunk.start_s >= end_s - 1e-6
        for gap in seen.chunker.gaps:  # in order; they may follow on each other
            end_s = max(end_s, gap.to_s) if gap.from_s <= end_s + 1e-6 else end_s
        assert chunk.start_s <= end_s + 1e-6
        assert 0 < chunk.duration_s <= 2.0
        assert chunk.flags.partial or chunk.duration_s == 2.0
        assert chunk.flags.partial or chunk.audio is None or len(chunk.audio) == CHUNK_SAMPLES
        end_s = chunk.end_s


@settings(max_examples=10)
@given(faulty_clocks())
def test_the_same_stamps_and_arrivals_give_the_same_chunks(stamp: Stamp) -> None:
    table = _Table(stamp)
    first, again = (
        watch(Camera(stamp=lambda s, t: table[s, t], run_s=0.1, fps=10), 12) for _ in range(2)
    )
    assert [c.start_s for c in first.chunks] == [c.start_s for c in again.chunks]
    assert all(
        np.array_equal(a.frames, b.frames) and np.array_equal(a.audio, b.audio)
        for a, b in zip(first.chunks, again.chunks, strict=True)
    )


class _Table(dict[tuple[bool, float], float]):
    """Each stamp is asked for once and then stays."""

    def __init__(self, stamp: Stamp) -> None:
        super().__init__()
        self._stamp = stamp

    def __missing__(self, key: tuple[bool, float]) -> float:
        self[key] = self._stamp(*key)
        return self[key]


def test_what_waits_for_the_other_medium_is_bounded_and_handed_on_at_the_end() -> None:
    now = [0.0]
    live = LiveItems(Timeline(lambda: now[0]), None, has_video=True, to_rgb=to_rgb)
    out: list[Frame | Samples | Interruption] = []
    for number in range(200):
        now[0] = number * 0.04
        stamp_s = now[0] + (500 if number >= 100 else 0)
        out += live.picture(Picture(cast(Any, Shot(number)), stamp_s, 0.04, False))
        assert number - sum(isinstance(item, Frame) for item in out) < 30
    assert sum(isinstance(item, Frame) for item in [*out, *live.rest()]) == 200
    assert [item.reason for item in out if isinstance(item, Interruption)] == [
        "the stream's clock jumped forward by 500 s"
    ]
    assert Chunker().push(out[0]) == []


def test_the_clocks_of_a_connection_go_with_it_and_wait_for_no_collection_of_garbage():
    """With a model's objects around, a full collection comes once in days."""
    faults = Counter()
    pictures, sounds = (MediumClock(faults, sound=sound) for sound in (False, True))
    pictures.link(sounds)
    for clock in (pictures, sounds):
        clock.push(Reading("item", 1.0, 0.1, 1.0))
    gone = [weakref.ref(pictures), weakref.ref(sounds)]
    gc.disable()
    try:
        del pictures, sounds, clock
        assert [one() for one in gone] == [None, None]
    finally:
        gc.enable()
