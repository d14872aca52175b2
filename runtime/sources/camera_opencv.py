"""A camera read by OpenCV: the fallback. It has no times of its own, and a read that may block for
seconds; so a thread of its own reads, and what comes is timed as it comes.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import av
import cv2

from runtime.sources.base import SourceStats
from runtime.sources.bounded import BoundedCalls, Stuck
from runtime.sources.camera import CameraWish
from runtime.sources.decode import Picture
from runtime.sources.device import DeviceTrouble, Lost

_CLOSE_S = 0.5
_SILENT = 0  # OpenCV's log level: its warnings are for its developers, and on stderr


class OpencvCamera:
    """One opening of a camera. Raises Lost."""

    def __init__(self, wish: CameraWish, open_s: float, stats: SourceStats) -> None:
        self._stats = stats
        self._calls = BoundedCalls("omnidrop-camera")
        self._reading = False
        try:
            opened = self._calls.call(lambda: _open(wish), open_s)
        except Stuck:
            self._calls.close(0)
            raise Lost(
                DeviceTrouble("timeout", "the camera does not open in time", "Plug it in again.")
            ) from None
        if opened is None:
            self._calls.close(_CLOSE_S)
            reason = "OpenCV cannot open the camera"
            raise Lost(DeviceTrouble("unreadable", reason, "Try --camera-backend pyav."))
        self._capture = opened
        self.width = int(opened.get(cv2.CAP_PROP_FRAME_WIDTH))
        self.height = int(opened.get(cv2.CAP_PROP_FRAME_HEIGHT))
        self.fps: float | None = float(opened.get(cv2.CAP_PROP_FPS)) or None

    def read(self, limit_s: float) -> Sequence[Picture]:
        """What came within ``limit_s``; empty: nothing. Raises Lost."""
        got = self._calls.wait(self._one, limit_s)
        if got is None:
            return []
        there, image, time_s = got
        if not there:
            reason = "the camera was unplugged or has failed"
            raise Lost(DeviceTrouble("device_lost", reason, "Check its cable."))
        self._stats.decoded_frames += 1
        frame = av.VideoFrame.from_ndarray(image, format="bgr24")
        return [Picture(frame, time_s, 1 / (self.fps or 25.0), False)]

    def _one(self) -> tuple[bool, Any, float]:
        there, image = self._capture.read()
        return there, image, time.monotonic()

    def close(self) -> None:
        """Give the camera back; a read that is under way ends first, and is not waited for."""
        self._calls.post(self._capture.release)
        self._calls.close(_CLOSE_S)


def _open(wish: CameraWish) -> cv2.VideoCapture | None:
    cv2.utils.logging.setLogLevel(_SILENT)
    place: int | str = wish.number if wish.number >= 0 else wish.file
    capture = cv2.VideoCapture(place)
    if not capture.isOpened():
        capture.release()
        return None
    if wish.size is not None:
        capture.set(cv2.CAP_PROP_FRAME_WIDTH, wish.size[0])
        capture.set(cv2.CAP_PROP_FRAME_HEIGHT, wish.size[1])
    if wish.fps is not None:
        capture.set(cv2.CAP_PROP_FPS, wish.fps)
    return capture
