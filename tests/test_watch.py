"""A judgement is a plain forward over the two chunks' stored states, and only reads the trunk."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from omnidrop_stream.cache import largest_id, slots_of
from omnidrop_stream.errors import Busy, ConfigError, ModelMismatch
from omnidrop_stream.model.attention import causal_attention
from omnidrop_stream.model.prefill import positions_of, tail_positions
from omnidrop_stream.model.rope import rotate
from omnidrop_stream.model.template import ChatTemplate
from omnidrop_stream.model.watch_words import AnswerWords
from omnidrop_stream.stream import OmniStream
from omnidrop_stream.types import Step, StreamKind
from omnidrop_stream.watch import Judgement, earlier_pairs, newest_pair, odds_of
from omnidrop_stream.watch_config import WatchConfig
from tests.helpers import ENGINES, UNPRUNED, make_chunks, settings, small_model, stock_inputs
from tests.recorder import Recorder
from tests.test_stream import fingerprint
from tests.watches import watching_model

BELL = WatchConfig(text="a bell rings", sound_only=True)
DOOR = WatchConfig(text="the door opens")
DEPTHS = [0, 2, "half", "read_side"]


@pytest.fixture(scope="module", params=ENGINES)
def model(request):
    return watching_model(layers=8, seed=1, engine=request.param)


@pytest.fixture(scope="module")
def chunks():
    return make_chunks(5, seed=2)


def opened(model, depth="exact", chunks=(), **sections):
    stream_settings = {"frame_tokens": 24, "prefill_depth": depth, **sections.pop("stream", {})}
    pruning = {"pruning": {"policy": "intra-only", "retention": None}}
    stream = OmniStream(model, settings(stream=stream_settings, **{**pruning, **sections}))
    for chunk in chunks:
        stream.push(chunk)
    return stream


def judged(stream, *watches, **options) -> list[Judgement]:
    questions = [stream.standing(watch) for watch in watches]
    return [j for j in stream.judge_steps(questions, **options) if isinstance(j, Judgement)]


@torch.inference_mode()
def plain_logits(stream, watch) -> torch.Tensor:
    """Next-token logits by a loop over whole layers, no code of the judgement's; of a stream of the
    plain engine, whose segments keep their keys un-rotated.
    """
    model, question = stream.model, stream.standing(watch)
    decoder, spec, prompt = model._decoder, model.spec, stream._prompt
    pair = stream.snapshot()[-2:]
    kept = torch.cat([s.tokens.modality for s in pair]) >= int(watch.sound_only)
    slots = slots_of(pair)
    block = positions_of(pair, slots, prompt.base, spec.ids_per_chunk, decoder.device)[:, kept]
    start = largest_id(pair, slots, prompt.base, spec.ids_per_chunk) + 1
    text = tail_positions(start, question.markers, len(question.ids))
    front = decoder.rotary.angles(prompt.positions)
    stored, fresh = decoder.rotary.angles(block), decoder.rotary.angles(text)
    rows, depth = decoder.embed(torch.tensor(question.ids)), pair[0].depth
    for layer in range(spec.n_layers):
        keys = [rotate(prompt.keys[layer], front)]
        values = [prompt.values[layer]]
        angles = fresh
        if layer < depth:
            held = torch.cat([s.keys[layer] for s in pair], dim=1)[:, kept]
            keys.append(rotate(held, stored))
            values.append(torch.cat([s.values[layer] for s in pair], dim=1)[:, kept])
        else:
            angles = tuple(torch.cat(both) for both in zip(stored, fresh, strict=True))
            if layer == depth:
                rows = torch.cat([torch.cat([s.hidden for s in pair])[kept], rows])
        new = decoder.project(layer, rows, angles)
        keys.append(rotate(new.k, angles))
        values.append(new.v)
        attended = causal_attention(new.q, torch.cat(keys, dim=1), torch.cat(values, dim=1))
        rows = decoder.finish(layer, rows, attended)
    return decoder.logits(rows)


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("watch", [DOOR, BELL], ids=["all", "sound"])
def test_a_judgement_equals_a_plain_forward_over_the_stored_states(model, chunks, depth, watch):
    stream = opened(model, depth, chunks)
    words = AnswerWords.of(model.tokenizer)
    found = judged(stream, watch)[0]
    plain = opened(model.with_engine("plain"), depth, chunks)
    assert found.odds == pytest.approx(odds_of(plain_logits(plain, watch), words), abs=1e-4)
    assert (found.from_s, found.to_s) == (6.0, 10.0)


def test_at_depth_zero_a_judgement_equals_the_stock_model_on_two_chunks(model):
    two = make_chunks(2, seed=4)
    stream = opened(model, 0, two, **UNPRUNED)
    question = stream.standing(DOOR)
    inputs = stock_inputs(model, two, question.text, StreamKind.AV)
    with torch.inference_mode():
        logits = model.thinker(**inputs).logits[0, -1].float()
    expected = odds_of(logits, AnswerWords.of(model.tokenizer))
    assert judged(stream, DOOR)[0].odds == pytest.approx(expected, abs=2e-3)


def test_at_depth_zero_older_chunks_do_not_matter_and_deeper_they_do(model, chunks):
    def without_the_past(depth):
        stream = opened(model, depth, chunks)
        alone = opened(model, depth)
        bare = tuple(s.bare() for s in stream.snapshot()[-2:])
        alone._cache.replace(bare)
        alone._depth = 0
        return judged(stream, DOOR)[0].odds - judged(alone, DOOR)[0].odds

    assert without_the_past(0) == pytest.approx(0.0, abs=1e-5)
    assert abs(without_the_past(4)) > 1e-5


@pytest.mark.parametrize("depth", DEPTHS)
def test_the_trunk_stays_as_it_was(model, chunks, depth):
    stream = opened(model, depth, chunks)
    before, held = fingerprint(stream.snapshot()), stream.snapshot()
    judged(stream, DOOR, BELL)
    assert fingerprint(stream.snapshot()) == before
    assert all(a is b for a, b in zip(stream.snapshot(), held, strict=True))
    assert stream.status().fork_bytes == 0


def test_many_questions_share_the_chunks_and_none_changes_another(model, chunks):
    stream = opened(model, 2, chunks)
    alone = [judged(stream, watch)[0].odds for watch in (DOOR, BELL, DOOR)]
    together = judged(stream, DOOR, BELL, DOOR)
    assert [j.odds for j in together] == alone
    assert [j.number for j in together] == [0, 1, 2]
    assert together[2].shared_ms == 0.0 < together[0].shared_ms


@pytest.mark.parametrize("depth", DEPTHS)
def test_judgements_of_one_shape_are_recorded_and_equal(model, depth):
    """A standing question is asked at every chunk: where graphs are on, its pass is a record's."""
    recorder = Recorder()
    recorded = model.with_ways(replace(model.ways, capture=recorder))
    ours, theirs = (opened(m, depth) for m in (recorded, model))
    for number, chunk in enumerate(make_chunks(8, seed=4)):
        for stream in (ours, theirs):
            stream.push(chunk)
        (odds,), (expected,) = ([j.odds for j in judged(s, DOOR)] for s in (ours, theirs))
        assert odds == pytest.approx(expected, abs=1e-4), number
    assert (recorder.records, recorder.replays) == (1, 5)


def test_sound_alone_takes_only_sound(model, chunks):
    stream = opened(model, 0, chunks)
    heard, all_ = judged(stream, BELL)[0], judged(stream, DOOR)[0]
    sound = sum(int((s.tokens.modality == 1).sum()) for s in stream.snapshot()[-2:])
    assert heard.tokens == sound < all_.tokens
    assert {span.modality for span in heard.evidence} == {"audio"}


def test_at_depth_zero_sound_alone_never_depends_on_the_picture(model, chunks):
    other = [
        replace(c, frames=None if c.frames is None else 255 - c.frames)
        for c in make_chunks(5, seed=2)
    ]
    odds = [judged(opened(model, 0, cs), BELL)[0].odds for cs in (chunks, other)]
    assert odds[0] == odds[1]


def test_evidence_and_key_picture_lie_in_the_two_chunks(model, chunks):
    stream = opened(model, "exact", chunks)
    found = judged(stream, DOOR)[0]
    assert found.evidence
    assert all(6.0 <= span.from_s < span.to_s <= 10.0 for span in found.evidence)
    assert 6.0 <= found.key_s < 10.0


def test_evidence_is_what_the_watchers_words_look_at(model, chunks):
    stream = opened(model, "exact", chunks)
    question = stream.standing(DOOR)
    weights = []
    for rows in (question.guidance, question.guidance[:1], (0,)):
        asked = [replace(question, guidance=rows)]
        found = next(j for j in stream.judge_steps(asked) if isinstance(j, Judgement))
        weights.append((found.odds, [span.weight for span in found.evidence]))
    assert len({odds for odds, _ in weights}) == 1
    assert weights[0][1] not in (weights[1][1], weights[2][1])


def test_guidance_is_the_watchers_words_and_nothing_of_the_template(model):
    stream = opened(model)
    question = stream.standing(DOOR)
    ids = [question.ids[row] for row in question.guidance]
    assert model.tokenizer.decode(ids) == DOOR.text
    assert question.text.startswith("Look and listen")


def test_a_template_of_the_settings_is_used(model):
    watches = {"template": "Now {watch}?", "template_sound": "Hear {watch}?"}
    stream = opened(model, stream={"watches": watches})
    assert stream.standing(DOOR).text == "Now the door opens?"
    assert stream.standing(BELL).text == "Hear a bell rings?"


def test_a_checkpoint_brings_its_own_template(model, chunks):
    own = replace(model.spec, watch=replace(model.spec.watch, any="Is it {watch}?"))
    stream = opened(model)
    stream._model = type(model)(model.thinker, model.tokenizer, own)
    assert stream.standing(DOOR).text == "Is it the door opens?"


def test_control_tokens_in_the_watchers_words_have_no_effect(model):
    stream = opened(model)
    chat = ChatTemplate(model.tokenizer, StreamKind.AV)
    spelt = stream.standing(WatchConfig(text="x<|im_end|>"))
    plain = stream.standing(WatchConfig(text="x"))
    end = chat.special("<|im_end|>")
    assert spelt.ids.count(end) == plain.ids.count(end)


def test_odds_are_all_spellings_of_yes_against_all_of_no():
    logits = torch.tensor([1.0, 2.0, 3.0, 0.5, -1.0])
    words = AnswerWords(yes=(0, 2), no=(1, 4))
    expected = math.log(math.exp(1) + math.exp(3)) - math.log(math.exp(2) + math.exp(-1))
    assert odds_of(logits, words) == pytest.approx(expected, abs=1e-6)


def test_a_tokenizer_without_yes_is_refused(chunks):
    with pytest.raises(ModelMismatch, match="no single token for 'yes'"):
        opened(small_model(layers=8)).standing(DOOR)


def test_sound_of_a_stream_without_sound_is_refused(model):
    with pytest.raises(ConfigError, match="this stream has no sound"):
        opened(model, stream={"kind": "video"}).standing(BELL)


def test_a_stretch_without_sound_gives_no_odds_by_sound(model, chunks):
    silent = [replace(c, audio=None, flags=replace(c.flags, audio_absent=True)) for c in chunks[:3]]
    stream = opened(model, 0, silent)
    heard, seen = judged(stream, BELL, DOOR)
    assert heard.odds is None
    assert seen.odds is not None


def test_a_chunk_behind_a_gap_is_judged_alone(model, chunks):
    stream = opened(model, 0, [*chunks[:2], replace(chunks[4], epoch=1)])
    assert judged(stream, DOOR)[0].from_s == 8.0


def test_earlier_pairs_are_what_would_have_been_judged(model, chunks):
    held = opened(model, 0, chunks).snapshot()
    pairs = [tuple(s.chunk for s in pair) for pair in earlier_pairs(held, 3)]
    assert pairs == [(0, 1), (1, 2), (2, 3)]
    assert earlier_pairs(held[:1], 3) == []
    assert [s.chunk for s in newest_pair(held)] == [3, 4]


def test_earlier_pairs_begin_with_the_first_chunk(model, chunks):
    held = opened(model, 0, chunks).snapshot()
    pairs = [tuple(s.chunk for s in pair) for pair in earlier_pairs(held, 99)]
    assert pairs == [(0,), (0, 1), (1, 2), (2, 3)]


def test_a_cancelled_judgement_stops_within_a_turn(model, chunks):
    stream = opened(model, 0, chunks)
    asked = []
    turns = stream.judge_steps([stream.standing(DOOR)], cancelled=lambda: len(asked) >= 3)
    for turn in turns:
        asked.append(turn)
    assert asked == [Step.PREFILL] * 3
    assert stream.status().fork_bytes == 0


def test_a_judgement_without_room_beside_the_answers_is_refused(model, chunks):
    stream = opened(model, 0, chunks, stream={"fork_bytes": 1000})
    with pytest.raises(Busy, match=r"stream\.fork_bytes allows"):
        judged(stream, DOOR)


def test_chunks_go_on_arriving_between_the_turns_of_a_judgement(model, chunks):
    stream = opened(model, 2, chunks[:4])
    expected = judged(stream, DOOR)[0].odds
    turns = stream.judge_steps([stream.standing(DOOR)])
    next(turns)
    stream.push(chunks[4])
    last = list(turns)[-1]
    assert isinstance(last, Judgement)
    assert last.odds == expected
    assert last.to_s == 8.0
