"""A clip keeps to its limit of pictures, and loses no sound for it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnidrop_stream.errors import SourceError
from omnidrop_stream.types import StreamKind
from runtime.clips import open_clip, thinning
from tests.runtime.conftest import Clip


def test_a_short_clip_keeps_every_picture(clip: Clip) -> None:
    with open_clip(clip(seconds=5.0), 2.0, 128) as opened:
        chunks = list(opened.chunks)
    assert (opened.kind, opened.fps) == (StreamKind.AV, 2.0)
    assert sum(len(c.frames) for c in chunks if c.frames is not None) == 10
    assert opened.seconds == pytest.approx(5.0, abs=0.1)


def test_a_longer_clip_goes_down_to_one_picture_a_second(clip: Clip) -> None:
    with open_clip(clip(seconds=5.0), 2.0, 6) as opened:
        chunks = list(opened.chunks)
    assert opened.fps == 1.0
    assert [len(c.frames) for c in chunks if c.frames is not None] == [2, 2, 1]
    assert all(c.audio is not None for c in chunks)


def test_beyond_that_chunks_go_without_pictures_but_keep_their_sound(clip: Clip) -> None:
    with open_clip(clip(seconds=12.0, fps=5.0), 2.0, 6) as opened:
        chunks = list(opened.chunks)
    assert [c.frames is not None for c in chunks] == [True, False, True, False, True, False]
    assert all(c.audio is not None for c in chunks)
    assert [c.flags.video_absent for c in chunks] == [c.frames is None for c in chunks]


def test_sound_alone_has_nothing_to_thin(clip: Clip) -> None:
    with open_clip(clip(seconds=5.0, video=False), 2.0, 2) as opened:
        assert opened.kind is StreamKind.AUDIO
        assert all(c.frames is None and not c.flags.video_absent for c in opened.chunks)


def test_a_file_that_is_no_media_is_an_error_of_the_source(tmp_path: Path) -> None:
    (tmp_path / "x.mp4").write_bytes(b"nothing of use" * 100)
    with pytest.raises(SourceError), open_clip(tmp_path / "x.mp4", 2.0, 128):
        pass


@given(st.floats(0, 20_000), st.sampled_from([1.0, 2.0, 4.0]), st.integers(2, 2_000))
def test_the_limit_holds_within_a_chunk_and_is_used(seconds: float, fps: float, limit: int) -> None:
    plan = thinning(seconds, fps, limit)
    chunks = int(seconds // 2)
    kept = sum(plan.keeps(n) for n in range(chunks)) * plan.fps * 2
    assert kept <= limit + 2 * plan.fps
    assert kept >= min(limit / 2, seconds * fps) - 2 * fps - 2
