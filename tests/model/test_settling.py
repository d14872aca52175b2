"""After a few tokens an answer reads a copy of what it read in the trunk, and says the same."""

from __future__ import annotations

import pytest
import torch

from omnidrop_stream.model import fork as forks
from omnidrop_stream.model.qwen_omni import QwenOmni
from omnidrop_stream.stream import OmniStream
from omnidrop_stream.types import Query
from tests.helpers import make_chunks, settings, small_model
from tests.pretend_device import pretended, sent

TOKENS = 8
DEPTHS = ["exact", "half", "read_side"]


@pytest.fixture(scope="module")
def model():
    return small_model(layers=6, seed=1, engine="fast")


@pytest.fixture(scope="module")
def chunks():
    return make_chunks(6, seed=2)


def opened(model, chunks, depth="read_side", retention=0.5, **stream):
    options = {"frame_tokens": 24, "prefill_depth": depth, **stream}
    how = settings(
        stream=options,
        pruning={"retention": retention},
        decode={"max_tokens": TOKENS, "min_tokens": TOKENS},
    )
    made = OmniStream(model, how)
    for chunk in chunks:
        made.push(chunk)
    return made


def decoded(model, stream, monkeypatch, after, **query):
    """The fork of an answer that settles after so many tokens, and its logits token by token."""
    monkeypatch.setattr(forks, "SETTLED_AFTER", after)
    seen, found = [], []
    original = model.decode_step

    def step(fork, token):
        seen.append(fork)
        found.append(original(fork, token).clone())
        return found[-1]

    monkeypatch.setattr(model, "decode_step", step)
    for _ in stream.ask_steps(Query("what was shown?", **query)):
        pass
    monkeypatch.undo()
    return seen[-1], found


@pytest.mark.parametrize("retention", [0.5, 0.9])
@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("rolled", [False, True], ids=["fresh", "rolled"])
def test_every_logit_is_the_same(model, chunks, monkeypatch, rolled, depth, retention):
    budget = {"budget_tokens": 230} if rolled else {}
    stream = opened(model, chunks, depth, retention, **budget)
    _, never = decoded(model, stream, monkeypatch, after=99)
    _, early = decoded(model, stream, monkeypatch, after=1)
    assert len(never) == TOKENS - 1
    for ours, theirs in zip(early, never, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_question_that_looks_back_a_little_says_the_same(model, chunks, monkeypatch):
    stream = opened(model, chunks)
    _, never = decoded(model, stream, monkeypatch, after=99, look_back_s=6.0)
    _, early = decoded(model, stream, monkeypatch, after=1, look_back_s=6.0)
    assert torch.allclose(torch.stack(early), torch.stack(never), rtol=1e-4, atol=1e-5)


def test_nothing_is_read_in_the_trunk_any_more(model, chunks, monkeypatch):
    stream = opened(model, chunks)
    reading, _ = decoded(model, stream, monkeypatch, after=99)
    settled, _ = decoded(model, stream, monkeypatch, after=1)
    assert not all(store.alone for store in reading.layers)
    assert all(store.alone for store in settled.layers)


def test_the_trunks_rows_are_free_again(model, chunks, monkeypatch):
    stream = opened(model, chunks)
    arena = stream.snapshot()[0].paged.band(0).arena
    before = arena.pinned_bytes
    settled, _ = decoded(model, stream, monkeypatch, after=1)
    stream.forget()
    assert settled.layers[0].count
    assert arena.pinned_bytes == 0 < before


def test_with_each_token_one_layer_settles_the_one_that_sees_least_first(
    model, chunks, monkeypatch
):
    """All of them at once would keep every other stream waiting for the copy."""
    monkeypatch.setattr(forks, "SETTLED_AFTER", 3)
    alone, original = [], model.decode_step

    def step(fork, token):
        logits = original(fork, token)
        alone.append([store.alone for store in fork.layers])
        return logits

    monkeypatch.setattr(model, "decode_step", step)
    for _ in opened(model, chunks).ask_steps(Query("what was shown?")):
        pass
    assert alone == [[False] * (6 - n) + [True] * n for n in (0, 0, 1, 2, 3, 4, 5)]


def test_elsewhere_all_settle_at_once(chunks):
    """A GPU copies in no time, and a step is recorded where all layers have settled."""
    with pretended():
        made = small_model(layers=6, seed=1, engine="fast")
        sent(made.thinker)
        there = QwenOmni(made.thinker, made.tokenizer, made.spec, made.ways)
        forks_seen, original = [], there.decode_step

        def step(fork, token):
            logits = original(fork, token)
            forks_seen.append([store.alone for store in fork.layers])
            return logits

        there.decode_step = step
        for _ in opened(there, chunks).ask_steps(Query("what was shown?")):
            pass
    assert forks_seen[1:3] == [[False] * 6, [True] * 6]


def test_room_for_the_rest_of_the_answer_is_kept(model, chunks, monkeypatch):
    settled, _ = decoded(model, opened(model, chunks), monkeypatch, after=3)
    assert {store.left for store in settled.layers} == {1}  # the last token is decoded no further
