"""omnizip.py and interleaved.py: what the source states, against plain loops."""

import math

import pytest
import torch

from omnidrop_stream.method.policies.interleaved import (
    consolidated,
    density_times_distance,
    interleaved,
    least_crowded,
)
from omnidrop_stream.method.policies.omnizip import OmniZip, group_rate
from tests.method.windows import cos, make_window

KEEP = 90  # of 4 * 44 tokens; 37 of them sound: 33 chosen and 4 anchors


def ranked(scores: list[float]) -> list[int]:
    """Best first; ties to the lower index."""
    return sorted(range(len(scores)), key=lambda i: (-scores[i], i))


def literal_consolidation(window, keep, g=3, share=0.05):
    """Anchor consolidation as the source describes it, one token at a time."""
    sound = [window.embeds[i] for i in window.audio]
    pictures = [window.embeds[i] for i in window.video]
    score = window.saliency[window.audio].tolist()
    n = len(sound)
    wanted = round(share * n)
    chosen = ranked(score)[: keep - wanted]
    remaining = [i for i in range(n) if i not in chosen]
    step = max(1, len(remaining) // wanted)
    anchors = remaining[::step][:wanted]
    own = {anchor: [] for anchor in anchors}
    for i in remaining:
        if i not in anchors:
            own[max(anchors, key=lambda a: cos(sound[i], sound[a]))].append(i)
    like = {i: max(cos(sound[i], v) for v in pictures) for i in remaining}
    merged = {}
    for anchor, candidates in own.items():
        taken = sorted(candidates, key=lambda i: (-like[i], i))[:g]
        total = sum(math.exp(like[i]) for i in taken)
        weights = [math.exp(like[i]) / total for i in taken]
        if taken:
            absorbed = sum(w * sound[i] for w, i in zip(weights, taken, strict=True))
            merged[anchor] = (sound[anchor] + absorbed) / (1 + sum(weights))
    return sorted(chosen + anchors), merged


@pytest.mark.parametrize("seed", range(4))
def test_anchors_and_what_they_absorb_are_the_sources(seed):
    window = make_window(seed)
    kept, merged = consolidated(window, window.saliency[window.audio], 37)
    expected, anchors = literal_consolidation(window, 37)
    assert kept.tolist() == expected
    assert merged.keys() == anchors.keys()
    for anchor, embed in anchors.items():
        torch.testing.assert_close(merged[anchor], embed)


def test_without_anchors_the_highest_attention_stays():
    window = make_window()
    chosen = OmniZip("none").select(window, KEEP)
    score = window.saliency[window.audio]
    kept = window.audio[torch.tensor(sorted(ranked(score.tolist())[:37]))]
    assert torch.equal(chosen.kept[window.modality[chosen.kept] == 1], kept)
    assert chosen.embeds is None


def test_only_anchors_get_another_embedding():
    window = make_window()
    chosen = OmniZip().select(window, KEEP)
    changed = (chosen.embeds != window.embeds[chosen.kept]).any(dim=1)
    _, merged = literal_consolidation(window, 37)
    anchors = window.audio[torch.tensor(sorted(merged))]
    assert torch.equal(chosen.kept[changed], anchors)


def test_random_anchors_keep_the_same_tokens_but_absorb_others():
    window = make_window()
    plain, lots = OmniZip().select(window, KEEP), OmniZip("random").select(window, KEEP)
    again = OmniZip("random").select(window, KEEP)
    assert torch.equal(plain.kept, lots.kept)
    assert not torch.equal(plain.embeds, lots.embeds)
    assert torch.equal(again.embeds, lots.embeds)


@pytest.mark.parametrize(
    ("kept", "rate"), [(0.0, 0.85), (1.0, 0.40), (0.5, 0.625), (None, 0.75)]
)  # the paper's 30 % setting
def test_the_more_sound_stayed_the_less_video_leaves(kept, rate):
    assert group_rate(kept, 0.75) == pytest.approx(rate)


def test_a_chunk_that_is_heard_keeps_more_of_its_pictures():
    window = make_window()
    window.saliency[(window.chunk == 2) & (window.modality == 1)] += 1.0
    kept = OmniZip().select(window, KEEP).kept
    by_chunk = torch.bincount(window.chunk[kept][window.modality[kept] == 0], minlength=4)
    assert by_chunk.argmax() == 2
    assert by_chunk[2] > by_chunk[0]


def literal_dpc(tokens):
    """Density peaks among the five nearest, by the source's description."""
    n = len(tokens)
    far = [[1 - cos(a, b) for b in tokens] for a in tokens]
    near = [sorted(far[i][j] for j in range(n) if j != i)[:5] for i in range(n)]
    density = [math.exp(-sum(d) / len(d)) for d in near]
    scores = []
    for i in range(n):
        denser = [far[i][j] for j in range(n) if density[j] > density[i]]
        delta = min(denser) if denser else max(far[i][j] for j in range(n) if j != i)
        scores.append(delta * density[i])
    return scores


def test_the_spatial_score_is_density_times_distance():
    tokens = make_window().embeds[:12]
    torch.testing.assert_close(
        density_times_distance(tokens), torch.tensor(literal_dpc(tokens)), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("spatial", [density_times_distance, least_crowded])
def test_patches_are_pruned_by_turns_in_space_and_in_time(spatial):
    window = make_window()
    patches = window.patches()
    kept = interleaved(window.embeds, [patches[:4], patches[4:]], [5] * 8, spatial)
    for place, (patch, stay) in enumerate(zip(patches, kept, strict=True)):
        if place % 2:
            before = patches[place - 1]
            scores = [
                -cos(window.embeds[i], window.embeds[j])
                for i, j in zip(patch.tolist(), before.tolist(), strict=True)
            ]
        else:
            scores = spatial(window.embeds[patch]).tolist()
        assert stay.tolist() == sorted(patch[i].item() for i in ranked(scores)[:5])


def test_the_least_crowded_tokens_are_those_unlike_their_five_nearest():
    tokens = make_window().embeds[:12]
    n = len(tokens)
    expected = []
    for i in range(n):
        near = sorted((cos(tokens[i], tokens[j]) for j in range(n) if j != i), reverse=True)[:5]
        expected.append(-sum(near) / 5)
    torch.testing.assert_close(least_crowded(tokens), torch.tensor(expected))
