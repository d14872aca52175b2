"""policies/: what leaves under each policy, and what each promises."""

import pytest
import torch

from omnidrop_stream.method import (
    POLICIES,
    AudioGuided,
    KeepAll,
    OmniDrop,
    PolicySettings,
    Random,
    Schedule,
    lowest_prune,
    make_policy,
    temporal_diversity_prune,
    token_counts,
)

S = torch.tensor([0.9, 0.1, 0.3, 0.25, 0.2, 0.4])
CHUNK = torch.tensor([0, 0, 1, 1, 2, 2])
MODALITY = torch.tensor([0, 1, 0, 1, 0, 1])
SCHEDULE = Schedule(p_init=0.02, p_final=0.5)
VARIANTS = (
    "omnidrop-printed",
    "omnidrop-normalised",
    "omnidrop-guarded",
    "omnidrop-no-tds",
)
PRUNING = ("omnidrop", *VARIANTS, "audio-guided", "last-token", "random", "recent-first")
OWN_PACE = [name for name in POLICIES if make_policy(name).paced_by == "retention"]


@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_is_known_under_its_own_name(name):
    assert make_policy(name).name == name


def test_an_unknown_policy_is_refused_with_the_names_that_are_known():
    with pytest.raises(ValueError, match="keep-all, last-token, omnidrop") as caught:
        make_policy("fastv")
    assert all(name in str(caught.value) for name in POLICIES)


def test_a_misspelt_policy_is_refused_with_the_nearest_name():
    with pytest.raises(ValueError, match="did you mean 'recent-first'"):
        make_policy("recent-frist")


@pytest.mark.parametrize("name", PRUNING)
def test_every_pruning_policy_has_the_schedules_counts(name):
    policy = make_policy(name, PolicySettings(schedule=SCHEDULE))
    assert policy.counts(1_000, 28, 2_200) == token_counts(SCHEDULE, 1_000, 28)


@pytest.mark.parametrize("name", ["keep-all", "intra-only"])
def test_the_keeping_policies_hold_every_token_in_every_layer(name):
    assert make_policy(name).counts(1_000, 28, 2_200) == (1_000,) * 28


@pytest.mark.parametrize("name", POLICIES)
def test_only_keep_all_and_what_chooses_before_the_decoder_take_unpruned_chunks(name):
    policy = make_policy(name)
    assert policy.intra == (name != "keep-all" and policy.input_stage is None)


@pytest.mark.parametrize("name", POLICIES)
def test_audio_guidance_and_what_chooses_before_the_decoder_need_depth_zero(name):
    policy = make_policy(name)
    wanted = name == "audio-guided" or policy.input_stage is not None
    assert policy.requires_depth_zero == wanted


@pytest.mark.parametrize(
    ("name", "guidance"),
    [("omnidrop", "question"), ("audio-guided", "audio"), ("last-token", "last"),
     ("random", "none"), ("intra-only", "none"), ("keep-all", "none"), ("recent-first", "none"),
     ("omnidrop-printed", "question"), ("seats-in-layer", "last")],
)  # fmt: skip
def test_each_policy_says_who_guides(name, guidance):
    assert make_policy(name).guidance == guidance


@pytest.mark.parametrize("name", PRUNING)
@pytest.mark.parametrize("k", [0, 1, 3, 6])
def test_a_pruning_policy_drops_exactly_k_ascending_indices(name, k):
    dropped = make_policy(name).drop(20, 28, S, CHUNK, MODALITY, k).tolist()
    assert len(dropped) == k
    assert dropped == sorted(set(dropped))


def test_omnidrop_goes_by_score_alone_above_the_middle():
    dropped = OmniDrop().drop(13, 28, S, CHUNK, MODALITY, 2)
    assert torch.equal(dropped, lowest_prune(S, 2))


def test_omnidrop_uses_algorithm_1_from_the_middle_on():
    dropped = OmniDrop(div_weight=3.0).drop(14, 28, S, CHUNK, MODALITY, 2)
    assert torch.equal(dropped, temporal_diversity_prune(S, CHUNK, 2, 3.0))
    assert not torch.equal(dropped, lowest_prune(S, 2))


@pytest.mark.parametrize(("layer", "diverse"), [(18, False), (19, True)])
def test_the_layer_from_which_algorithm_1_is_used_can_be_set(layer, diverse):
    policy = OmniDrop(tds_from_layer=19, div_weight=3.0)
    dropped = policy.drop(layer, 36, S, CHUNK, MODALITY, 2)
    assert torch.equal(dropped, lowest_prune(S, 2)) != diverse


def test_the_settings_reach_algorithm_1():
    settings = PolicySettings(tds_from_layer=0, div_weight=3.0, guard_key_chunk=True)
    dropped = make_policy("omnidrop", settings).drop(0, 28, S, CHUNK, MODALITY, 3)
    guarded = temporal_diversity_prune(S, CHUNK, 3, 3.0, guard_key_chunk=True)
    assert torch.equal(dropped, guarded)
    assert not torch.equal(guarded, temporal_diversity_prune(S, CHUNK, 3, 3.0))


@pytest.mark.parametrize(
    ("name", "normalise", "guard"),
    [("omnidrop-printed", "none", False), ("omnidrop-normalised", "max", False),
     ("omnidrop-guarded", "none", True)],
)  # fmt: skip
@pytest.mark.parametrize("configured", [("none", False), ("max", True)])
def test_a_named_variant_is_what_it_says_whatever_is_configured(name, normalise, guard, configured):
    settings = PolicySettings(normalise=configured[0], guard_key_chunk=configured[1])
    dropped = make_policy(name, settings).drop(20, 28, S, CHUNK, MODALITY, 3)
    expected = temporal_diversity_prune(S, CHUNK, 3, 0.2, normalise, guard)
    assert torch.equal(dropped, expected)


def test_without_tds_the_lowest_scores_leave_in_every_layer():
    policy = make_policy("omnidrop-no-tds", PolicySettings(div_weight=3.0))
    assert torch.equal(policy.drop(26, 28, S, CHUNK, MODALITY, 3), lowest_prune(S, 3))
    printed = make_policy("omnidrop-printed", PolicySettings(div_weight=3.0))
    assert not torch.equal(printed.drop(26, 28, S, CHUNK, MODALITY, 3), lowest_prune(S, 3))


def test_the_exponential_variant_differs_in_its_counts_alone():
    settings = PolicySettings(schedule=SCHEDULE)
    policy = make_policy("omnidrop-exponential", settings)
    assert policy.paced_by == "exponential"
    assert policy.counts(1_000, 28, 2_200) == token_counts(
        Schedule("exponential", 0.02, 0.5), 1_000, 28
    )
    plain = make_policy("omnidrop", settings).drop(20, 28, S, CHUNK, MODALITY, 2)
    assert torch.equal(policy.drop(20, 28, S, CHUNK, MODALITY, 2), plain)


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_recent_first_drops_the_oldest_chunks_wherever_they_stand(k):
    shuffled = torch.tensor([2, 0, 1, 0, 2, 1])
    dropped = make_policy("recent-first").drop(9, 28, None, shuffled, MODALITY, k).tolist()
    assert sorted(dropped, key=lambda i: (shuffled[i], i)) == [1, 3, 2, 5, 0][:k]


@pytest.mark.parametrize("name", OWN_PACE)
def test_a_policy_that_paces_itself_refuses_a_schedule_in_place_of_a_retention(name):
    with pytest.raises(ValueError, match="paces itself"):
        make_policy(name, PolicySettings(retention=None))


def test_audio_guidance_drops_by_omnidrops_rule():
    rule = OmniDrop(div_weight=3.0)
    dropped = AudioGuided(rule).drop(20, 28, S, CHUNK, MODALITY, 2)
    assert torch.equal(dropped, rule.drop(20, 28, S, CHUNK, MODALITY, 2))


def test_the_last_token_policy_goes_by_score_alone_in_every_layer():
    dropped = make_policy("last-token").drop(26, 28, S, CHUNK, MODALITY, 2)
    assert torch.equal(dropped, lowest_prune(S, 2))


@pytest.mark.parametrize("name", ["omnidrop", "audio-guided", "last-token"])
def test_a_guided_policy_refuses_to_drop_without_scores(name):
    with pytest.raises(ValueError, match=name):
        make_policy(name).drop(0, 28, None, CHUNK, MODALITY, 1)


def test_random_draws_the_same_tokens_for_the_same_seed_and_layer():
    chunk = torch.zeros(100, dtype=torch.long)
    first = Random(seed=3).drop(5, 28, None, chunk, chunk, 40)
    torch.rand(7)  # the global generator has no part in it
    assert torch.equal(first, Random(seed=3).drop(5, 28, None, chunk, chunk, 40))


@pytest.mark.parametrize(("seed", "layer"), [(3, 6), (4, 5)])
def test_random_draws_other_tokens_for_another_seed_or_layer(seed, layer):
    chunk = torch.zeros(100, dtype=torch.long)
    first = Random(seed=3).drop(5, 28, None, chunk, chunk, 40)
    assert not torch.equal(first, Random(seed=seed).drop(layer, 28, None, chunk, chunk, 40))


def test_random_does_not_touch_the_global_generator():
    before = torch.random.get_rng_state()
    Random(seed=3).drop(5, 28, None, CHUNK, MODALITY, 2)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("name", ["keep-all", "intra-only"])
def test_a_keeping_policy_refuses_to_drop_a_token(name):
    policy = make_policy(name)
    assert policy.drop(0, 28, None, CHUNK, MODALITY, 0).tolist() == []
    with pytest.raises(ValueError, match=name):
        policy.drop(0, 28, None, CHUNK, MODALITY, 1)


def test_more_tokens_than_there_were_before_pruning_are_refused():
    with pytest.raises(ValueError, match="n0 <= n_unpruned"):
        KeepAll().counts(11, 28, 10)
