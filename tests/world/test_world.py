"""The stream: a pure function of its seed, with the truth where the signal is."""

import numpy as np
import pytest

from omnidrop_stream.world import World
from omnidrop_stream.world.items import CHUNK_SAMPLES, COLOURS, SAMPLE_RATE
from omnidrop_stream.world.voices import load_bank


def test_the_same_seed_gives_the_same_chunks_in_any_order() -> None:
    forwards, backwards = World(3), World(3)
    ahead = [forwards.chunk(i) for i in range(4)]
    behind = [backwards.chunk(i) for i in reversed(range(4))][::-1]
    for a, b in zip(ahead, behind, strict=True):
        assert np.array_equal(a.frames, b.frames)
        assert np.array_equal(a.audio, b.audio)
        assert a.truth == b.truth


def test_iterating_is_the_same_as_asking_for_each_chunk() -> None:
    for index, chunk in zip(range(3), World(5), strict=False):
        assert chunk.index == index
        assert np.array_equal(chunk.audio, World(5).audio(index))


def test_chunks_have_the_shapes_the_chunker_makes() -> None:
    chunk = World(1).chunk(0)
    assert chunk.frames.shape == (4, 112, 112, 3)
    assert chunk.frames.dtype == np.uint8
    assert chunk.audio.shape == (CHUNK_SAMPLES,)
    assert chunk.audio.dtype == np.float32
    assert np.abs(chunk.audio).max() <= 1


def test_other_seeds_and_the_other_split_give_other_streams() -> None:
    first = World(1, things=1.0).chunk(0).frames
    assert not np.array_equal(first, World(2, things=1.0).chunk(0).frames)
    assert not np.array_equal(first, World(1, "test", things=1.0).chunk(0).frames)


def test_the_splits_share_no_voice() -> None:
    voices = [{clip.voice for clips in load_bank(s) for clip in clips} for s in ("train", "test")]
    assert voices[0]
    assert voices[1]
    assert not voices[0] & voices[1]


def test_every_word_is_spoken_by_every_voice() -> None:
    for split in ("train", "test"):
        assert len({len(clips) for clips in load_bank(split)}) == 1


@pytest.mark.parametrize("split", ["train", "test"])
def test_sound_is_loud_inside_its_span_and_quiet_outside(split: str) -> None:
    world = World(11, "test" if split == "test" else "train", sounds=1.0)
    checked = 0
    for index in range(20):
        heard, audio = world.truth(index).heard, world.audio(index)
        if heard is None:
            continue
        a, b = (round((t - 2 * index) * SAMPLE_RATE) for t in (heard.from_s, heard.to_s))
        outside = np.concatenate([audio[:a], audio[b:]])
        assert 0 <= a < b <= CHUNK_SAMPLES
        assert np.abs(audio[a:b]).max() > 3 * np.abs(outside).mean()
        checked += 1
    assert checked > 5


def test_a_thing_is_drawn_in_its_colour_inside_its_span_only() -> None:
    world = World(4, things=1.0)
    checked = 0
    for index in range(20):
        thing, seen = world.plan(index).thing, world.truth(index).seen
        if thing is None or seen is None:
            continue
        cover, frames = world.cover(index), world.chunk(index).frames
        for k in range(4):
            shown = seen.from_s <= 2 * index + 0.5 * k < seen.to_s
            assert bool(cover[k].any()) == shown
            if shown:
                inside = frames[k][cover[k] > 0.9].astype(float).mean(0)
                assert np.abs(inside - thing.rgb).max() < 12
                checked += 1
        assert seen.what.split()[0] in COLOURS
    assert checked > 20


def test_a_word_overlaps_the_thing_it_is_said_with() -> None:
    world = World(8, things=1.0, sounds=1.0)
    both = [t for t in world.truths(0, 60) if t.seen is not None and t.heard is not None]
    assert len(both) > 20
    for truth in both:
        assert truth.seen is not None
        assert truth.heard is not None
        assert truth.heard.from_s < truth.seen.to_s
        assert truth.seen.from_s < truth.heard.to_s


def test_pictures_can_be_drawn_at_any_time_and_size() -> None:
    world = World(2, size=224)
    assert world.frame_at(3.217).shape == (224, 224, 3)
    assert np.array_equal(world.frame_at(3.217), world.frame_at(3.217))


def test_streams_have_blank_pictures_silence_repeats_and_bells() -> None:
    truths = World(0).truths(0, 400)
    words = [t.word for t in truths if t.word is not None]
    assert any(t.thing is None for t in truths)
    assert any(t.word is None for t in truths)
    assert len(set(words)) < len(words)
    assert "bell" in words
