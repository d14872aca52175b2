"""Admission of streams by measured cost, and what is told of a stream's depth."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from omnidrop_stream.errors import Overloaded
from runtime.keeping import Keeping
from runtime.model_load import MEASURED_CHUNKS, ModelLoad
from runtime.stats import Stats


def loaded(*chunk_s, watches_s=0.0):
    """A ledger of streams "0", "1", ... whose chunks take so many seconds each."""
    load, names = ModelLoad(), [object() for _ in chunk_s]
    for name, cost_s in zip(names, chunk_s, strict=True):
        for _ in range(MEASURED_CHUNKS):
            load.chunk(name, cost_s)
    if watches_s:
        load.judged(names[0], watches_s, 1)
        load.carries(names[0], 1)
    return load, names


def keeping(load, stream=None, share=0.9, realtime=True):
    return Keeping(load, stream or object(), Stats(), share, realtime)


def status(depth=3, reason=""):
    return SimpleNamespace(depth=depth, depth_reason=reason)


def test_a_stream_that_fits_at_the_cost_of_the_others_is_admitted():
    load, _ = loaded(0.5, 0.7)
    keeping(load).admit()


def test_a_stream_too_many_is_refused_with_the_figures():
    load, _ = loaded(0.5, 0.7, 0.3, watches_s=0.1)
    with pytest.raises(Overloaded) as refused:
        keeping(load).admit()
    for figure in (
        "3 other streams take 75%",
        "standing questions 5%",
        "500 ms a chunk, the mean of theirs",
        "that is 105%",
        "stream.share allows 90%",
    ):
        assert figure in str(refused.value)


def test_the_first_stream_is_admitted_however_slow_the_model_is():
    keeping(ModelLoad()).admit()
    load, (only,) = loaded(7.0)
    ours = keeping(load, only)
    assert [ours.committed(status()) for _ in range(5)] == [None] * 5


def test_of_streams_that_began_together_one_too_many_is_refused_once_it_is_measured():
    load, names = loaded(0.9, 0.8, 0.4)
    ours = keeping(load, names[2])
    told = [ours.committed(status()) for _ in range(MEASURED_CHUNKS + 2)]
    assert told[: MEASURED_CHUNKS - 1] == [None] * (MEASURED_CHUNKS - 1)
    assert isinstance(told[MEASURED_CHUNKS - 1], Overloaded)
    assert "400 ms a chunk, measured" in str(told[MEASURED_CHUNKS - 1])
    assert told[MEASURED_CHUNKS:] == [None, None]


def test_when_it_has_gone_there_is_room_for_the_next():
    load, names = loaded(0.9, 0.6, 0.4)
    load.drop(names[2])
    assert keeping(load, names[1]).committed(status()) is None
    keeping(load, share=2.0).admit()


def test_a_stream_that_need_not_keep_pace_is_always_carried():
    load, names = loaded(1.5, 1.5)
    ours = keeping(load, names[0], realtime=False)
    ours.admit()
    assert [ours.committed(status()) for _ in range(5)] == [None] * 5


def test_moves_of_the_depth_are_counted_and_the_last_reason_is_shown():
    stats = Stats()
    ours = Keeping(ModelLoad(), object(), stats, 0.9, realtime=True)
    for depth, reason in ((2, ""), (3, "room"), (4, "room"), (3, "busy")):
        ours.committed(status(depth, reason))
    assert stats.counter("depth.deeper") == 2
    assert stats.counter("depth.shallower") == 1
    gauges = stats.snapshot()["gauges"]
    assert (gauges["depth.layers"], gauges["depth.reason"]) == (3, "busy")


def test_what_two_chunks_took_tells_nothing_yet():
    load, (_other,) = loaded(0.5)
    slow = object()
    for _ in range(MEASURED_CHUNKS - 1):
        load.chunk(slow, 9.0)
    keeping(load).admit()
    assert load.refusal_of_stream(0.9, slow) == ""
