"""Which cameras and microphones there are, and what to type for each.

PortAudio and FFmpeg are asked only here and where a device is opened; neither is imported before.
"""

from __future__ import annotations

import os
import re
import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from omnidrop_stream.errors import MissingDependency, SourceNotFound

NO_MICROPHONE = "none"
_SYSFS = Path("/sys/class/video4linux")
_VIDIOC_QUERYCAP = 0x80685600  # struct v4l2_capability, 104 bytes
_CAN_CAPTURE = 0x1 | 0x1000  # one plane, or several
_HAS_DEVICE_CAPS = 0x80000000


@dataclass(frozen=True, slots=True)
class CameraDevice:
    """A camera of this machine. ``type_this``: what opens it; ``place``: the system's name."""

    number: int
    name: str
    place: str

    @property
    def type_this(self) -> str:
        """What to type for it."""
        return f"camera:{self.number}"


@dataclass(frozen=True, slots=True)
class MicrophoneDevice:
    """A microphone of this machine, as PortAudio lists it."""

    number: int
    name: str
    channels: int
    rate_hz: float
    system: str
    """The sound system behind it: ALSA, Core Audio ..."""
    default: bool

    @property
    def type_this(self) -> str:
        """What to type for it."""
        return f"mic:{self.number}"


def list_cameras(platform: str = sys.platform, sysfs: Path = _SYSFS) -> list[CameraDevice]:
    """All that can capture pictures, lowest number first; on Linux a node of pure metadata is none.

    Nothing is switched on for it.
    """
    if platform == "linux":
        found = [_linux_camera(entry) for entry in sysfs.glob("video*")]
        return sorted((one for one in found if one is not None), key=lambda one: one.number)
    from av.device import enumerate_input_devices

    framework = {"darwin": "avfoundation", "win32": "dshow"}.get(platform)
    if framework is None:
        return []
    try:
        listed = enumerate_input_devices(framework)
    except (OSError, ValueError):  # this FFmpeg was built without it
        return []
    pictures = [one for one in listed if "video" in one.media_types]
    return [
        CameraDevice(number, one.description or one.name, one.name)
        for number, one in enumerate(pictures)
    ]


def _linux_camera(entry: Path) -> CameraDevice | None:
    number = re.fullmatch(r"video(\d+)", entry.name)
    node = Path("/dev") / entry.name
    if number is None or _captures(node) is False:
        return None
    try:
        name = (entry / "name").read_text("utf-8", "replace").strip()
    except OSError:
        name = entry.name
    return CameraDevice(int(number.group(1)), name or entry.name, str(node))


def _captures(node: Path) -> bool | None:
    """Whether a V4L2 node gives pictures; None: it may not be asked."""
    import fcntl

    try:
        descriptor = os.open(node, os.O_RDWR | os.O_NONBLOCK)
    except OSError:
        return None
    answer = bytearray(104)
    try:
        fcntl.ioctl(descriptor, _VIDIOC_QUERYCAP, answer)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    capabilities, own = struct.unpack_from("=II", answer, 84)
    return bool((own if capabilities & _HAS_DEVICE_CAPS else capabilities) & _CAN_CAPTURE)


def list_microphones() -> list[MicrophoneDevice]:
    """All inputs that PortAudio lists. Raises MissingDependency where it is not installed."""
    from runtime.sources.portaudio import listed, load_portaudio

    sound = load_portaudio()
    devices = listed(sound)
    default = sound.default.device[0]
    return [
        MicrophoneDevice(
            one["number"],
            str(one["name"]),
            int(one["max_input_channels"]),
            float(one["default_samplerate"]),
            one["system"],
            one["number"] == default,
        )
        for one in devices
        if one["max_input_channels"] > 0
    ]


def default_source(microphone: str | None) -> tuple[str, str]:
    """What ``omnidrop live`` without a source watches, and a line that says so.

    microphone: the one asked for (None: the default one; ``none``: no sound). The first camera
    and the microphone, or either alone. Raises SourceNotFound where there is neither.
    """
    cameras = list_cameras()
    wanted, lacking = microphone or "default", "no microphone was found"
    hears = wanted != NO_MICROPHONE
    if hears and microphone is None:
        try:
            hears = bool(list_microphones())
        except MissingDependency as error:
            hears, lacking = False, str(error)
    if cameras:
        eye = f"the camera {cameras[0].name} ({cameras[0].type_this})"
        if hears:
            return f"{cameras[0].type_this}+mic:{wanted}", f"{eye} and the microphone {wanted}"
        why = "as asked" if wanted == NO_MICROPHONE else lacking
        return cameras[0].type_this, f"{eye} without sound: {why}"
    if hears:
        return f"mic:{wanted}", f"the microphone {wanted} alone: no camera was found"
    raise SourceNotFound(
        f"there is neither a camera nor a microphone to use here ({lacking}). omnidrop devices "
        "lists what there is; omnidrop live demo: needs neither, and a file or rtsp://HOST/PATH "
        "may be named instead."
    )


def chosen(wanted: str, names: Sequence[str]) -> int | None:
    """Which of ``names`` is meant: the same text, else the only one that holds it; None: none."""
    folded = wanted.casefold().strip()
    same = [i for i, name in enumerate(names) if name.casefold().strip() == folded]
    if same:
        return same[0]
    holding = [i for i, name in enumerate(names) if folded in name.casefold()]
    return holding[0] if len(holding) == 1 else None
