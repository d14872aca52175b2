"""The towers on a CUDA stream of their own: nobody reads what they made before he waited for it."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from omnidrop_stream.errors import ConfigError
from omnidrop_stream.model.base import ExtendRequest
from omnidrop_stream.model.beside import CudaBeside, InTurn
from omnidrop_stream.model.pick import pick_beside
from omnidrop_stream.model.towers import Encoded, EncodeRequest, EncodeSettings, IntraSettings
from omnidrop_stream.stream import OmniStream
from omnidrop_stream.types import Query
from omnidrop_stream.watch_config import WatchConfig
from tests.helpers import ENGINES, make_chunks, settings
from tests.watches import watching_model

DEPTHS = [0, "exact", "half", "read_side"]


class Late:
    """A `Beside` whose results are rubbish until somebody joins, as a GPU's may be."""

    def __init__(self):
        self.joins, self._held = 0, []

    def run(self, work):
        self._arrive()  # the towers' own work is in order
        made = work()
        for one in made if isinstance(made, list) else [made]:
            assert isinstance(one, Encoded)
            merge = one.carry.merge
            tokens = (one.tokens.embeds, one.tokens.modality, one.tokens.offsets)
            more = [one.tokens.saliency, None if merge is None else merge.reference]
            self._held += [(t, t.clone()) for t in (*tokens, *more) if t is not None]
        with torch.inference_mode():
            for tensor, _ in self._held:
                tensor.fill_(float("nan") if tensor.is_floating_point() else 77)
        return made

    def join(self):
        self.joins += 1
        self._arrive()

    def done(self):
        return not self._held

    def _arrive(self):
        with torch.inference_mode():
            for tensor, values in self._held:
                tensor.copy_(values)
        self._held = []


@pytest.fixture(scope="module", params=ENGINES)
def model(request):
    return watching_model(layers=6, seed=1, engine=request.param)


def late(model):
    beside = Late()
    return model.with_ways(replace(model.ways, beside=beside)), beside


def opened(model, depth, **sections):
    stream = {"frame_tokens": 24, "prefill_depth": depth, "budget_tokens": 260}
    return OmniStream(model, settings(stream=stream, decode={"max_tokens": 4}, **sections))


def told(stream, chunks):
    """What a stream answers at each chunk, in its middle, and to a standing question."""
    door, found = WatchConfig(text="the door opens"), []
    for number, chunk in enumerate(chunks):
        stream.push(chunk)
        answer = list(stream.ask(Query("what was shown?")))[-1]
        judged = [getattr(j, "odds", None) for j in stream.judge_steps([stream.standing(door)])]
        found.append((answer.text, answer.evidence, judged))
        if number + 1 < len(chunks):
            half = list(stream.ask(Query("and now?"), open_chunk=chunks[number + 1]))[-1]
            found.append((half.text, half.evidence))
    return found


@pytest.mark.parametrize("depth", DEPTHS)
def test_every_answer_is_the_same(model, depth):
    chunks, (other, beside) = make_chunks(7, seed=2), late(model)
    assert told(opened(other, depth), chunks) == told(opened(model, depth), chunks)
    assert beside.joins >= 13  # each chunk, and each half


@pytest.mark.parametrize("policy", ["omnizip", "dash", "dycoke", "seats", "random-input"])
def test_so_it_is_with_policies_that_choose_among_the_towers_tokens(model, policy):
    pruning = {"pruning": {"policy": policy, "retention": 0.7}}
    chunks, (other, _) = make_chunks(4, seed=2), late(model)
    ours, theirs = opened(other, 0, **pruning), opened(model, 0, **pruning)
    for chunk in chunks:
        ours.push(chunk)
        theirs.push(chunk)
    question = Query("what was shown?")
    assert list(ours.ask(question))[-1].text == list(theirs.ask(question))[-1].text


def entering(prompt, encoded):
    """A first chunk on its way through two layers."""
    tokens = encoded.tokens
    return ExtendRequest(prompt, (), (), tokens, 0, tokens.embeds, range(2))


def result(turns):
    """What they return."""
    while True:
        try:
            next(turns)
        except StopIteration as done:
            return done.value


def test_chunks_of_several_streams_encoded_and_prefilled_together_too(model):
    other, _ = late(model)
    how = EncodeSettings(IntraSettings(), 24, 25.0)
    requests = []
    for seed in (1, 2):
        first, second = make_chunks(2, seed=seed)
        carry = model.encode(first, opened(model, 0)._carry, how).carry
        requests.append(EncodeRequest(second, carry, how))
    made, wanted = other.encode_batch(requests), model.encode_batch(requests)
    assert all(one.tokens.embeds.isnan().all() for one in made)
    prompt = model.prefill_prompt([1, 2, 3], 1)
    found = [
        [states.hidden for states in result(one.extend_batch([entering(prompt, e) for e in each]))]
        for one, each in ((other, made), (model, wanted))
    ]
    for ours, theirs in zip(*found, strict=True):
        assert torch.equal(ours, theirs)


def test_a_question_does_not_wait_for_a_chunk_that_is_being_encoded(model):
    other, beside = late(model)
    stream, plain = opened(other, "read_side"), opened(model, "read_side")
    *chunks, last = make_chunks(5, seed=2)
    for chunk in chunks:
        stream.push(chunk)
        plain.push(chunk)
    arriving, before = stream.push_steps(last), beside.joins
    next(arriving)
    assert beside._held  # encoded, and nobody has taken it
    question = Query("what was shown?")
    answer = list(stream.ask(question))[-1]
    assert beside.joins == before
    assert answer.text == list(plain.ask(question))[-1].text
    for _ in arriving:
        pass
    assert beside.joins > before


class FakeCuda:
    """The part of ``torch.cuda`` that has streams: writes down what is asked of it."""

    def __init__(self, patch):
        self.told = told = []

        class Event:
            def record(self, stream):
                told.append(f"end in {stream.name}")

            def query(self):
                return "current waits for own" in told

        class Stream:
            def __init__(self, device=None, name="own"):
                self.name = name

            def wait_stream(self, other):
                told.append(f"{self.name} waits for {other.name}")

        @contextmanager
        def beside(stream):
            told.append(f"in {stream.name}")
            yield
            told.append("out")

        patch.setattr(torch.cuda, "Event", Event)
        patch.setattr(torch.cuda, "Stream", Stream)
        patch.setattr(torch.cuda, "current_stream", lambda device: Stream(name="current"))
        patch.setattr(torch.cuda, "stream", beside)


def test_a_cuda_device_runs_the_towers_behind_what_was_launched_before(monkeypatch):
    fake = FakeCuda(monkeypatch)
    beside = CudaBeside(torch.device("cuda"))
    assert beside.run(lambda: fake.told.append("work") or 7) == 7
    assert not beside.done()
    beside.join()
    assert beside.done()
    assert fake.told == [
        "own waits for current",
        "in own",
        "work",
        "out",
        "end in own",
        "current waits for own",
    ]


def test_a_processor_has_one_order(monkeypatch):
    FakeCuda(monkeypatch)
    assert isinstance(pick_beside(False, torch.device("cuda")), InTurn)
    assert isinstance(pick_beside(True, torch.device("cuda")), CudaBeside)
    with pytest.raises(ConfigError, match=r"model\.overlap = true needs a CUDA device"):
        pick_beside(True, torch.device("cpu"))
