"""The synthetic world as a media file, with its truth beside it."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omnidrop_stream.errors import UsageError
from omnidrop_stream.types import CHUNK_SAMPLES, CHUNK_SECONDS, SAMPLE_RATE, Frame, Samples
from omnidrop_stream.world import Split, World
from runtime.media import write_mp4

LONGEST_S = 24 * 3600.0
MOST_FPS = 120.0
GRID_FPS = 2.0
CRF = 12
"""Fine enough that the noise of the pictures survives."""


def truth_path(path: Path) -> Path:
    """Where the truth of a rendered file stands: beside it, ``.truth.json``."""
    return path.with_suffix(".truth.json")


def render_world(
    path: Path, seed: int = 0, seconds: float = 20.0, split: str = "test", fps: float = 25.0
) -> Path:
    """Write the first seconds of a world as mp4, and its truth; returns where the truth stands.

    Besides the pictures at ``fps`` there is one at each half second, where the model's grid looks:
    so what it sees is the same at any rate.
    """
    for name, value, most in (("seconds", seconds, LONGEST_S), ("fps", fps, MOST_FPS)):
        if not (math.isfinite(value) and 0 < value <= most):
            raise UsageError(
                f"--{name} = {value:g} is not allowed: give more than 0, at most {most:g}"
            )
    if split not in ("train", "test"):
        raise UsageError(f"--split = {split!r} is not allowed: give train or test")
    if seed < 0:
        raise UsageError(f"--seed = {seed} is not allowed: give a number from 0 on")
    if not path.parent.is_dir():
        raise UsageError(f"{path} cannot be written: there is no folder {path.parent}")
    if path.suffix.lower() not in (".mp4", ".m4v", ".mov"):
        raise UsageError(f"{path} is no name for an mp4 file: let it end in .mp4")
    world = World(seed, "train" if split == "train" else "test")
    write_mp4(path, _frames(world, seconds, fps), _sound(world, seconds), crf=CRF, rate_fps=fps)
    told = truth_path(path)
    told.write_text(json.dumps(world_truth(world, seconds), indent=1) + "\n", encoding="utf-8")
    return told


def world_truth(world: World, seconds: float) -> dict[str, Any]:
    """What is shown and heard in the first seconds of a world, with its spans."""
    split: Split = world.split
    chunks = world.truths(0, math.ceil(seconds / CHUNK_SECONDS - 1e-9))
    events = [e for truth in chunks for e in (truth.seen, truth.heard) if e is not None]
    return {
        "seed": world.seed,
        "split": split,
        "seconds": seconds,
        "events": [dataclasses.asdict(e) for e in events if e.from_s < seconds],
    }


def _frames(world: World, seconds: float, fps: float) -> Iterator[Frame]:
    # In whole milliseconds: a picture of the grid is not doubled by one that lies beside it.
    own = {round(n * 1000 / fps) for n in range(math.ceil(seconds * fps - 1e-9))}
    grid = {round(n * 1000 / GRID_FPS) for n in range(math.ceil(seconds * GRID_FPS - 1e-9))}
    for ms in sorted(own | grid):
        yield Frame(world.frame_at(ms / 1000), ms / 1000)


def _sound(world: World, seconds: float) -> Iterator[Samples]:
    samples = round(seconds * SAMPLE_RATE)
    for index in range(math.ceil(samples / CHUNK_SAMPLES)):
        left = samples - index * CHUNK_SAMPLES
        yield Samples(world.audio(index)[:left], index * CHUNK_SECONDS)
