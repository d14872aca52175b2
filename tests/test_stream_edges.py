"""Corners of a stream: empty chunks, changes between two turns, what is counted and kept."""

from __future__ import annotations

import weakref
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from omnidrop_stream.errors import ConfigError
from omnidrop_stream.model.fork import Fork
from omnidrop_stream.model.qwen_omni import QwenOmni
from omnidrop_stream.stream import OmniStream
from omnidrop_stream.types import Answer, Chunk, Query, Step, StreamKind
from tests.helpers import ENGINES, make_chunks, settings, small_model

QUESTION = "what was shown?"


def opened(model, depth="exact", chunks=(), **sections):
    options = {"frame_tokens": 24, "prefill_depth": depth, **sections.pop("stream", {})}
    pruning = {"retention": 0.4, **sections.pop("pruning", {})}
    stream = OmniStream(model, settings(stream=options, pruning=pruning, **sections))
    for chunk in chunks:
        stream.push(chunk)
    return stream


def answered(stream, text=QUESTION, **options) -> Answer:
    answer = list(stream.ask(text, **options))[-1]
    assert isinstance(answer, Answer)
    return answer


@pytest.fixture(scope="module", params=ENGINES)
def model(request):
    return small_model(layers=8, seed=1, engine=request.param)


@pytest.fixture(scope="module")
def chunks():
    return make_chunks(8, seed=2)


def emptied(chunk: Chunk) -> Chunk:
    return replace(chunk, frames=None, audio=None, audio_left=None, audio_right=None)


@pytest.mark.parametrize("depth", [0, 3, "read_side"])
@pytest.mark.parametrize("place", [0, 1, 3])
def test_a_chunk_with_nothing_in_it_is_held_and_answers_go_on(model, chunks, depth, place):
    mixed = [emptied(c) if c.index == place else c for c in chunks[:4]]
    stream = opened(model, depth, mixed)
    assert [s.count > 0 for s in stream.snapshot()] == [i != place for i in range(4)]
    assert answered(stream).coverage.to_s == 8.0


@pytest.mark.parametrize("depth", [0, 3])
def test_a_stream_of_empty_chunks_still_answers_without_evidence(model, chunks, depth):
    answer = answered(opened(model, depth, [emptied(c) for c in chunks[:2]]))
    assert answer.evidence == ()
    assert answer.tokens.unpruned == answer.tokens.entering == 0
    assert answer.tokens.mean_entering == 0.0


@pytest.mark.parametrize("depth", [0, "exact", "half", "read_side"])
def test_token_counts_are_what_each_layer_really_saw(model, chunks, depth):
    answer = answered(opened(model, depth, chunks[:5]))
    rows = answer.tokens.per_layer
    seen = [row.video + row.audio for row in rows]
    assert [row.layer for row in rows] == list(range(8))
    assert seen[0] == answer.tokens.entering
    gone = [a - b for a, b in pairwise(seen)]
    assert [row.dropped for row in rows] == [*gone, 0]
    assert answer.tokens.mean_entering == pytest.approx(sum(seen) / 8 / answer.tokens.unpruned)
    leaving = [*seen[1:], seen[-1]]
    assert answer.tokens.mean_leaving == pytest.approx(sum(leaving) / 8 / answer.tokens.unpruned)


def test_unpruned_counts_what_the_towers_made(model, chunks):
    answer = answered(opened(model, 0, chunks[:3]))
    assert answer.tokens.unpruned == 3 * (2 * 18 + 50)


def watched_forks(model, monkeypatch) -> list[Fork]:
    seen, original = [], model.pruned_prefill

    def watched(*args):
        fork = yield from original(*args)
        seen.append(fork)
        return fork

    monkeypatch.setattr(model, "pruned_prefill", watched)
    return seen


@pytest.mark.parametrize("depth", [0, "exact", "read_side"])
@pytest.mark.parametrize("held", [1, 5])
def test_the_bytes_reserved_for_an_answer_bound_what_it_allocates_within_a_fifth(
    model, chunks, depth, held, monkeypatch
):
    forks = watched_forks(model, monkeypatch)
    stream = opened(model, depth, chunks[:held])
    run = stream.ask_steps(QUESTION)
    next(run)
    reserved = stream.status().fork_bytes
    for _ in run:
        pass
    assert forks[0].nbytes <= reserved <= 1.2 * forks[0].nbytes


def test_an_answer_that_is_being_written_does_not_pin_chunks_that_have_left(model, chunks):
    stream = opened(model, 2, chunks[:4])
    held = weakref.ref(stream.snapshot()[0].keys)
    run = stream.ask_steps(QUESTION, open_chunk=chunks[4])
    while next(run) is Step.PREFILL:
        pass
    stream.forget()
    assert held() is None
    assert isinstance(list(run)[-1], Answer)


def test_no_turn_leaves_inference_mode_on(model, chunks):
    stream = opened(model, "half", chunks[:2])
    for turns in (
        stream.push_steps(chunks[2]),
        stream.ask_steps(QUESTION, open_chunk=chunks[3]),
    ):
        for _ in turns:
            assert not torch.is_inference_mode_enabled()
    stream.set_depth(6)
    for _ in stream.background_steps():
        assert not torch.is_inference_mode_enabled()


def test_cancelling_while_the_open_chunk_is_prefilled_stops_within_a_turn(model, chunks):
    stream = opened(model, "half", chunks[:3])
    flag = []
    events = []
    for event in stream.ask_steps(QUESTION, open_chunk=chunks[3], cancelled=lambda: bool(flag)):
        events.append(event)
        if len(events) == 2:
            flag.append(True)
    assert events[-1].finish == "cancelled"
    assert len(events) <= 4
    assert stream.status().fork_bytes == 0


@pytest.mark.parametrize("new_depth", [0, 2, 6])
def test_a_depth_that_changes_under_a_question_with_an_open_chunk_does_not_mix(
    model, chunks, new_depth
):
    expected = answered(opened(model, 4, chunks[:3]), open_chunk=chunks[3])
    stream = opened(model, 4, chunks[:3])
    run = stream.ask_steps(QUESTION, open_chunk=chunks[3])
    next(run)
    stream.set_depth(new_depth)
    for _ in stream.background_steps():
        pass
    final = list(run)[-1]
    assert final.prefill_depth == 4
    assert final.text == expected.text
    assert final.tokens == expected.tokens
    assert final.evidence == expected.evidence


def test_what_is_forgotten_under_an_answer_does_not_come_back_as_history(model, chunks):
    stream = opened(model, "exact", chunks[:3])
    run = stream.ask_steps(Query(QUESTION, session="a"))
    for _ in range(10):
        next(run)
    stream.forget()
    for _ in run:
        pass
    assert stream._conversations.of("a") == ()


def test_an_abandoned_push_adds_nothing_and_the_chunk_can_be_pushed_again(model):
    many = make_chunks(8)
    options = {"budget_tokens": 230}
    plain = opened(model, "half", many, stream=options)
    stream = opened(model, "half", many[:6], stream=options)
    for chunk in many[6:]:
        before = stream.snapshot()
        turns = stream.push_steps(chunk)
        for _ in range(3):
            next(turns)
        turns.close()
        after = stream.snapshot()
        assert after == before[len(before) - len(after) :]
        stream.push(chunk)
    for a, b in zip(stream.snapshot(), plain.snapshot(), strict=True):
        assert torch.equal(a.keys, b.keys)
        assert torch.equal(a.hidden, b.hidden)


@pytest.mark.parametrize("depth", [0, 3, "read_side"])
def test_the_byte_budget_is_kept_to_the_byte(model, depth):
    many = make_chunks(6)
    sizes = [s.nbytes for s in opened(model, depth, many).snapshot()]
    exact_fit = sum(sizes[:4])
    stream = opened(model, depth, stream={"budget_bytes": exact_fit - 1})
    for chunk in many:
        stream.push(chunk)
        assert stream.status().nbytes <= exact_fit - 1
    roomy = opened(model, depth, many[:4], stream={"budget_bytes": exact_fit})
    assert roomy.status().evicted == 0


def test_going_deeper_keeps_the_byte_budget(model):
    many = make_chunks(6)
    limit = opened(model, 1, many).status().nbytes + 10
    stream = opened(model, 1, many, stream={"budget_bytes": limit})
    stream.set_depth(6)
    for _ in stream.background_steps():
        pass
    assert stream.depth == 6
    assert stream.status().nbytes <= limit
    assert 0 < len(stream.snapshot()) < 6
    assert stream.snapshot()[0].chunk % 2 == 0


def test_auto_depth_stays_at_zero_where_the_policy_needs_it(model, chunks):
    stream = OmniStream(
        model,
        settings(
            stream={"frame_tokens": 24, "prefill_depth": "auto"},
            pruning={"retention": 0.4, "policy": "audio-guided"},
        ),
        clock=lambda: 0.0,
    )
    for chunk in chunks[:4]:
        stream.push(chunk)
        for _ in stream.background_steps():
            pass
    assert stream.depth == 0
    assert answered(stream).policy == "audio-guided"


def test_audio_guidance_is_refused_for_a_stream_without_sound(model):
    with pytest.raises(ConfigError, match="no sound"):
        opened(model, 0, stream={"kind": StreamKind.VIDEO}, pruning={"policy": "audio-guided"})


def test_audio_guidance_answers_although_the_sound_is_missing(model, chunks):
    mute = [replace(c, audio=None) for c in chunks[:3]]
    answer = answered(opened(model, 0, mute, pruning={"policy": "audio-guided"}))
    assert answer.tokens.per_layer[-1].audio == 0


def test_staleness_is_nothing_where_an_open_chunk_was_seen(model, chunks):
    stream = opened(model, "exact", chunks[:3])
    part = replace(chunks[3], frames=chunks[3].frames[:2], audio=chunks[3].audio[:16_000])
    part = replace(part, duration_s=1.0)
    answer = answered(stream, Query(QUESTION, asked_at_s=7.0), open_chunk=part)
    assert (answer.staleness_s, answer.coverage.to_s, answer.asked_at_s) == (0.0, 7.0, 7.0)
    late = answered(stream, Query(QUESTION, asked_at_s=7.0))
    assert late.staleness_s == pytest.approx(1.0)


def test_without_a_time_a_question_is_asked_at_the_end_of_what_is_seen(model, chunks):
    stream = opened(model, "exact", chunks[:3])
    assert answered(stream).asked_at_s == 6.0
    assert answered(stream, open_chunk=chunks[3]).asked_at_s == 8.0


def test_an_open_chunk_without_tokens_is_left_out(model, chunks):
    stream = opened(model, "exact", chunks[:3])
    answer = answered(stream, open_chunk=replace(emptied(chunks[3]), duration_s=0.1))
    assert not answer.open_chunk
    assert answer.coverage.to_s == 6.0


def test_a_long_stream_holds_constant_bytes_at_equal_phases(model):
    stream = opened(model, 2, stream={"budget_tokens": 60, "frame_tokens": 4})
    (pattern,) = make_chunks(1)
    pattern = replace(pattern, frames=pattern.frames[:, ::3, ::3], audio=pattern.audio[:8000])
    held = []
    for index in range(200):
        stream.push(replace(pattern, index=index, start_s=2.0 * index))
        held.append((stream.status().nbytes, stream.status().tokens, stream.status().chunks_held))
    assert stream.status().evicted > 150
    assert len(set(held[20::2])) == 1
    assert len(set(held[21::2])) == 1


def test_bf16_streams_and_answers(chunks):
    from omnidrop_stream.config import ModelConfig
    from omnidrop_stream.model.load import random_model
    from tests.helpers import small_shape

    coarse = random_model("b", small_shape(layers=8), ModelConfig(device="cpu", dtype="bf16"), 1)
    answer = answered(opened(coarse, 2, chunks[:3]))
    assert answer.label == "exact"
    assert coarse._decoder.rotary.inv_freq.dtype == torch.float32


def test_a_lightened_stream_takes_fewer_tokens_of_pictures_and_as_many_of_sound(model, chunks):
    full, light = opened(model), opened(model)
    light.lighten(pictures=0.5, merging=0.25)
    for stream in (full, light):
        for chunk in chunks[:2]:
            stream.push(chunk)
    kinds = [torch.cat([s.tokens.modality for s in x.snapshot()]) for x in (full, light)]
    sound = [int(kind.sum()) for kind in kinds]
    pictures = [len(kind) - int(kind.sum()) for kind in kinds]
    assert sound[0] == sound[1]
    assert pictures[1] <= pictures[0] / 2


def test_a_stream_that_is_no_longer_lightened_is_as_it_was(model, chunks):
    stream, never = opened(model), opened(model)
    stream.lighten(pictures=0.5, merging=0.25)
    stream.lighten()
    for each in (stream, never):
        each.push(chunks[0])
    ours, theirs = stream.snapshot()[0], never.snapshot()[0]
    assert torch.equal(ours.tokens.embeds, theirs.tokens.embeds)


def test_an_answer_names_the_pictures_that_were_left_out(model, chunks):
    bare = replace(chunks[1], frames=None, flags=replace(chunks[1].flags, video_absent=True))
    answer = answered(opened(model, chunks=[chunks[0], bare]))
    assert [gap.reason for gap in answer.coverage.gaps] == ["video_absent"]


@pytest.mark.parametrize("least", [0, 1, 5])
def test_no_answer_ends_by_itself_before_its_least_number_of_tokens(model, chunks, least):
    """Here every token but the first two would end it."""
    ends = tuple(range(2, model.spec.vocabulary))
    ending = QwenOmni(model.thinker, model.tokenizer, replace(model.spec, eos_ids=ends), model.ways)
    answer = answered(opened(ending, chunks=chunks[:1], decode={"min_tokens": least}))
    assert answer.answer_tokens >= least
    assert answer.finish == ("length" if answer.answer_tokens == 8 else "stop")
    if not least:
        assert answer.answer_tokens == 0
