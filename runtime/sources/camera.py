"""A camera of this machine as a source that never dies.

FFmpeg reads it through PyAV (V4L2, AVFoundation, DirectShow, by platform). OpenCV is the fallback
where FFmpeg lacks the platform's way, or fails with a camera that is there; which of the two it is,
and why, stands in `SourceInfo.decoder`.
"""

from __future__ import annotations

import os
import random
import stat
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from omnidrop_stream.errors import SourceDenied, SourceNotFound, UsageError
from omnidrop_stream.types import Frame, StreamKind
from runtime.sources.arrival import ArrivalClock
from runtime.sources.base import SourceInfo, SourceStats
from runtime.sources.decode import Picture, ToRgb
from runtime.sources.device import LIST_THEM, DeviceSource, DeviceTrouble, Lost, Patience
from runtime.sources.devices import CameraDevice, chosen, list_cameras
from runtime.sources.live import GridPick

FORMATS = {"linux": "v4l2", "darwin": "avfoundation", "win32": "dshow"}
"""Platform -> FFmpeg's name of its way to cameras."""
_MAC_FPS = 30.0  # AVFoundation refuses FFmpeg's own default of 29.97


@dataclass(frozen=True, slots=True)
class CameraWish:
    """A camera that is there, and how it is wanted. ``file``: what FFmpeg opens for it."""

    shown: str
    format: str
    file: str
    number: int
    size: tuple[int, int] | None = None
    fps: float | None = None

    @property
    def options(self) -> dict[str, str]:
        """FFmpeg's settings."""
        rate = self.fps or (_MAC_FPS if self.format == "avfoundation" else None)
        wanted = {"video_size": f"{self.size[0]}x{self.size[1]}"} if self.size else {}
        return wanted | ({"framerate": f"{rate:g}"} if rate else {})


class CameraFeed(Protocol):
    """An open camera; one thread opens, reads and closes it."""

    width: int
    height: int
    fps: float | None

    def read(self, limit_s: float) -> Sequence[Picture]:
        """What came within ``limit_s``; empty: nothing. Raises Lost."""

    def close(self) -> None:
        """Give the camera back; never raises, never blocks for long."""


Opener = Callable[[CameraWish, float, SourceStats], CameraFeed]
"""Open what is wished within so many seconds. Raises Lost."""


def _with_pyav(wish: CameraWish, open_s: float, stats: SourceStats) -> CameraFeed:
    from runtime.sources.camera_pyav import PyavCamera

    return PyavCamera(wish, open_s, stats)


def _with_opencv(wish: CameraWish, open_s: float, stats: SourceStats) -> CameraFeed:
    from runtime.sources.camera_opencv import OpencvCamera

    return OpencvCamera(wish, open_s, stats)


class CameraSource(DeviceSource):
    """Pictures of a camera: ``wanted`` is empty (the first one), a number, a device file or a name.

    size: width and height to ask for, rate: pictures a second to ask for; the camera may settle on
    others. fps: the model's pictures a second; None hands on every one.
    """

    def __init__(
        self,
        wanted: str = "",
        *,
        fps: float | None = 2.0,
        size: str | None = None,
        rate: float | None = None,
        backend: str = "auto",
        patience: Patience | None = None,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
        find: Callable[[str], CameraWish] | None = None,
        openers: Mapping[str, Opener] | None = None,
    ) -> None:
        """find: where the camera is; openers: backend -> how it is opened (for tests)."""
        shown = f"camera:{wanted}"
        super().__init__(shown, StreamKind.VIDEO, patience or Patience(), clock, draw)
        self._openers = openers or {"pyav": _with_pyav, "opencv": _with_opencv}
        if backend not in ("auto", *self._openers):
            raise UsageError(
                f"camera backend = {backend!r} is not allowed: give auto, pyav or opencv"
            )
        self._wanted, self._fps, self._backend = wanted, fps, backend
        self._size, self._rate = _size(size), rate
        self._find = find or (lambda text: find_camera(text, self._size, self._rate))
        self._feed: CameraFeed | None = None
        self._to_rgb = ToRgb()
        self._times = ArrivalClock(clock)
        self._grid = GridPick(fps, 0.0)
        self._begun = False

    def _open(self) -> SourceInfo:
        wish = self._find(self._wanted)
        self._feed, decoder = self._opened(wish)
        self._times, self._begun = ArrivalClock(self._clock), False
        return SourceInfo(
            wish.shown,
            StreamKind.VIDEO,
            self._feed.width or None,
            self._feed.height or None,
            self._feed.fps,
            None,
            live=True,
            decoder=decoder,
        )

    def _opened(self, wish: CameraWish) -> tuple[CameraFeed, str]:
        """The feed, and what to say of who reads it."""
        if self._backend != "auto":
            feed = self._openers[self._backend](wish, self._patience.open_s, self.stats)
            return feed, "" if self._backend == "pyav" else f"{self._backend}, as asked"
        try:
            return self._openers["pyav"](wish, self._patience.open_s, self.stats), ""
        except Lost as lost:
            first = lost
        if first.trouble.code in ("busy", "not_found", "unauthorized", "timeout"):
            raise first  # another reader would meet the same
        try:
            feed = self._openers["opencv"](wish, self._patience.open_s, self.stats)
        except Lost:
            raise first from None
        return feed, f"opencv (pyav: {first.trouble.reason})"

    def _read(self, limit_s: float) -> list[Frame]:
        feed = self._feed
        if feed is None:
            raise RuntimeError("the camera is not open")
        return [frame for picture in feed.read(limit_s) for frame in self._picked(picture)]

    def _picked(self, picture: Picture) -> Iterator[Frame]:
        time_s = self._times.place(picture.time_s)
        if not self._begun:
            self._begun, self._grid = True, GridPick(self._fps, time_s)
        for one in self._grid.push(replace(picture, time_s=time_s)):
            yield Frame(self._to_rgb(one), one.time_s, one.corrupt)

    def _close(self) -> None:
        feed, self._feed = self._feed, None
        if feed is not None:
            feed.close()

    def _silent(self) -> DeviceTrouble:
        return DeviceTrouble(
            "timeout",
            f"the camera has given no picture for {self._patience.stall_s:g} s",
            "Check its cable, and that nothing covers or switches it off.",
        )


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise UsageError(f"camera size = {text!r} is not allowed: write it like 1280x720")
    return int(width), int(height)


def find_camera(
    wanted: str,
    size: tuple[int, int] | None = None,
    fps: float | None = None,
    platform: str = sys.platform,
    cameras: Sequence[CameraDevice] | None = None,
) -> CameraWish:
    """Where the camera is that a text means, on this platform. Raises Lost."""
    format = FORMATS.get(platform, "")
    wanted = wanted.strip()
    listed = list_cameras(platform) if cameras is None else cameras
    device: CameraDevice | None
    if platform == "linux" and "/" in wanted:
        known = [one for one in listed if one.place == wanted]
        device = known[0] if known else CameraDevice(-1, wanted, wanted)
    elif wanted.isdecimal():
        device = next((one for one in listed if one.number == int(wanted)), None)
    elif wanted:
        which = chosen(wanted, [one.name for one in listed])
        device = None if which is None else listed[which]
    else:
        device = listed[0] if listed else None
    if device is None:
        raise Lost(_not_there(wanted, listed))
    if platform == "linux" and cameras is None:
        _look_at(device.place)
    file = {
        "avfoundation": f"{device.place}:none",
        "dshow": f"video={device.place}",
    }.get(format, device.place)
    shown = f"camera:{wanted or device.number}"
    return CameraWish(shown, format, file, device.number, size, fps)


def _not_there(wanted: str, listed: Sequence[CameraDevice]) -> DeviceTrouble:
    names = ", ".join(f"{one.number} ({one.name})" for one in listed)
    there = f"There are {names}." if names else "This machine shows no camera at all."
    if sum(wanted.casefold() in one.name.casefold() for one in listed) > 1 and wanted:
        reason = "more than one camera has that in its name"
    else:
        reason = "there is no such camera"
    return DeviceTrouble("not_found", reason, f"{there} {LIST_THEM}", SourceNotFound)


def _look_at(place: str) -> None:
    """What the file system knows of a device file, in plain words. Raises Lost."""
    try:
        kind = os.stat(place).st_mode
    except OSError:
        raise Lost(_not_there(place, list_cameras())) from None
    if not stat.S_ISCHR(kind):
        raise Lost(
            DeviceTrouble(
                "not_found",
                "it is no camera but an ordinary file or folder",
                f"A media file is named without camera: before it. {LIST_THEM}",
                SourceNotFound,
            )
        )
    if not os.access(place, os.R_OK | os.W_OK):
        advice = "Join the group that may: sudo usermod -aG video $USER, then log in again."
        reason = "no permission to use the camera"
        raise Lost(DeviceTrouble("unauthorized", reason, advice, SourceDenied, hopeless=True))
