"""Chunks as the overload ladder's steps leave them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from omnidrop_stream.types import Chunk
from runtime.lighter import Lighter
from runtime.overload import Step
from tests.helpers import make_chunks

ALL = tuple(Step)


def at(step: Step, steps: tuple[Step, ...] = ALL) -> Lighter:
    lighter = Lighter(steps)
    lighter.go(step)
    return lighter


@pytest.fixture
def chunk() -> Chunk:
    return make_chunks(2)[1]


def test_at_the_normal_step_a_chunk_stays_as_it_is(chunk: Chunk) -> None:
    assert at(Step.NORMAL).lightened(chunk) == replace(chunk)


def test_a_lower_frame_rate_takes_every_other_picture_and_says_its_true_rate(chunk: Chunk) -> None:
    lighter = at(Step.FEWER_FRAMES).lightened(chunk)
    assert lighter.fps == 1.0
    assert lighter.frames is not None
    assert chunk.frames is not None
    assert np.array_equal(lighter.frames, chunk.frames[[0, 2]])


def test_repeated_pictures_are_never_more_than_there_are(chunk: Chunk) -> None:
    chunk = replace(chunk, flags=replace(chunk.flags, repeated_frames=4))
    assert at(Step.FEWER_FRAMES).lightened(chunk).flags.repeated_frames == 2


def test_each_step_uses_those_before_it() -> None:
    lighter = at(Step.STRONGER_MERGING)
    assert lighter.pictures < 1
    assert lighter.merging < 1


def test_a_step_that_does_not_apply_is_not_used() -> None:
    assert at(Step.SKIP, (Step.NORMAL, Step.SKIP)).pictures == 1


def test_audio_only_leaves_the_pictures_out_and_flags_it(chunk: Chunk) -> None:
    lighter = at(Step.AUDIO_ONLY).lightened(chunk)
    assert lighter.frames is None
    assert lighter.flags.video_absent


def test_audio_only_keeps_the_pictures_of_a_chunk_without_sound(chunk: Chunk) -> None:
    silent = replace(chunk, audio=None, audio_left=None, audio_right=None)
    assert at(Step.AUDIO_ONLY).lightened(silent).frames is not None


@pytest.mark.parametrize(
    ("before", "after", "begins"),
    [
        (Step.NORMAL, Step.FEWER_FRAMES, False),
        (Step.FEWER_FRAMES, Step.SMALLER_FRAMES, True),
        (Step.SMALLER_FRAMES, Step.STRONGER_MERGING, False),
        (Step.STRONGER_MERGING, Step.AUDIO_ONLY, True),
        (Step.AUDIO_ONLY, Step.SKIP, False),
        (Step.SMALLER_FRAMES, Step.FEWER_FRAMES, True),
    ],
)
def test_only_another_picture_size_or_none_begins_an_epoch(
    before: Step, after: Step, begins: bool, chunk: Chunk
) -> None:
    lighter = at(before)
    epoch = lighter.lightened(chunk).epoch
    assert lighter.go(after) is begins
    assert lighter.lightened(chunk).epoch == epoch + begins


def test_an_epochs_first_chunk_has_no_sound_before_it(chunk: Chunk) -> None:
    lighter = Lighter(ALL)
    lighter.taken(lighter.lightened(chunk))
    lighter.go(Step.SMALLER_FRAMES)
    first = lighter.lightened(chunk)
    assert first.audio_left is not None
    assert not first.audio_left.any()


def test_a_later_chunk_of_the_epoch_keeps_the_sound_before_it(chunk: Chunk) -> None:
    lighter = at(Step.SMALLER_FRAMES)
    lighter.taken(lighter.lightened(chunk))
    second = lighter.lightened(chunk)
    assert second.audio_left is not None
    assert second.audio_left.any()
