"""A flash and a beep that begin together come together through RTSP, in the same chunk."""

from __future__ import annotations

import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np

from omnidrop_stream.chunker import Chunker, ChunkerSettings
from omnidrop_stream.types import SAMPLE_RATE, Frame, Samples
from runtime.media import write_mp4
from runtime.sources import FileSource, SourceOptions, open_source
from runtime.sources.base import Source
from tests.faults.report import Row, Tell
from tests.faults.scale import Scale
from tests.runtime.servers import RtspServer

FPS, CLIP_S = 25, 13.0
EVENTS_S = (0.6, 2.92, 5.4, 7.0, 9.08, 11.4)
"""When a flash and a beep begin together: anywhere in a chunk, near its ends too."""
LONG_S = 0.2
OFFSET_LIMIT_S = 0.040


def run(tell: Tell, scale: Scale) -> None:
    """The clip as a file, and several times through the server."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "flash.mp4"
        _write(path)
        from_file = _offsets(_items(FileSource(path, fps=None)))
        found, together = [], []
        for _ in range(scale.pick(5, 1)):
            server = RtspServer("--file", str(path))
            server.start()
            try:
                # All pictures for the offset, and what a chunk gets of them beside it.
                items = _items(open_source(server.url("/file"), fps=FPS, options=SourceOptions()))
            finally:
                server.kill()
            found.append(_offsets(items))
            together.append(_in_one_chunk(items))
    differences = [
        abs(a - b)
        for offsets in found
        for a, b in zip(offsets, from_file[-len(offsets) :], strict=True)
    ]
    flashes = sum(map(len, found))
    worst_ms = 1e3 * max(differences, default=float("inf"))
    wanted = len(found) * (len(EVENTS_S) - 1)
    tell(
        Row(
            f"flash and beep through RTSP, {len(found)} connections, {flashes} flashes: offset "
            "between them against the file's",
            f"at most {worst_ms:.1f} ms (the file's own: {1e3 * float(np.mean(from_file)):.1f} ms)",
            f"<= {1e3 * OFFSET_LIMIT_S:g} ms",
            flashes >= wanted and worst_ms <= 1e3 * OFFSET_LIMIT_S,
            {"offsets_s": found, "file_s": from_file},
        )
    )
    both, only_one = (sum(column) for column in zip(*together, strict=True))
    tell(
        Row(
            "chunks with a flash and its beep; with only one of the two",
            f"{both}; {only_one}",
            f">= {wanted}; 0",
            both >= wanted and only_one == 0,
        )
    )


def _write(path: Path) -> None:
    def on(t: float) -> bool:
        return any(begin <= t < begin + LONG_S for begin in EVENTS_S)

    times = np.round(np.arange(round(CLIP_S * FPS)) / FPS, 6)
    frames = [
        Frame(np.full((90, 160, 3), 235 if on(t + 1e-6) else 20, np.uint8), float(t)) for t in times
    ]
    at = np.arange(round(CLIP_S * SAMPLE_RATE)) / SAMPLE_RATE
    loud = np.zeros(len(at), bool)
    for begin in EVENTS_S:
        loud |= (at >= begin) & (at < begin + LONG_S)
    beep = (0.5 * np.sin(2 * np.pi * 1000 * at) * loud).astype(np.float32)
    runs = [Samples(beep[i : i + 1600], i / SAMPLE_RATE) for i in range(0, len(beep), 1600)]
    write_mp4(path, frames, runs, rate_fps=FPS)


def _items(source: Source) -> list[Frame | Samples]:
    """All of it, once."""
    items: list[Frame | Samples] = []
    with source:
        for item in source:
            if not isinstance(item, Frame | Samples):
                source.stop()  # the server's file ended: what follows is the second time
                break
            items.append(item)
            if item.time_s > CLIP_S - 0.8:
                source.stop()
    return items


def _offsets(items: list[Frame | Samples]) -> list[float]:
    """For each flash that begins in sight: how much later its beep begins, s."""
    flashes, beeps = _begins(items)
    return [float(beeps[np.abs(beeps - flash).argmin()] - flash) for flash in flashes]


def _begins(items: list[Frame | Samples]) -> tuple[list[float], np.ndarray]:
    frames = [item for item in items if isinstance(item, Frame)]
    flashes = [b.time_s for a, b in pairwise(frames) if a.image.mean() < 128 < b.image.mean()]
    runs = [item for item in items if isinstance(item, Samples)]
    times = np.concatenate([run.time_s + np.arange(len(run.pcm)) / SAMPLE_RATE for run in runs])
    loud = times[np.abs(np.concatenate([run.pcm for run in runs])) > 0.2]
    return flashes, loud[np.flatnonzero(np.diff(loud, prepend=-1.0) > 0.3)]


def _in_one_chunk(items: list[Frame | Samples]) -> tuple[int, int]:
    """Chunks with both; chunks with one of the two, where the other is not cut off at the edge."""
    chunker = Chunker(ChunkerSettings(fps=FPS))
    chunks = [chunk for item in items for chunk in chunker.push(item)]
    both = one = 0
    for chunk in chunks:
        if chunk.frames is None or chunk.audio is None:
            continue
        flash = bool((chunk.frames.reshape(len(chunk.frames), -1).mean(axis=1) > 128).any())
        beep = bool((np.abs(chunk.audio) > 0.2).any())
        both += flash and beep
        one += flash != beep
    return both, one
