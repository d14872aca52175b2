"""The model thread: turns, cancellation, errors, the end."""

import threading

import pytest

from omnidrop_stream.types import Delta, Step
from runtime.turns import Kind
from runtime.worker import Job, ModelWorker

WAIT_S = 10.0


class Ended:
    """Collects a job's events and waits for its end, bounded."""

    def __init__(self):
        self.events = []
        self.error = None
        self._done = threading.Event()

    @property
    def ended(self):
        return self._done.is_set()

    def end(self, error):
        self.error = error
        self._done.set()

    def wait(self):
        assert self._done.wait(WAIT_S), "the job did not end"


def job(turns, ended, name="job", kind=Kind.PREFILL):
    return Job(name, kind, turns, ended.events.append, ended.end)


@pytest.fixture
def worker():
    worker = ModelWorker()
    worker.start()
    yield worker
    assert worker.close()


def test_a_jobs_events_come_in_order_and_steps_are_kept_back(worker):
    def turns():
        yield Step.PREFILL
        yield Delta("a", 0, "x")
        yield Delta("a", 1, "y")

    ended = Ended()
    worker.submit(job(turns(), ended))
    ended.wait()
    assert [event.text for event in ended.events] == ["x", "y"]
    assert ended.error is None


def test_a_jobs_error_ends_it_and_no_other(worker):
    def broken():
        yield Step.PREFILL
        raise ValueError("no")

    def fine():
        yield Delta("b", 0, "ok")

    first, second = Ended(), Ended()
    worker.submit(job(broken(), first))
    worker.submit(job(fine(), second))
    first.wait()
    second.wait()
    assert isinstance(first.error, ValueError)
    assert second.error is None


def test_everything_runs_on_the_model_thread(worker):
    seen = []

    def turns():
        seen.append(threading.get_ident())
        yield Step.PREFILL

    ended = Ended()
    worker.submit(job(turns(), ended))
    ended.wait()
    assert worker.call(threading.get_ident).result(WAIT_S) == worker.ident
    assert seen == [worker.ident]


def test_two_answers_decode_in_alternate_turns(worker):
    order = []
    gate = threading.Event()

    def hold():
        gate.wait(WAIT_S)

    def decode(name):
        for number in range(5):
            order.append(name)
            yield Delta(name, number, name)

    a, b = Ended(), Ended()
    blocked = worker.call(hold)
    worker.submit(job(decode("a"), a, "a", Kind.DECODE))
    worker.submit(job(decode("b"), b, "b", Kind.DECODE))
    gate.set()
    blocked.result(WAIT_S)
    a.wait()
    b.wait()
    assert order == ["a", "b"] * 5


def test_a_question_overtakes_decoding_at_the_next_turn(worker):
    order, started, go = [], threading.Event(), threading.Event()

    def long_answer():
        yield Delta("old", 0, "x")
        started.set()
        go.wait(WAIT_S)
        for number in range(50):
            order.append("old")
            yield Delta("old", number, "x")

    def question():
        for _ in range(3):
            order.append("new")
            yield Step.PREFILL

    old, new = Ended(), Ended()
    worker.submit(job(long_answer(), old, "old"))
    assert started.wait(WAIT_S)
    worker.submit(job(question(), new, "new"))
    go.set()
    new.wait()
    old.wait()
    assert order[:4] == ["old", "new", "new", "new"]


def test_closing_cancels_what_runs_and_joins_the_thread():
    worker = ModelWorker()
    worker.start()
    running = threading.Event()
    ended = Ended()

    def endless():
        number = 0
        while not this.cancelled.is_set():
            running.set()
            number += 1
            yield Delta("e", number, "x")

    this = job(endless(), ended)
    worker.submit(this)
    assert running.wait(WAIT_S)
    assert worker.close()
    assert ended.error is None
    assert not any(t.name == "omnidrop-model" and t.is_alive() for t in threading.enumerate())


def test_a_job_handed_over_after_the_end_is_told_so():
    worker = ModelWorker()
    worker.start()
    assert worker.close()
    ended = Ended()
    worker.submit(job(iter(()), ended))
    ended.wait()
    assert "closed" in str(ended.error)


class ListFeed:
    """Chunks that the test makes due; each ingest takes ``turns`` turns."""

    def __init__(self, turns):
        self.waiting, self.done, self._turns = [], [], turns

    def due(self):
        return self.waiting[0][1] if self.waiting else None

    def take(self):
        chunk, _ = self.waiting.pop(0)
        return self._ingest(chunk)

    def _ingest(self, chunk):
        for _ in range(self._turns):
            yield
        self.done.append(chunk)

    def background(self):
        return None

    def failed(self, error):
        self.error = error


def test_a_feed_that_breaks_when_a_chunk_is_taken_is_told_and_the_thread_goes_on(worker):
    class Broken(ListFeed):
        told = threading.Event()

        def take(self):
            self.waiting.clear()
            raise ValueError("no chunk")

        def failed(self, error):
            super().failed(error)
            self.told.set()

    feed = Broken(1)
    feed.waiting = [(0, 0.0)]
    worker.add_feed(feed)
    assert feed.told.wait(WAIT_S)
    assert isinstance(feed.error, ValueError)
    assert worker.call(lambda: "alive").result(WAIT_S) == "alive"


def simulate(answer_tokens, turn_s, chunk_turns, period_s=2.0, until_s=60.0):
    """Drive the worker's own choice with a clock that only turns advance; returns chunk ends."""
    now = [0.0]
    worker = ModelWorker(clock=lambda: now[0])
    feed = ListFeed(chunk_turns)
    worker.add_feed(feed)
    ended = Ended()

    def answer():
        for number in range(answer_tokens):
            yield Delta("a", number, "x")

    worker.submit(job(answer(), ended, kind=Kind.DECODE))
    ends, next_due, seen = [], 0.0, 0
    chunks = round(until_s / 2 / period_s)
    while now[0] < until_s and (seen < chunks or not ended.ended):
        while next_due <= now[0] and next_due < until_s / 2:
            feed.waiting.append((next_due, next_due))
            next_due += period_s
        work = worker._next_work()
        if work is None:
            now[0] = next_due
            continue
        work()
        now[0] += turn_s
        while seen < len(feed.done):
            ends.append((feed.done[seen], now[0]))
            seen += 1
    return ends, ended


def test_no_chunk_is_later_than_a_period_while_200_tokens_decode():
    ends, ended = simulate(answer_tokens=200, turn_s=0.05, chunk_turns=12)
    assert len(ended.events) == 200
    assert len(ends) == 15
    assert all(end - due <= 2.0 for due, end in ends)


def test_an_overloaded_model_still_lets_an_answer_finish():
    _, ended = simulate(answer_tokens=10, turn_s=0.5, chunk_turns=12, until_s=200.0)
    assert len(ended.events) == 10


def turns_before_first_token(with_ingest):
    """Turns of others between a question's hand-over and the end of its prefill."""
    worker = ModelWorker(clock=lambda: 0.5)
    feed = ListFeed(turns=12)
    if with_ingest:
        feed.waiting = [(0.0, 0.0), (2.0, 0.4)]
        worker.add_feed(feed)
        worker._next_work()()  # a chunk's ingest has begun
    ended = Ended()

    def question():
        for _ in range(6):
            yield Step.PREFILL
        yield Delta("q", 0, "first")

    worker.submit(job(question(), ended))
    turns = 0
    while not ended.events:
        worker._next_work()()
        turns += 1
    return turns


def test_a_first_token_comes_at_most_one_step_later_with_ingest():
    assert turns_before_first_token(True) - turns_before_first_token(False) <= 1
