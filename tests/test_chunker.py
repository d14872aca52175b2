"""The chunker: every chunk by presentation time, nothing silently joined or made up."""

from __future__ import annotations

import math

import numpy as np
import pytest

from omnidrop_stream.chunker import Chunker, ChunkerSettings
from omnidrop_stream.errors import ConfigError
from omnidrop_stream.types import CHUNK_SAMPLES, SAMPLE_RATE, Frame, Samples
from tests.streams import (
    AUDIO,
    AV,
    VIDEO,
    Item,
    all_same,
    audio,
    chunked,
    heard,
    merged,
    picture,
    run,
    shown,
    sound,
    video,
)

# The plain path


def test_a_whole_stream_becomes_whole_chunks() -> None:
    chunks = chunked(AV, audio(0, 6), video(0, 6))
    assert [c.start_s for c in chunks] == [0, 2, 4]
    assert [c.index for c in chunks] == [0, 1, 2]
    assert {c.epoch for c in chunks} == {0}
    assert all(len(c.audio) == CHUNK_SAMPLES and len(c.frames) == 4 for c in chunks)
    assert all(c.flags == type(c.flags)() for c in chunks)


def test_each_slot_shows_the_frame_nearest_to_it() -> None:
    frames = [Frame(picture(int(t * 100)), t) for t in (0, 0.3, 0.46, 0.56, 1.04, 1.4, 1.62, 2.1)]
    (chunk, *_) = chunked(VIDEO, frames)
    assert shown(chunk) == [0, 46, 104, 140]


def test_of_two_equally_near_frames_the_earlier_is_shown() -> None:
    frames = [Frame(picture(int(t * 100)), t) for t in (0, 0.375, 0.625, 1.0, 1.5, 2.0)]
    assert shown(chunked(VIDEO, frames)[0])[1] == 37


def test_a_frame_half_a_period_away_belongs_to_the_next_slot() -> None:
    frames = [Frame(picture(int(t * 100)), t) for t in (0, 0.25, 1.0, 1.5, 2.0)]
    assert shown(chunked(VIDEO, frames)[0]) == [0, 25, 100, 150]


def test_a_missing_frame_repeats_the_one_before_and_is_counted() -> None:
    frames = [Frame(picture(int(t * 10)), t) for t in (0, 0.5, 1.4, 2.0, 2.5)]
    chunk = chunked(VIDEO, frames)[0]
    assert shown(chunk) == [0, 5, 5, 14]
    assert chunk.flags.repeated_frames == 1


def test_slots_before_the_first_frame_show_the_first_and_are_counted() -> None:
    chunk = chunked(AV, audio(0, 4), video(0.9, 4))[0]
    assert shown(chunk) == [10, 10, 10, 15]
    assert chunk.flags.repeated_frames == 2


def test_context_around_a_chunk_is_the_samples_next_to_it() -> None:
    first, second = chunked(AUDIO, audio(0, 4))
    assert np.array_equal(first.audio_left, np.zeros(200, np.float32))
    assert np.array_equal(first.audio_right, second.audio[:40])
    assert np.array_equal(second.audio_left, first.audio[-200:])
    assert np.array_equal(second.audio_right, np.zeros(40, np.float32))


def test_a_chunk_waits_for_the_right_context_of_its_sound() -> None:
    chunker = Chunker(ChunkerSettings(kind=AUDIO))
    assert run(chunker, audio(0, 2), flush=False) == []
    assert chunker.push(Samples(np.ones(39, np.float32), 2.0)) == []
    assert len(chunker.push(Samples(np.ones(1, np.float32), 2.0 + 39 / SAMPLE_RATE))) == 1


def test_stream_time_starts_at_zero_whatever_the_source_says() -> None:
    chunks = chunked(AV, audio(1000, 1004), video(1000, 1004))
    assert [c.start_s for c in chunks] == [0, 2]


def test_the_grid_starts_at_the_earlier_medium() -> None:
    chunks = chunked(AV, video(10, 14.3), audio(9.7, 14.3))
    assert [c.duration_s for c in chunks] == [2, 2, 1.0]
    assert chunks[0].audio[0] == sound(9.7, 9.8)[0]


def test_other_frame_rates_of_the_model_are_possible() -> None:
    chunk = chunked(VIDEO, video(0, 2.2), fps=4)[0]
    assert len(chunk.frames) == 8
    assert chunk.fps == 4


def test_a_silent_stream_is_not_an_absent_one() -> None:
    silence = [Samples(np.zeros(1600, np.float32), n / 10) for n in range(25)]
    chunk = chunked(AV, silence, video(0, 2.5))[0]
    assert chunk.audio is not None
    assert not chunk.flags.audio_absent


def test_the_medium_a_stream_does_not_carry_is_ignored_and_counted() -> None:
    chunker = Chunker(ChunkerSettings(kind=VIDEO))
    chunks = run(chunker, merged(video(0, 2.5), audio(0, 2.5)))
    assert chunks[0].audio is None
    assert not chunks[0].flags.audio_absent
    assert chunker.counters.ignored_items == 25


# The end, and the part that exists now


def test_the_rest_at_the_end_is_partial() -> None:
    _, rest = chunked(AV, audio(0, 3.2), video(0, 3.2))
    assert rest.flags.partial
    assert len(rest.audio) == round(1.2 * SAMPLE_RATE)
    assert len(rest.frames) == 3
    assert rest.duration_s == pytest.approx(1.5)


def test_a_stream_that_ends_on_a_border_leaves_no_rest() -> None:
    chunks = chunked(VIDEO, video(0, 10, fps=25))
    assert len(chunks) == 5
    assert not any(c.flags.partial for c in chunks)


def test_sound_that_ends_before_the_pictures_is_kept_and_not_filled() -> None:
    chunk = chunked(AV, audio(0, 1.3), video(0, 2))[0]
    assert len(chunk.audio) == round(1.3 * SAMPLE_RATE)
    assert chunk.flags.partial
    assert chunk.flags.silence_filled_samples == 0


def test_a_tiny_rest_of_sound_is_dropped_and_counted() -> None:
    chunker = Chunker(ChunkerSettings(kind=AUDIO))
    assert len(run(chunker, audio(0, 4.05))) == 2
    assert chunker.counters.dropped_rest_samples == 800


def test_the_open_chunk_is_the_part_that_exists() -> None:
    chunker = Chunker()
    run(chunker, merged(audio(0, 3.3), video(0, 3.3)), flush=False)
    part = chunker.open_chunk()
    assert part.flags.partial
    assert (part.index, part.start_s) == (1, 2)
    assert shown(part) == [20, 25, 30]
    assert len(part.audio) == round(1.3 * SAMPLE_RATE)
    assert part.duration_s == pytest.approx(1.3)


def test_looking_at_the_open_chunk_changes_nothing() -> None:
    asked, alone = Chunker(), Chunker()
    items = merged(audio(0, 6.4), video(0, 6.4))
    chunks = []
    for item in items:
        chunks += asked.push(item)
        asked.open_chunk()
    assert all_same(chunks + asked.flush(), run(alone, items))


def test_before_anything_came_there_is_no_open_chunk() -> None:
    assert Chunker().open_chunk() is None


def test_the_first_frame_alone_is_an_open_chunk() -> None:
    chunker = Chunker(ChunkerSettings(kind=VIDEO))
    chunker.push(Frame(picture(7), 3.0))
    assert shown(chunker.open_chunk()) == [7]


def test_flushing_nothing_gives_nothing() -> None:
    assert Chunker().flush() == []


# Sound that is missing, late, or there twice


def test_a_short_gap_of_sound_becomes_silence_and_is_flagged() -> None:
    chunk = chunked(AV, audio(0, 0.6), audio(1.1, 2.5), video(0, 2.5))[0]
    assert chunk.flags.silence_filled_samples == 8000
    assert not np.any(chunk.audio[9600:17600])
    assert chunk.audio[17600] == sound(1.1, 1.2)[0]


def test_a_longer_gap_makes_the_chunks_sound_absent() -> None:
    first, second, *_ = chunked(AV, audio(0, 0.6), audio(1.2, 4.5), video(0, 4.5))
    assert first.audio is None
    assert first.flags.audio_absent
    assert first.flags.silence_filled_samples == 0
    assert second.audio is not None


def test_in_a_stream_of_sound_alone_a_longer_gap_is_filled_too() -> None:
    chunk = chunked(AUDIO, audio(0, 0.6), audio(1.2, 2.5))[0]
    assert chunk.flags.silence_filled_samples == 9600


def test_overlapping_sound_is_trimmed_and_counted() -> None:
    chunker = Chunker(ChunkerSettings(kind=AUDIO))
    chunks = run(chunker, [*audio(0, 1.0), *audio(0.9, 4.0)])
    assert np.array_equal(heard(chunks), sound(0, 4))
    assert chunker.counters.overlap_samples == 1600


def test_sound_with_coarse_time_stamps_is_gapless() -> None:
    rough = [Samples(block.pcm, round(block.time_s, 2)) for block in audio(0, 6, 0.0213)]
    chunks = chunked(AUDIO, rough)
    assert np.array_equal(heard(chunks), sound(0, 6))
    assert not any(c.flags.silence_filled_samples for c in chunks)


def test_samples_that_are_no_numbers_become_silence_and_are_flagged() -> None:
    pcm = sound(0, 2.5)
    pcm[100:110] = np.nan
    chunk = chunked(AUDIO, [Samples(pcm, 0.0)])[0]
    assert chunk.flags.corrupt
    assert not np.any(chunk.audio[100:110])


def test_a_medium_that_lags_too_long_counts_as_missing() -> None:
    chunker = Chunker()
    run(chunker, merged(audio(0, 1.0), video(0, 1.0)), flush=False)
    chunks = run(chunker, video(1.0, 2.9), flush=False)
    assert chunks == []
    chunks = run(chunker, video(2.9, 3.1), flush=False)
    assert len(chunks) == 1
    assert chunks[0].flags.audio_absent


def test_sound_that_comes_after_its_chunk_is_dropped_and_counted() -> None:
    chunker = Chunker()
    run(chunker, merged(audio(0, 1.0), video(0, 3.1)), flush=False)
    run(chunker, audio(1.0, 2.0), flush=False)
    assert chunker.counters.late_samples == 16000


def test_sound_that_returns_is_used_again() -> None:
    chunks = chunked(AV, audio(0, 2.5), audio(9.0, 14), video(0, 14))
    assert [c.flags.audio_absent for c in chunks] == [False, True, True, True, True, False, False]
    assert {c.epoch for c in chunks} == {0}
    assert np.array_equal(chunks[5].audio, sound(10, 12))


def test_absent_sound_is_named_in_the_ledger_as_one_gap() -> None:
    chunker = Chunker()
    run(chunker, merged(audio(0, 2.5), audio(9.0, 14), video(0, 14)))
    assert [(g.from_s, g.to_s, g.reason) for g in chunker.gaps] == [(2, 10, "no sound came")]


# Pictures that are missing


def test_pictures_missing_for_long_are_repeated_then_absent_in_an_epoch_of_their_own() -> None:
    chunks = chunked(AV, audio(0, 14), video(0, 2), video(10.1, 14))
    assert [c.flags.repeated_frames for c in chunks] == [0, 3, 4, 0, 0, 0, 0]
    absent = [False, False, False, True, True, False, False]
    assert [c.frames is None for c in chunks] == absent
    assert [c.flags.video_absent for c in chunks] == absent
    assert [c.epoch for c in chunks] == [0, 0, 0, 1, 1, 2, 2]
    assert [c.index for c in chunks] == list(range(7))


def test_absent_pictures_are_named_in_the_ledger() -> None:
    chunker = Chunker()
    run(chunker, merged(audio(0, 14), video(0, 2), video(10.1, 14)))
    assert [(g.from_s, g.to_s, g.reason) for g in chunker.gaps] == [(6, 10, "no picture came")]


def test_sound_without_pictures_from_the_start_has_no_frames() -> None:
    chunk = chunked(AV, audio(0, 4))[0]
    assert chunk.frames is None
    assert chunk.audio is not None


def test_pictures_that_begin_chunks_later_begin_an_epoch() -> None:
    chunks = chunked(AV, audio(0, 8), video(4.2, 8))
    assert [c.epoch for c in chunks] == [0, 0, 1, 1]
    assert not np.any(chunks[2].audio_left)


def test_a_late_frame_is_dropped_and_counted() -> None:
    chunker = Chunker(ChunkerSettings(kind=VIDEO))
    run(chunker, [*video(0, 1), Frame(picture(99), 0.8), *video(1, 2.2)])
    assert chunker.counters.late_frames == 1


# Bad values


@pytest.mark.parametrize(
    ("key", "value"),
    [("fps", 0.7), ("fps", 0), ("fps", math.nan), ("max_lag_s", -1), ("outage_periods", 0)],
)
def test_a_setting_out_of_range_is_refused_by_name(key: str, value: float) -> None:
    with pytest.raises(ConfigError, match=key):
        ChunkerSettings(**{key: value})


@pytest.mark.parametrize(
    "item",
    [
        Frame(picture(0), math.nan),
        Frame(np.zeros((4, 4), np.uint8), 0.0),
        Frame(np.zeros((4, 4, 3), np.float32), 0.0),
        Samples(np.zeros((2, 5), np.float32), 0.0),
        Samples(np.zeros(5, np.float32), math.inf),
    ],
)
def test_an_item_of_the_wrong_shape_or_time_is_refused(item: Item) -> None:
    with pytest.raises(ValueError, match="must be"):
        Chunker().push(item)
