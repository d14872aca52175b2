"""Every policy, end to end on a small model: a question is answered, at the counts asked for."""

from __future__ import annotations

import pytest
import torch

from omnidrop_stream.config import DecodeConfig, PruningConfig
from omnidrop_stream.errors import ConfigError
from omnidrop_stream.method import POLICIES, make_policy
from omnidrop_stream.model.fork import Fork, LayerStore
from omnidrop_stream.plan import UNSCHEDULED
from omnidrop_stream.stream import OmniStream
from omnidrop_stream.types import Answer, StreamKind
from tests.helpers import make_chunks, settings, small_model

LAYERS = 8
ONE_TOKEN = DecodeConfig(max_tokens=1)
LEAST = {"dycoke": 0.75, "dycoke-as-coded": 0.75}
"""All sound stays with these, most of what there is beside such small pictures."""
STAGED = [name for name in POLICIES if make_policy(name).input_stage is not None]
INPUTS = [name for name in STAGED if name != "seats"]
SEATS = ("seats-in-layer", "seats-in-layer-keep-kv")
PACED = [name for name in POLICIES if name not in UNSCHEDULED]


@pytest.fixture(scope="module")
def model():
    return small_model(layers=LAYERS, seed=1)


@pytest.fixture(scope="module")
def chunks():
    return make_chunks(6, seed=2)


def opened(model, chunks, policy, depth=0, retention=0.42, **pruning):
    said = {"policy": policy, "retention": retention, **pruning}
    stream = OmniStream(model, settings(stream={"prefill_depth": depth}, pruning=said))
    for chunk in chunks:
        stream.push(chunk)
    return stream


def answered(stream, **options) -> Answer:
    *_, answer = stream.ask("what was shown?", **options)
    assert isinstance(answer, Answer)
    return answer


@pytest.fixture(scope="module")
def streams(model, chunks):
    """Two streams at depth 0 for all policies: with pruning within the modalities and without."""
    return {
        make_policy(name).intra: opened(model, chunks, name) for name in ("intra-only", "keep-all")
    }


@pytest.mark.parametrize("policy", PACED)
def test_a_pruning_policy_answers_at_the_mean_retention_that_was_asked(streams, policy):
    retention = LEAST.get(policy, 0.42)
    asked = PruningConfig(policy=policy, retention=retention)
    answer = answered(streams[make_policy(policy).intra], pruning=asked)
    assert answer.policy == policy
    assert answer.finish in ("stop", "length")
    # rounding: half a token a layer and the floor of Eq. 6, of 600 tokens
    assert answer.tokens.mean_entering == pytest.approx(retention, abs=0.006)
    held = [row.video + row.audio for row in answer.tokens.per_layer]
    assert held[0] == answer.tokens.entering
    assert held == sorted(held, reverse=True)
    assert answer.tokens.mean_entering == pytest.approx(
        sum(held) / (LAYERS * answer.tokens.unpruned)
    )


@pytest.mark.parametrize("policy", UNSCHEDULED)
def test_a_keeping_policy_answers_with_all_that_entered(streams, policy):
    asked = PruningConfig(policy=policy)
    answer = answered(streams[make_policy(policy).intra], pruning=asked)
    assert sum(row.dropped for row in answer.tokens.per_layer) == 0


@pytest.mark.parametrize("policy", ["seats-in-layer", "recent-first", "omnidrop-exponential"])
def test_a_head_start_up_to_the_first_drop_changes_nothing(model, chunks, policy):
    plain = answered(opened(model, chunks, policy))
    stream = opened(model, chunks, policy, "exact")
    ahead = answered(stream)
    assert ahead.label == "exact"
    assert (ahead.text, ahead.tokens) == (plain.text, plain.tokens)
    assert 0 < stream.depth <= next(r.layer for r in plain.tokens.per_layer if r.dropped) + 1


def test_seats_leaves_no_audiovisual_token_to_the_late_layers(model, chunks):
    answer = answered(opened(model, chunks[:2], "seats-in-layer"))
    held = [row.video + row.audio for row in answer.tokens.per_layer]
    assert held[-1] == 0 < held[0]


def test_what_is_forgotten_is_forgotten_in_every_layer_and_the_rest_moves_down():
    stores = [LayerStore(torch.arange(7.0).view(1, 7, 1), torch.zeros(1, 7, 1), 2) for _ in (0, 1)]
    fork = Fork(stores, 7, torch.zeros(3), [2, 0], [1, 0], torch.zeros(3))
    fork.forget_block(2)
    new = torch.full((1, 1, 1), 9.0)
    assert [store.append(new, new)[0].flatten().tolist() for store in stores] == [
        [0, 1, 5, 6, 9],
        [0, 1, 2, 3, 4, 5, 6, 9],
    ]


def test_seats_forgets_everywhere_unless_asked_to_keep_and_the_first_token_is_the_same(
    model, chunks, monkeypatch
):
    forks, original = list[Fork](), model.pruned_prefill

    def watched(*args):
        fork = yield from original(*args)
        forks.append(fork)
        return fork

    monkeypatch.setattr(model, "pruned_prefill", watched)
    answers = [answered(opened(model, chunks, name), decode=ONE_TOKEN) for name in SEATS]
    assert torch.equal(forks[0].logits, forks[1].logits)
    assert answers[0].tokens == answers[1].tokens
    held = [[size(store) for store in fork.layers] for fork in forks]
    assert len(set(held[0])) == 1
    block = [row.video + row.audio for row in answers[1].tokens.per_layer]
    assert held[1] == [text + n for text, n in zip(held[0], block, strict=True)]


def size(store: LayerStore) -> int:
    new = torch.zeros(2, 1, 16)
    with torch.inference_mode():
        return int(store.append(new, new)[0].shape[1])


@pytest.mark.parametrize("policy", INPUTS)
def test_what_is_chosen_before_the_decoder_passes_every_layer(streams, policy):
    asked = PruningConfig(policy=policy, retention=0.8)
    answer = answered(streams[False], pruning=asked)
    held = [row.video + row.audio for row in answer.tokens.per_layer]
    assert held == [round(0.8 * answer.tokens.unpruned)] * LAYERS
    assert answer.label == "exact"
    assert answer.evidence == () or max(e.to_s for e in answer.evidence) <= 12.0


@pytest.mark.parametrize("policy", STAGED)
def test_a_stage_before_the_decoder_needs_depth_zero_and_says_why(model, policy):
    with pytest.raises(ConfigError, match=r"before the first layer.*prefill_depth 0"):
        opened(model, [], policy, depth=2, retention=0.8)


def test_a_stage_before_the_decoder_refuses_a_stream_that_was_pruned_on_arrival(streams):
    with pytest.raises(ConfigError, match="chooses among unpruned tokens"):
        answered(streams[True], pruning=PruningConfig(policy="omnizip", retention=0.42))


def test_a_retention_below_what_dycoke_can_reach_is_refused_when_the_stream_opens(model):
    with pytest.raises(ConfigError, match=r"allowed on this kind of stream: 6\d\.\d%"):
        opened(model, [], "dycoke", retention=0.42)


@pytest.mark.parametrize("policy", ["omnizip", "dash", "seats-in-layer"])
def test_a_policy_that_paces_itself_refuses_a_schedule(model, policy):
    with pytest.raises(ConfigError, match="paces itself"):
        opened(model, [], policy, retention=None, schedule={"p_final": 0.2})


@pytest.mark.parametrize("policy", INPUTS)
def test_keeping_all_before_the_decoder_is_no_pruning(streams, policy):
    plain = answered(streams[False], pruning=PruningConfig(policy="keep-all"))
    whole = answered(streams[False], pruning=PruningConfig(policy=policy, retention=1.0))
    assert (whole.text, whole.tokens) == (plain.text, plain.tokens)


@pytest.mark.parametrize("kind", [StreamKind.VIDEO, StreamKind.AUDIO])
@pytest.mark.parametrize("policy", ["omnizip", "dash", "random-input", "seats"])
def test_a_stage_before_the_decoder_works_without_sound_or_without_pictures(model, policy, kind):
    said = {"policy": policy, "retention": 0.5}
    stream = OmniStream(model, settings(stream={"prefill_depth": 0, "kind": kind}, pruning=said))
    for chunk in make_chunks(2, kind):
        stream.push(chunk)
    answer = answered(stream)
    assert answer.tokens.mean_entering == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("policy", ["omnizip", *SEATS, "recent-first"])
def test_the_fast_engine_answers_as_the_plain_one_does(model, chunks, policy):
    fast = small_model(layers=LAYERS, seed=1, engine="fast")
    quick, plain = (answered(opened(m, chunks[:3], policy)) for m in (fast, model))
    assert (quick.text, quick.tokens) == (plain.text, plain.tokens)


FREE = [name for name in PACED if not make_policy(name).requires_depth_zero]


@pytest.fixture(scope="module")
def deep(model, chunks):
    """The streams of all depths for policies that allow them."""
    return {depth: opened(model, chunks[:4], "intra-only", depth) for depth in (6, LAYERS)}


@pytest.mark.parametrize("depth", [6, LAYERS])
@pytest.mark.parametrize("policy", FREE)
def test_a_policy_that_allows_a_head_start_answers_behind_any(deep, policy, depth):
    answer = answered(deep[depth], pruning=PruningConfig(policy=policy, retention=0.42))
    held = [row.video + row.audio for row in answer.tokens.per_layer]
    assert answer.label == ("read_side" if depth == LAYERS else "catch_up")
    assert held == sorted(held, reverse=True)
    assert held[-1] < held[0] == answer.tokens.entering
