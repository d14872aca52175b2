"""Clips that the tests encode themselves, small and once per run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest

from omnidrop_stream.types import SAMPLE_RATE, Frame, Samples
from runtime.media import write_mp4
from tests.runtime.servers import (
    deaf_port,
    needs_gstreamer,
    refused_port,
    rtsp_server,
    silent_port,
)

__all__ = ["deaf_port", "needs_gstreamer", "refused_port", "rtsp_server", "silent_port"]

Clip = Callable[..., Path]


def grey_frames(times: Iterable[float], width: int, height: int) -> list[Frame]:
    """Each picture is grey and tells its time: brightness 20 per second from 20 on."""
    return [
        Frame(np.full((height, width, 3), min(20 + round(20 * t), 255), np.uint8), t) for t in times
    ]


def tone(seconds: float, hz: float = 440.0, level: float = 0.4) -> list[Samples]:
    pcm = level * np.sin(2 * np.pi * hz * np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE)
    return [
        Samples(pcm[i : i + 1600].astype(np.float32), i / SAMPLE_RATE)
        for i in range(0, len(pcm), 1600)
    ]


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    """Encode (once) and return an mp4: length, size, rate or times, with sound or without."""
    folder = tmp_path_factory.mktemp("clips")
    made: dict[str, Path] = {}

    def make(
        seconds: float = 5.0,
        size: tuple[int, int] = (160, 90),
        fps: float = 25.0,
        times: tuple[float, ...] | None = None,
        video: bool = True,
        audio: bool = True,
    ) -> Path:
        key = repr((seconds, size, fps, times, video, audio))
        if key not in made:
            path = folder / f"{len(made)}.mp4"
            at = times or tuple(n / fps for n in range(round(seconds * fps)))
            frames = grey_frames(at, *size) if video else None
            write_mp4(path, frames, tone(seconds) if audio else None, rate_fps=fps)
            made[key] = path
        return made[key]

    return make
