"""A stream that forgets by degrees: it answers within its budget; its depth can still change."""

from __future__ import annotations

import pytest

from omnidrop_stream.cache import EVICTION
from omnidrop_stream.config import EvictionConfig, make_config
from omnidrop_stream.errors import ConfigError
from omnidrop_stream.forgetting import next_undone
from omnidrop_stream.stream import OmniStream
from omnidrop_stream.types import Answer
from tests.helpers import make_chunks, settings, small_model

BUDGET = 230


@pytest.fixture(scope="module")
def model():
    return small_model(layers=6, seed=1)


@pytest.fixture(scope="module")
def chunks():
    return make_chunks(12, seed=2)


def opened(model, chunks, policy, depth):
    stream = {"budget_tokens": BUDGET, "prefill_depth": depth, "eviction": {"policy": policy}}
    opened_ = OmniStream(model, settings(stream=stream, pruning={"retention": 0.42}))
    for chunk in chunks:
        opened_.push(chunk)
    return opened_


def answered(stream) -> Answer:
    *_, answer = stream.ask("what was shown?")
    assert isinstance(answer, Answer)
    return answer


@pytest.fixture(scope="module")
def streams(model, chunks):
    return {policy: opened(model, chunks, policy, 2) for policy in EVICTION}


@pytest.mark.parametrize("policy", EVICTION)
def test_a_rolling_stream_answers_at_the_retention_it_has_under_every_policy(streams, policy):
    status = streams[policy].status()
    assert status.tokens <= BUDGET
    assert status.evicted or policy != "oldest_window"
    answer = answered(streams[policy])
    assert answer.tokens.entering == status.tokens
    assert answer.tokens.mean_entering <= 0.44
    assert answer.label != "exact"  # states remember what has left


@pytest.mark.parametrize("policy", ["thin_even", "thin_salient", "separate"])
def test_forgetting_by_degrees_covers_more_of_the_stream(streams, policy):
    plain, wider = answered(streams["oldest_window"]), answered(streams[policy])
    assert wider.coverage.from_s < plain.coverage.from_s
    assert wider.coverage.to_s == plain.coverage.to_s


@pytest.mark.parametrize("policy", ["thin_even", "separate"])
def test_the_depth_can_change_while_windows_are_thinned(model, chunks, policy):
    stream = opened(model, chunks[:8], policy, 1)
    stream.set_depth(3)
    turns = stream.background_steps()
    for chunk in chunks[8:]:
        for _ in range(4):
            next(turns)
        stream.push(chunk)
    held = {s.chunk: s.count for s in stream.snapshot()}
    for _ in turns:
        pass
    assert stream.depth == 3
    assert {s.chunk: s.count for s in stream.snapshot()} == held
    assert all(s.depth == 3 and s.keys.shape[2] == s.count for s in stream.snapshot())


def test_states_that_remember_thinned_tokens_are_no_longer_exact(model, chunks):
    stream = opened(model, chunks[:4], "thin_even", "exact")
    assert answered(stream).label == "exact"
    stream.push(chunks[4])
    stream.push(chunks[5])
    assert stream.status().evicted == 0
    assert any(s.thinned for s in stream.snapshot())
    assert answered(stream).label == "exact_schedule"


def test_what_was_thinned_since_is_done_again_and_all_after_it_wait(streams):
    held = streams["oldest_window"].snapshot()
    done = {s.chunk: s for s in held}
    assert next_undone(held, done) == (None, held)
    thinner = held[1].only(held[1].tokens.modality == 1)
    now = (held[0], thinner, *held[2:])
    todo, past = next_undone(now, done)
    assert todo is thinner
    assert past == (held[0],)


def test_an_unknown_eviction_policy_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match="thin_salient"):
        make_config({"stream": {"eviction": {"policy": "newest"}}})


def test_every_eviction_policy_can_be_configured():
    assert EvictionConfig.model_fields["policy"].annotation.__args__ == tuple(EVICTION)


@pytest.mark.parametrize("policy", ["thin_salient", "separate"])
def test_the_fast_engine_forgets_as_the_plain_one_does(streams, chunks, policy):
    fast = small_model(layers=6, seed=1, engine="fast")
    quick, plain = opened(fast, chunks, policy, 2), streams[policy]
    assert [(s.chunk, s.count) for s in quick.snapshot()] == [
        (s.chunk, s.count) for s in plain.snapshot()
    ]
    assert answered(quick).text == answered(plain).text
