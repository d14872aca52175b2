"""An answer's step that was recorded once is the step that is launched kernel by kernel."""

from __future__ import annotations

import gc
import math
import weakref
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from omnidrop_stream.errors import ConfigError, ModelError
from omnidrop_stream.model.base import DecodeRequest
from omnidrop_stream.model.graphs import EAGER_STEPS, CudaCapture
from omnidrop_stream.model.pick import pick_capture
from omnidrop_stream.model.qwen_omni import QwenOmni, Ways
from omnidrop_stream.stream import OmniStream
from omnidrop_stream.types import Query
from tests.helpers import ENGINES, make_chunks, settings, small_model
from tests.pretend_device import pretended, sent
from tests.recorder import Recorder

DEPTHS = [0, "exact", "half", "read_side"]


def with_capture(model, capture):
    return model.with_ways(replace(model.ways, capture=capture))


def answer_of(model, depth="exact", tokens=12, **stream):
    options = {"frame_tokens": 24, "prefill_depth": depth, **stream}
    how = settings(stream=options, pruning={"retention": 0.5}, decode={"max_tokens": tokens})
    made = OmniStream(model, how)
    for chunk in make_chunks(3, seed=2):
        made.push(chunk)
    *_, answer = made.ask(Query("what was shown?"))
    assert answer.answer_tokens == tokens
    return answer


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("engine", ENGINES)
def test_an_answer_is_the_same_word_by_word(engine, depth):
    model, recorder = small_model(engine=engine, seed=1, layers=4), Recorder()
    recorded = answer_of(with_capture(model, recorder), depth)
    assert recorded.text == answer_of(model, depth).text
    settling = 2 if (engine, depth) == ("fast", "read_side") else 0  # a layer with each token
    assert (recorder.records, recorder.replays) == (1, 11 - EAGER_STEPS - settling)


@pytest.mark.parametrize("engine", ENGINES)
def test_so_it_is_on_a_rolled_stream(engine):
    model = small_model(engine=engine, seed=1, layers=4)
    rolling = {"depth": "read_side", "budget_tokens": 150}
    recorded = answer_of(with_capture(model, Recorder()), **rolling)
    assert recorded.text == answer_of(model, **rolling).text


def test_a_short_answer_is_not_recorded():
    recorder = Recorder()
    answer_of(with_capture(small_model(seed=1, layers=4), recorder), tokens=EAGER_STEPS)
    assert not recorder.records


def steps(model, batched=()):
    """The logits of ten steps of an answer; those in ``batched`` beside another answer's."""
    found = []
    forks = [fork_of(model), fork_of(model)]
    with torch.inference_mode():
        for number in range(10):
            if number in batched:
                both = model.decode_batch([DecodeRequest(fork, number + 3) for fork in forks])
                found.append(both[0].clone())
            else:
                found.append(model.decode_step(forks[0], number + 3).clone())
    return found


def fork_of(model, tokens=12):
    """Of a question that is prefilled."""
    how = settings(
        stream={"frame_tokens": 24}, pruning={"retention": 0.5}, decode={"max_tokens": tokens}
    )
    made = OmniStream(model, how)
    for chunk in make_chunks(2, seed=2):
        made.push(chunk)
    taken = []
    original = model.decode_step

    def taking(fork, token):
        taken.append(fork)
        raise StopIteration

    model.decode_step = taking
    try:
        for _ in made.ask_steps("what rang?"):
            if taken:
                break
    except RuntimeError:
        pass
    finally:
        model.decode_step = original
    return taken[0]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("batched", [(), (1, 2), (6,), (5, 6, 8)])
def test_every_logit_is_the_same_also_where_some_steps_were_taken_with_another_answers(
    engine, batched
):
    model = small_model(engine=engine, seed=1, layers=4)
    recorded = steps(with_capture(model, Recorder()), batched)
    for ours, theirs in zip(recorded, steps(model), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_what_was_never_written_is_not_read():
    """Stores come with whatever was in their memory; masked keys must not reach a value of it."""
    model = with_capture(small_model(seed=1, layers=4), Recorder())
    fork = fork_of(model)
    with torch.inference_mode():
        for store in fork.layers:
            for held in (store._keys, store._values):
                held[:, store.count :] = math.nan
        for token in range(EAGER_STEPS + 2):
            assert model.decode_step(fork, token).isfinite().all()


def test_a_recorded_answer_ends_where_its_store_is_full():
    model = with_capture(small_model(seed=1, layers=4), Recorder())
    fork = fork_of(model)
    with torch.inference_mode():
        for token in range(12):
            model.decode_step(fork, token)
        with pytest.raises(IndexError, match="full"):
            model.decode_step(fork, 12)


def test_the_record_goes_with_the_answer():
    model = with_capture(small_model(seed=1, layers=4), Recorder())
    fork = fork_of(model)
    with torch.inference_mode():
        for token in range(EAGER_STEPS + 1):
            model.decode_step(fork, token)
    gone = weakref.ref(fork.recorded)
    gc.disable()
    try:
        fork.recorded = None
        assert gone() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("engine", ENGINES)
def test_a_replayed_token_makes_the_host_wait_for_the_token_alone(engine):
    with pretended() as device:
        plain = small_model(engine=engine, seed=1, layers=4)
        sent(plain.thinker)
        parts = (plain.thinker, plain.tokenizer, plain.spec)
        recorder = Recorder(there=True)
        fork = fork_of(QwenOmni(*parts, Ways(engine)))
        model = QwenOmni(*parts, Ways(engine, capture=recorder))
        for token in range(EAGER_STEPS + 1):
            model.decode_step(fork, token)
        before = device.waits.copy()
        model.decode_step(fork, 7)
        assert recorder.replays == 2
        assert device.waits == before


@pytest.mark.parametrize("engine", ENGINES)
def test_all_that_a_record_reads_lives_as_long_as_the_answer(engine):
    """A CUDA graph keeps the memory of none of it."""
    recorder = Recorder()

    def forgetting(work):
        recorder(work)
        return lambda: None

    model = with_capture(small_model(engine=engine, seed=1, layers=4), forgetting)
    fork = fork_of(model)
    with torch.inference_mode():
        for token in range(EAGER_STEPS + 1):
            model.decode_step(fork, token)
    gc.collect()
    assert len(recorder.inputs) > 50
    assert all(reference() is not None for reference in recorder.inputs)


def test_an_answer_with_room_for_one_token_is_not_recorded():
    recorder = Recorder()
    model = with_capture(small_model(seed=1, layers=4), recorder)
    fork = fork_of(model, tokens=EAGER_STEPS + 1)
    with torch.inference_mode():
        for token in range(EAGER_STEPS + 1):
            model.decode_step(fork, token)
        with pytest.raises(IndexError, match="full"):
            model.decode_step(fork, 1)
    assert not recorder.records


def test_what_cannot_be_recorded_says_how_to_go_on():
    def refusing(work):
        raise RuntimeError("operation not permitted")

    model = with_capture(small_model(seed=1, layers=4), refusing)
    with pytest.raises(ModelError, match=r"operation not permitted.*set model\.graphs to false"):
        answer_of(model)


def test_on_a_processor_the_setting_is_refused():
    with pytest.raises(ConfigError, match="needs a CUDA device"):
        pick_capture(True, torch.device("cpu"))


def test_without_the_setting_nothing_is_recorded():
    assert pick_capture(False, torch.device("cuda")) is None


class FakeCuda:
    """The part of ``torch.cuda`` that records: writes down what is asked of it."""

    def __init__(self, patch):
        self.told, self.broken = [], False
        fake = self

        class Graph:
            def capture_begin(self, pool, capture_error_mode):
                fake.told.append(f"begin {pool} {capture_error_mode}")

            def capture_end(self):
                fake.told.append("end")
                if fake.broken:
                    raise RuntimeError("capture was invalidated")

            def replay(self):
                fake.told.append("replay")

        class Stream:
            def __init__(self, name="current"):
                self.name = name

            def wait_stream(self, other):
                fake.told.append("wait")

            def synchronize(self):
                fake.told.append("synchronize")

        @contextmanager
        def beside(stream):
            fake.told.append("in")
            yield
            fake.told.append("out")

        patch.setattr(torch.cuda, "Stream", Stream)
        patch.setattr(torch.cuda, "current_stream", lambda device: Stream())
        patch.setattr(torch.cuda, "stream", beside)
        patch.setattr(torch.cuda, "CUDAGraph", Graph)
        patch.setattr(torch.cuda, "graph_pool_handle", lambda: "pool")
        patch.setattr(torch.cuda, "empty_cache", lambda: fake.told.append("emptied"))


ONCE = [
    "wait",
    "in",
    "work",
    "synchronize",
    "begin pool thread_local",
    "work",
    "end",
    "out",
    "wait",
]


def test_a_cuda_device_does_the_work_once_beside_and_then_for_the_record(monkeypatch):
    fake = FakeCuda(monkeypatch)
    capture = CudaCapture(torch.device("cpu"))
    assert [told for told in ONCE if told != "work"] == fake.told  # what keeps the memory
    fake.told.clear()
    replay = capture(lambda: fake.told.append("work"))
    assert fake.told == ONCE
    replay()
    assert fake.told[-1] == "replay"


def test_what_could_not_be_recorded_once_is_not_tried_again(monkeypatch):
    fake = FakeCuda(monkeypatch)
    capture, tries = CudaCapture(torch.device("cpu")), []
    fake.broken = True
    for _ in range(2):
        with pytest.raises(RuntimeError, match="invalidated"):
            capture(lambda: tries.append(1))
    assert len(tries) == 2  # both passes of the first


class Failing:
    """Work that raises in some of its passes, counted from 1."""

    def __init__(self, error, *passes, said="no way"):
        self._error, self._passes, self._said, self.done = error, passes, said, 0

    def __call__(self):
        self.done += 1
        if self.done in self._passes:
            raise self._error(self._said)


@pytest.mark.parametrize("at", [1, 2], ids=["before the record", "in it"])
def test_a_record_ends_where_its_work_fails_and_what_follows_waits_for_what_was_begun(
    monkeypatch, at
):
    fake = FakeCuda(monkeypatch)
    capture = CudaCapture(torch.device("cpu"))
    fake.told.clear()
    with pytest.raises(RuntimeError, match="no way"):
        capture(Failing(RuntimeError, at))
    assert fake.told.count("end") == at - 1
    assert fake.told[-1] == "wait"
    assert gc.isenabled()


def test_a_failure_holds_nothing_of_what_failed(monkeypatch):
    FakeCuda(monkeypatch)
    capture = CudaCapture(torch.device("cpu"))
    gone = []
    for _ in range(3):
        work = Failing(RuntimeError, 1)
        gone.append(weakref.ref(work))
        with pytest.raises(RuntimeError, match="no way"):
            capture(work)
        del work
    gc.collect()
    assert [reference() for reference in gone] == [None] * 3


def test_where_memory_is_short_the_caches_are_emptied_and_it_is_tried_once_more(monkeypatch):
    fake = FakeCuda(monkeypatch)
    capture = CudaCapture(torch.device("cpu"))
    work = Failing(torch.OutOfMemoryError, 2)
    capture(work)()
    assert fake.told.count("emptied") == 1
    assert fake.told[-1] == "replay"
    assert work.done == 4


@pytest.mark.parametrize(
    "said", ["CUDA error: out of memory", "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"]
)
def test_shortage_that_has_no_class_of_its_own_is_one_all_the_same(monkeypatch, said):
    fake = FakeCuda(monkeypatch)
    capture = CudaCapture(torch.device("cpu"))
    with pytest.raises(torch.OutOfMemoryError, match=said):
        capture(Failing(RuntimeError, 1, 2, said=said))
    assert fake.told.count("emptied") == 1
    capture(lambda: None)()


def test_an_error_at_the_end_of_a_record_does_not_hide_what_went_wrong_in_it(monkeypatch):
    fake = FakeCuda(monkeypatch)
    capture = CudaCapture(torch.device("cpu"))
    fake.broken = True
    with pytest.raises(RuntimeError, match="no way"):
        capture(Failing(RuntimeError, 2))


def test_memory_that_was_short_once_may_do_for_the_next_record(monkeypatch):
    FakeCuda(monkeypatch)
    capture = CudaCapture(torch.device("cpu"))
    with pytest.raises(torch.OutOfMemoryError):
        capture(Failing(torch.OutOfMemoryError, 1, 2))
    capture(lambda: None)()
