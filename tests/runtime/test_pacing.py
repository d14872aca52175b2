"""A file in real time, with a clock that the tests turn."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

import numpy as np
import pytest

from omnidrop_stream.chunker import Chunker
from omnidrop_stream.errors import UsageError
from omnidrop_stream.types import Chunk, Frame, Samples, StreamKind
from runtime.sources import FileSource, Interruption, Paced, SourceInfo, SourceStats
from tests.streams import all_same, run

Clip = Callable[..., Path]
Item = Frame | Samples | Interruption


class Listed:
    """A source of given items."""

    def __init__(self, items: list[Item]) -> None:
        self.items, self.stopped = items, False
        self.info = SourceInfo("listed", StreamKind.AV, 8, 8, 2.0, None, live=False)
        self.stats = SourceStats()

    def __enter__(self) -> Listed:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stopped = True

    def __iter__(self) -> Iterator[Item]:
        return iter(self.items)

    def stop(self) -> None:
        self.stopped = True


class Clock:
    """Time passes only by waiting, and by ``slow`` seconds whenever somebody looks."""

    def __init__(self, slow: float = 0.0) -> None:
        self.now, self.slow = 100.0, slow

    def __call__(self) -> float:
        self.now += self.slow
        return self.now

    def wait(self, seconds: float) -> bool:
        self.now += seconds
        return False


def picture(at_s: float) -> Frame:
    return Frame(np.zeros((8, 8, 3), np.uint8), at_s)


def sound(at_s: float, seconds: float) -> Samples:
    return Samples(np.zeros(round(seconds * 16000), np.float32), at_s)


def arrivals(items: list[Item], speed: float = 1.0, slow: float = 0.0) -> list[float]:
    clock = Clock(slow)
    with Paced(Listed(items), speed, clock, clock.wait) as paced:
        return [clock.now - 100 for _ in paced]


def test_pictures_come_at_their_own_times() -> None:
    assert arrivals([picture(t) for t in (0.0, 0.5, 1.0)]) == pytest.approx([0, 0.5, 1])


def test_sound_comes_when_it_has_been_heard() -> None:
    items = [sound(0.0, 0.1), sound(0.1, 0.4)]
    assert arrivals(items) == pytest.approx([0.1, 0.5])


@pytest.mark.parametrize("speed", [0.5, 4.0])
def test_the_speed_divides_the_times(speed: float) -> None:
    items = [picture(t) for t in (0.0, 1.0, 2.0)]
    assert arrivals(items, speed) == pytest.approx([0, 1 / speed, 2 / speed])


def test_time_counts_from_the_first_item() -> None:
    assert arrivals([picture(t) for t in (7.0, 7.5)]) == pytest.approx([0, 0.5])


def test_who_is_late_catches_up() -> None:
    late = arrivals([picture(t) for t in (0.0, 0.1, 0.2, 9.0)], slow=0.3)
    assert late == pytest.approx([0.3, 0.6, 0.9, 9.3])


def test_a_clock_that_jumps_forward_by_an_hour_is_not_waited_for() -> None:
    items = [picture(t) for t in (0.0, 0.5, 3600.5, 3601.0)]
    assert arrivals(items) == pytest.approx([0, 0.5, 0.5, 1.0])


def test_a_clock_that_begins_again_is_paced_from_there() -> None:
    items = [picture(t) for t in (100.0, 100.5, 0.0, 0.5)]
    assert arrivals(items) == pytest.approx([0, 0.5, 0.5, 1.0])


def test_a_long_run_of_sound_before_its_pictures_is_no_jump() -> None:
    items = [sound(0.0, 2.0), picture(0.5), picture(2.5)]
    assert arrivals(items) == pytest.approx([2, 2, 2.5])


def test_an_interruption_passes_at_once() -> None:
    gap = Interruption("lost", 5.0)
    assert arrivals([picture(0.0), gap, picture(5.0)]) == pytest.approx([0, 0, 5])


def test_items_and_times_stay_as_they_are(clip: Clip) -> None:
    with FileSource(clip(5.0)) as source:
        plain = [item.time_s for item in source]
    clock = Clock()
    with Paced(FileSource(clip(5.0)), 1.0, clock, clock.wait) as paced:
        assert [item.time_s for item in paced] == plain
        assert paced.info.width == 160
        assert paced.stats.frames == 10
    assert clock.now == pytest.approx(105, abs=0.6)


def test_stopping_ends_the_wait_for_an_item() -> None:
    source = Listed([picture(0.0), picture(3600.0)])
    paced, came = Paced(source), threading.Event()

    def read() -> None:
        for _ in paced:
            came.set()

    thread = threading.Thread(target=read)
    thread.start()
    assert came.wait(5)
    paced.stop()
    thread.join(2)
    assert not thread.is_alive()
    assert source.stopped


@pytest.mark.parametrize("speed", [1.0, 7.3, 1000.0])
def test_a_file_gives_the_same_chunks_bit_for_bit_at_any_speed(clip: Clip, speed: float) -> None:
    def chunks(source: FileSource | Paced) -> list[Chunk]:
        with source:
            return run(Chunker(), [item for item in source if not isinstance(item, Interruption)])

    clock = Clock(slow=0.003)
    plain = chunks(FileSource(clip(5.0)))
    assert len(plain) == 3
    assert all_same(plain, chunks(Paced(FileSource(clip(5.0)), speed, clock, clock.wait)))


@pytest.mark.parametrize("speed", [0.0, -1.0, math.inf, math.nan, 1e9])
def test_a_speed_that_is_not_allowed_is_refused(speed: float) -> None:
    with pytest.raises(UsageError, match="speed"):
        Paced(Listed([]), speed)
