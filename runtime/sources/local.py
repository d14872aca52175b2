"""From texts and options to cameras and microphones of this machine."""

from __future__ import annotations

from runtime.redact import redact
from runtime.sources.base import Source
from runtime.sources.camera import CameraSource
from runtime.sources.device import Patience
from runtime.sources.devices import NO_MICROPHONE
from runtime.sources.microphone import MicrophoneSource
from runtime.sources.options import SourceOptions
from runtime.sources.paired import PairedSource

_AND_MIC = "+mic:"


def local_camera(rest: str, fps: float, options: SourceOptions) -> Source:
    """What ``camera:`` names: nothing (the first), a number, a device file or a name, and after
    ``+mic:`` the microphone that goes with it; the option says more than the text.
    """
    wanted, plus, microphone = rest.rpartition(_AND_MIC)
    eye = CameraSource(
        wanted if plus else rest,
        fps=fps,
        size=options.camera_size,
        rate=options.camera_fps,
        backend=options.camera_backend,
        patience=_patience(options),
    )
    if plus and options.microphone is None:
        return with_microphone(eye, f"camera:{wanted}", microphone or "default", options)
    return eye


def local_microphone(rest: str, fps: float, options: SourceOptions) -> Source:
    """What ``mic:`` names: nothing or ``default``, a number or a name."""
    return MicrophoneSource(rest, patience=_patience(options))


def with_microphone(eye: Source, name: str, wanted: str, options: SourceOptions) -> Source:
    """``eye`` with the sound of a microphone; ``none``: as it is."""
    if wanted == NO_MICROPHONE:
        return eye
    ear = MicrophoneSource(wanted, patience=_patience(options))
    shown = f"{redact(name)}{_AND_MIC}{wanted}"
    return PairedSource(eye, ear, shown, wait_for_first=options.wait_for_first)


def _patience(options: SourceOptions) -> Patience:
    return Patience(options.open_timeout_s, options.stall_timeout_s, options.wait_for_first)
