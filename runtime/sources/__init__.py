"""Where pictures and sound come from: a text names a source, its scheme picks the class."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

from omnidrop_stream.errors import UsageError
from runtime.redact import redact
from runtime.sources.base import (
    Interruption,
    LiveSource,
    Source,
    SourceInfo,
    SourceState,
    SourceStats,
)
from runtime.sources.camera import CameraSource
from runtime.sources.file import FileSource
from runtime.sources.hwaccel import check_device
from runtime.sources.local import local_camera, local_microphone, with_microphone
from runtime.sources.microphone import MicrophoneSource
from runtime.sources.options import SourceOptions
from runtime.sources.pacing import Paced
from runtime.sources.paired import PairedSource
from runtime.sources.picture import PictureSource
from runtime.sources.stream import RtspSource, StreamSource
from runtime.sources.world import WorldSource

__all__ = ["SCHEMES", "FileSource", "Interruption", "LiveSource", "Paced", "PictureSource"]
__all__ += ["RtspSource", "Source", "SourceInfo", "SourceState", "SourceStats", "StreamSource"]
__all__ += ["CameraSource", "MicrophoneSource", "PairedSource", "SourceOptions", "WorldSource"]
__all__ += ["open_source"]

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+\-]+):")


def _file(rest: str, fps: float, options: SourceOptions) -> Source:
    path = unquote(rest[2:].removeprefix("localhost")) if rest[:2] == "//" else rest
    return _media_file(path, fps, options)


def _media_file(path: str, fps: float, options: SourceOptions) -> Source:
    video, audio = options.video_stream, options.audio_stream
    return FileSource(path, fps=fps, video_stream=video, audio_stream=audio)


def _stream(url: str, fps: float, options: SourceOptions) -> Source:
    return StreamSource(
        url,
        user=options.user,
        password=options.password.get_secret_value(),
        transport=options.transport,
        tls_verify=options.tls_verify,
        tls_ca_file=options.tls_ca_file,
        open_timeout_s=options.open_timeout_s,
        stall_timeout_s=options.stall_timeout_s,
        video_stream=options.video_stream,
        audio_stream=options.audio_stream,
        hwaccel=options.hwaccel,
        wait_for_first=options.wait_for_first,
        fps=fps,
    )


SCHEMES: dict[str, Callable[[str, float, SourceOptions], Source]] = {
    "camera": local_camera,
    "demo": lambda rest, fps, _: WorldSource.parse(rest, fps),
    "file": _file,
    "http": lambda rest, fps, options: _stream(f"http:{rest}", fps, options),
    "https": lambda rest, fps, options: _stream(f"https:{rest}", fps, options),
    "mic": local_microphone,
    "picture": lambda rest, fps, _: PictureSource.parse(rest, fps),
    "rtsp": lambda rest, fps, options: _stream(f"rtsp:{rest}", fps, options),
    "rtsps": lambda rest, fps, options: _stream(f"rtsps:{rest}", fps, options),
}
"""Scheme -> factory (text after the colon, the model's pictures a second, the options)."""


def open_source(text: str, *, fps: float = 2.0, options: SourceOptions | None = None) -> Source:
    """The source that ``text`` names: a path, or ``scheme:...``; nothing is read before ``with``.

    fps: the model's pictures a second; a file hands on only what its grid can pick.
    """
    options = options or SourceOptions()
    if options.hwaccel != "none":  # also where nothing is decoded on a device: it is a slip
        check_device(options.hwaccel)
    found = _SCHEME.match(text)
    source = _named(text, found, fps, options)
    if options.microphone is None or (found is not None and found.group(1).lower() == "mic"):
        return source
    return with_microphone(source, text.partition("+mic:")[0], options.microphone, options)


def _named(text: str, found: re.Match[str] | None, fps: float, options: SourceOptions) -> Source:
    if not text.strip():
        raise UsageError(
            "the source is empty: give a media file, demo:, or the address of a stream"
        )
    if text.lower() in SCHEMES and not Path(text).exists():
        raise UsageError(
            f"{text}: there is no such file; the source of that name is written with a colon: "
            f"{text}:"
        )
    if found is None or Path(text).exists():
        return _media_file(text, fps, options)
    factory = SCHEMES.get(found.group(1).lower())
    if factory is None:
        known = ", ".join(f"{name}:" for name in sorted(SCHEMES))
        raise UsageError(
            f"{redact(text)}: there is no kind of source called {found.group(1)!r}. "
            f"Known are {known} and the path of a media file."
        )
    return factory(text[found.end() :], fps, options)
