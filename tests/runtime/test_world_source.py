"""The world as a live source and as a file: what comes out is what was drawn."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from omnidrop_stream.chunker import Chunker
from omnidrop_stream.errors import UsageError
from omnidrop_stream.types import Chunk, Frame, Samples
from omnidrop_stream.world import World
from runtime.chunks import chunks_of
from runtime.sources import WorldSource, open_source
from runtime.world_media import render_world, truth_path


def cut(source: str) -> list[Chunk]:
    with open_source(source) as opened:
        return list(chunks_of(opened, Chunker()))


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("world") / "film.mp4"
    render_world(path, seed=3, seconds=6)
    return path


def test_the_live_world_is_cut_into_the_chunks_that_were_drawn() -> None:
    world = World(3, "test")
    for index, chunk in enumerate(cut("demo:?seed=3&seconds=6")):
        assert np.array_equal(chunk.frames, world.chunk(index).frames)
        assert np.array_equal(chunk.audio, world.audio(index))


def test_a_length_ends_the_world_in_mid_chunk() -> None:
    chunks = cut("demo:?seed=3&seconds=5")
    assert [len(c.frames) for c in chunks] == [4, 4, 2]
    assert sum(len(c.audio) for c in chunks) == 80_000


def test_seed_and_split_make_another_world() -> None:
    names = (
        "demo:?seed=3&seconds=2",
        "demo:?seed=4&seconds=2",
        "demo:?seed=3&seconds=2&split=train",
    )
    pictures = [cut(name)[0].frames for name in names]
    assert not any(np.array_equal(a, b) for a, b in itertools.combinations(pictures, 2))


def test_pictures_come_at_the_rate_that_is_asked_for() -> None:
    items = list(WorldSource(seconds=2, seed=1, fps=8))
    times = [item.time_s for item in items if isinstance(item, Frame)]
    assert times == [n / 8 for n in range(16)]
    assert sum(len(item.pcm) for item in items if isinstance(item, Samples)) == 32_000


def test_without_a_length_the_world_is_endless_until_stopped() -> None:
    with open_source("demo:") as source:
        assert source.info.duration_s is None
        assert len(list(itertools.islice(source, 100))) == 100
        source.stop()
        assert list(source) == []


@pytest.mark.parametrize(
    "text",
    ["?seconds=0", "?seconds=-1", "?seed=x", "?size=3", "film", "?seed=-1", "?split=exam"],
)
def test_a_demo_value_that_is_not_allowed_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="demo:"):
        open_source("demo:" + text)


def test_a_rendered_film_is_read_as_what_was_drawn(film: Path) -> None:
    world, chunks = World(3, "test"), cut(str(film))
    assert len(chunks) >= 3
    for index, chunk in zip(range(3), chunks, strict=False):
        drawn = world.chunk(index)
        assert np.abs(chunk.frames.astype(int) - drawn.frames).mean() < 6
        assert np.corrcoef(chunk.audio, drawn.audio)[0, 1] > 0.95


def test_a_rendered_film_has_its_truth_beside_it(film: Path) -> None:
    told = json.loads(truth_path(film).read_text())
    world = World(3, "test")
    events = [e for t in world.truths(0, 3) for e in (t.seen, t.heard) if e is not None]
    assert (told["seed"], told["split"], told["seconds"]) == (3, "test", 6)
    assert [(e["what"], e["from_s"]) for e in told["events"]] == [
        (e.what, e.from_s) for e in events
    ]


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"seconds": 0}, "--seconds"),
        ({"fps": float("nan")}, "--fps"),
        ({"split": "exam"}, "--split"),
        ({"seed": -1}, "--seed"),
    ],
)
def test_a_film_that_cannot_be_rendered_is_refused_by_name(
    tmp_path: Path, values: dict[str, float], named: str
) -> None:
    with pytest.raises(UsageError, match=named):
        render_world(tmp_path / "x.mp4", **values)


@pytest.mark.parametrize("name", ["nowhere/x.mp4", "x.txt"])
def test_a_place_that_cannot_hold_a_film_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"x\."):
        render_world(tmp_path / name)
