"""A simulated camera for the tests of time: what it shows and says tells when it really happened.

Stamps and arrival are the test's to spoil; nothing waits. A picture's first pixel holds its number,
a sample's value is the true time at which it was heard (divided by 8,000).
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from omnidrop_stream.chunker import Chunker, ChunkerSettings
from omnidrop_stream.types import SAMPLE_RATE, Chunk, Frame, Samples
from runtime.sources.base import Interruption
from runtime.sources.decode import Picture
from runtime.sources.live import LiveItems, Timeline

LOUDEST_S = 8000.0


@dataclass(frozen=True)
class Shot:
    """What a decoded frame is to `LiveItems`: a size, here with a number."""

    number: int
    width: int = 8
    height: int = 8
    rotation: int = 0


def to_rgb(picture: Picture) -> np.ndarray:
    number = cast(Shot, picture.frame).number
    return np.full((2, 2, 3), [number >> 16 & 255, number >> 8 & 255, number & 255], np.uint8)


@dataclass
class Camera:
    """25 pictures and 50 runs of sound a second. ``stamp``: (is sound, true time) -> stamp;
    ``lost``: the same -> whether it never comes; ppm: how much too fast the sound's clock runs.
    """

    stamp: Callable[[bool, float], float] = lambda sound, at_s: at_s
    lost: Callable[[bool, float], bool] = lambda sound, at_s: False
    ppm: float = 0.0
    fps: float = 25.0
    run_s: float = 0.02
    jitter_s: float = 0.005
    delay_s: tuple[float, float] = (0.08, 0.05)
    video: bool = True
    sound: bool = True
    seed: int = 0
    now_s: float = 0.0
    base_s: float = 5000.0

    def clock(self) -> float:
        return self.base_s + self.now_s

    def events(self, seconds: float) -> Iterator[tuple[float, bool, float, int]]:
        """(arrival, is sound, true time of its beginning, number), in order of arrival."""
        draw, media = random.Random(self.seed), []
        rate = 1 + self.ppm * 1e-6
        if self.video:
            media.append(self._arriving(seconds, False, 1 / self.fps, draw))
        if self.sound:
            media.append(self._arriving(seconds, True, self.run_s / rate, draw))
        yield from heapq.merge(*media)

    def _arriving(
        self, seconds: float, sound: bool, each_s: float, draw: random.Random
    ) -> Iterator[tuple[float, bool, float, int]]:
        newest_s, number = 0.0, 0
        while (at_s := number * each_s) < seconds:
            ready_s = at_s + (each_s if sound else 0.0) + self.delay_s[sound]
            newest_s = max(newest_s, ready_s + draw.expovariate(1 / self.jitter_s))
            yield newest_s, sound, at_s, number
            number += 1

    def items(self, seconds: float, live: LiveItems) -> Iterator[Frame | Samples | Interruption]:
        """What comes out of a live connection to this camera."""
        count, rate = round(self.run_s * SAMPLE_RATE), 1 + self.ppm * 1e-6
        for arrived_s, sound, at_s, number in self.events(seconds):
            if self.lost(sound, at_s):
                continue
            self.now_s = arrived_s
            if sound:
                stamp_s = self.stamp(True, number * self.run_s)
                times = at_s + np.arange(count) / SAMPLE_RATE / rate
                yield from live.sound(Samples((times / LOUDEST_S).astype(np.float32), stamp_s))
            else:
                shot = cast(Any, Shot(number))
                stamp_s = self.stamp(False, at_s)
                yield from live.picture(Picture(shot, stamp_s, 1 / self.fps, False))
        yield from live.rest()

    def shot_at(self, image: np.ndarray) -> float:
        """The true time of a picture."""
        high, middle, low = (int(part) for part in image[0, 0])
        return ((high << 16) + (middle << 8) + low) / self.fps


@dataclass
class Seen:
    """What a stream of this camera became."""

    chunks: list[Chunk]
    chunker: Chunker
    faults: dict[str, int]
    reasons: list[str]
    skews_s: list[float]
    """By how much sound is ahead of the pictures, for each run while both are known."""


def watch(camera: Camera, seconds: float, fps: float | None = 2.0) -> Seen:
    """Everything from the stamps to the chunks."""
    timeline = Timeline(camera.clock)
    live = LiveItems(timeline, fps, has_video=camera.video, to_rgb=to_rgb)
    chunker, seen_s = Chunker(ChunkerSettings()), None
    chunks, reasons, skews = [], [], []
    for item in camera.items(seconds, live):
        if isinstance(item, Interruption):
            reasons.append(item.reason)
            chunks += chunker.start_epoch(item.reason, source_s=item.at_s)
            seen_s = None
            continue
        if isinstance(item, Frame):
            seen_s = item.time_s - camera.shot_at(item.image)
        elif seen_s is not None:
            skews.append(item.time_s - float(item.pcm[0]) * LOUDEST_S - seen_s)
        chunks += chunker.push(item)
    chunks += chunker.flush()
    return Seen(chunks, chunker, dict(timeline.faults), reasons, skews)
