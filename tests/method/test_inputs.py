"""inputs.py: every stage keeps exactly what was asked, and counts come out of wished rates."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from omnidrop_stream.method import POLICIES, make_policy
from omnidrop_stream.method.policies.inputs import InputPruned, RandomInput, apportion
from omnidrop_stream.method.policies.interleaved import split_budget
from tests.method.windows import make_window

STAGES = [name for name in POLICIES if make_policy(name).input_stage is not None]
groups = st.lists(st.tuples(st.floats(-1, 30), st.integers(0, 25)), min_size=1, max_size=12)


@given(groups, st.data())
def test_counts_add_up_within_their_caps_and_follow_the_wishes(wishes, data):
    wanted, caps = zip(*wishes, strict=True)
    total = data.draw(st.integers(0, sum(caps)))
    counts = apportion(wanted, caps, total)
    assert sum(counts) == total
    assert all(0 <= n <= cap for n, cap in zip(counts, caps, strict=True))
    for i, cap in enumerate(caps):
        for j, other in enumerate(caps):
            if cap == other and min(wanted[i], cap) > max(wanted[j], 0.0):
                assert counts[i] >= counts[j]


def test_wishes_that_add_up_are_met():
    assert apportion([3.0, 1.0, 2.0], [5, 5, 5], 6) == [3, 1, 2]
    assert apportion([3.0, 1.0, 2.0], [5, 5, 5], 9) == [4, 2, 3]


def test_more_than_there_is_is_refused():
    with pytest.raises(ValueError, match="allowed: 0 to 10"):
        apportion([1.0, 1.0], [5, 5], 11)


@pytest.mark.parametrize("name", STAGES)
@pytest.mark.parametrize("share", [0.6, 0.77, 1.0])
def test_a_stage_keeps_exactly_what_was_asked_in_order(name, share):
    window = make_window(patch=20, sound=8)
    keep = round(share * len(window.chunk))
    chosen = make_policy(name).input_stage.select(window, keep)
    assert chosen.kept.tolist() == sorted(set(chosen.kept.tolist()))
    assert len(chosen.kept) == keep
    assert chosen.embeds is None or chosen.embeds.shape == (keep, window.embeds.shape[1])


@pytest.mark.parametrize("name", [name for name in STAGES if "dycoke" not in name])
@pytest.mark.parametrize("shape", [{"patch": 0}, {"sound": 0}, {"chunks": 1}, {"patch": 1}])
@pytest.mark.parametrize("keep", [0, 1, 5])
def test_a_stage_keeps_exactly_what_was_asked_of_an_odd_window(name, shape, keep):
    window = make_window(**shape)
    assert len(make_policy(name).input_stage.select(window, keep).kept) == keep


@pytest.mark.parametrize("name", STAGES)
def test_a_window_is_left_as_it_was(name):
    window = make_window()
    before = window.embeds.clone()
    make_policy(name).input_stage.select(window, 150)
    assert torch.equal(window.embeds, before)


def test_the_same_share_passes_every_layer():
    assert InputPruned("random-input", RandomInput(), 0.3).counts(676, 28, 676) == (203,) * 28


def test_lots_are_the_same_for_a_seed_and_other_for_another():
    window = make_window()
    chosen = [RandomInput(seed).select(window, 60).kept for seed in (1, 1, 2)]
    assert torch.equal(chosen[0], chosen[1])
    assert not torch.equal(chosen[0], chosen[2])


@pytest.mark.parametrize(
    ("percent", "audio"),
    # appendix A: 55 % of 50 tokens and 5 % anchors at 30 %, of 338; in proportion below 20 %
    [(30, 30), (45, 30), (21.7, 30), (10, 14), (100, 50)],
)
def test_the_paper_says_how_much_of_a_budget_is_sound(percent, audio):
    keep = round(percent / 100 * 338)
    assert split_budget(50, 288, keep) == (audio, keep - audio)


@given(st.integers(0, 300), st.integers(0, 900), st.data())
def test_a_budget_is_split_within_what_there_is(n_audio, n_video, data):
    keep = data.draw(st.integers(0, n_audio + n_video))
    audio, video = split_budget(n_audio, n_video, keep)
    assert audio + video == keep
    assert 0 <= audio <= n_audio
    assert 0 <= video <= n_video
