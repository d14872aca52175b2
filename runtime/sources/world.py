"""``demo:`` the synthetic world, live: what is shown and said is known, so answers can be checked.

A pure function of its seed: ``demo:?seed=3&seconds=20&split=test`` is the same stream each time,
and `WorldSource.world` tells the truth about it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Self
from urllib.parse import parse_qsl

import numpy as np

from omnidrop_stream.errors import UsageError
from omnidrop_stream.types import CHUNK_SAMPLES, SAMPLE_RATE, Frame, Samples, StreamKind
from omnidrop_stream.world import Split, World
from runtime.sources.base import SourceInfo, SourceStats

BLOCK_S = 0.1
"""Sound comes in blocks of this length, as from a microphone."""
_SPLITS: dict[str, Split] = {"train": "train", "test": "test"}
_EXAMPLE = "demo:?seed=3&seconds=20&split=test"


class WorldSource:
    """The world as a camera and a microphone would deliver it; endless where ``seconds`` is None.

    fps: pictures a second, any number; split: ``test`` has the voices and renderings that no model
    of ours was trained on.
    """

    def __init__(
        self,
        seconds: float | None = None,
        seed: int = 0,
        fps: float = 2.0,
        split: str = "test",
    ) -> None:
        if seconds is not None and not 0 < seconds <= 1e6:
            raise UsageError(
                f"demo: seconds = {seconds:g} is not allowed: give more than 0, "
                "or leave it out for an endless world."
            )
        if not 0 <= seed < 2**63:
            raise UsageError(f"demo: seed = {seed} is not allowed: give a number from 0 on.")
        if split not in _SPLITS:
            raise UsageError(f"demo: split = {split!r} is not allowed: give train or test.")
        self.world = World(seed, _SPLITS[split])
        """The truth: what is shown and heard, by chunk."""
        self._seconds, self._fps = seconds, fps
        asked = {"seed": str(seed), "seconds": "" if seconds is None else f"{seconds:g}"}
        asked["split"] = "" if split == "test" else split
        name = "demo:?" + "&".join(f"{key}={value}" for key, value in asked.items() if value)
        size = self.world.size
        self.info = SourceInfo(name, StreamKind.AV, size, size, fps, seconds, live=False)
        self.stats = SourceStats()
        self._stop = threading.Event()
        self._sound: tuple[int, np.ndarray] | None = None

    @classmethod
    def parse(cls, text: str, fps: float = 2.0) -> WorldSource:
        """From what follows ``demo:``, for example ``?seed=3&seconds=20``."""
        values = dict(parse_qsl(text.lstrip("/").removeprefix("?"), keep_blank_values=True))
        unknown = sorted(set(values) - {"seconds", "seed", "split"})
        if unknown or (text.strip("/?") and not values):
            raise UsageError(
                f"demo:{text} is not understood. Allowed are seed, seconds and split, "
                f"for example {_EXAMPLE}"
            )
        try:
            seconds = float(values["seconds"]) if "seconds" in values else None
            seed = int(values.get("seed", "0"))
        except ValueError:
            raise UsageError(
                f"demo:{text} has a value that is no number. Write it like {_EXAMPLE}"
            ) from None
        return cls(seconds, seed, fps, values.get("split", "test"))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()

    def __iter__(self) -> Iterator[Frame | Samples]:
        """Frames and samples in order of time."""
        frame = block = 0
        while not self._stop.is_set():
            frame_s, block_s = frame / self._fps, block * BLOCK_S
            if self._seconds is not None and min(frame_s, block_s) >= self._seconds - 1e-9:
                return
            if frame_s <= block_s + 1e-9:
                frame += 1
                if self._seconds is None or frame_s < self._seconds - 1e-9:
                    yield Frame(self.world.frame_at(frame_s), frame_s)
                    self.stats.frames += 1
                continue
            block += 1
            end_s = block * BLOCK_S
            if self._seconds is not None:
                end_s = min(end_s, self._seconds)
            pcm = self.sound(round(block_s * SAMPLE_RATE), round(end_s * SAMPLE_RATE))
            if len(pcm):
                yield Samples(pcm, block_s)
            self.stats.samples += len(pcm)
            self.stats.ended_at_s = end_s

    def stop(self) -> None:
        """Ask the iterator to end; safe from any thread."""
        self._stop.set()

    def sound(self, first: int, stop: int) -> np.ndarray:
        """Samples ``first`` to ``stop`` of the stream, f32 [n]."""
        parts = []
        while first < stop:
            index, offset = divmod(first, CHUNK_SAMPLES)
            if self._sound is None or self._sound[0] != index:
                self._sound = (index, self.world.audio(index))
            part = self._sound[1][offset : offset + stop - first]
            parts.append(part)
            first += len(part)
        return np.concatenate(parts) if parts else np.zeros(0, np.float32)
