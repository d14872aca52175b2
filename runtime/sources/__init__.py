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
from runtime.sources.file import FileSource
from runtime.sources.pacing import Paced
from runtime.sources.picture import PictureSource
from runtime.sources.rtsp import RtspSource
from runtime.sources.world import WorldSource

__all__ = ["SCHEMES", "FileSource", "Interruption", "LiveSource", "Paced", "PictureSource"]
__all__ += ["RtspSource", "Source", "SourceInfo", "SourceState", "SourceStats", "WorldSource"]
__all__ += ["open_source"]

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+\-]+):")


def _file(rest: str, fps: float) -> Source:
    path = unquote(rest[2:].removeprefix("localhost")) if rest[:2] == "//" else rest
    return FileSource(path, fps=fps)


SCHEMES: dict[str, Callable[[str, float], Source]] = {
    "demo": WorldSource.parse,
    "file": _file,
    "picture": PictureSource.parse,
    "rtsp": lambda rest, fps: RtspSource(f"rtsp:{rest}", fps=fps),
    "rtsps": lambda rest, fps: RtspSource(f"rtsps:{rest}", fps=fps),
}
"""Scheme -> factory (text after the colon, the model's pictures a second)."""


def open_source(text: str, *, fps: float = 2.0) -> Source:
    """The source that ``text`` names: a path, or ``scheme:...``; nothing is read before ``with``.

    fps: the model's pictures a second; a file hands on only what its grid can pick.
    """
    found = _SCHEME.match(text)
    if found is None or Path(text).exists():
        return FileSource(text, fps=fps)
    factory = SCHEMES.get(found.group(1).lower())
    if factory is None:
        known = ", ".join(f"{name}:" for name in sorted(SCHEMES))
        raise UsageError(
            f"{redact(text)}: there is no kind of source called {found.group(1)!r}. "
            f"Known are {known} and the path of a media file."
        )
    return factory(text[found.end() :], fps)
