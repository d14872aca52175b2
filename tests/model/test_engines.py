"""The fast engine against the plain one: the same questions of the same streams, and its memory."""

from __future__ import annotations

import gc
from dataclasses import replace

import pytest
import torch

from omnidrop_stream.cache import Paged, RowShape, Storage, joined, lease
from omnidrop_stream.config import ModelConfig
from omnidrop_stream.model import fast_prefill
from omnidrop_stream.model.load import random_model
from omnidrop_stream.model.paged import FEW_GONE, PagedTrunk
from omnidrop_stream.model.partial import Piece, attend, grouped
from omnidrop_stream.model.qwen_omni import QwenOmni, Ways
from omnidrop_stream.model.rope import Rotary, block_positions, rotate
from omnidrop_stream.stream import OmniStream
from omnidrop_stream.types import Answer, Modality, Query, StreamKind
from tests.helpers import ENGINES, make_chunks, settings, small_model, small_shape

QUESTION = "what was shown?"
CHUNKS = 10_000
ROLLING = {"budget_tokens": 230}


class Remembering(QwenOmni):
    """Encodes a chunk once for all streams of a test: the engines differ behind the towers."""

    def __init__(self, model, engine, known):
        super().__init__(model.thinker, model.tokenizer, model.spec, Ways(engine))
        self._known = known

    def encode(self, chunk, carry, settings):
        key = (id(chunk), carry.next_chunk, carry.window, carry.merge is None, settings)
        if key not in self._known:
            self._known[key] = super().encode(chunk, carry, settings)
        return self._known[key]


@pytest.fixture(scope="module")
def models():
    model, known = small_model(layers=6, seed=1), {}
    return {engine: Remembering(model, engine, known) for engine in ENGINES}


@pytest.fixture(scope="module")
def chunks():
    return make_chunks(10, seed=2)


def opened(model, chunks=(), depth="exact", pruning=None, **stream):
    options = {"frame_tokens": 24, "prefill_depth": depth, **stream}
    made = OmniStream(model, settings(stream=options, pruning=pruning or {"retention": 0.4}))
    for chunk in chunks:
        made.push(chunk)
    return made


def asked(model, stream, **options):
    """The answer, and what the question's pass ended with."""
    forks, original = [], model.pruned_prefill

    def watched(*args):
        fork = yield from original(*args)
        forks.append((fork.logits.clone(), fork.evidence.clone(), fork.entering_audio))
        return fork

    model.pruned_prefill = watched
    try:
        answer = list(stream.ask(options.pop("query", QUESTION), **options))[-1]
    finally:
        del model.pruned_prefill
    assert isinstance(answer, Answer)
    return answer, *forks[0]


def same(models, run):
    """``run(model)`` gives `asked`'s result on both engines; they agree."""
    (plain, logits, evidence, audio), other = (run(models[engine]) for engine in ENGINES)
    answer, other_logits, other_evidence, other_audio = other
    assert torch.allclose(logits, other_logits, atol=2e-6, rtol=1e-5)
    assert torch.allclose(evidence, other_evidence, atol=1e-7)
    assert bool(((evidence > 0) == (other_evidence > 0)).all())  # the same tokens were kept
    assert audio == other_audio
    assert answer.text == plain.text
    assert answer.tokens == plain.tokens
    assert (answer.label, answer.coverage) == (plain.label, plain.coverage)
    spans = [(e.from_s, e.to_s, e.modality) for e in plain.evidence]
    assert [(e.from_s, e.to_s, e.modality) for e in answer.evidence] == spans


@pytest.mark.parametrize("depth", [0, "exact", 4, "read_side"])
@pytest.mark.parametrize("rolling", [{}, ROLLING])
def test_both_engines_answer_alike_also_after_evictions(models, chunks, depth, rolling):
    same(models, lambda m: asked(m, opened(m, chunks, depth, **rolling)))


def test_in_half_the_bits_they_differ_by_rounding_alone(chunks):
    config = ModelConfig(device="cpu", dtype="bf16")
    model = random_model("small", small_shape(layers=4), config, 1)
    finals, known = [], {}
    for engine in ENGINES:
        one = Remembering(model, engine, known)
        finals.append(asked(one, opened(one, chunks, "read_side", **ROLLING))[1])
    assert finals[0].std() > 0.05
    assert (finals[0] - finals[1]).abs().max() < 0.1 * finals[0].std()


@pytest.mark.parametrize("kind", [StreamKind.VIDEO, StreamKind.AUDIO])
def test_streams_of_one_modality_too(models, kind):
    only = make_chunks(6, kind, seed=3)
    options = {"kind": kind, "budget_tokens": 160}
    same(models, lambda m: asked(m, opened(m, only, "read_side", **options)))


@pytest.mark.parametrize("policy", ["last-token", "random", "intra-only"])
def test_other_policies_choose_alike(models, chunks, policy):
    pruning = {"policy": policy}
    same(models, lambda m: asked(m, opened(m, chunks, "read_side", pruning, **ROLLING)))


def test_after_the_depth_went_up_and_down_again(models, chunks):
    def run(model):
        stream = opened(model, chunks[:8], 2, **ROLLING)
        for depth in (4, 6, 3):
            stream.set_depth(depth)
            for _ in stream.background_steps():
                pass
        stream.push(chunks[8])
        return asked(model, stream)

    same(models, run)


def test_after_forgetting_and_over_the_hole_it_leaves(models, chunks):
    def run(model):
        stream = opened(model, chunks[:7], "read_side", **ROLLING)
        stream.forget(last_s=4.0)
        for chunk in chunks[8:10]:
            stream.push(chunk)
        return asked(model, stream)

    same(models, run)


def test_looking_back_over_part_of_what_is_held(models, chunks):
    query = Query(QUESTION, look_back_s=6.0)
    same(models, lambda m: asked(m, opened(m, chunks, "read_side", **ROLLING), query=query))


@pytest.mark.parametrize("depth", ["exact", "read_side"])
def test_with_an_open_chunk(models, chunks, depth):
    def run(model):
        return asked(model, opened(model, chunks[:9], depth, **ROLLING), open_chunk=chunks[9])

    same(models, run)


def test_segments_thinned_by_a_policy_are_read_alike(models, chunks):
    def run(model):
        stream = opened(model, chunks[:8], "read_side", **ROLLING)
        held = stream.snapshot()
        thinned = [
            s.only(torch.arange(s.count) % 3 > 0) if n < 4 else s for n, s in enumerate(held)
        ]
        stream._cache.replace(tuple(thinned))
        stream.push(chunks[8])
        return asked(model, stream)

    same(models, run)


def arenas(stream):
    bands = {id(b.arena): b.arena for s in stream.snapshot() if s.paged for b in s.paged.bands}
    return list(bands.values())


def test_a_cancelled_question_and_an_abandoned_push_give_all_pages_back(models, chunks):
    stream = opened(models["fast"], chunks[:9], "read_side", **ROLLING)
    pinned = [a.pinned_bytes for a in arenas(stream)]
    run = stream.ask_steps(QUESTION, open_chunk=chunks[9])
    push = stream.push_steps(chunks[9])
    for _ in range(6):
        next(run)
    next(push)  # the second turn makes room, which would change what the trunk itself holds
    assert sum(a.pinned_bytes for a in arenas(stream)) > sum(pinned)
    run.close()
    push.close()
    gc.collect()
    assert [a.pinned_bytes for a in arenas(stream)] == pinned


def test_a_snapshot_pins_the_pages_of_what_has_left_and_lets_them_go(models, chunks):
    stream = opened(models["fast"], chunks[:6], "read_side", **ROLLING)
    held = stream.snapshot()
    before = [s.paged.layer(5).clone() for s in held]
    for chunk in chunks[6:]:
        stream.push(chunk)
    assert all(torch.equal(a, s.paged.layer(5)) for a, s in zip(before, held, strict=True))
    more = arenas(stream)[0].pinned_bytes
    del held
    assert arenas(stream)[0].pinned_bytes < more


def test_a_long_stream_reserves_no_more_than_a_young_one(models):
    many = make_chunks(20, seed=5)
    stream = opened(models["fast"], many[:4], 2, **ROLLING)
    young = [a.reserved_bytes for a in arenas(stream)]
    for chunk in many[4:]:
        stream.push(chunk)
    assert [a.reserved_bytes for a in arenas(stream)] == young


def test_the_states_that_enter_the_next_layer_lie_together_in_one_arena(models, chunks):
    stream = opened(models["fast"], chunks[:4], 2, **ROLLING)
    young = stream.snapshot()[0].hidden_rows.arena
    reserved = young.tensor.shape
    for chunk in chunks[4:]:
        stream.push(chunk)
    held = stream.snapshot()
    assert {s.hidden_rows.arena for s in held} == {young}
    whole = joined([s.hidden_rows for s in held], torch.arange(sum(s.count for s in held)))
    assert torch.equal(whole, torch.cat([s.hidden for s in held]))
    assert all(s.hidden.data_ptr() == s.hidden_rows.states.data_ptr() for s in held)
    assert young.tensor.shape == reserved
    deep = opened(models["fast"], chunks[:4], "read_side", **ROLLING).snapshot()
    assert all(s.hidden_rows is s.hidden is None for s in deep)


def test_a_question_that_catches_up_reads_an_arena_of_hidden_states(models, chunks, monkeypatch):
    calls, original = [], fast_prefill.joined

    def watched(rows, visible):
        calls.append(len(visible))
        return original(rows, visible)

    monkeypatch.setattr(fast_prefill, "joined", watched)
    stream = opened(models["fast"], chunks[:9], 2, **ROLLING)
    (answer, *_), held = asked(models["fast"], stream), stream.snapshot()
    entering = answer.tokens.per_layer[2]
    assert calls == [entering.video + entering.audio]
    asked(models["fast"], stream, open_chunk=chunks[9])
    assert len(calls) == 2
    assert stream.snapshot() == held


def test_keys_stay_right_over_ten_thousand_chunks():
    """Against the same keys rotated once, in fp64, at the window's slots."""
    model = small_model(layers=3)
    spec, rotary = model.spec, model._decoder.rotary
    exact = Rotary(rotary.inv_freq.double(), rotary.sections, rotary.scaling)
    prompt = model.with_engine("fast").prefill_prompt([1, 2, 3], 1)
    (template,) = opened(model, make_chunks(1), 0, {"policy": "intra-only"}).snapshot()
    kept = template.only(torch.arange(template.count) % 12 == 0)
    shape = RowShape(spec.n_kv_heads, spec.head_dim, torch.float32, torch.device("cpu"))
    video = int((kept.tokens.modality == int(Modality.VIDEO)).sum())
    place = {"layers": range(1), "shape": shape, "video": video, "audio": kept.count - video}
    storage, held, drawn, worst = Storage(8 * kept.count, video / kept.count), [], [], 0.0
    first, second = (window_ids(kept, slot, prompt, spec) for slot in (0, 1))
    numbers = torch.arange(CHUNKS)[:, None, None]
    ids = (first + numbers * (second - first)).transpose(0, 1).flatten(1)
    generator = torch.Generator().manual_seed(0)
    made = torch.randn(spec.n_kv_heads, ids.shape[1], spec.head_dim, generator=generator)
    stored = rotate(made, rotary.exact_angles(ids)).split(kept.count, dim=1)
    for number, key in enumerate(made.split(kept.count, dim=1)):
        del held[: max(0, len(held) - 7)], drawn[: max(0, len(drawn) - 7)]
        beside = held[-1].paged if held else None
        (band,) = lease(**place, storage=storage, beside=beside)
        band.write(0, stored[number], stored[number])
        held.append(replace(kept, chunk=number, paged=Paged(number, (band,))))
        drawn.append(key)
        if number % 1111 == 1110:
            trunk = PagedTrunk(rotary, spec, prompt, held, list(range(len(held))))
            keys, _ = trunk.block_layer(0)
            here = torch.cat([window_ids(s, n, prompt, spec) for n, s in enumerate(held)], dim=1)
            once = rotate(torch.cat(drawn, dim=1).double(), exact.angles(here))
            worst = max(worst, float((keys.double() - once).abs().max()))
    assert worst < 2e-6 * max(float(k.abs().max()) for k in drawn)
    assert (
        band.arena.reserved_bytes == 2 * spec.n_kv_heads * spec.head_dim * 4 * band.arena._pool.rows
    )


@pytest.mark.parametrize("gone", [0, 1, 90])
def test_a_layer_that_sees_most_of_the_block_reads_it_where_it_lies(models, chunks, gone):
    """And the others copy: either way the same keys meet the same query."""
    stream = opened(models["fast"], chunks, "read_side", **ROLLING)
    held, spec = stream.snapshot(), models["fast"].spec
    trunk = PagedTrunk(
        models["fast"].decoder.rotary, spec, stream._prompt, held, list(range(len(held)))
    )
    whole = sum(s.count for s in held)
    visible = torch.randperm(whole, generator=torch.Generator().manual_seed(gone))[gone:]
    visible = visible.sort().values
    q = torch.randn(spec.n_heads, 3, spec.head_dim)
    reads, order = trunk.seen(2, visible)
    in_place = gone <= FEW_GONE * whole
    assert all(bool(read.pins) == in_place for read in reads)
    out, received = attend([read.piece(q) for read in reads], torch.ones(1, 6))
    keys, values = trunk.block_layer(2, visible)
    once, columns = attend([Piece(grouped(q, spec.n_kv_heads), keys, values)], torch.ones(1, 6))
    assert torch.allclose(out, once, atol=1e-5)
    assert torch.allclose(torch.cat(received, dim=1)[:, order], columns[0], atol=1e-5)


def window_ids(segment, slot, prompt, spec):
    tokens = segment.tokens
    return block_positions(tokens.offsets, tokens.modality, slot, prompt.base, spec.ids_per_chunk)
