"""With a kernel that takes several sequences at once everything comes out as with torch's own.

The kernel is a literal one, as flash-attn's documentation describes it: no machine of the tests has
that package.
"""

from __future__ import annotations

import sys
import types
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from omnidrop_stream.cache import slots_of
from omnidrop_stream.errors import ConfigError, MissingDependency
from omnidrop_stream.model import pick
from omnidrop_stream.model.attention import TorchAttention
from omnidrop_stream.model.base import DecodeRequest, ExtendRequest
from omnidrop_stream.model.varlen import VarlenAttention
from omnidrop_stream.stream import OmniStream
from omnidrop_stream.types import Query
from tests.helpers import ENGINES, make_chunks, settings, small_model
from tests.model.test_batch import forks_of
from tests.pretend_device import THERE, pretended

CUDA = torch.device("cuda")


def literal(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, causal=False):
    """One sequence, one head, one row at a time; the mask is aligned at the bottom right."""
    assert causal
    if max_seqlen_q == 1 and q.shape[1] > k.shape[1]:  # as the package takes heads for rows then
        assert len(q) == len(cu_seqlens_q) - 1
    assert cu_seqlens_q.dtype == cu_seqlens_k.dtype == torch.int32
    out = torch.full_like(q, float("nan"))
    ends = [bounds.tolist() for bounds in (cu_seqlens_q, cu_seqlens_k)]
    longest = [0, 0]
    for (a, b), (c, d) in zip(*(pairwise(e) for e in ends), strict=True):
        longest = [max(longest[0], b - a), max(longest[1], d - c)]
        for head in range(q.shape[1]):
            shared = head // (q.shape[1] // k.shape[1])
            for row in range(a, b):
                seen = slice(c, d - (b - row) + 1)
                scores = k[seen, shared] @ q[row, head] * q.shape[2] ** -0.5
                out[row, head] = scores.softmax(dim=0) @ v[seen, shared]
    assert longest == [max_seqlen_q, max_seqlen_k]
    return out


def counting():
    """The same kernel, and a list of how many sequences each of its calls took."""
    calls = []

    def counted(*args, **named):
        calls.append(len(args[3]) - 1)
        return literal(*args, **named)

    return calls, counted


VARLEN, TORCH = VarlenAttention(literal), TorchAttention()


def with_attention(model, attention):
    return model.with_ways(replace(model.ways, attention=attention))


def parts(*sizes, heads=4, shared=2):
    """Queries, keys, values of sequences with these (rows, keys)."""
    draw = torch.Generator().manual_seed(0)
    return [
        (
            torch.randn(heads, rows, 8, generator=draw),
            torch.randn(shared, keys, 8, generator=draw),
            torch.randn(shared, keys, 8, generator=draw),
        )
        for rows, keys in sizes
    ]


@pytest.mark.parametrize(
    "sizes",
    [
        [(3, 3)],
        [(1, 9)],
        [(2, 5), (4, 4)],
        [(1, 7), (1, 3), (5, 12)],
        [(0, 4), (2, 6)],
        [(0, 4), (1, 6)],
    ],
)
def test_several_sequences_in_one_call_equal_each_on_its_own(sizes):
    several = parts(*sizes)
    together, apart = VARLEN.of_each(several), TORCH.of_each(several)
    for ours, theirs in zip(together, apart, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_no_rows_at_all_need_no_kernel():
    (found,) = VARLEN.of_each(parts((0, 4)))
    assert found.shape == (4, 0, 8)


def test_one_sequence_alone_is_read_where_it_lies():
    ((q, k, v),) = parts((2, 5))

    def kernel(_, keys, values, *bounds, causal):
        assert keys.data_ptr() == k.data_ptr()
        assert values.data_ptr() == v.data_ptr()
        return torch.zeros(2, 4, 8)

    VarlenAttention(kernel).of(q, k, v)


def test_the_kernel_is_called_once_for_all():
    calls, counted = counting()
    VarlenAttention(counted).of_each(parts((2, 5), (4, 4), (1, 9)))
    assert calls == [3]


@pytest.mark.parametrize("depth", [0, "exact", "half", "read_side"])
@pytest.mark.parametrize("engine", ENGINES)
def test_an_answer_is_the_same(engine, depth):
    plain = small_model(engine=engine, seed=1, layers=4)
    found = []
    for model in (plain, with_attention(plain, VARLEN)):
        stream = {"frame_tokens": 12, "prefill_depth": depth, "budget_tokens": 90}
        made = OmniStream(model, settings(stream=stream, pruning={"retention": 0.5}))
        for chunk in make_chunks(4, seed=2):
            made.push(chunk)
        *_, answer = made.ask(Query("what was shown?"))
        found.append((answer.text, answer.tokens, [(e.from_s, e.to_s) for e in answer.evidence]))
    assert found[0] == found[1]


def test_chunks_of_several_streams_are_prefilled_in_one_call_for_each_layer():
    calls, counted = counting()
    plain = small_model(layers=4, seed=3)
    chunks = make_chunks(2, seed=5)
    options = {"frame_tokens": 12, "prefill_depth": 4}
    requests = []
    for _ in range(3):
        stream = OmniStream(plain, settings(stream=options, pruning={"retention": 0.5}))
        stream.push(chunks[0])
        held = stream.snapshot()
        tokens = held[0].tokens
        prompt = plain.prefill_prompt([1, 2, 3, 4], 1)
        slots = slots_of(held)
        requests.append(
            ExtendRequest(prompt, held, slots, tokens, slots[-1] + 1, tokens.embeds, range(4))
        )
    found = []
    for model in (plain, with_attention(plain, VarlenAttention(counted))):
        run = model.extend_batch(requests)
        while True:
            try:
                next(run)
            except StopIteration as done:
                found.append(done.value)
                break
    assert calls == [3] * 4
    for ours, theirs in zip(*found, strict=True):
        assert torch.allclose(ours.hidden, theirs.hidden, atol=1e-5)
        assert torch.allclose(ours.keys, theirs.keys, atol=1e-5)


def test_the_next_tokens_of_several_answers_are_found_in_one_call_for_each_layer():
    calls, counted = counting()
    model = small_model(layers=4, seed=3)
    found = []
    for attention in (TORCH, VarlenAttention(counted)):
        forks = [fork for fork, _ in forks_of(model)]
        calls.clear()
        requests = [DecodeRequest(fork, token) for token, fork in enumerate(forks)]
        found.append(with_attention(model, attention).decode_batch(requests))
    assert calls == [len(forks)] * 4
    for ours, theirs in zip(*found, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-4)


def test_elsewhere_the_bounds_go_there_without_a_wait():
    with pretended() as device:
        several = [tuple(t.to(THERE) for t in one) for one in parts((2, 5), (4, 4))]

        def kernel(q, k, v, *bounds, causal):
            assert all(t.device.type == THERE.type for t in (q, k, v, *bounds[:2]))
            return torch.zeros_like(q)

        VarlenAttention(kernel).of_each(several)
        assert not device.waits


def test_the_setting_takes_the_packages_kernel(monkeypatch):
    package = types.ModuleType("flash_attn")
    package.flash_attn_varlen_func = literal
    monkeypatch.setitem(sys.modules, "flash_attn", package)
    attention = pick.pick_attention("flash", CUDA, torch.bfloat16)
    several = parts((2, 5))
    assert torch.allclose(attention.of(*several[0]), TORCH.of(*several[0]), atol=1e-5)


def test_without_the_package_it_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "flash_attn", None)
    with pytest.raises(MissingDependency, match="pip install"):
        pick.pick_attention("flash", CUDA, torch.bfloat16)


def test_it_is_refused_in_fp32():
    with pytest.raises(ConfigError, match="set dtype to bf16"):
        pick.pick_attention("flash", CUDA, torch.float32)


@pytest.mark.parametrize("name", ["auto", "sdpa"])
def test_torchs_own_kernels_are_the_default(name):
    assert pick.pick_attention(name, CUDA, torch.bfloat16) is None
