"""What restarts with an epoch (design 3.4, 3.6, 3.8), from the items to the stream's tokens."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from omnidrop_stream.cache import Segment
from omnidrop_stream.chunker import Chunker
from omnidrop_stream.model.qwen_omni import QwenOmni
from omnidrop_stream.stream import OmniStream
from omnidrop_stream.types import SAMPLE_RATE, Chunk, Frame, Modality, Samples
from tests.helpers import settings, small_model
from tests.streams import Item, run

WIDE, TALL = (36, 64), (64, 36)


def media(
    from_s: float,
    seconds: float,
    seed: int = 0,
    loud: float = 0.1,
    shape: tuple[int, int] = WIDE,
    sound: bool = True,
) -> list[Item]:
    """Seeded pictures and sound; the same seed gives the same media at any time."""
    rng = np.random.default_rng(seed)
    items: list[Item] = []
    for step in range(round(seconds * 4)):
        at_s = from_s + step / 4
        image = rng.integers(0, 255, (*shape, 3), dtype=np.uint8)
        pcm = (rng.standard_normal(SAMPLE_RATE // 4) * loud).astype(np.float32)
        items.append(Frame(image, at_s))
        if sound:
            items.append(Samples(pcm, at_s))
    return items


@cache
def model() -> QwenOmni:
    return small_model()


def held(chunks: list[Chunk]) -> list[Segment]:
    stream = OmniStream(model(), settings())
    for chunk in chunks:
        stream.push(chunk)
    return list(stream.snapshot())


def of_last_epoch(items: list[Item]) -> list[Segment]:
    chunks = run(Chunker(), items)
    return [s for s in held(chunks) if s.epoch == chunks[-1].epoch]


def same_tokens(a: Segment, b: Segment) -> bool:
    return torch.equal(a.tokens.embeds, b.tokens.embeds) and torch.equal(
        a.tokens.offsets, b.tokens.offsets
    )


@pytest.fixture(scope="module")
def fresh() -> list[Segment]:
    return of_last_epoch(media(0, 8, seed=7))


@pytest.mark.parametrize("jump_s", [3600.0, -40.0])
@pytest.mark.parametrize("before_s", [2.0, 5.25])
def test_after_a_jump_every_token_is_that_of_a_fresh_stream(
    jump_s: float, before_s: float, fresh: list[Segment]
) -> None:
    before = media(50, before_s, seed=1, loud=0.9)
    after = of_last_epoch([*before, *media(50 + before_s + jump_s, 8, seed=7)])
    assert len(after) == len(fresh) == 4
    assert all(same_tokens(a, b) for a, b in zip(after, fresh, strict=True))


def test_an_interruption_told_from_outside_restarts_the_same(fresh: list[Segment]) -> None:
    chunker = Chunker()
    chunks = run(chunker, media(0, 6, seed=1, loud=0.9), flush=False)
    chunks += chunker.start_epoch("reconnected", source_s=9.0)
    chunks += run(chunker, media(9, 8, seed=7))
    after = [s for s in held(chunks) if s.epoch == chunks[-1].epoch]
    assert all(same_tokens(a, b) for a, b in zip(after, fresh, strict=True))


def test_without_a_new_epoch_the_tokens_are_others(fresh: list[Segment]) -> None:
    items = [*media(0, 6, seed=1, loud=0.9), *media(6, 8, seed=7)]
    going_on = [s for s in held(run(Chunker(), items)) if s.start_s >= 6]
    assert not any(same_tokens(a, b) for a, b in zip(going_on, fresh, strict=True))


def test_a_merging_window_restarts_with_an_epoch() -> None:
    segments = held(run(Chunker(), [*media(50, 6, seed=1), *media(0, 8, seed=7)]))
    assert [s.window for s in segments] == [0, 0, 1, 2, 2, 3, 3]


def test_a_merging_window_restarts_with_a_new_frame_size() -> None:
    items = [*media(0, 6, seed=1), *media(6, 6, seed=2, shape=TALL)]
    segments = held(run(Chunker(), items))
    assert [s.window for s in segments] == [0, 0, 1, 2, 2, 3]
    assert [s.epoch for s in segments] == [0, 0, 0, 1, 1, 1]
    alone = held(run(Chunker(), media(0, 6, seed=2, shape=TALL)))
    assert all(same_tokens(a, b) for a, b in zip(segments[3:], alone, strict=True))


def test_within_an_epoch_every_picture_has_one_size() -> None:
    items = [*media(0, 5, seed=1), *media(5, 5, seed=2, shape=TALL), *media(10, 4, seed=3)]
    chunks = run(Chunker(), items)
    sizes = {(c.epoch, c.frames.shape[1:3]) for c in chunks if c.frames is not None}
    assert sizes == {(0, WIDE), (1, TALL), (2, WIDE)}


def test_the_floor_of_the_sound_is_that_of_the_epoch_alone() -> None:
    quiet = media(0, 2, seed=7, loud=1e-4)
    (alone,) = held(run(Chunker(), quiet))
    after_loud = of_last_epoch([*media(50, 4, loud=0.9), *quiet])
    assert same_tokens(after_loud[0], alone)
    chunks = run(Chunker(), [*media(50, 4, loud=0.9), *media(54, 2, seed=7, loud=1e-4)])
    assert not same_tokens(held(chunks)[2], alone)  # in one epoch the loud sound sets the floor


def test_sound_has_no_left_context_at_the_start_of_an_epoch() -> None:
    chunks = run(Chunker(), [*media(50, 4, seed=1), *media(0, 4, seed=7)])
    assert [bool(np.any(c.audio_left)) for c in chunks] == [False, True, False, True]
    assert not np.any(chunks[1].audio_right)


# Sound that is absent, and silence


def test_a_chunk_whose_sound_is_absent_has_no_sound_tokens_and_says_so() -> None:
    items = [*media(0, 2), *media(2, 2, sound=False), *media(4, 2)]
    segments = held(run(Chunker(), items))
    counts = [int((s.tokens.modality == Modality.AUDIO).sum()) for s in segments]
    assert [s.flags.audio_absent for s in segments] == [False, True, False]
    assert [count > 0 for count in counts] == [True, False, True]


def test_true_silence_is_encoded() -> None:
    (segment,) = held(run(Chunker(), media(0, 2, loud=0.0)))
    assert not segment.flags.audio_absent
    assert int((segment.tokens.modality == Modality.AUDIO).sum()) == 35


# Wall time


def test_wall_time_is_only_a_label() -> None:
    chunks = run(Chunker(), media(0, 8))
    stepped = [replace(c, wall_time_s=1e9 - 3600 * c.index) for c in chunks]
    plain, labelled = held(chunks), held(stepped)
    assert all(same_tokens(a, b) for a, b in zip(plain, labelled, strict=True))
    assert [s.start_s for s in plain] == [s.start_s for s in labelled]
    assert [s.wall_time_s for s in labelled] == [1e9, 1e9 - 3600, 1e9 - 7200, 1e9 - 10800]
