"""Several streams at once equal one after the other: towers, chunk prefill, decode steps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from omnidrop_stream.cache import slots_of
from omnidrop_stream.model.base import DecodeRequest, ExtendRequest
from omnidrop_stream.model.parts import parts_of
from omnidrop_stream.model.patch_product import with_patch_product
from omnidrop_stream.model.towers import EncodeCarry, EncodeRequest, EncodeSettings, IntraSettings
from omnidrop_stream.stream import OmniStream
from omnidrop_stream.types import StreamKind
from tests.helpers import make_chunks, settings, small_model

CLOSE = {"rtol": 1e-4, "atol": 1e-5}
PRUNED = EncodeSettings(IntraSettings(), 24, 25.0)
WHOLE = EncodeSettings(IntraSettings(enabled=False), 24, 25.0)
AV, VIDEO, AUDIO = StreamKind.AV, StreamKind.VIDEO, StreamKind.AUDIO


@pytest.fixture(scope="module")
def model():
    return small_model(layers=4, seed=3)


def upright(chunk):
    return replace(chunk, frames=np.ascontiguousarray(chunk.frames.transpose(0, 2, 1, 3)))


def streams_of(kinds):
    """Two chunks of a stream of each kind; ``tall`` has pictures of another shape."""
    found = []
    for seed, kind in enumerate(kinds):
        tall = kind == "tall"
        chunks = make_chunks(2, AV if tall else kind, seed)
        found.append([upright(c) for c in chunks] if tall else chunks)
    return found


def assert_same(one, other):
    assert torch.equal(one.tokens.offsets, other.tokens.offsets)
    assert torch.equal(one.tokens.modality, other.tokens.modality)
    assert one.tokens.last_id == other.tokens.last_id
    assert one.tokens.n_unpruned == other.tokens.n_unpruned
    assert one.window == other.window
    assert torch.allclose(one.tokens.embeds, other.tokens.embeds, **CLOSE)
    assert one.carry.mel == other.carry.mel
    assert one.carry.next_chunk == other.carry.next_chunk


@pytest.mark.parametrize("how", [PRUNED, WHOLE], ids=["pruned", "whole"])
@pytest.mark.parametrize(
    "kinds",
    [[AV] * 3, [VIDEO] * 2, [AUDIO] * 3, [AV, "tall", AV, "tall"], [VIDEO, AUDIO, AV, "tall"]],
    ids=["av", "video", "audio", "two shapes", "all kinds"],
)
def test_chunks_of_several_streams_encoded_together_equal_each_on_its_own(model, kinds, how):
    streams = streams_of(kinds)
    alone = [EncodeCarry() for _ in streams]
    together = [EncodeCarry() for _ in streams]
    for number in range(2):
        single = [model.encode(s[number], c, how) for s, c in zip(streams, alone, strict=True)]
        asked = [EncodeRequest(s[number], c, how) for s, c in zip(streams, together, strict=True)]
        batch = model.encode_batch(asked)
        for one, other in zip(single, batch, strict=True):
            assert_same(one, other)
        alone, together = [e.carry for e in single], [e.carry for e in batch]


def test_a_short_block_and_a_silent_chunk_are_encoded_beside_whole_ones(model):
    whole, short, silent = (make_chunks(1, AV, seed)[0] for seed in range(3))
    short = replace(short, audio=short.audio[:9_000], duration_s=9_000 / 16_000)
    silent = replace(silent, audio=None)
    chunks = [whole, short, silent]
    asked = [EncodeRequest(chunk, EncodeCarry(), PRUNED) for chunk in chunks]
    for chunk, other in zip(chunks, model.encode_batch(asked), strict=True):
        assert_same(model.encode(chunk, EncodeCarry(), PRUNED), other)


def test_a_merging_carry_does_not_keep_the_other_streams_pictures_alive(model):
    asked = [EncodeRequest(make_chunks(1, AV, n)[0], EncodeCarry(), PRUNED) for n in range(4)]
    for encoded in model.encode_batch(asked):
        reference = encoded.carry.merge.reference
        assert reference.untyped_storage().nbytes() == reference.nbytes


def test_the_patch_product_computes_the_stock_convolution_and_leaves_it_in_place(model):
    visual = parts_of(model.thinker).visual
    stock = visual.patch_embed
    patches = torch.randn(12, stock.proj.weight[0].numel())
    with torch.inference_mode():
        ours = with_patch_product(visual).patch_embed(patches)
        assert torch.allclose(ours, stock(patches), **CLOSE)
    assert visual.patch_embed is stock


def stream_with(model, chunks, seed, depth):
    config = settings(pruning={"retention": 0.45}, stream={"prefill_depth": depth})
    stream = OmniStream(model, config)
    for chunk in make_chunks(chunks, AV, seed):
        stream.push(chunk)
    return stream


def request_behind(model, stream, seed, layers):
    """The stream's next chunk, and what prefilling it takes."""
    held = stream.snapshot()
    chunk = make_chunks(len(held) + 1, AV, seed)[-1]
    tokens = model.encode(chunk, EncodeCarry(), PRUNED).tokens
    slots = slots_of(held)
    prompt = model.prefill_prompt([1, 2, 3], 1)
    return ExtendRequest(prompt, held, slots, tokens, len(held), tokens.embeds, layers)


def ran(turns):
    steps = 0
    while True:
        try:
            next(turns)
        except StopIteration as done:
            return done.value, steps
        steps += 1


@pytest.mark.parametrize("depths", [(2, 2, 2), (1, 4, 3)], ids=["one depth", "several depths"])
def test_chunks_behind_windows_of_several_lengths_prefilled_together_equal_each_alone(
    model, depths
):
    asked = [
        request_behind(model, stream_with(model, held, held, depth), held, range(depth))
        for held, depth in zip((0, 3, 1), depths, strict=True)
    ]
    batch, steps = ran(model.extend_batch(asked))
    assert steps == max(depths)
    for one, states in zip(asked, batch, strict=True):
        alone, _ = ran(
            model.extend(
                one.prompt, one.past, one.past_slots, one.tokens, one.slot, one.hidden, one.layers
            )
        )
        assert torch.allclose(states.keys, alone.keys, **CLOSE)
        assert torch.allclose(states.values, alone.values, **CLOSE)
        assert torch.allclose(states.hidden, alone.hidden, **CLOSE)


def forks_of(model):
    """The forks of one question on three streams of different lengths."""
    found = []
    for held in (1, 2, 3):
        stream = stream_with(model, held, held, 2)
        turns = stream.ask_steps("what rang?")
        grown = []
        original = model.decode_step

        def watched(fork, token, grown=grown, original=original):
            grown.append(fork)
            return original(fork, token)

        model.decode_step = watched
        try:
            for _ in turns:
                if grown:
                    break
        finally:
            model.decode_step = original
        found.append((grown[0], turns))
    return found


def test_answers_decoded_together_say_what_each_says_alone(model):
    alone, together = forks_of(model), forks_of(model)
    for token in (5, 9, 2):
        one_by_one = [model.decode_step(fork, token) for fork, _ in alone]
        batch = model.decode_batch([DecodeRequest(fork, token) for fork, _ in together])
        for one, other in zip(one_by_one, batch, strict=True):
            assert one.shape == other.shape
            assert torch.allclose(one, other, **CLOSE)
    assert [f.next_position for f, _ in alone] == [f.next_position for f, _ in together]
    assert all(torch.equal(f.logits, b) for (f, _), b in zip(together, batch, strict=True))
