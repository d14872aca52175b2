"""Three-axis positions: what stock computes, after eviction, over gaps, and within the limit."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from omnidrop_stream.cache import largest_id, slots_of
from omnidrop_stream.config import ModelConfig
from omnidrop_stream.errors import ConfigError, QuestionError
from omnidrop_stream.model.load import random_model
from omnidrop_stream.model.prefill import Trunk, positions_of, tail_positions
from omnidrop_stream.model.rope import Rotary, rotate, text_positions
from omnidrop_stream.model.shapes import Shape
from omnidrop_stream.model.template import ChatTemplate
from omnidrop_stream.stream import OmniStream
from omnidrop_stream.types import Answer, Modality, StreamKind
from tests.helpers import UNPRUNED, make_chunks, settings, small_model, small_shape, stock_inputs

KINDS = [StreamKind.AV, StreamKind.VIDEO, StreamKind.AUDIO]
QUESTION = "what was shown?"


@pytest.fixture(scope="module")
def model():
    return small_model(layers=4, seed=6)


def unpruned(model, chunks, kind, **stream):
    config = settings(**UNPRUNED, stream={"kind": kind, "frame_tokens": 24, **stream})
    opened = OmniStream(model, config)
    for chunk in chunks:
        opened.push(chunk)
    return opened


def shortened(chunk, seconds):
    frames = None if chunk.frames is None else chunk.frames[: max(1, round(seconds * 2))]
    audio = None if chunk.audio is None else chunk.audio[: round(seconds * 16_000)]
    return replace(chunk, frames=frames, audio=audio, duration_s=seconds)


def our_ids(model, stream, kind):
    """All ids of prompt, block and tail [3, n], as the prefill uses them."""
    template = ChatTemplate(model.tokenizer, kind)
    tail = template.tail(QUESTION)
    held = stream.snapshot()
    prompt, slots, spec = stream._prompt, slots_of(held), model.spec
    block = positions_of(held, slots, prompt.base, spec.ids_per_chunk, torch.device("cpu"))
    start = largest_id(held, slots, prompt.base, spec.ids_per_chunk) + 1
    return torch.cat(
        [prompt.positions, block, tail_positions(start, tail.markers, len(tail.ids))], dim=1
    )


def stock_ids(model, chunks, kind):
    inputs = stock_inputs(model, chunks, QUESTION, kind)
    if "video_grid_thw" in inputs:
        patches = sum((len(c.frames) + 1) // 2 for c in chunks)
        inputs["video_grid_thw"][0, 0] = patches
        # stock_inputs writes two patches for each chunk: take away what a short tail lacks
        ids = inputs["input_ids"][0].tolist()
        token = ChatTemplate(model.tokenizer, kind).special("<|VIDEO|>")
        grid = inputs["video_grid_thw"][0]
        surplus = ids.count(token) - int(grid.prod()) // 4
        for _ in range(surplus):
            del ids[len(ids) - 1 - ids[::-1].index(token)]
        inputs["input_ids"] = torch.tensor([ids])
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    lengths = inputs["feature_attention_mask"].sum(1) if "input_features" in inputs else None
    ids, _ = model.thinker.model.get_rope_index(
        inputs["input_ids"],
        None,
        inputs.get("video_grid_thw"),
        inputs["attention_mask"],
        inputs["use_audio_in_video"],
        lengths,
        inputs.get("video_second_per_grid"),
    )
    return ids[:, 0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("tail_s", [2.0, 1.3, 0.5])
def test_positions_equal_the_stock_models(model, kind, count, tail_s):
    chunks = make_chunks(count, kind)
    chunks[-1] = shortened(chunks[-1], tail_s)
    ours = our_ids(model, unpruned(model, chunks, kind), kind)
    if kind is StreamKind.AUDIO:
        # Without pictures the stock model numbers an audio clip plainly, 0..n-1, which is the same.
        template = ChatTemplate(model.tokenizer, kind)
        assert ours.shape[1] - len(template.tail(QUESTION).ids) > 0
        assert torch.equal(ours, torch.arange(ours.shape[1]).expand(3, -1))
    stock = stock_ids(model, chunks, kind)
    assert torch.equal(ours, stock.to(ours.dtype))


@pytest.mark.parametrize(("kind", "markers"), list(zip(KINDS, [2, 1, 1], strict=True)))
def test_the_markers_around_the_block_share_one_position_at_each_end(model, kind, markers):
    ours = our_ids(model, unpruned(model, make_chunks(2, kind), kind), kind)
    prompt = len(ChatTemplate(model.tokenizer, kind).prompt("You are a helpful assistant.")[0])
    opening = ours[0, prompt - markers : prompt]
    tail = len(ChatTemplate(model.tokenizer, kind).tail(QUESTION).ids)
    closing = ours[0, ours.shape[1] - tail :][:markers]
    assert len(set(opening.tolist())) == len(set(closing.tolist())) == 1
    assert ours[0, prompt] == opening[0] + 1
    assert ours[0, -1] == closing[0] + tail - markers


def test_at_other_rates_the_temporal_ids_equal_the_stock_models(model):
    chunks = make_chunks(2, StreamKind.VIDEO)
    fast = [replace(c, fps=4.0, frames=c.frames.repeat(2, axis=0)) for c in chunks]
    held = unpruned(model, fast, StreamKind.VIDEO, fps=4.0).snapshot()
    ids = positions_of(held, slots_of(held), 0, 50, torch.device("cpu"))[0]
    stock = (torch.arange(8) * torch.tensor(0.5) * 25).long()
    assert ids.unique(sorted=True).tolist() == stock.tolist()


def test_after_eviction_slots_count_from_the_oldest_chunk_held(model):
    stream = unpruned(model, make_chunks(7), StreamKind.AV, budget_tokens=400)
    held = stream.snapshot()
    assert held[0].chunk > 0
    assert slots_of(held) == list(range(len(held)))
    first = positions_of(held, slots_of(held), 100, 50, torch.device("cpu"))[:, 0]
    assert first.tolist() == [100, 100, 100]


@pytest.mark.parametrize(
    ("indices", "epochs", "slots"),
    [
        ([0, 1, 2], [0, 0, 0], [0, 1, 2]),
        ([0, 1, 4, 5], [0, 0, 0, 0], [0, 1, 3, 4]),
        ([3, 4, 99], [0, 0, 0], [0, 1, 3]),
        ([0, 1, 2], [0, 1, 1], [0, 2, 3]),
        ([0, 2, 4], [0, 0, 1], [0, 2, 4]),
        ([], [], []),
    ],
)
def test_a_gap_takes_one_empty_slot(model, indices, epochs, slots):
    (segment,) = unpruned(model, make_chunks(1), StreamKind.AV).snapshot()
    held = tuple(
        replace(segment, chunk=index, epoch=epoch)
        for index, epoch in zip(indices, epochs, strict=True)
    )
    assert slots_of(held) == slots


def test_video_moves_on_the_temporal_axis_only_and_audio_on_all_three(model):
    (segment,) = unpruned(model, make_chunks(1), StreamKind.AV).snapshot()
    here, there = (positions_of((segment,), [slot], 10, 50, torch.device("cpu")) for slot in (0, 3))
    moved = there - here
    audio = segment.tokens.modality == int(Modality.AUDIO)
    assert set(moved[0].tolist()) == {150}
    assert set(moved[1:, audio].flatten().tolist()) == {150}
    assert set(moved[1:, ~audio].flatten().tolist()) == {0}


def test_layer_zero_keys_after_eviction_equal_a_fresh_prefill_at_the_new_slots(model):
    chunks = make_chunks(7, StreamKind.VIDEO)
    options = {"prefill_depth": 2, "budget_tokens": 240}
    rolled = unpruned(model, chunks, StreamKind.VIDEO, **options).snapshot()
    start = rolled[0].chunk
    assert start > 0
    fresh = unpruned(model, chunks[start:], StreamKind.VIDEO, **options)
    stream = fresh
    for held, new in zip(rolled, fresh.snapshot(), strict=True):
        assert torch.equal(held.tokens.embeds, new.tokens.embeds)
    trunks = [
        Trunk.of(model._decoder, model.spec, stream._prompt, held, slots_of(held))
        for held in (rolled, fresh.snapshot())
    ]
    (keys, values), (new_keys, new_values) = (trunk.block_layer(0) for trunk in trunks)
    assert torch.allclose(keys, new_keys, atol=1e-5)
    assert torch.allclose(values, new_values, atol=1e-5)


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_keys_rotated_at_use_equal_the_same_keys_rotated_once_in_fp64(model, layer):
    held = unpruned(
        model, make_chunks(8), StreamKind.AV, prefill_depth=3, budget_tokens=600
    ).snapshot()
    stream = unpruned(model, make_chunks(1), StreamKind.AV)
    slots = [slot + 300 for slot in slots_of(held)]  # far out, where fp32 angles are coarsest
    trunk = Trunk.of(model._decoder, model.spec, stream._prompt, held, slots)
    keys, _ = trunk.block_layer(layer)
    rotary = model._decoder.rotary
    exact = Rotary(rotary.inv_freq.double(), rotary.sections, rotary.scaling)
    ids = positions_of(held, slots, stream._prompt.base, 50, torch.device("cpu"))
    stored = torch.cat([s.keys[layer] for s in held], dim=1).double()
    once = rotate(stored, exact.angles(ids))
    # fp32 angles near 15,000 are good to 2**-11
    assert (keys.double() - once).abs().max() < 2e-3 * stored.abs().max()


def test_rotation_by_the_stock_module_is_the_same(model):
    ids = torch.stack([torch.arange(9) * 7, torch.arange(9) + 3, torch.arange(9) * 2])
    x = torch.randn(2, 9, 16)
    cos, sin = model._decoder.rotary.angles(ids)
    stock = model.thinker.model.language_model.rotary_emb(x, ids[:, None])
    assert torch.equal(cos, stock[0][0])
    assert torch.equal(sin, stock[1][0])


@pytest.mark.parametrize(("start", "count"), [(0, 0), (5, 1), (7, 4)])
def test_text_counts_up_on_all_axes(start, count):
    assert text_positions(start, count).tolist() == [list(range(start, start + count))] * 3


NARROW = {
    "stream": {"frame_tokens": 4, "history_tokens": 60, "prefill_depth": 1},
    "decode": {"max_tokens": 4, "question_chars": 60},
    "pruning": {"retention": 0.55},
}


def narrow_model(limit: int):
    shape = small_shape(layers=4)
    narrow = Shape({**shape.text, "max_position_embeddings": limit}, shape.audio, shape.vision, 24)
    return random_model("narrow", narrow, ModelConfig(device="cpu", dtype="fp32"))


def test_positions_never_pass_the_models_limit_and_eviction_then_happens_by_slots():
    model = narrow_model(700)
    config = settings(**NARROW)
    stream = OmniStream(model, config)
    largest = []
    for chunk in make_chunks(24):
        stream.push(chunk)
        run = stream.ask_steps("?" * 60)
        events = list(run)
        assert isinstance(events[-1], Answer)
        held = stream.snapshot()
        end = largest_id(held, slots_of(held), stream._prompt.base, 50)
        largest.append(end + 1 + 2 + 60 + 32 + 4 + 60)
    assert stream.status().evicted > 0
    assert stream.status().tokens < config.stream.budget_tokens / 10
    assert max(largest) <= 700


def test_gaps_count_as_slots_too():
    model = narrow_model(700)
    config = settings(**NARROW)
    stream = OmniStream(model, config)
    limit = stream._cache.budget.max_slots
    for chunk in make_chunks(12):
        stream.push(replace(chunk, index=3 * chunk.index))
        assert slots_of(stream.snapshot())[-1] + 1 <= limit
    assert stream.status().evicted > 0


def test_a_model_too_narrow_for_one_window_is_refused_when_the_stream_opens():
    with pytest.raises(ConfigError, match="lower history_tokens"):
        OmniStream(narrow_model(300), settings(pruning={"retention": 0.4}))


def test_a_question_that_leaves_the_models_range_is_refused():
    model = narrow_model(700)
    config = settings(**NARROW)
    stream = OmniStream(model, config)
    for chunk in make_chunks(6):
        stream.push(chunk)
    wide = config.decode.model_copy(update={"max_tokens": 500})
    with pytest.raises(QuestionError, match="700 positions"):
        list(stream.ask("?", decode=wide))
