"""Counts of source and chunker reach the session's statistics."""

from __future__ import annotations

import numpy as np

from omnidrop_stream.chunker import Chunker
from omnidrop_stream.types import Frame
from runtime.sources.base import SourceStats
from runtime.stats import Stats
from runtime.tally import Tally


def test_what_grew_since_the_last_look_is_added_once():
    stats, source, chunker = Stats(), SourceStats(), Chunker()
    tally = Tally(stats)
    source.corrupt_frames = 3
    source.clock["clock.reset"] += 1
    chunker.push(Frame(np.zeros((4, 4, 3), np.uint8), 1.0))
    chunker.start_epoch("x")
    tally.look(source, chunker)
    source.corrupt_frames = 4
    tally.look(source, chunker)
    assert stats.counter("source.corrupt_frames") == 4
    assert stats.counter("clock.reset") == 1
    assert stats.counter("chunker.epochs") == 1
    assert stats.counter("source.untimed") == 0
