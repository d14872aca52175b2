"""Cameras: what is opened for which words, by whom, and what happens when one is lost."""

from __future__ import annotations

import errno
import itertools
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import av
import numpy as np
import pytest

from omnidrop_stream.errors import (
    ConfigError,
    SourceDenied,
    SourceError,
    SourceNotFound,
    UsageError,
)
from omnidrop_stream.types import Frame
from runtime.sources import CameraSource, Interruption, PairedSource, open_source
from runtime.sources.arrival import ArrivalClock
from runtime.sources.base import SourceStats
from runtime.sources.bounded import BoundedCalls, Stuck
from runtime.sources.camera import CameraFeed, CameraWish, find_camera
from runtime.sources.camera_opencv import OpencvCamera
from runtime.sources.camera_pyav import PyavCamera, _trouble
from runtime.sources.decode import Picture
from runtime.sources.device import DeviceTrouble, Lost, Patience
from runtime.sources.devices import CameraDevice
from runtime.sources.microphone import MicrophoneSource
from runtime.sources.options import SourceOptions

WISH = CameraWish("camera:test", "lavfi", "testsrc2=size=128x72:rate=25,realtime", 0)
UNPLUGGED = DeviceTrouble("device_lost", "the camera was unplugged", "Check its cable.")
BROKEN = DeviceTrouble("unreadable", "it cannot be read", "Try the other backend.")
BUSY = DeviceTrouble("busy", "another program uses the camera", "Close it.")
CAMERAS = [CameraDevice(0, "Integrated Camera", "/dev/video0"), CameraDevice(2, "USB Cam", "cam2")]


class Script:
    """A camera that does what the test says, one step for each opening and reading."""

    width, height, fps = 8, 8, 25.0

    def __init__(self, *steps: DeviceTrouble | int) -> None:
        self.steps = list(steps)
        self.opened = self.closed = 0
        self.at_s = 100.0
        self.corrupt: set[int] = set()  # pictures, by how many come after each

    def open(self, wish: CameraWish, open_s: float, stats: SourceStats) -> CameraFeed:
        self.opened += 1
        step = self.steps.pop(0) if self.steps else 10**6
        if isinstance(step, DeviceTrouble):
            raise Lost(step)
        self.left = step
        return self

    def read(self, limit_s: float) -> Sequence[Picture]:
        if self.left <= 0:
            if self.steps and isinstance(self.steps[0], DeviceTrouble):
                raise Lost(self.steps.pop(0))
            self.at_s += limit_s
            return []
        self.left -= 1
        self.at_s += 0.04
        frame = av.VideoFrame.from_ndarray(np.zeros((8, 8, 3), np.uint8), format="rgb24")
        return [Picture(frame, self.at_s, 0.04, False, corrupt=self.left in self.corrupt)]

    def close(self) -> None:
        self.closed += 1

    def clock(self) -> float:
        return self.at_s

    def source(self, **more: object) -> CameraSource:
        openers = {"pyav": self.open, "opencv": more.pop("opencv", self.open)}
        return CameraSource(
            "test",
            fps=None,
            find=lambda _: WISH,
            openers=openers,
            clock=self.clock,
            draw=lambda: 0.0,
            **more,
        )


def test_pictures_of_a_camera_come_at_its_pace_with_monotonic_times() -> None:
    with CameraSource("test", fps=None, find=lambda _: WISH) as source:
        frames = list(itertools.islice(source, 12))
        origin_s = source.origin_s
    assert (source.info.width, source.info.height, source.info.fps) == (128, 72, 25.0)
    assert frames[0].image.shape == (72, 128, 3)
    assert np.diff([frame.time_s for frame in frames]) == pytest.approx(0.04, abs=0.001)
    assert origin_s is not None
    assert abs(origin_s + frames[-1].time_s - time.monotonic()) < 1.0


def test_a_corrupt_picture_of_a_camera_is_flagged() -> None:
    script = Script(3)
    script.corrupt = {1}
    with script.source() as source:
        frames = list(itertools.islice(source, 3))
    assert [frame.corrupt for frame in frames] == [False, True, False]


def test_only_what_the_models_grid_can_pick_is_handed_on() -> None:
    script = Script(50)
    source = script.source()
    source._fps = 2.0
    with source as opened:
        frames = list(itertools.islice(opened, 7))
    assert [round(frame.time_s, 2) for frame in frames] == [0.0, 0.48, 0.52, 0.96, 1.0, 1.48, 1.52]


def test_a_lost_camera_is_opened_again_and_the_hole_is_told() -> None:
    script = Script(3, UNPLUGGED, UNPLUGGED, 3)
    source = script.source()
    states = []
    with source as opened:
        items = []
        for item in opened:
            items.append(item)
            states.append(source.state.code)
            if len(items) == 3:
                source.retry_now()
            if len(items) == 6:
                break
    kinds = [type(item).__name__ for item in items]
    assert kinds == ["Frame"] * 3 + ["Interruption"] + ["Frame"] * 2
    assert items[3].reason == "the camera was unplugged"
    assert source.state.reconnects == 1
    assert script.opened == 3  # one of them in vain
    assert script.closed >= 2


def test_a_camera_that_gives_nothing_for_too_long_is_opened_again() -> None:
    script = Script(2, 2)
    source = script.source(patience=Patience(stall_s=3.0))
    with source as opened:
        items = list(itertools.islice(opened, 4))
    assert isinstance(items[2], Interruption)
    assert "no picture for 3 s" in items[2].reason
    assert items[2].at_s == items[3].time_s >= 3.0


def test_while_a_camera_is_lost_the_state_says_why() -> None:
    script = Script(1, UNPLUGGED, *[BUSY] * 10000)
    source = script.source()
    seen = threading.Event()

    def read() -> None:
        with source as opened:
            for _ in opened:
                seen.set()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    assert seen.wait(5)
    for _ in range(500):
        if source.state.code == "busy":
            break
        threading.Event().wait(0.01)
    state = source.state
    source.stop()
    reader.join(5)
    assert not reader.is_alive()
    assert (state.name, state.code, state.video, state.audio) == ("offline", "busy", False, None)
    assert state.reason == "another program uses the camera"


def test_a_camera_that_cannot_be_had_at_first_is_refused_or_waited_for() -> None:
    with pytest.raises(SourceError, match=r"another program uses the camera\. Close it\."):
        Script(BUSY).source().__enter__()
    script = Script(BUSY, BUSY, 5)
    with script.source(patience=Patience(wait_for_first=True)) as opened:
        assert isinstance(next(iter(opened)), Frame)
    assert script.opened == 3


def test_opencv_reads_where_pyav_fails_and_it_is_told() -> None:
    other = Script(5)
    with Script(BROKEN).source(opencv=other.open) as opened:
        next(iter(opened))
        assert opened.info.decoder == "opencv (pyav: it cannot be read)"


@pytest.mark.parametrize("trouble", [BUSY, UNPLUGGED])
def test_where_opencv_fails_too_the_first_reason_is_told(trouble: DeviceTrouble) -> None:
    other = Script(BROKEN)
    with pytest.raises(SourceError, match=trouble.reason):
        Script(trouble).source(opencv=other.open).__enter__()
    assert other.opened == (trouble is UNPLUGGED)


def test_a_backend_that_was_asked_for_is_the_only_one() -> None:
    first, other = Script(5), Script(5)
    with first.source(opencv=other.open, backend="opencv") as opened:
        assert opened.info.decoder == "opencv, as asked"
    assert (first.opened, other.opened) == (0, 1)
    with pytest.raises(UsageError, match="auto, pyav or opencv"):
        CameraSource(backend="vlc")


def test_opencv_reads_pictures_and_tells_that_they_ended(clip: Callable[..., Path]) -> None:
    stats = SourceStats()
    camera = OpencvCamera(CameraWish("x", "", str(clip(2.0)), -1), 5.0, stats)
    try:
        first = None
        while first is None:
            first = next(iter(camera.read(1.0)), None)
        assert (first.frame.width, first.frame.height) == (160, 90)
        assert abs(time.monotonic() - first.time_s) < 5
        while stats.decoded_frames < 50:
            camera.read(1.0)
        with pytest.raises(Lost) as caught:
            camera.read(1.0)
        assert caught.value.trouble.code == "device_lost"
    finally:
        camera.close()


def test_opencv_refuses_what_it_cannot_open(tmp_path: Path) -> None:
    with pytest.raises(Lost, match="OpenCV cannot open"):
        OpencvCamera(CameraWish("x", "", str(tmp_path / "none"), -1), 5.0, SourceStats())


def test_a_picture_outlives_its_camera() -> None:
    camera = PyavCamera(WISH, 5.0, SourceStats())
    pictures: list[Picture] = []
    while len(pictures) < 2:
        pictures += camera.read(1.0)
    camera.close()
    assert pictures[0].frame.to_ndarray(format="rgb24").shape == (72, 128, 3)


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.EBUSY, "busy"),
        (errno.EACCES, "unauthorized"),
        (errno.ENOENT, "not_found"),
        (errno.ENODEV, "not_found"),
        (errno.EINVAL, "unreadable"),
        (errno.EIO, "unreadable"),
    ],
)
def test_each_error_of_an_opening_has_its_code(number: int, code: str) -> None:
    told = _trouble(OSError(number, "words of the system"), WISH, opening=True)
    assert told.code == code
    assert told.advice


def test_an_error_while_reading_means_that_the_camera_is_lost() -> None:
    assert _trouble(OSError(errno.ENODEV, "gone"), WISH, opening=False).code == "device_lost"


def test_an_ffmpeg_without_the_systems_cameras_leads_to_the_other_backend() -> None:
    wish = CameraWish("camera:0", "avfoundation", "0:none", 0)
    with pytest.raises(Lost, match="cannot read cameras of this system"):
        PyavCamera(wish, 1.0, SourceStats())


@pytest.mark.parametrize(
    ("platform", "wanted", "format", "file"),
    [
        ("linux", "", "v4l2", "/dev/video0"),
        ("linux", "0", "v4l2", "/dev/video0"),
        ("linux", "2", "v4l2", "cam2"),
        ("linux", "/dev/video7", "v4l2", "/dev/video7"),
        ("linux", "usb", "v4l2", "cam2"),
        ("darwin", "", "avfoundation", "/dev/video0:none"),
        ("darwin", "Integrated Camera", "avfoundation", "/dev/video0:none"),
        ("win32", "USB Cam", "dshow", "video=cam2"),
        ("win32", "0", "dshow", "video=/dev/video0"),
    ],
)
def test_each_platform_has_its_way_to_a_camera(
    platform: str, wanted: str, format: str, file: str
) -> None:
    wish = find_camera(wanted, platform=platform, cameras=CAMERAS)
    assert (wish.format, wish.file) == (format, file)


def test_size_and_rate_are_asked_for_and_the_mac_always_needs_a_rate() -> None:
    assert find_camera("0", (640, 360), 15.0, "linux", CAMERAS).options == {
        "video_size": "640x360",
        "framerate": "15",
    }
    assert find_camera("0", platform="linux", cameras=CAMERAS).options == {}
    assert find_camera("0", platform="darwin", cameras=CAMERAS).options == {"framerate": "30"}


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ("1", "there is no such camera. There are 0 .Integrated Camera., 2 .USB Cam.."),
        ("cam", "more than one camera has that in its name"),
        ("webcam", "there is no such camera"),
    ],
)
def test_a_camera_that_does_not_exist_is_told_with_those_that_do(wanted: str, words: str) -> None:
    with pytest.raises(Lost) as caught:
        find_camera(wanted, platform="linux", cameras=CAMERAS)
    error = caught.value.trouble.error(f"camera:{wanted}")
    assert isinstance(error, SourceNotFound)
    assert "omnidrop devices" in str(error)
    with pytest.raises(SourceNotFound, match=words):
        raise error


def test_a_file_is_no_camera(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFound, match="no camera but an ordinary file"):
        open_source(f"camera:{tmp_path}").__enter__()


def test_a_camera_without_permission_names_the_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.sources.camera.os.access", lambda *_: False)
    with pytest.raises(SourceDenied, match="usermod -aG video"):
        open_source("camera:/dev/null").__enter__()


def test_the_words_after_the_scheme_choose_camera_and_microphone() -> None:
    assert isinstance(open_source("camera:0"), CameraSource)
    assert isinstance(open_source("mic:2"), MicrophoneSource)
    both = open_source("camera:0+mic:default")
    assert isinstance(both, PairedSource)
    assert isinstance(open_source("rtsp://cam/1", options=_with("2")), PairedSource)
    assert isinstance(open_source("camera:0+mic:1", options=_with("none")), CameraSource)
    assert isinstance(open_source("mic:", options=_with("2")), MicrophoneSource)
    with pytest.raises(UsageError, match="live pictures only"):
        open_source("demo:", options=_with("default"))


def _with(microphone: str) -> SourceOptions:
    return SourceOptions(microphone=microphone)


@pytest.mark.parametrize("values", [{"open_s": 0.0}, {"stall_s": 1000.0}])
def test_a_patience_out_of_range_is_refused(values: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="between"):
        Patience(**values)


def test_a_device_clock_that_drifts_is_followed_and_jitter_is_not() -> None:
    now_s = [1000.0]
    times = ArrivalClock(lambda: now_s[0])
    placed, rng = [], np.random.default_rng(1)
    for number in range(25 * 600):
        own_s = number * 0.04
        now_s[0] = 1000.0 + own_s * (1 + 200e-6) + float(rng.uniform(0, 0.030))
        placed.append(times.place(own_s))
    true = 1000.0 + np.arange(len(placed)) * 0.04 * (1 + 200e-6)
    assert np.all(np.diff(placed) >= 0)
    assert np.abs(np.array(placed) - true).max() < 0.035  # 120 ms of drift by then
    assert times.jumps == 0


def test_times_of_the_monotonic_clock_are_believed_and_a_jump_is_counted() -> None:
    now_s = [1000.0]
    times = ArrivalClock(lambda: now_s[0])
    assert times.place(999.95) == 999.95
    now_s[0] = 1001.0
    assert times.place(1000.7) == 1000.7
    now_s[0] = 1002.0
    assert times.place(5.0) == 1002.0
    assert times.jumps == 1


def test_a_call_that_hangs_is_left_behind_and_the_thread_ends_with_it() -> None:
    calls, gate, stopped = BoundedCalls("test-calls"), threading.Event(), threading.Event()
    with pytest.raises(Stuck):
        calls.call(lambda: gate.wait(10), 0.1)
    stopped.set()
    with pytest.raises(Stuck):
        calls.call(lambda: 1, 10.0, stopped)
    assert calls.wait(lambda: 7, 0.01) is None
    gate.set()
    assert calls.wait(lambda: 8, 5.0) == 7
    with pytest.raises(ZeroDivisionError):
        calls.call(lambda: 1 // 0, 5.0)
    assert calls.close(5.0)
