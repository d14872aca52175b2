"""A camera and a microphone as one source: one clock, one state, each goes on without the other."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Self

import numpy as np
import pytest

from omnidrop_stream.chunker import Chunker
from omnidrop_stream.errors import SourceNotFound, UsageError
from omnidrop_stream.types import SAMPLE_RATE, Frame, Samples, StreamKind
from runtime.sources import FileSource, Interruption, MicrophoneSource, PairedSource
from runtime.sources.base import SourceInfo, SourceState, SourceStats
from runtime.sources.microphone import _Mono
from runtime.sources.paired import HELD_FRAMES, HELD_S
from runtime.sources.portaudio import Block
from tests.runtime.test_microphone import Listener

SOON_S = 10.0
LOST = SourceState("offline", "unplugged", 0, "device_lost", 0.0, False, False)
ALIVE = SourceState("live", "", 0, "", 0.0, True, True)


class Gate:
    """A live source that gives what the test hands it; on the clock where ``origin_s`` is told."""

    def __init__(self, kind: StreamKind, origin_s: float | None = None) -> None:
        self.info = SourceInfo("gate", kind, 8, 8, 25.0, None, live=True)
        self.stats = SourceStats()
        self.state = SourceState("connecting", code="connecting")
        self.origin_s = origin_s
        self.opening = threading.Event()
        self.error: Exception | None = None
        self.given = 0
        self._items: list = []
        self._news = threading.Condition()
        self._stopped = False
        self.retried = 0

    def give(self, *items: Frame | Samples | Interruption) -> None:
        self.state = ALIVE
        with self._news:
            self._items += items
            self._news.notify_all()

    def __enter__(self) -> Self:
        self.opening.wait(SOON_S)
        if self.error is not None:
            raise self.error
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __iter__(self) -> Iterator[Frame | Samples | Interruption]:
        while True:
            with self._news:
                self._news.wait_for(lambda: self._items or self._stopped, SOON_S)
                if self._stopped:
                    return
                item = self._items.pop(0)
            yield item
            self.given += 1

    def stop(self) -> None:
        self.opening.set()
        with self._news:
            self._stopped = True
            self._news.notify_all()

    def retry_now(self) -> None:
        self.retried += 1


def frame(at_s: float, value: int = 0) -> Frame:
    return Frame(np.full((8, 8, 3), value, np.uint8), at_s)


def sound(at_s: float, long_s: float = 0.02) -> Samples:
    return Samples(np.full(round(long_s * SAMPLE_RATE), 0.5, np.float32), at_s)


class Pair:
    """A pair of gates, listened to."""

    def __init__(self, wait: bool = False, opened: bool = True) -> None:
        self.eye, self.ear = Gate(StreamKind.VIDEO, 100.0), Gate(StreamKind.AUDIO, 100.0)
        self.source = PairedSource(self.eye, self.ear, "pair", wait_for_first=wait)
        if opened:
            self.eye.opening.set()
            self.ear.opening.set()

    def together(self, listener: Listener, at_s: float = 0.0) -> None:
        """Begin with a picture and sound at the same time."""
        self.eye.give(frame(at_s))
        listener.until(lambda: listener.count(Frame))
        self.ear.give(sound(at_s))
        listener.until(lambda: listener.count(Samples))


def test_both_media_are_on_one_clock_and_begin_with_the_first_picture() -> None:
    pair = Pair()
    pair.ear.origin_s = 99.0  # the microphone began a second before the camera
    with Listener(pair.source) as listener:
        for number in range(60):
            pair.ear.give(sound(0.5 + number * 0.02))
        pair.eye.give(frame(0.25))
        listener.until(lambda: listener.count(Frame) and listener.count(Samples) >= 20)
    first = listener.items[0]
    assert isinstance(first, Frame)
    assert first.time_s == 0.0
    runs = listener.sound()
    assert runs[0].time_s == pytest.approx(0.0, abs=1e-4)  # 1.25 s of the microphone's own time
    ends = [run.time_s + len(run.pcm) / SAMPLE_RATE for run in runs]
    assert [run.time_s for run in runs[1:]] == pytest.approx(ends[:-1], abs=1e-6)


def test_a_corrupt_picture_stays_flagged_beside_a_microphone() -> None:
    pair = Pair()
    with Listener(pair.source) as listener:
        pair.together(listener)
        pair.eye.give(Frame(frame(0.5).image, 0.5, corrupt=True))
        listener.until(lambda: listener.count(Frame) == 2)
    assert [item.corrupt for item in listener.items if isinstance(item, Frame)] == [False, True]


def test_without_any_picture_the_sound_goes_on_alone_after_a_while() -> None:
    pair = Pair()
    with Listener(pair.source) as listener:
        pair.ear.give(*(sound(number * 0.5, 0.5) for number in range(6)))
        listener.until(lambda: len(pair.source._sound_first) == 6)
        pair.ear.give(*(sound(3.0 + number * 0.5, 0.5) for number in range(6)))
        listener.until(lambda: listener.count(Samples) == 12)
        assert (pair.source.state.name, pair.source.state.code) == ("degraded", "no_video")
        pair.eye.give(frame(6.0))
        listener.until(lambda: listener.count(Frame) == 1)
    assert listener.sound()[0].time_s == 0.0
    assert listener.items[-1].time_s == 6.0


def test_a_lost_microphone_leaves_the_pictures_and_is_told() -> None:
    pair = Pair()
    with Listener(pair.source) as listener:
        pair.together(listener)
        listener.until(lambda: pair.source.state.name == "live")
        pair.ear.state = LOST
        listener.until(lambda: pair.source.state.code == "no_audio")
        state = pair.source.state
        pair.eye.give(frame(0.5), frame(1.0))
        listener.until(lambda: listener.count(Frame) == 3)
        pair.ear.give(Interruption("unplugged", 1.0), sound(1.0))
        listener.until(lambda: listener.count(Samples) == 2)
        listener.until(lambda: pair.source.state.name == "live")
    assert (state.name, state.video, state.audio) == ("degraded", True, False)
    assert state.reason == "no sound: unplugged"
    assert listener.count(Interruption) == 0  # a hole in the sound is no hole in the stream


def test_a_lost_camera_leaves_the_sound_and_is_told() -> None:
    pair = Pair()
    with Listener(pair.source) as listener:
        pair.together(listener)
        pair.eye.state = LOST
        listener.until(lambda: pair.source.state.code == "no_video")
        assert (pair.source.state.video, pair.source.state.audio) == (False, True)
        pair.ear.give(sound(0.02))
        listener.until(lambda: listener.count(Samples) == 2)
        pair.ear.state = LOST
        listener.until(lambda: pair.source.state.name == "offline")
        assert pair.source.state.code == "device_lost"


def test_when_both_were_lost_the_interruption_is_handed_on() -> None:
    now_s = [1000.0]
    eye, ear = Gate(StreamKind.VIDEO, 100.0), Gate(StreamKind.AUDIO, 100.0)
    eye.opening.set()
    ear.opening.set()
    with Listener(PairedSource(eye, ear, "pair", clock=lambda: now_s[0])) as listener:
        eye.give(frame(0.0))
        ear.give(sound(0.0))
        listener.until(lambda: listener.count(Frame) and listener.count(Samples))
        now_s[0] += 30.0
        eye.give(Interruption("unplugged", 30.0), frame(30.0))
        listener.until(lambda: listener.count(Frame) == 2)
    told = [item for item in listener.items if isinstance(item, Interruption)]
    assert [(item.reason, item.at_s) for item in told] == [("unplugged", 30.0)]


def test_a_chunk_whose_microphone_was_lost_has_no_sound_and_says_so() -> None:
    pair = Pair()
    with Listener(pair.source) as listener:
        pair.together(listener)
        pair.ear.give(*(sound(0.02 + number * 0.5, 0.5) for number in range(4)))
        listener.until(lambda: listener.count(Samples) == 5)
        pair.eye.give(*(frame(0.5 * number) for number in range(1, 16)))
        listener.until(lambda: listener.count(Frame) == 16)
    chunker = Chunker()
    chunks = [chunk for item in listener.items for chunk in chunker.push(item)]
    assert [chunk.audio is None for chunk in chunks] == [False, True, True]
    assert all(chunk.frames is not None for chunk in chunks)
    assert [chunk.flags.audio_absent for chunk in chunks] == [False, True, True]


def test_a_feeds_own_sound_gives_way_to_the_microphone() -> None:
    pair = Pair()
    with Listener(pair.source) as listener:
        pair.together(listener)
        pair.eye.give(sound(0.5), frame(0.5))
        listener.until(lambda: listener.count(Frame) == 2)
    assert listener.count(Samples) == 1


def test_pictures_without_a_clock_are_placed_by_their_arrival() -> None:
    now_s = [1000.0]
    eye, ear = Gate(StreamKind.VIDEO), Gate(StreamKind.AUDIO, 1000.0)
    eye.opening.set()
    ear.opening.set()
    with Listener(PairedSource(eye, ear, "pair", clock=lambda: now_s[0])) as listener:
        now_s[0] = 1002.0
        eye.give(frame(7.0))
        listener.until(lambda: listener.count(Frame))
        ear.give(sound(2.5))
        listener.until(lambda: listener.count(Samples))
    assert listener.sound()[0].time_s == pytest.approx(0.5, abs=1e-6)


def test_a_reader_that_is_late_loses_the_oldest_of_each_and_it_is_counted() -> None:
    pair = Pair()
    with pair.source as opened:
        pair.eye.give(*(frame(number * 0.04, number) for number in range(HELD_FRAMES + 5)))
        pair.ear.give(*(sound(number * 0.5, 0.5) for number in range(round(HELD_S * 2) + 3)))
        for _ in range(500):
            if (pair.eye.given, pair.ear.given) == (HELD_FRAMES + 5, HELD_S * 2 + 3):
                break
            threading.Event().wait(0.01)
        items = iter(opened)
        first = next(items)
        assert opened.stats.dropped_frames == 5
        assert opened.stats.dropped_samples == 3 * 8000
    assert isinstance(first, Frame)
    assert first.image[0, 0, 0] == 5


def test_what_cannot_be_opened_is_refused_unless_it_is_waited_for() -> None:
    refused = Pair(opened=False)
    refused.ear.error = SourceNotFound("mic:9: there is no such microphone.")
    refused.ear.opening.set()
    refused.eye.opening.set()
    with pytest.raises(SourceNotFound, match="no such microphone"):
        refused.source.__enter__()
    waiting = Pair(wait=True, opened=False)
    waiting.eye.opening.set()  # the microphone is not there yet
    with Listener(waiting.source) as listener:
        waiting.eye.give(frame(0.0))
        listener.until(lambda: listener.count(Frame))
        assert waiting.source.info.kind is StreamKind.AV
        waiting.ear.opening.set()
        waiting.ear.give(sound(0.5))
        listener.until(lambda: listener.count(Samples))


def test_retry_now_reaches_both() -> None:
    pair = Pair()
    pair.source.retry_now()
    assert (pair.eye.retried, pair.ear.retried) == (1, 1)


def test_a_microphone_goes_with_live_pictures_only() -> None:
    with pytest.raises(UsageError, match="Leave --microphone out"):
        PairedSource(FileSource("film.mp4"), MicrophoneSource(), "film")


def test_two_clocks_200_ppm_apart_stay_within_40_ms() -> None:
    """Eight minutes of simulated time: the device's crystal is fast, its stamps jitter."""
    rng, ppm = np.random.default_rng(3), 200e-6
    mono, worst_s, heard_s = _Mono(), 0.0, 0.0
    for number in range(8000):  # blocks of 60 ms by the device's count
        true_s = 0.06 * number / (1 + ppm)
        stamp_s = true_s + float(rng.uniform(0, 0.015))
        pcm = np.full((960, 1), 0.1, np.float32)
        for run in mono.push(Block(pcm, 16000, 1000 + stamp_s, False)):
            heard_s = run.time_s + len(run.pcm) / SAMPLE_RATE - 1000
        if true_s > 60:
            worst_s = max(worst_s, abs(heard_s - true_s - 0.06))
    assert worst_s < 0.040
    assert 0.06 * number * ppm > 0.08  # uncorrected it would be this far off
