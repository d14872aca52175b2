"""The quick part of the corrupted segments: in this process, since a crash would be seen here."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.clips import FPS, GOP
from tests.faults.corrupt_worker import Worker
from tests.faults.heard import listening


@pytest.fixture
def log_on() -> Iterator[None]:
    with listening():
        yield


@pytest.mark.usefixtures("log_on")
@pytest.mark.parametrize(("video", "sound"), [("h264", "aac"), ("hevc", "pcm_alaw")])
def test_damaged_packets_are_lived_through(video: str, sound: str) -> None:
    counts = Worker(video, sound, seed=7).run(25)
    assert counts.segments == 25
    assert counts.damaged_pictures > 0  # the damage is real
    assert max(counts.good_after_s) <= GOP / FPS + 2.0
    assert counts.noticed_unflagged == 0
    assert counts.wrong_noticed > 0 or video == "hevc"  # whose decoder refuses what it notices
    assert counts.loud == counts.odd_chunks == 0


def test_undamaged_packets_give_the_pictures_that_were_sent() -> None:
    worker = Worker("h264", "aac", seed=7)
    worker._ways = [lambda packets, _: list(packets)]
    worker._spoil = [lambda packets, _: list(packets)]
    counts = worker.run(3)
    assert counts.wrong == counts.decode_errors == counts.good_flagged == counts.most_delayed == 0
    assert set(counts.good_after_s) == {0.0}
