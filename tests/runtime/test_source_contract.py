"""One contract for all sources: whoever reads one need not know which."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from omnidrop_stream.types import SAMPLE_RATE, Frame, Samples, StreamKind
from runtime.sources import (
    CameraSource,
    FileSource,
    Interruption,
    LiveSource,
    MicrophoneSource,
    Paced,
    PairedSource,
    PictureSource,
    Source,
    SourceState,
    WorldSource,
    open_source,
)
from runtime.sources.base import REASON_CODES
from runtime.sources.camera import CameraWish
from runtime.sources.device import Patience
from tests.runtime.sound_server import sound_server

__all__ = ["sound_server"]

SOON_S = 10.0
FIXTURES = {"rtsp": "rtsp_server", "microphone": "sound_server", "paired": "sound_server"}
"""What a source needs besides itself; a new kind of source adds a line to ``maker``, too."""


def lavfi(_: str) -> CameraWish:
    """A camera of FFmpeg's own that gives pictures at the pace of a real one."""
    return CameraWish("camera:test", "lavfi", "testsrc2=size=128x72:rate=25,realtime", 0)


def maker(
    name: str, clip: Callable[..., Path], request: pytest.FixtureRequest
) -> Callable[[], Source]:
    needs = request.getfixturevalue(FIXTURES[name]) if name in FIXTURES else None
    url = needs().url() if name == "rtsp" else ""
    patience = Patience(open_s=8, stall_s=8)
    sources: dict[str, Callable[[], Source]] = {
        "file": lambda: FileSource(clip(5.0)),
        "file in real time": lambda: Paced(FileSource(clip(5.0)), speed=4.0),
        "picture": lambda: PictureSource(seconds=30.0),
        "demo": lambda: WorldSource.parse("?seconds=30&seed=1", 2.0),
        "rtsp": lambda: open_source(url),
        "camera": lambda: CameraSource("test", find=lavfi, patience=patience),
        "microphone": lambda: MicrophoneSource(patience=patience),
        "paired": lambda: PairedSource(
            CameraSource("test", find=lavfi, patience=patience),
            MicrophoneSource(patience=patience),
            "pair",
        ),
    }
    return sources[name]


NAMES = ("file", "file in real time", "picture", "demo", "rtsp", "camera", "microphone", "paired")


@pytest.fixture(params=NAMES)
def source(request: pytest.FixtureRequest, clip: Callable[..., Path]) -> Callable[[], Source]:
    """Make a source of one kind, as often as wished."""
    return maker(request.param, clip, request)


class Reader:
    """Reads in a thread of its own until so many items came, then waits to be let on."""

    def __init__(self, source: Source, most: int) -> None:
        self.source, self.most = source, most
        self.items: list[Frame | Samples | Interruption] = []
        self.error: BaseException | None = None
        self.enough, self.go = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            with self.source as source:
                for item in source:
                    self.items.append(item)
                    if len(self.items) == self.most:
                        self.enough.set()
                        self.go.wait(SOON_S)
        except BaseException as error:
            self.error = error
        self.enough.set()

    def ended(self) -> bool:
        self._thread.join(SOON_S)
        return not self._thread.is_alive()


def test_what_comes_is_described_counted_and_in_order(source: Callable[[], Source]) -> None:
    with source() as opened:
        info, items = opened.info, []
        for item in opened:
            if len(items) == 8:
                break
            items.append(item)
        counted = (opened.stats.frames, opened.stats.samples)
    assert info.name
    assert info.kind in StreamKind
    for medium in (Frame, Samples):
        times = [item.time_s for item in items if isinstance(item, medium)]
        assert times == sorted(times)
    frames = [item for item in items if isinstance(item, Frame)]
    sound = sum(len(item.pcm) for item in items if isinstance(item, Samples))
    assert counted[0] >= len(frames)
    assert counted[1] >= sound
    assert min(item.time_s for item in items) == pytest.approx(0.0, abs=0.05)
    if frames and info.width is not None:
        assert frames[0].image.shape == (info.height, info.width, 3)


def test_sound_is_gapless_where_nothing_was_lost(source: Callable[[], Source]) -> None:
    with source() as opened:
        if opened.info.kind is StreamKind.VIDEO:
            return
        runs: list[Samples] = []
        for item in opened:
            if isinstance(item, Samples):
                runs.append(item)
            if len(runs) == 5:
                break
    for before, after in itertools.pairwise(runs):
        end_s = before.time_s + len(before.pcm) / SAMPLE_RATE
        assert after.time_s == pytest.approx(end_s, abs=0.002)


def test_stopped_from_another_thread_it_gives_nothing_more(source: Callable[[], Source]) -> None:
    reader = Reader(source(), 3)
    assert reader.enough.wait(SOON_S)
    assert reader.error is None
    reader.source.stop()
    reader.go.set()
    assert reader.ended()
    assert len(reader.items) == 3
    assert reader.error is None


def test_stopped_before_it_is_opened_it_gives_nothing(source: Callable[[], Source]) -> None:
    stopped = source()
    stopped.stop()
    with stopped as opened:
        assert list(opened) == []


def test_it_leaves_no_thread_and_no_open_file(source: Callable[[], Source]) -> None:
    def used() -> None:
        with source() as opened:
            next(iter(opened))

    used()  # what a library keeps for ever it has now
    threads, files = threading.active_count(), len(os.listdir("/proc/self/fd"))
    used()
    until_s = time.monotonic() + 2
    while threading.active_count() > threads and time.monotonic() < until_s:
        threading.Event().wait(0.01)
    assert threading.active_count() <= threads
    assert len(os.listdir("/proc/self/fd")) <= files


def test_a_live_source_tells_its_state_and_may_be_hurried(source: Callable[[], Source]) -> None:
    made = source()
    if not isinstance(made, LiveSource):
        return
    assert made.state.name == "connecting"
    with made as opened:
        for _, _item in zip(range(4), opened, strict=False):
            made.retry_now()
        state = made.state
    assert isinstance(state, SourceState)
    assert state.name in ("live", "degraded")
    assert state.code in REASON_CODES
    assert made.state.name == "offline"
    assert made.state.code in REASON_CODES
