"""``picture:`` made on the spot, with sound: a coloured shape moves over a texture.

Arrays only. Everything is a function of the seed and the time: ``picture:?seconds=20&seed=3``.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Self
from urllib.parse import parse_qsl

import numpy as np

from omnidrop_stream.errors import UsageError
from omnidrop_stream.types import SAMPLE_RATE, Frame, Samples, StreamKind
from runtime.sources.base import SourceInfo, SourceStats

WIDTH, HEIGHT = 448, 252
_COLOURS = np.array(
    [[220, 40, 40], [40, 180, 60], [50, 80, 230], [230, 200, 40], [180, 60, 200]], np.uint8
)
_BEEP_PERIOD_S, _BEEP_S = 2.0, 0.25


class PictureSource:
    """A seeded moving picture with beeps; endless where ``seconds`` is None."""

    def __init__(self, seconds: float | None = None, seed: int = 0, fps: float = 2.0) -> None:
        if seconds is not None and not 0 < seconds <= 1e6:
            raise UsageError(
                f"picture: seconds = {seconds:g} is not allowed: give more than 0, "
                "or leave it out for an endless picture."
            )
        if not 0 <= seed < 2**63:
            raise UsageError(f"picture: seed = {seed} is not allowed: give a number from 0 on.")
        self._seconds, self._fps = seconds, fps
        name = (
            f"picture:?seed={seed}"
            if seconds is None
            else f"picture:?seconds={seconds:g}&seed={seed}"
        )
        self.info = SourceInfo(name, StreamKind.AV, WIDTH, HEIGHT, fps, seconds, live=False)
        self.stats = SourceStats()
        self._stop = threading.Event()
        random = np.random.default_rng(seed)
        coarse = random.integers(60, 140, size=(HEIGHT // 14, WIDTH // 14, 3), dtype=np.uint8)
        fine = random.integers(0, 24, size=(HEIGHT, WIDTH, 3), dtype=np.uint8)
        self._texture = np.repeat(np.repeat(coarse, 14, axis=0), 14, axis=1) + fine
        self._colour = _COLOURS[int(random.integers(len(_COLOURS)))]
        self._round = bool(random.integers(2))
        self._phase = random.uniform(0, 2 * np.pi, size=2)
        self._pitch_hz = float(random.choice([440.0, 660.0, 880.0]))
        self._noise = 0.003 * random.standard_normal(SAMPLE_RATE).astype(np.float32)

    @classmethod
    def parse(cls, text: str, fps: float = 2.0) -> PictureSource:
        """From what follows ``picture:``, for example ``?seconds=20&seed=3``."""
        values = dict(parse_qsl(text.lstrip("/").removeprefix("?"), keep_blank_values=True))
        unknown = sorted(set(values) - {"seconds", "seed"})
        if unknown or (text.strip("/?") and not values):
            raise UsageError(
                f"picture:{text} is not understood. Allowed are seconds and seed, "
                "for example picture:?seconds=20&seed=3"
            )
        try:
            seconds = float(values["seconds"]) if "seconds" in values else None
            return cls(seconds, int(values.get("seed", "0")), fps)
        except ValueError:
            raise UsageError(
                f"picture:{text} has a value that is no number. "
                "Write it like picture:?seconds=20&seed=3"
            ) from None

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
        tick = 0
        while not self._stop.is_set():
            at_s = tick / self._fps
            if self._seconds is not None and at_s >= self._seconds:
                return
            yield Frame(self.image(at_s), at_s)
            self.stats.frames += 1
            if self._stop.is_set():
                return
            next_s = (tick + 1) / self._fps
            end_s = next_s if self._seconds is None else min(next_s, self._seconds)
            pcm = self.sound(round(at_s * SAMPLE_RATE), round(end_s * SAMPLE_RATE))
            yield Samples(pcm, at_s)
            self.stats.samples += len(pcm)
            self.stats.ended_at_s = end_s
            tick += 1

    def stop(self) -> None:
        """Ask the iterator to end; safe from any thread."""
        self._stop.set()

    def image(self, at_s: float) -> np.ndarray:
        """The picture at a time, u8 [252, 448, 3]."""
        image = self._texture.copy()
        radius = HEIGHT // 7
        x = WIDTH / 2 + (WIDTH / 2 - radius) * np.sin(0.5 * at_s + self._phase[0])
        y = HEIGHT / 2 + (HEIGHT / 2 - radius) * np.sin(0.35 * at_s + self._phase[1])
        rows, columns = np.ogrid[:HEIGHT, :WIDTH]
        if self._round:
            inside = (rows - y) ** 2 + (columns - x) ** 2 <= radius**2
        else:
            inside = (np.abs(rows - y) <= radius) & (np.abs(columns - x) <= radius)
        image[inside] = self._colour
        return image

    def sound(self, first: int, stop: int) -> np.ndarray:
        """Samples ``first`` to ``stop``, f32 [n]: a beep every other second, and faint noise."""
        number = np.arange(first, stop)
        into_s = (number / SAMPLE_RATE) % _BEEP_PERIOD_S
        envelope = np.clip(np.minimum(into_s, _BEEP_S - into_s) / 0.01, 0.0, 1.0)
        beep = 0.3 * envelope * np.sin(2 * np.pi * self._pitch_hz * into_s)
        return beep.astype(np.float32) + self._noise[number % SAMPLE_RATE]
