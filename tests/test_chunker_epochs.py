"""Where a stream is interrupted: a new epoch, a hole of its true length, and its name."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from omnidrop_stream.chunker import Chunker, ChunkerSettings
from omnidrop_stream.types import Frame, Gap, Samples, StreamKind
from tests.streams import (
    AV,
    VIDEO,
    audio,
    chunked,
    heard,
    merged,
    picture,
    run,
    sound,
    video,
)

# Epochs


@pytest.mark.parametrize("kind", list(StreamKind))
def test_a_forward_jump_closes_the_chunk_and_leaves_a_hole_of_its_true_length(
    kind: StreamKind,
) -> None:
    chunker = Chunker(ChunkerSettings(kind=kind))
    times = ((0, 3), (23, 27))
    items = merged(*(audio(*t) for t in times), *(video(*t) for t in times))
    chunks = run(chunker, items)
    assert [c.start_s for c in chunks] == [0, 2, 23, 25]
    assert [c.epoch for c in chunks] == [0, 0, 1, 1]
    assert [c.index for c in chunks] == [0, 1, 3, 4]
    assert [c.flags.partial for c in chunks] == [False, True, False, False]
    assert [(g.from_s, g.to_s) for g in chunker.gaps] == [(3, 23)]


def test_a_step_back_starts_an_epoch_with_a_hole_of_unknown_length() -> None:
    chunker = Chunker()
    items = [*merged(audio(50, 53), video(50, 53)), *merged(audio(0, 2), video(0, 2))]
    chunks = run(chunker, items)
    assert [c.start_s for c in chunks] == [0, 2, 3]
    assert [c.epoch for c in chunks] == [0, 0, 1]
    assert [(g.from_s, g.to_s) for g in chunker.gaps] == [(3, 3)]
    assert np.array_equal(chunks[2].audio, sound(0, 2))


def test_stragglers_from_before_a_jump_stay_in_the_old_epoch() -> None:
    before = [*merged(audio(0, 2.6), video(0, 3))]
    after = [*video(30, 30.5), *audio(2.6, 3), *merged(video(30.5, 34), audio(30, 34))]
    chunks = run(Chunker(), before + after)
    assert np.array_equal(chunks[1].audio, sound(2, 3))
    assert np.array_equal(chunks[2].audio, sound(30, 32))
    assert [c.epoch for c in chunks] == [0, 0, 1, 1]


def test_a_jump_of_one_medium_that_the_other_fills_is_no_jump() -> None:
    items = [*merged(audio(0, 2), video(0, 2)), *video(3.3, 3.5), *audio(2, 3.5)]
    chunks = run(Chunker(), [*items, *merged(audio(3.5, 6), video(3.5, 6))])
    assert {c.epoch for c in chunks} == {0}
    assert np.array_equal(heard(chunks), sound(0, 6))


def test_a_new_frame_size_starts_an_epoch_without_a_hole() -> None:
    chunker = Chunker()
    items = merged(audio(0, 8), video(0, 3.5), video(3.5, 8, shape=(8, 6)))
    chunks = run(chunker, items)
    assert [c.epoch for c in chunks] == [0, 0, 1, 1, 1]
    assert [c.start_s for c in chunks] == [0, 2, 3.5, 5.5, 7.5]
    assert [c.duration_s for c in chunks] == pytest.approx([2, 1.5, 2, 2, 0.5])
    assert [c.index for c in chunks] == [0, 1, 2, 3, 4]
    assert [c.frames.shape[1] for c in chunks] == [4, 4, 8, 8, 8]
    assert np.array_equal(heard(chunks), sound(0, 8))
    assert chunker.gaps == ()


def test_context_is_empty_at_the_start_of_an_epoch() -> None:
    chunks = chunked(AV, audio(0, 6), video(0, 2), video(2, 6, shape=(8, 6)))
    assert chunks[1].epoch == 1
    assert not np.any(chunks[1].audio_left)
    assert not np.any(chunks[0].audio_right)


def test_an_interruption_told_from_outside_starts_an_epoch() -> None:
    chunker = Chunker()
    chunks = run(chunker, merged(audio(0, 3), video(0, 3)), flush=False)
    chunks += chunker.start_epoch("reconnected", at_s=12.5)
    chunks += run(chunker, merged(audio(700, 702), video(700, 702)))
    assert [c.start_s for c in chunks] == [0, 2, 12.5]
    assert [c.index for c in chunks] == [0, 1, 3]
    assert [(g.from_s, g.to_s, g.reason) for g in chunker.gaps] == [(3, 12.5, "reconnected")]


def test_stream_time_never_goes_back_even_if_told_to() -> None:
    chunker = Chunker(ChunkerSettings(kind=VIDEO))
    run(chunker, video(0, 4), flush=False)
    chunker.start_epoch("reconnected", at_s=1.0)
    assert [c.start_s for c in run(chunker, video(0, 2))] == [4]


def test_one_medium_that_jumps_for_good_does_not_stop_the_stream() -> None:
    chunker = Chunker()
    run(chunker, merged(audio(0, 3), video(0, 3)), flush=False)
    strange = [Samples(s.pcm, s.time_s + 500) for s in audio(3, 30)]
    chunks = run(chunker, [i for pair in zip(video(3, 30), strange, strict=True) for i in pair])
    assert len(chunks) > 5
    assert all(a.end_s <= b.start_s + 1e-6 for a, b in pairwise(chunks))


def test_the_ledger_is_bounded_and_says_so() -> None:
    chunker = Chunker(ChunkerSettings(kind=VIDEO, max_gaps=3))
    for n in range(6):
        run(chunker, video(n * 100, n * 100 + 1), flush=False)
    assert len(chunker.gaps) == 3
    assert chunker.counters.forgotten_gaps == 2


def test_new_gaps_tell_every_hole_once_also_when_the_ledger_is_full() -> None:
    chunker, told = Chunker(ChunkerSettings(kind=VIDEO, max_gaps=3)), list[Gap]()
    for n in range(6):
        run(chunker, video(n * 100, n * 100 + 1), flush=False)
        told += chunker.new_gaps()
    assert [gap.to_s for gap in told] == [100, 200, 300, 400, 500]
    assert chunker.new_gaps() == ()


def test_new_gaps_tell_by_how_much_a_hole_has_grown() -> None:
    chunker, told = Chunker(), list[tuple[float, float]]()
    for item in merged(audio(0, 2.5), video(0, 9)):
        chunker.push(item)
        told += [(gap.from_s, gap.to_s) for gap in chunker.new_gaps()]
    assert told == [(2, 4), (4, 6)]
    assert [(gap.from_s, gap.to_s) for gap in chunker.gaps] == [(2, 6)]


# Clocks that are set


@pytest.mark.parametrize(
    ("times", "counted"),
    [
        (((50, 53), (0, 3)), (1, 0, 0)),
        (((0, 3), (3603, 3606)), (0, 1, 0)),
        (((5000, 5003), (1400, 1403)), (0, 0, 1)),
        (((50, 53), (0, 3), (100, 103), (60, 63)), (1, 1, 1)),
    ],
)
@pytest.mark.parametrize("kind", list(StreamKind))
def test_each_way_in_which_time_can_jump_is_counted(
    kind: StreamKind, times: tuple[tuple[int, int], ...], counted: tuple[int, int, int]
) -> None:
    chunker = Chunker(ChunkerSettings(kind=kind))
    for span in times:
        run(chunker, merged(audio(*span), video(*span)), flush=False)
    chunker.flush()
    counters = chunker.counters
    assert (counters.resets, counters.jumps_forward, counters.jumps_backward) == counted
    assert counters.epochs == len(times)


def test_a_new_size_or_an_interruption_told_is_no_jump_of_the_clock() -> None:
    chunker = Chunker()
    run(chunker, merged(audio(0, 8), video(0, 3.5), video(3.5, 8, shape=(8, 6))), flush=False)
    chunker.start_epoch("reconnected")
    run(chunker, merged(audio(100, 102), video(100, 102)))
    counters = chunker.counters
    assert (counters.resets, counters.jumps_forward, counters.jumps_backward) == (0, 0, 0)


def test_an_interruption_in_source_time_leaves_a_hole_of_its_length_after_a_step_back() -> None:
    chunker = Chunker()
    run(chunker, merged(audio(50, 52), video(50, 52)), flush=False)
    run(chunker, merged(audio(20, 24), video(20, 24)), flush=False)  # stream time 2 to 6
    chunker.start_epoch("reconnected", source_s=34.0)
    chunks = run(chunker, merged(audio(34, 36), video(34, 36)))
    assert [c.start_s for c in chunks] == [16]
    assert chunker.gaps[-1].to_s - chunker.gaps[-1].from_s == pytest.approx(10)


def test_a_picture_just_before_an_interruption_does_not_last_longer_than_it() -> None:
    chunker = Chunker()
    items = merged(audio(0, 4), video(0, 3.6), [Frame(picture(9), 3.96)])
    chunks = run(chunker, items, flush=False)
    chunks += chunker.start_epoch("the clock was set", source_s=4.0)
    chunks += run(chunker, merged(audio(4, 6), video(4, 6)))
    assert [(c.start_s, c.duration_s) for c in chunks] == [(0, 2), (2, 2), (4, 2)]


def test_a_picture_whose_time_stands_still_does_not_fill_the_memory() -> None:
    chunker = Chunker()
    run(chunker, merged(audio(0, 3), video(0, 3)), flush=False)
    for _ in range(700):
        chunker.push(Frame(picture(1), 900.0))
        assert chunker.held < 100
    assert chunker.counters.late_frames == 699


def test_sound_whose_time_stands_still_does_not_fill_the_memory() -> None:
    chunker = Chunker()
    run(chunker, merged(audio(0, 3), video(0, 3)), flush=False)
    run(chunker, [Samples(np.ones(320, np.float32), 900.0)] * 3000, flush=False)
    assert chunker.held < 600


def test_sound_in_crumbs_is_kept_in_few_runs() -> None:
    chunker = Chunker()
    run(chunker, [Samples(np.ones(16, np.float32), n / 1000) for n in range(1900)], flush=False)
    assert chunker.held < 20


def test_stream_time_does_not_go_back_where_a_tiny_rest_of_sound_is_dropped() -> None:
    chunker = Chunker()
    run(chunker, merged(audio(0, 4.05), video(0, 4)), flush=False)
    before_s = chunker.stream_time_s
    chunker.start_epoch("reconnected")
    assert before_s == pytest.approx(4.05)
    assert chunker.stream_time_s >= before_s


# Pictures that had to be patched


def test_a_chunk_with_a_corrupt_picture_says_so_also_where_it_is_repeated() -> None:
    frames = [replace(f, corrupt=1.9 < f.time_s < 2.1) for f in video(0, 2.05, fps=10)]
    chunks = chunked(AV, audio(0, 10), frames, video(5, 10))
    assert [c.flags.corrupt for c in chunks] == [False, True, True, False, False]


def test_a_corrupt_picture_that_no_slot_shows_does_not_matter() -> None:
    frames = [replace(f, corrupt=abs(f.time_s - 0.2) < 0.01) for f in video(0, 3)]
    assert not any(c.flags.corrupt for c in chunked(VIDEO, frames))
