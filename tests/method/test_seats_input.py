"""seats_input.py: tokens far from each other, and the mean over the layers that comes of it."""

import pytest
import torch

from omnidrop_stream.method import make_policy, mean_entering
from omnidrop_stream.method.policies.registry import PolicySettings
from omnidrop_stream.method.policies.seats_input import Diverse, spread_out
from tests.method.windows import cos, make_window


def literal_spread(tokens, weight, count):
    """Greedy max-min selection in plain loops."""
    n = len(tokens)
    far = [[(1 - cos(tokens[i], tokens[j])) * weight[j] for j in range(n)] for i in range(n)]
    nearest = [min(far[i][j] for i in range(n) if i != j) for j in range(n)]
    chosen = [max(range(n), key=lambda j: (nearest[j], -j))]
    while len(chosen) < count:
        left = [j for j in range(n) if j not in chosen]
        chosen.append(max(left, key=lambda j: (min(far[i][j] for i in chosen), -j)))
    return sorted(chosen)


@pytest.mark.parametrize("count", [1, 4, 11])
@pytest.mark.parametrize("weighted", [True, False])
def test_tokens_far_from_each_other_stay(count, weighted):
    tokens = make_window().embeds[24:44]
    weight = torch.rand(20, generator=torch.Generator().manual_seed(1)) + 0.1
    chosen = spread_out(tokens, weight if weighted else None, count)
    assert chosen.tolist() == literal_spread(tokens, weight if weighted else torch.ones(20), count)


def test_every_window_and_modality_keeps_the_same_share():
    window = make_window(patch=10, sound=20)
    kept = Diverse().select(window, 80).kept
    by_group = torch.bincount(2 * window.chunk[kept] + window.modality[kept], minlength=8)
    assert by_group.tolist() == [10] * 8


@pytest.mark.parametrize("n_layers", [6, 12, 28, 36])
@pytest.mark.parametrize("retention", [0.1, 0.2, 0.3, 0.45])
def test_at_every_depth_the_papers_retentions_are_reached(n_layers, retention):
    policy = make_policy("seats", PolicySettings(retention=retention))
    counts = policy.counts(21_632, n_layers, 21_632)
    assert mean_entering(counts, 21_632) == pytest.approx(retention, abs=1e-4)
    assert counts[-1] == 0


@pytest.mark.parametrize("n_layers", [28, 36])
def test_about_1_4_times_the_target_enters(n_layers):
    policy = make_policy("seats", PolicySettings(retention=0.3))
    assert policy.counts(10_000, n_layers, 10_000)[0] == 4_200
