"""What the model's time goes to, and whether one more standing question fits."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.model_load import ModelLoad
from runtime.worker import ModelWorker

DOOR, YARD = object(), object()


def test_shares_are_medians_over_a_chunks_period():
    load = ModelLoad(period_s=2.0)
    for spent_s in (0.1, 0.2, 1.9):
        load.chunk(DOOR, spent_s)
    load.chunk(YARD, 0.4)
    load.judged(DOOR, 0.3, watches=3)
    load.carries(DOOR, 2)
    now = load.now()
    assert now.chunks == pytest.approx(0.3)
    assert now.watches == pytest.approx(0.1)
    assert now.count == 2


def test_what_fits_is_not_refused_and_what_does_not_is_with_every_figure():
    load = ModelLoad(period_s=2.0)
    load.chunk(DOOR, 1.0)
    load.carries(DOOR, 1)
    load.judged(DOOR, 0.2, 1)
    assert load.refusal(0.29, limit=0.75) == ""
    refusal = load.refusal(0.4, limit=0.75)
    for figure in ("of each 2 s", "chunks take 50%", "1 standing question 10%", "400 ms", "80%"):
        assert figure in refusal
    assert "allows 75%" in refusal


def test_a_refusal_advises_only_what_can_be_done():
    load = ModelLoad(period_s=2.0)
    load.chunk(DOOR, 0.4)
    alone = load.refusal(1.2, limit=0.75)
    assert "standing questions" not in alone
    assert alone.endswith("; free the processor of other work or use a smaller model")
    load.chunk(YARD, 0.4)
    load.judged(DOOR, 0.2, 1)
    load.carries(DOOR, 1)
    assert "; remove one, watch fewer streams, free the" in load.refusal(1.2, limit=0.75)


def test_a_stream_that_has_gone_takes_nothing():
    load = ModelLoad()
    load.chunk(DOOR, 1.9)
    load.carries(DOOR, 3)
    load.drop(DOOR)
    load.drop(DOOR)
    assert (load.now().chunks, load.now().count) == (0.0, 0)


@given(
    st.lists(st.tuples(st.sampled_from([DOOR, YARD]), st.floats(0, 2)), max_size=40),
    st.integers(0, 8),
    st.floats(0.001, 1),
)
def test_one_more_is_refused_exactly_where_the_sum_passes_the_limit(chunks, watches, each_s):
    load = ModelLoad(period_s=2.0)
    for stream, spent_s in chunks:
        load.chunk(stream, spent_s)
    load.judged(DOOR, each_s, 1)
    load.carries(DOOR, watches)
    now = load.now()
    assert now.watches == pytest.approx(watches * each_s / 2)
    total = now.chunks + now.watches + each_s / 2
    assert (load.refusal(each_s, limit=0.75) == "") == (total <= 0.75)


class TwoTurns:
    """A feed of one chunk whose every turn takes half a second of a made-up clock."""

    def __init__(self):
        self.now_s = 0.0
        self.done = threading.Event()
        self._waiting = True

    def clock(self):
        return self.now_s

    def due(self):
        return 0.0 if self._waiting else None

    def take(self):
        self._waiting = False

        def turns():
            for _ in range(2):
                self.now_s += 0.5
                yield
            self.now_s += 0.5

        return turns()

    def background(self):
        self.done.set()

    def failed(self, error):
        raise error


def test_the_model_thread_counts_a_chunks_own_turns_until_its_stream_goes():
    feed = TwoTurns()
    worker = ModelWorker(clock=feed.clock)
    worker.add_feed(feed)
    worker.start()
    assert feed.done.wait(20)
    assert worker.load.now().chunks == pytest.approx(0.75)
    worker.remove_feed(feed)
    assert worker.load.now().chunks == 0.0
    assert worker.close()
