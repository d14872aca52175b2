"""dash.py: its three signals, its segments and what they do to the video's rate."""

import math

import pytest
import torch

from omnidrop_stream.method.policies.dash import (
    Dash,
    audio_scores,
    boundary_probability,
    segment_starts,
    uniqueness,
)
from tests.method.windows import cos, make_window


def test_a_boundary_is_likely_where_neighbours_differ():
    audio = make_window().embeds[:30]
    expected = [1.0] + [(1 - cos(audio[i], audio[i - 1])) / 2 for i in range(1, 30)]
    torch.testing.assert_close(boundary_probability(audio), torch.tensor(expected))


def test_unique_is_what_is_far_from_the_mean_of_the_calm_half_of_the_channels():
    audio = make_window().embeds[:30]
    d = audio.shape[1]
    spread = [float(((audio[:, c] - audio[:, c].mean()) ** 2).mean()) for c in range(d)]
    calm = sorted(sorted(range(d), key=lambda c: spread[c])[: d // 2])
    x = torch.stack([row[calm] / row[calm].norm() for row in audio])
    near = []
    for row in x:
        square = float(((row - x.mean(dim=0)) ** 2).sum())
        near.append(sum(math.exp(-square / (2 * a)) for a in (0.125, 0.25, 0.5, 1.0, 2.0)))
    expected = torch.tensor([1 - value / max(near) for value in near])
    torch.testing.assert_close(uniqueness(audio), expected, rtol=1e-4, atol=1e-5)


def test_the_signals_weigh_4_3_3():
    audio = make_window().embeds[:30]
    attention = torch.rand(30, generator=torch.Generator().manual_seed(1))
    p = boundary_probability(audio)
    expected = 0.4 * p / p.max() + 0.3 * uniqueness(audio) + 0.3 * attention / attention.max()
    torch.testing.assert_close(audio_scores(audio, attention), expected, rtol=1e-4, atol=1e-5)


def sound_of(turns: list[int], n: int = 100) -> torch.Tensor:
    """Sound that points another way from each of these tokens on."""
    axis = torch.zeros(n, dtype=torch.long)
    for turn in turns:
        axis[turn:] += 1
    return torch.eye(8)[axis] + 0.01


def test_segments_begin_at_turns_at_least_thirty_tokens_apart():
    assert segment_starts(sound_of([])) == [0]
    assert segment_starts(sound_of([20, 40, 60, 75])) == [0, 40, 75]
    assert segment_starts(sound_of([30, 59])) == [0, 30]


def kept_by_patch(window, keep):
    kept = Dash().select(window, keep).kept
    return torch.bincount(window.patch[kept][window.modality[kept] == 0], minlength=8).tolist()


def test_a_segment_that_is_heard_keeps_more_of_its_pictures():
    window = make_window()
    audio = window.audio
    window.embeds[audio] = sound_of([40], 80).repeat(1, 2)
    window.saliency[audio[40:]] += 5.0
    counts = kept_by_patch(window, 100)
    assert sum(counts[4:]) > sum(counts[:4])


def test_a_segment_of_less_than_two_patches_keeps_most():
    window = make_window(chunks=4)
    window.embeds[window.audio] = sound_of([70], 80).repeat(1, 2)  # the last tenth of the sound
    counts = kept_by_patch(window, 100)
    assert counts[7] == max(counts) > counts[0]


@pytest.mark.parametrize("keep", [40, 100])
def test_its_anchors_absorb(keep):
    assert Dash().select(make_window(), keep).embeds is not None
