"""What several streams and answers want of the model, served together on the model thread."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
import torch

from omnidrop_stream.stream import OmniStream
from omnidrop_stream.types import Answer, Delta
from omnidrop_stream.wanted import Wanted, alone
from runtime.feed import ChunkFeed
from runtime.stats import Stats
from runtime.turns import Kind
from runtime.worker import Job, ModelWorker
from tests.helpers import make_chunks, settings, small_model
from tests.runtime.test_worker import Ended


class Service:
    """A model that notes what it is asked for; ``broken`` requests raise."""

    def __init__(self, layers=1, broken=()):
        self.served, self._layers, self._broken = [], layers, broken

    def wanted(self, request, group="g", repeatable=True):
        return Wanted(group, request, self._plain, self._together, repeatable)

    def _plain(self, request):
        yield from self._work([request])
        return f"did {request}"

    def _together(self, requests):
        yield from self._work(requests)
        return [f"did {request}" for request in requests]

    def _work(self, requests):
        for layer in range(self._layers):
            self.served.append(tuple(requests))
            if bad := [r for r in requests if r in self._broken]:
                raise ValueError(f"cannot do {bad}")
            if layer + 1 < self._layers:
                yield


class OneChunk:
    """A feed with one chunk, due at once, that wants ``requests`` one after the other."""

    def __init__(self, service, *requests, due=0.0):
        self.got, self.error, self.done = [], None, False
        self._service, self._requests, self._due = service, requests, due
        self._taken = False

    def due(self):
        return None if self._taken else self._due

    def take(self):
        self._taken = True
        return self._ingest()

    def _ingest(self):
        for number, request in enumerate(self._requests):
            self.got.append((yield self._service.wanted(request, number)))
            yield
        self.done = True

    def background(self):
        return None

    def failed(self, error):
        self.error = error


def run_out(worker):
    """All turns there are, on this thread; how many."""
    turns = 0
    while (work := worker._next_work()) is not None:
        work()
        turns += 1
        assert turns < 1000
    return turns


def still():
    return ModelWorker(clock=lambda: 0.5)


def with_feeds(*feeds):
    worker = still()
    for feed in feeds:
        worker.add_feed(feed)
    return worker


def test_chunks_that_are_due_are_served_together_phase_by_phase():
    service = Service()
    feeds = [OneChunk(service, f"encode {n}", f"extend {n}", due=n / 10) for n in range(3)]
    run_out(with_feeds(*feeds))
    assert service.served == [
        ("encode 0", "encode 1", "encode 2"),
        ("extend 0", "extend 1", "extend 2"),
    ]
    assert all(feed.done for feed in feeds)
    assert feeds[1].got == ["did encode 1", "did extend 1"]


def test_a_question_goes_between_two_turns_of_what_is_served_together():
    service, seen = Service(layers=4), []
    worker = with_feeds(OneChunk(service, "a"), OneChunk(service, "b"))
    worker._next_work()()

    def question():
        seen.append(len(service.served))
        yield Delta("q", 0, "x")

    ended = Ended()
    worker.submit(Job("q", Kind.PREFILL, question(), ended.events.append, ended.end))
    run_out(worker)
    assert seen == [1]
    assert service.served == [("a", "b")] * 4


def test_of_those_served_together_only_the_one_at_fault_is_told():
    service = Service(broken=("b",))
    feeds = [OneChunk(service, name) for name in "abc"]
    run_out(with_feeds(*feeds))
    assert [feed.got for feed in feeds] == [["did a"], [], ["did c"]]
    assert isinstance(feeds[1].error, ValueError)
    assert feeds[0].error is None
    assert feeds[2].error is None


def test_what_changes_something_is_not_served_twice():
    service, ends = Service(broken=("b",)), []

    def answer(name):
        yield Delta(name, 0, "x")
        yield service.wanted(name, "decode", repeatable=False)

    worker = still()
    for name in "ab":
        ended = Ended()
        ends.append(ended)
        worker.submit(Job(name, Kind.PREFILL, answer(name), ended.events.append, ended.end))
    run_out(worker)
    assert service.served == [("a", "b")]
    assert all(isinstance(ended.error, ValueError) for ended in ends)


def test_a_stream_that_leaves_while_it_is_served_is_dropped_and_the_others_go_on():
    service = Service(layers=3)
    stays, goes = OneChunk(service, "stays"), OneChunk(service, "goes")
    worker = with_feeds(stays, goes)
    worker._next_work()()
    worker.remove_feed(goes)
    run_out(worker)
    assert stays.done
    assert not goes.got
    assert goes.error is None


def test_the_time_of_what_is_served_together_is_shared_by_the_streams():
    now = [0.0]
    service = Service()
    work = service._work

    def slow(requests):
        now[0] += 0.08
        yield from work(requests)

    service._work = slow
    worker = ModelWorker(clock=lambda: now[0])
    feeds = [OneChunk(service, "a"), OneChunk(service, "b")]
    for feed in feeds:
        worker.add_feed(feed)
    run_out(worker)
    assert service.served == [("a", "b")]
    assert [worker.load.chunk_s(feed) for feed in feeds] == pytest.approx([0.04, 0.04])


def test_closing_ends_an_answer_that_waits_for_the_model():
    service = Service()
    worker = ModelWorker()
    worker.start()
    begun, go = threading.Event(), threading.Event()

    def answer():
        yield Delta("a", 0, "x")
        begun.set()
        assert go.wait(10.0)
        yield service.wanted("a", "decode")
        yield Delta("a", 1, "y")

    ended = Ended()
    worker.submit(Job("a", Kind.PREFILL, answer(), ended.events.append, ended.end))
    assert begun.wait(10.0)
    go.set()
    assert worker.close()
    assert ended.error is None
    assert [event.text for event in ended.events] == ["x", "y"]


def test_served_alone_what_is_wanted_takes_the_turns_of_the_plain_path():
    service, events = Service(layers=3), []

    def turns():
        got = yield service.wanted("a")
        events.append(got)
        yield "turn"

    assert list(alone(turns())) == [None, None, "turn"]
    assert events == ["did a"]


def feed_for(stream, worker):
    feed = ChunkFeed(Stats(), worker.wake, lambda _: None, lambda e: pytest.fail(str(e)))
    feed.attach(stream)
    return feed


def asked(worker, stream, name):
    ended = Ended()
    turns = stream.ask_together("what rang and what was shown?")
    worker.submit(Job(name, Kind.PREFILL, turns, ended.events.append, ended.end))
    return ended


@pytest.mark.parametrize("depth", [0, 3])
def test_streams_and_answers_served_together_hold_and_say_what_each_does_alone(depth):
    model = small_model(layers=5, seed=2)
    config = settings(pruning={"retention": 0.45}, stream={"prefill_depth": depth})
    played = [make_chunks(3, seed=seed) for seed in range(3)]
    plain = [OmniStream(model, config) for _ in played]
    texts = []
    for stream, chunks in zip(plain, played, strict=True):
        for chunk in chunks:
            stream.push(chunk)
        texts.append(list(stream.ask("what rang and what was shown?"))[-1].text)
    worker = ModelWorker()  # not started: its turns are taken here
    streams = [OmniStream(model, config) for _ in played]
    feeds = [feed_for(stream, worker) for stream in streams]
    for feed in feeds:
        worker.add_feed(feed)
    for number in range(3):
        for feed, chunks in zip(feeds, played, strict=True):
            feed.offer(chunks[number])
        run_out(worker)
    answers = [asked(worker, stream, str(n)) for n, stream in enumerate(streams)]
    run_out(worker)
    for one, other in zip(plain, streams, strict=True):
        for held, again in zip(one.snapshot(), other.snapshot(), strict=True):
            assert torch.allclose(held.hidden, again.hidden, rtol=1e-3, atol=1e-4)
            assert torch.allclose(held.keys, again.keys, rtol=1e-3, atol=1e-4)
    told = [[e for e in ended.events if isinstance(e, Answer)] for ended in answers]
    assert [answer.text for (answer,) in told] == texts


class Beside:
    """A device that is told when it is done with a request of two turns."""

    def __init__(self):
        self.done, self.looked = threading.Event(), threading.Event()

    def wanted(self):
        return Wanted("towers", 1, self._plain, self._plain, ready=self._ready)

    def _ready(self):
        self.looked.set()
        return self.done.is_set()

    def _plain(self, request):
        yield
        assert self.done.is_set(), "its second turn came before the device was done"
        return "encoded"


def test_a_chunk_takes_no_turn_while_the_device_is_at_it_and_others_go_on():
    device, worker = Beside(), ModelWorker()

    def ingest():
        yield device.wanted()

    def decode():
        for number in range(5):
            yield Delta("a", number, "x")
        device.done.set()  # an answer's last token: only then may the chunk go on
        yield Delta("a", 5, "x")

    class Feed(OneChunk):
        ended = threading.Event()

        def _ingest(self):
            yield from ingest()
            self.ended.set()

    feed, answered = Feed(None), Ended()
    worker.add_feed(feed)
    worker.start()
    try:
        assert device.looked.wait(10.0)
        worker.submit(Job("a", Kind.DECODE, decode(), answered.events.append, answered.end))
        answered.wait()
        assert feed.ended.wait(10.0)
    finally:
        assert worker.close()
    assert len(answered.events) == 6
    assert feed.error is None


def test_a_worker_whose_device_is_busy_ends_when_it_is_closed():
    device, worker = Beside(), ModelWorker()

    class Feed(OneChunk):
        def _ingest(self):
            yield device.wanted()

    worker.add_feed(Feed(None))
    worker.start()
    assert device.looked.wait(10.0)
    assert worker.close()


def test_a_device_that_cannot_tell_whether_it_is_done_fails_its_chunk_and_no_other_work():
    device, worker = Beside(), ModelWorker()
    device.done.set()

    def broken():
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    class Feed(OneChunk):
        told = threading.Event()

        def _ingest(self):
            wanted = device.wanted()
            yield replace(wanted, ready=broken, plain=self._failing)

        @staticmethod
        def _failing(request):
            yield
            raise RuntimeError("CUDA error")

        def failed(self, error):
            super().failed(error)
            self.told.set()

    feed = Feed(None)
    worker.add_feed(feed)
    worker.start()
    try:
        assert feed.told.wait(10.0)
        assert worker.call(lambda: 7).result(10.0) == 7
    finally:
        assert worker.close()
    assert "CUDA error" in str(feed.error)


def test_no_chunk_is_begun_while_the_device_is_at_an_earlier_one():
    """It would be at the later one first, and both would come late."""
    device, worker, taken = Beside(), ModelWorker(), []

    class Feed(OneChunk):
        def __init__(self, name, due):
            super().__init__(None, due=due)
            self.name, self.ended = name, threading.Event()

        def take(self):
            taken.append(self.name)
            return super().take()

        def _ingest(self):
            if self.name == "first":
                yield device.wanted()
            self.ended.set()

    first, second = Feed("first", 0.0), Feed("second", 1.0)
    worker.add_feed(first)
    worker.start()
    try:
        assert device.looked.wait(10.0)
        worker.add_feed(second)
        for _ in range(20):
            worker.call(lambda: None).result(10.0)
        assert taken == ["first"]
        device.done.set()
        assert second.ended.wait(10.0)
    finally:
        assert worker.close()
    assert first.ended.is_set()
