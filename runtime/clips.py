"""A media file played whole for a measurement: the live file source and chunker, thinned to a limit
of pictures.

Offline code spreads a fixed number of pictures over a clip of any length. A stream's chunks hold
whole temporal patches (two pictures), so here the rate goes down to one picture a second, and
beyond that chunks go without pictures, evenly spread; sound is never thinned.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from omnidrop_stream.chunker import Chunker, ChunkerSettings
from omnidrop_stream.types import CHUNK_SECONDS, Chunk, StreamKind
from runtime.chunks import chunks_of
from runtime.sources.file import FileSource

LEAST_FPS = 1.0
"""A chunk of two seconds then holds one temporal patch; fewer pictures make none."""


@dataclass(frozen=True, slots=True)
class Thinning:
    """How a clip keeps to its limit of pictures."""

    fps: float
    share: float = 1.0
    """Of the chunks that keep their pictures."""

    def keeps(self, chunk: int) -> bool:
        """Whether chunk 0, 1, ... of the clip keeps them: evenly spread, the first always."""
        return not chunk or int(chunk * self.share) > int((chunk - 1) * self.share)


def thinning(seconds: float, fps: float, max_frames: int) -> Thinning:
    """For a clip of such a length (0: not known, so nothing is planned) at ``fps`` or less."""
    while fps / 2 >= LEAST_FPS and seconds * fps > max_frames:
        fps /= 2
    wanted = seconds * fps
    return Thinning(fps, min(1.0, max_frames / wanted) if wanted else 1.0)


@dataclass(frozen=True, slots=True)
class OpenClip:
    """A clip being read: iterate ``chunks`` once, inside the with block."""

    kind: StreamKind
    fps: float
    seconds: float | None
    chunks: Iterator[Chunk]


@contextmanager
def open_clip(path: Path, fps: float, max_frames: int) -> Iterator[OpenClip]:
    """Open a file as a clip of at most ``max_frames`` pictures. Raises SourceError."""
    with FileSource(path, fps=fps) as probe:
        seconds = probe.info.duration_s
    plan = thinning(seconds or 0.0, fps, max_frames)
    with FileSource(path, fps=plan.fps) as source:
        kind = source.info.kind
        chunker = Chunker(ChunkerSettings(kind=kind, fps=plan.fps))
        chunks = _thinned(chunks_of(source, chunker), plan, max_frames)
        yield OpenClip(kind, plan.fps, seconds, chunks)


def _thinned(chunks: Iterator[Chunk], plan: Thinning, max_frames: int) -> Iterator[Chunk]:
    """Also where a file tells a wrong length the limit holds."""
    left = max_frames
    for number, chunk in enumerate(chunks):
        if chunk.frames is None:
            yield chunk
        elif plan.keeps(number) and left > 0:
            left -= round(plan.fps * CHUNK_SECONDS)
            yield chunk
        else:
            flags = replace(chunk.flags, repeated_frames=0, video_absent=True)
            yield replace(chunk, frames=None, flags=flags)
