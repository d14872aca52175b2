"""A camera read by FFmpeg through PyAV.

It is opened without blocking: a camera that stops giving pictures would otherwise keep its reader
for ever, since V4L2's read knows no time-out. On Linux the reader waits on the device's own file.

Raw pictures lie in the driver's own memory, which FFmpeg gives back through the container: a
picture that outlives its container would crash the process. So each is copied while its packet
lives.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import av.error
import av.logging

from omnidrop_stream.errors import SourceDenied, SourceNotFound, SourceUnreadable
from runtime.sources.base import SourceStats
from runtime.sources.camera import CameraWish
from runtime.sources.decode import Picture, PictureDecoder
from runtime.sources.device import LIST_THEM, DeviceTrouble, Lost

_NON_BLOCKING = str((av.container.Flags.non_block | av.container.Flags.no_buffer).value)
_PAUSE_S = 0.005
_OPEN_FILES = Path("/proc/self/fd")


class PyavCamera:
    """One opening of a camera. Raises Lost."""

    def __init__(self, wish: CameraWish, open_s: float, stats: SourceStats) -> None:
        self._wish = wish
        began_s = time.monotonic()
        with av.logging.Capture():
            try:
                self._container = av.open(
                    wish.file,
                    "r",
                    format=wish.format,
                    options={**wish.options, "fflags": f"+{_NON_BLOCKING}"},
                    timeout=(open_s, None),
                )
            except (av.error.FFmpegError, OSError, ValueError) as error:
                late = time.monotonic() - began_s > 0.9 * open_s
                raise Lost(_trouble(error, wish, opening=True, late=late)) from None
        try:
            stream = self._container.streams.video[0]
        except IndexError:
            self.close()
            raise Lost(_NO_PICTURES) from None
        stream.codec_context.thread_count = 1  # more would add pictures of delay, and threads
        self.width, self.height = stream.width, stream.height
        self.fps = float(stream.average_rate or stream.guessed_rate or 0) or None
        self._stream = stream
        self._pictures = PictureDecoder(stream, stats, live=True)
        self._ready = _Readiness(wish.file)

    def read(self, limit_s: float) -> Sequence[Picture]:
        """What came within ``limit_s``; empty: nothing. Raises Lost."""
        until_s = time.monotonic() + limit_s
        while True:
            packet = self._packet()
            if packet is not None:
                pictures = list(self._pictures.push(packet))
                for picture in pictures:
                    picture.frame.make_writable()  # see the top; the packet still lives here
                return pictures
            left_s = until_s - time.monotonic()
            if left_s <= 0:
                return []
            self._ready.wait(left_s)

    def _packet(self) -> av.Packet[Any] | None:
        """The next packet; None: it has not come yet."""
        try:
            packet = next(self._container.demux(self._stream), None)
        except BlockingIOError:
            return None
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise Lost(_trouble(error, self._wish, opening=False)) from None
        if packet is None or packet.size == 0:
            raise Lost(_UNPLUGGED)
        return packet

    def close(self) -> None:
        """Give the camera back."""
        with contextlib.suppress(av.error.FFmpegError, OSError), av.logging.Capture():
            self._container.close()


class _Readiness:
    """Waits until a device's file has something to read; elsewhere for a moment."""

    def __init__(self, place: str) -> None:
        self._poll: select.poll | None = None
        for link in _links_to(place):
            self._poll = select.poll()
            self._poll.register(int(link), select.POLLIN)

    def wait(self, limit_s: float) -> None:
        if self._poll is None:
            time.sleep(min(_PAUSE_S, limit_s))
            return
        events = self._poll.poll(limit_s * 1000)
        if events and not events[0][1] & select.POLLIN:
            time.sleep(min(_PAUSE_S, limit_s))  # an error: the read that follows will tell


def _links_to(place: str) -> list[str]:
    found = []
    with contextlib.suppress(OSError):
        for number in os.listdir(_OPEN_FILES):
            with contextlib.suppress(OSError):
                if os.readlink(_OPEN_FILES / number) == place:
                    found.append(number)
    return found


_UNPLUGGED = DeviceTrouble(
    "device_lost", "the camera was unplugged or has failed", "Check its cable."
)
_NO_PICTURES = DeviceTrouble("no_media", "the device gives no pictures", LIST_THEM)


def _trouble(
    error: Exception, wish: CameraWish, *, opening: bool, late: bool = False
) -> DeviceTrouble:
    """What FFmpeg's error means."""
    number = getattr(error, "errno", None)
    if late or isinstance(error, av.error.ExitError | TimeoutError):
        reason = "the camera gives no picture in time"
        return DeviceTrouble("timeout", reason, "Check its cable, or plug it in again.")
    if number == errno.EBUSY:
        advice = "Close the program that shows it (browser, meeting), or choose another camera."
        return DeviceTrouble("busy", "another program uses the camera", advice)
    if number in (errno.EACCES, errno.EPERM):
        advice = "Let this program use the camera (on Linux: sudo usermod -aG video $USER)."
        reason = "no permission to use the camera"
        return DeviceTrouble("unauthorized", reason, advice, SourceDenied, hopeless=True)
    if not opening:
        return _UNPLUGGED
    if number in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
        return DeviceTrouble("not_found", "there is no such camera", LIST_THEM, SourceNotFound)
    if number == errno.EINVAL and wish.options:
        wanted = ", ".join(f"{key} {value}" for key, value in wish.options.items())
        advice = "Leave --camera-size and --camera-fps out, or ask for what the camera can do."
        return DeviceTrouble("unreadable", f"the camera does not do {wanted}", advice)
    if isinstance(error, ValueError) and number is None:
        reason = f"this FFmpeg cannot read cameras of this system ({wish.format or 'unknown'})"
        return DeviceTrouble("unreadable", reason, "Try --camera-backend opencv.")
    words = getattr(error, "strerror", None) or type(error).__name__
    reason, advice = f"the camera cannot be read ({words})", "Try --camera-backend opencv."
    return DeviceTrouble("unreadable", reason, advice, SourceUnreadable)
