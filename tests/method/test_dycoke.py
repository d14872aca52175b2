"""dycoke.py: windows of four, what is whole, what is compared with what, and the code's quirks."""

import pytest
import torch

from omnidrop_stream.method import merge_clip
from omnidrop_stream.method.policies.dycoke import DyCoke, least_similar, references
from tests.method.windows import cos, make_window


def literal_ttm(patches: list[torch.Tensor], keep: int) -> list[list[int]]:
    """Temporal token merging in plain loops: `keep` tokens of each pruned frame."""
    out = []
    for i, tokens in enumerate(patches):
        place = i % 4
        if place == 0:
            out.append(list(range(len(tokens))))
            continue
        other = patches[i - place + {1: 0, 2: 0, 3: 2}[place]]
        likeness = [cos(a, b) for a, b in zip(tokens, other, strict=True)]
        out.append(sorted(sorted(range(len(tokens)), key=lambda j: (likeness[j], j))[:keep]))
    return out


def video_kept(window, stage, keep) -> list[list[int]]:
    kept = set(stage.select(window, keep).kept.tolist())
    return [
        [place for place, i in enumerate(patch.tolist()) if i in kept] for patch in window.patches()
    ]


@pytest.mark.parametrize("chunks", [2, 3, 4])
@pytest.mark.parametrize("rate", [0.7, 0.4])
def test_of_each_window_frame_0_stays_whole_and_the_least_similar_of_the_others(chunks, rate):
    window = make_window(chunks=chunks, patch=10)
    stay = int((1 - rate) * 10)
    patches = [window.embeds[i] for i in window.patches()]
    expected = literal_ttm(patches, stay)
    keep = len(window.audio) + sum(len(part) for part in expected)
    assert video_kept(window, DyCoke(), keep) == expected


def test_at_the_papers_share_it_is_our_pruning_on_arrival():
    window = make_window(chunks=4, patch=10)
    patches = [window.embeds[i] for i in window.patches()]
    ours = [part.tolist() for part in merge_clip(patches, 0.2)]
    keep = len(window.audio) + sum(len(part) for part in ours)
    assert video_kept(window, DyCoke(), keep) == ours


def test_all_sound_stays():
    window = make_window()
    kept = DyCoke().select(window, 120).kept
    assert set(window.audio.tolist()) <= set(kept.tolist())


def test_the_least_similar_stay_and_ties_go_to_the_lower_index():
    tokens = torch.eye(3)[[0, 1, 0, 1]]
    assert least_similar(tokens, torch.eye(3)[[0, 0, 0, 0]], 2).tolist() == [1, 3]
    assert least_similar(tokens, tokens, 2).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("frames", "plain", "coded"),
    [
        (8, [None, 0, 0, 2, None, 4, 4, 6], [None, 0, 0, 2, None, 4, None, 6]),
        (6, [None, 0, 0, 2, None, 4], [None, 0, 0, 2, None, 4]),
        (7, [None, 0, 0, 2, None, 4, 4], [None, 0, 0, 2, None, 4, -1]),
        (5, [None, 0, 0, 2, None], [None, 0, 0, 2, -1]),
    ],
)
def test_as_coded_a_last_window_is_spared_once_and_an_odd_last_frame_is_lost(frames, plain, coded):
    assert references([10] * frames) == plain
    assert references([10] * frames, as_coded=True) == coded


def test_a_frame_of_another_size_starts_a_new_window():
    assert references([10, 10, 12, 12, 12, 12, 12]) == [None, 0, None, 2, 2, 4, None]


def test_less_than_whole_frames_and_sound_is_refused():
    window = make_window()  # 4 chunks: 80 of sound, 8 patches of 12
    assert DyCoke().least(80, [12] * 8) == 104
    assert len(DyCoke().select(window, 104).kept) == 104
    with pytest.raises(ValueError, match="allowed: to keep 104 to 176"):
        DyCoke().select(window, 103)


def test_as_coded_the_lost_frame_is_lost_whatever_is_asked():
    window = make_window(chunks=2)
    odd = window.patch < 3
    part = type(window)(*(getattr(window, name)[odd] for name in window.__slots__))
    assert video_kept(part, DyCoke(as_coded=True), 40 + 20)[2] == []
