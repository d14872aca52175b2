"""seats.py: the properties that its source states, and budgets that add up."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from omnidrop_stream.method import UnreachableRetention, make_policy, mean_entering
from omnidrop_stream.method.policies.seats import (
    SeatsInLayer,
    cut_layers,
    shared_out,
    stage_counts,
    window_budgets,
)

N0, UNPRUNED = 9_734, 21_632  # 64 chunks of 338 tokens, 45 % of which enter the decoder


def test_for_28_layers_the_cuts_are_the_sources():
    assert cut_layers(28) == (16, 18, 20, 23)


def test_tokens_leave_after_layers_15_17_19_and_all_after_22():
    counts = stage_counts(0.33, N0, 28, UNPRUNED)
    falls = [layer for layer in range(27) if counts[layer + 1] < counts[layer]]
    assert falls == [15, 17, 19, 22]
    assert counts[23:] == (0,) * 5


def test_each_cut_is_e_times_deeper_than_the_one_before():
    counts = stage_counts(0.33, N0, 28, UNPRUNED)
    first, second, third = (counts[layer] - counts[layer + 1] for layer in (15, 17, 19))
    assert second / first == pytest.approx(math.e, rel=0.01)
    assert third / second == pytest.approx(math.e, rel=0.01)


@given(st.integers(4, 40), st.integers(0, 100), st.integers(50, 5_000))
def test_every_target_within_the_stated_range_is_met_and_no_other(n_layers, percent, n0):
    unpruned = round(n0 / 0.45)
    with pytest.raises(UnreachableRetention) as caught:
        stage_counts(0.999, n0, n_layers, unpruned)
    low, high = caught.value.minimum, caught.value.maximum
    target = low + (high - low) * percent / 100
    counts = stage_counts(target, n0, n_layers, unpruned)
    assert mean_entering(counts, unpruned) == pytest.approx(target, abs=1.0 / unpruned)
    assert counts[0] == n0
    assert counts[-1] == 0
    assert list(counts) == sorted(counts, reverse=True)
    for outside in (low - 0.02, high + 0.02):
        with pytest.raises(UnreachableRetention):
            stage_counts(outside, n0, n_layers, unpruned)


@given(st.integers(3, 60))
def test_at_every_depth_a_first_layer_sees_all_and_the_last_none(n_layers):
    cuts = cut_layers(n_layers)
    assert list(cuts) == sorted(cuts)
    assert cuts[0] >= 1
    assert cuts[-1] <= n_layers - 1


def window(rng, chunks, absent=None):
    chunk, modality = [], []
    for c in range(chunks):
        for m in (0, 1):
            count = 0 if m == absent else int(torch.randint(1, 9, (1,), generator=rng))
            chunk += [c] * count
            modality += [m] * count
    S = torch.rand(len(chunk), generator=rng) * 1e-4
    return S, torch.tensor(chunk), torch.tensor(modality)


@given(st.integers(0, 10_000), st.integers(1, 6), st.sampled_from([None, 0, 1]), st.floats(0, 1))
def test_it_keeps_the_best_of_each_window_and_modality_and_drops_exactly_k(
    seed, chunks, absent, share
):
    S, chunk, modality = window(torch.Generator().manual_seed(seed), chunks, absent)
    k = round(share * len(S))
    dropped = SeatsInLayer().drop(15, 28, S, chunk, modality, k)
    assert dropped.tolist() == sorted(set(dropped.tolist()))
    assert len(dropped) == k
    kept = torch.ones(len(S), dtype=torch.bool)
    kept[dropped] = False
    for c in range(chunks):
        for m in (0, 1):
            own = (chunk == c) & (modality == m)
            if (own & kept).any() and (own & ~kept).any():
                assert S[own & kept].min() >= S[own & ~kept].max()


def test_small_scores_share_evenly_over_windows_of_one_size():
    sizes = [torch.full((8,), 20), torch.full((8,), 10)]
    means = [torch.rand(8, dtype=torch.float64) * 1e-4 for _ in range(2)]
    video, audio = window_budgets(means, sizes, 120)
    assert [v + a for v, a in zip(video, audio, strict=True)] == [15] * 8
    assert (sum(video), sum(audio)) == (80, 40)


def test_a_window_of_high_scores_gets_more_than_the_others():
    sizes = [torch.full((4,), 20), torch.full((4,), 10)]
    means = [torch.tensor([0.0, 0.6, 0.0, 0.0]).double(), torch.zeros(4).double()]
    video, audio = window_budgets(means, sizes, 40)
    whole = [v + a for v, a in zip(video, audio, strict=True)]
    assert whole[1] == max(whole) > whole[0]
    assert sum(whole) == 40
    assert video[1] / audio[1] > video[0] / audio[0]


@given(st.lists(st.tuples(st.floats(0, 20), st.integers(0, 9)), min_size=1, max_size=8), st.data())
def test_shares_are_whole_within_their_caps_and_add_up(windows, data):
    wanted, caps = zip(*windows, strict=True)
    total = data.draw(st.integers(0, sum(caps)))
    parts = shared_out(wanted, caps, total)
    assert sum(parts) == total
    assert all(0 <= part <= cap for part, cap in zip(parts, caps, strict=True))


def test_the_cache_is_forgotten_unless_the_variant_keeps_it():
    assert make_policy("seats-in-layer").forgets
    assert not make_policy("seats-in-layer-keep-kv").forgets
