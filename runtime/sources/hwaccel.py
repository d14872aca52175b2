"""Hardware decoding where it was asked for and is there; otherwise software, and saying so."""

from __future__ import annotations

from dataclasses import dataclass

import av
import av.error
from av.codec import Codec
from av.codec.hwaccel import HWAccel, hwdevices_available

from omnidrop_stream.errors import ConfigError

_COMMONEST = "h264"  # what a device is tried with


@dataclass(frozen=True, slots=True)
class Decoding:
    """What was asked for and what there is. ``accel`` None: software."""

    accel: HWAccel | None
    asked: bool
    words: str
    """For `SourceInfo.decoder` where it is software after all."""

    def told(self, stream: av.VideoStream | None) -> str:
        """Who decodes this stream's pictures, for `SourceInfo.decoder`."""
        if not self.asked or stream is None:
            return ""
        if self.accel is None:
            return self.words
        if not stream.codec_context.is_hwaccel:
            return f"software ({self.words} does not decode {stream.codec_context.name})"
        return self.words


def decoding(name: str) -> Decoding:
    """Find the device: none, auto (the first that works), or a device type of FFmpeg.

    Raises ConfigError for a name that FFmpeg never heard of.
    """
    built_in = hwdevices_available()
    if name == "none":
        return Decoding(None, False, "")
    if name == "auto":
        for device in built_in:
            if (accel := _tried(device)) is not None:
                return Decoding(accel, True, device)
        return Decoding(None, True, "software (no hardware decoder works here)")
    check_device(name)
    if name not in built_in:
        return Decoding(None, True, f"software (this FFmpeg was built without {name})")
    accel = _tried(name)
    return Decoding(accel, True, name if accel is not None else f"software (no {name} here)")


def check_device(name: str) -> None:
    """Raise ConfigError for what is neither none, auto, nor a device type of FFmpeg."""
    known = sorted({*hwdevices_available(), *_ELSEWHERE})
    if name not in ("none", "auto", *known):
        raise ConfigError(
            f"hwaccel = {name!r} is not allowed: give none, auto, {', '.join(known[:-1])} or "
            f"{known[-1]}"
        )


_ELSEWHERE = ("cuda", "d3d11va", "qsv", "vaapi", "videotoolbox")


def _tried(device: str) -> HWAccel | None:
    try:
        HWAccel(device).create(Codec(_COMMONEST, "r"))
    except (av.error.FFmpegError, OSError, ValueError, RuntimeError):  # so it says it is not there
        return None
    return HWAccel(device, allow_software_fallback=True)
