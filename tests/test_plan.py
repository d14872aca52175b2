"""What a question's prefill will do: counts, labels, depths, refusals."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnidrop_stream.config import (
    DecodeConfig,
    IntraConfig,
    PruningConfig,
    ScheduleConfig,
    StreamConfig,
)
from omnidrop_stream.errors import ConfigError
from omnidrop_stream.method import catch_up_counts
from omnidrop_stream.plan import (
    describe_schedule,
    nominal_r0,
    plan_question,
    policy_for,
    resolve_depth,
    schedule_for,
    slots_within,
)
from omnidrop_stream.types import StreamKind

PAPER = ScheduleConfig(p_init=0.0, p_final=0.2)


def given_schedule(**values) -> PruningConfig:
    return PruningConfig(schedule=ScheduleConfig(**values))


@pytest.mark.parametrize(
    ("kind", "fps", "expected"),
    [
        # method.md 1.2: (144 + 3 * 28 + 70) of 676; the nominal (115.2 + 35) / 338 = 0.444
        (StreamKind.AV, 2.0, 298 / 676),
        (StreamKind.VIDEO, 2.0, 228 / 576),
        (StreamKind.AUDIO, 2.0, 0.7),
        (StreamKind.AV, 1.0, (228 + 140) / (576 + 200)),
        (StreamKind.AV, 4.0, (228 + 35) / (576 + 50)),
        (StreamKind.AV, 8.0, (456 + 35) / (1152 + 50)),
    ],
)
def test_the_share_that_enters_layer_zero(kind, fps, expected):
    r0 = nominal_r0(StreamConfig(kind=kind, fps=fps), IntraConfig(), 144)
    assert r0 == pytest.approx(expected, abs=1e-9)


def test_the_papers_setting_enters_with_44_percent():
    assert nominal_r0(StreamConfig(), IntraConfig(), 144) == pytest.approx(0.4408, abs=1e-4)
    smooth = (0.7 * 50 + 2 * 0.4 * 144) / (50 + 2 * 144)
    assert smooth == pytest.approx(0.444, abs=1e-3)


def test_without_pruning_within_modalities_everything_enters():
    assert nominal_r0(StreamConfig(), IntraConfig(enabled=False), 144) == 1.0


depths = st.integers(0, 28)


@given(
    n0=st.integers(0, 3000),
    depth=depths,
    p_init=st.floats(0, 0.3),
    p_final=st.floats(0, 0.6),
    remembers=st.booleans(),
)
def test_counts_never_rise_and_the_label_says_what_they_are(n0, depth, p_init, p_final, remembers):
    p_init, p_final = sorted((p_init, p_final))
    pruning = given_schedule(p_init=p_init, p_final=p_final)
    plan = plan_question(pruning, n0, 2 * n0, 28, depth, 0.44, remembers)
    paper = plan.policy.counts(n0, 28, max(1, 2 * n0))
    entering = plan.entering
    assert len(entering) == 28
    assert entering[0] == n0
    assert all(a >= b >= 0 for a, b in pairwise(entering))
    assert entering[-1] == (paper[-1] if depth < 28 or plan.label == "read_side" else n0)
    if plan.label in ("exact", "exact_schedule", "read_side"):
        assert entering == paper
    if plan.label == "catch_up":
        assert entering != paper
        assert entering == catch_up_counts(paper, depth)
        assert entering[depth:] == paper[depth:]
        assert set(entering[:depth]) == {n0}
    exact = entering == paper and not (depth == 28 and paper[-1] < n0)
    assert (plan.label in ("exact", "exact_schedule")) == exact
    assert (plan.label == "exact_schedule") == (exact and remembers and depth > 0)


@pytest.mark.parametrize(
    ("depth", "n0", "remembers", "label"),
    [
        (0, 9734, False, "exact"),
        (0, 9734, True, "exact"),
        (4, 9734, False, "exact"),
        (5, 9734, False, "exact"),
        (5, 9734, True, "exact_schedule"),
        (6, 9734, False, "catch_up"),
        (6, 2000, False, "exact"),
        (14, 9734, True, "catch_up"),
        (28, 9734, False, "read_side"),
        (28, 2, False, "exact"),
    ],
)
def test_the_papers_7b_schedule_gets_its_labels(depth, n0, remembers, label):
    plan = plan_question(
        PruningConfig(schedule=PAPER), n0, round(n0 / 0.45), 28, depth, 0.44, remembers
    )
    assert plan.label == label


@pytest.mark.parametrize("policy", ["keep-all", "intra-only"])
@pytest.mark.parametrize("depth", [0, 5, 28])
def test_a_policy_that_drops_nothing_is_exact_at_any_depth(policy, depth):
    plan = plan_question(PruningConfig(policy=policy), 500, 1000, 28, depth, 0.44, False)
    assert plan.entering == (500,) * 28
    assert plan.label == "exact"


def test_an_empty_window_has_a_plan():
    plan = plan_question(PruningConfig(), 0, 0, 28, 0, 0.44, False)
    assert plan.entering == (0,) * 28


@pytest.mark.parametrize(("depth", "layers"), [("half", 14), ("read_side", 28), (9, 9), (0, 0)])
def test_a_depth_by_name_is_a_number_of_layers(depth, layers):
    stream = StreamConfig(prefill_depth=depth)
    pruning = PruningConfig(schedule=PAPER)
    assert resolve_depth(stream, IntraConfig(), pruning, 28, 144) == layers


@pytest.mark.parametrize(
    ("budget", "layers"), [(500, 9), (1000, 8), (2000, 7), (4867, 6), (9734, 5), (20_000, 4)]
)
def test_exact_reaches_the_first_layer_that_drops_at_the_budgets_count(budget, layers):
    stream = StreamConfig(prefill_depth="exact", budget_tokens=budget)
    pruning = PruningConfig(schedule=PAPER)
    assert resolve_depth(stream, IntraConfig(), pruning, 28, 144) == layers


def test_a_depth_beyond_the_model_is_refused():
    with pytest.raises(ConfigError, match=r"prefill_depth = 29 .* 0 to 28"):
        resolve_depth(StreamConfig(prefill_depth=29), IntraConfig(), PruningConfig(), 28, 144)


def test_an_unreachable_retention_names_what_is_reachable():
    with pytest.raises(ConfigError, match=r"retention = 5%.*allowed here: \d+\.\d%"):
        schedule_for(PruningConfig(retention=0.05), 28, 0.44)


@pytest.mark.parametrize("pruning", [PruningConfig(), PruningConfig(schedule=PAPER)])
@pytest.mark.parametrize("layers", [1, 2])
def test_a_model_too_shallow_for_a_schedule_is_refused(pruning, layers):
    with pytest.raises(ConfigError, match=f"{layers} layers"):
        schedule_for(pruning, layers, 0.44)


@pytest.mark.parametrize("layers", [1, 2])
def test_a_shallow_model_can_still_keep_all(layers):
    plan = plan_question(PruningConfig(policy="keep-all"), 5, 5, layers, 0, 1.0, False)
    assert plan.entering == (5,) * layers


def test_a_target_above_what_enters_drops_nothing():
    schedule = schedule_for(PruningConfig(retention=0.5), 28, 0.44)
    assert schedule.p_final == 0.0


def test_an_unknown_policy_names_the_known_ones():
    with pytest.raises(ConfigError, match=r"policy is 'best'; allowed: .*omnidrop"):
        policy_for(PruningConfig(policy="best"), schedule_for(PruningConfig(), 28, 0.44))


@pytest.mark.parametrize("depth", [1, "half", "read_side"])
def test_audio_guidance_is_refused_above_depth_zero(depth):
    with pytest.raises(ConfigError, match="prefill_depth 0"):
        resolve_depth(
            StreamConfig(prefill_depth=depth),
            IntraConfig(),
            PruningConfig(policy="audio-guided"),
            28,
            144,
        )


@pytest.mark.parametrize("depth", ["exact", "auto", 0])
def test_audio_guidance_resolves_to_depth_zero(depth):
    stream = StreamConfig(prefill_depth=depth)
    pruning = PruningConfig(policy="audio-guided")
    assert resolve_depth(stream, IntraConfig(), pruning, 28, 144) == 0


def test_a_young_window_that_cannot_reach_the_target_takes_the_typical_schedule():
    # Twelve layers and one chunk alone, which enters with 61 %: its own r0 cannot reach 18 %.
    pruning = PruningConfig(retention=0.18)
    with pytest.raises(ConfigError, match="cannot be reached"):
        schedule_for(pruning, 12, 207 / 338)
    plan = plan_question(pruning, 207, 338, 12, 0, 0.44, False)
    typical = policy_for(pruning, schedule_for(pruning, 12, 0.44))
    assert plan.entering == typical.counts(207, 12, 338)


@given(st.integers(0, 40_000), st.integers(0, 300))
def test_slots_times_their_ids_stay_within_the_model(limit, base):
    stream, decode = StreamConfig(history_tokens=100), DecodeConfig(question_chars=50, max_tokens=9)
    if base + 2 * 50 + 159 + 32 > limit:
        with pytest.raises(ConfigError, match="lower history_tokens"):
            slots_within(limit, base, 50, stream, decode)
        return
    slots = slots_within(limit, base, 50, stream, decode)
    assert slots >= 2
    assert base + slots * 50 + 159 + 32 <= limit < base + (slots + 1) * 50 + 159 + 32


def test_the_schedules_words_hold_the_closed_form_beside_the_exact_value() -> None:
    text = describe_schedule(PruningConfig(retention=0.30), 28, 0.45)
    assert "closed form of p_final: 0.145" in text
    assert "mean entering retention 30.0%" in text


def test_a_policy_that_drops_nothing_says_so() -> None:
    assert "nothing leaves" in describe_schedule(PruningConfig(policy="keep-all"), 28, 0.45)
