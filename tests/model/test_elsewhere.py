"""On a device that is not the processor the answers are the same, nothing there meets what is here,
and the host waits for no more than it must. (The device is pretended: see `pretend_device`.)
"""

from __future__ import annotations

import pytest
import torch

from omnidrop_stream.method.policies import POLICIES
from omnidrop_stream.model.base import DecodeRequest
from omnidrop_stream.model.qwen_omni import QwenOmni
from omnidrop_stream.model.towers import EncodeCarry, EncodeRequest, EncodeSettings, IntraSettings
from omnidrop_stream.stream import OmniStream
from omnidrop_stream.types import Answer, Query
from omnidrop_stream.watch import Judgement
from omnidrop_stream.watch_config import WatchConfig
from tests.helpers import ENGINES, make_chunks, settings, small_model
from tests.model.test_batch import forks_of
from tests.pretend_device import HERE, THERE, There, pretended, sent
from tests.watches import watching_model

QUESTION = "what was shown?"
TOKEN = "item in model/sampling.py pick_token"
EVIDENCE = "to in evidence.py chunk_scores"
COUNTS = "tolist in model/fast_prefill.py _fork"


@pytest.fixture(scope="module")
def chunks():
    return make_chunks(6, seed=2)


def moved(model) -> QwenOmni:
    """The same model there; inside the pretended device."""
    sent(model.thinker)
    return QwenOmni(model.thinker, model.tokenizer, model.spec, model.ways)


def opened(model, chunks, depth="exact", pruning=None, **stream):
    options = {"frame_tokens": 24, "prefill_depth": depth, **stream}
    made = OmniStream(model, settings(stream=options, pruning=pruning or {"retention": 0.4}))
    for chunk in chunks:
        made.push(chunk)
    return made


def answered(stream, **query) -> Answer:
    *_, last = stream.ask(Query(QUESTION, **query))
    return last


def same_here_and_there(make_model, play):
    """What ``play`` makes of the model here; the same there, with where the host waited."""
    here = play(make_model())
    with pretended() as device:
        there = play(moved(make_model()))
        assert (there.text, there.evidence) == (here.text, here.evidence)
    return device.waits


def small(engine):
    return lambda: small_model(engine=engine, seed=1)


@pytest.mark.parametrize("depth", [0, "exact", "half", "read_side"])
@pytest.mark.parametrize("engine", ENGINES)
def test_the_answer_is_the_same(engine, depth, chunks):
    same_here_and_there(small(engine), lambda m: answered(opened(m, chunks[:4], depth)))


@pytest.mark.parametrize("policy", ["oldest_window", "thin_even", "thin_salient", "separate"])
@pytest.mark.parametrize("engine", ENGINES)
def test_the_answer_of_a_rolled_stream_is_the_same(engine, policy, chunks):
    rolling = {"budget_tokens": 230, "eviction": {"policy": policy}}
    same_here_and_there(small(engine), lambda m: answered(opened(m, chunks, "half", **rolling)))


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_is_the_same(policy, chunks):
    retention = {"keep-all": None, "intra-only": None, "dycoke": 0.7, "dycoke-as-coded": 0.8}
    pruning = {"policy": policy, "retention": retention.get(policy, 0.45)}
    same_here_and_there(
        small("fast"), lambda m: answered(opened(m, chunks[:4], 0, pruning=pruning))
    )


@pytest.mark.parametrize("engine", ENGINES)
def test_a_question_that_looks_back_a_little_is_the_same(engine, chunks):
    same_here_and_there(
        small(engine), lambda m: answered(opened(m, chunks[:4], "half"), look_back_s=4.0)
    )


@pytest.mark.parametrize("engine", ENGINES)
def test_a_standing_question_is_judged_the_same(engine, chunks):
    def odds(model):
        stream = opened(model, chunks[:3])
        questions = [
            stream.standing(WatchConfig(text="a bell rings", sound_only=True)),
            stream.standing(WatchConfig(text="the door opens")),
        ]
        turns = stream.judge_steps(questions)
        return [turn.odds for turn in turns if isinstance(turn, Judgement)]

    def watching():
        return watching_model(engine=engine, seed=1)

    here = odds(watching())
    with pretended():
        there = odds(moved(watching()))
    assert there == pytest.approx(here, rel=1e-4)


def test_an_arriving_chunk_makes_nobody_wait(chunks):
    with pretended() as device:
        stream = opened(moved(small_model(engine="fast", seed=1)), chunks[:2])
        before = device.waits.copy()
        for chunk in chunks[2:]:
            stream.push(chunk)
        assert device.waits == before


def test_chunks_of_several_streams_make_nobody_wait(chunks):
    how = EncodeSettings(IntraSettings(), 24, 25.0)
    with pretended() as device:
        model = moved(small_model(engine="fast", seed=1))
        asked = [EncodeRequest(chunk, EncodeCarry(), how) for chunk in chunks[:3]]
        encoded = model.encode_batch(asked)
    assert all(isinstance(one.tokens.embeds, There) for one in encoded)
    assert not device.waits


@pytest.mark.parametrize("depth", ["exact", "half", "read_side"])
def test_nobody_waits_between_the_layers_of_a_question(depth, chunks):
    """Only for the counts, when all layers are done, for each token, and for the evidence."""
    waits = same_here_and_there(small("fast"), lambda m: answered(opened(m, chunks[:4], depth)))
    assert {k: n for k, n in waits.items() if k != TOKEN} == {COUNTS: 1, EVIDENCE: 1}


def test_a_step_of_several_answers_makes_nobody_wait():
    with pretended() as device:
        model = moved(small_model(engine="fast", seed=1))
        requests = [DecodeRequest(fork, 3) for fork, _ in forks_of(model)]
        before = device.waits.copy()
        model.decode_batch(requests)
        assert device.waits == before


def test_the_pretended_device_refuses_what_is_here():
    with pretended():
        there, here = torch.ones(2, device=THERE), torch.ones(2)
        with pytest.raises(AssertionError, match="two devices"):
            there + here


def test_the_pretended_device_sees_who_waits():
    with pretended() as device:
        there = torch.tensor([1.0, 0.0], device=THERE)
        assert (there > 0).nonzero().tolist() == [[0]]
        assert there.to(HERE).tolist() == [1.0, 0.0]
        assert int(there.argmax()) == 0
        assert there[there > 0].shape == (1,)
        assert there[torch.tensor([0])].shape == (1,)  # an index from here
        assert device.waits.total() == 6
