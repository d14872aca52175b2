"""When odds mean "now": hysteresis, cool-down, a baseline learnt in quiet time."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from omnidrop_stream.config import make_config, make_watch
from omnidrop_stream.errors import ConfigError
from omnidrop_stream.watch_config import WatchConfig
from omnidrop_stream.watch_judge import State, Verdict, WatchJudge

ODDS = st.floats(-30, 30)
RULES = st.builds(
    WatchConfig,
    text=st.just("x"),
    threshold=st.floats(0.5, 5),
    release=st.floats(-3, 0.4),
    cool_down_s=st.sampled_from([0.0, 3.0, 10.0]),
    learn=st.integers(0, 4),
    memory=st.integers(1, 20),
    settle_s=st.sampled_from([6.0, 60.0]),
)


def rule(**values) -> WatchConfig:
    return WatchConfig(text="x", **{"threshold": 2.0, "learn": 0, "cool_down_s": 0.0, **values})


def run(judge: WatchJudge, odds: list[float], start_s: float = 0.0) -> list[Verdict]:
    return [judge.step(start_s + 2.0 * number, value) for number, value in enumerate(odds)]


def events(verdicts: list[Verdict]) -> list[int]:
    return [number for number, verdict in enumerate(verdicts) if verdict.event]


def test_an_event_is_told_once_when_it_begins():
    assert events(run(WatchJudge(rule()), [-5, -5, 4, 5, 4, -5])) == [2]


def test_what_falls_between_the_two_levels_is_still_the_same_event():
    assert events(run(WatchJudge(rule()), [-5, 4, 1, 4, -5, 4])) == [1, 5]


def test_what_rises_between_the_two_levels_is_no_event():
    assert events(run(WatchJudge(rule()), [-5, 1.9, 1.5, -5])) == []


def test_within_the_cool_down_nothing_is_told_and_after_it_what_still_lasts():
    verdicts = run(WatchJudge(rule(cool_down_s=8.0)), [4, -5, 4, -5, 4, 4])
    assert events(verdicts) == [0, 4]
    assert verdicts[2].state is State.COOLING


def test_the_first_judgements_only_teach():
    verdicts = run(WatchJudge(rule(learn=3)), [9, -5, -5, 9])
    assert [v.state for v in verdicts] == [*[State.LEARNING] * 3, State.ON]


def test_what_was_learnt_from_the_past_counts():
    judge = WatchJudge(rule(learn=3))
    for _ in range(3):
        judge.learn(-5.0)
    assert events(run(judge, [9])) == [0]


def test_a_model_that_likes_to_say_yes_gets_a_higher_baseline():
    judge = WatchJudge(rule(learn=7))
    verdicts = run(judge, [5, 5.2, 4.8, 5.1, 5, 4.9, 5, 5.1, 5, 8, 5])
    assert events(verdicts) == [9]
    assert verdicts[9].score == pytest.approx(8 - verdicts[9].baseline)


def test_a_model_that_denies_is_never_believed_below_even_odds():
    assert events(run(WatchJudge(rule(learn=3)), [-9] * 10 + [-3, 1, 2.5])) == [12]


def test_one_event_among_the_learnt_judgements_does_not_deafen():
    assert events(run(WatchJudge(rule(learn=7)), [-5, -5, 6, 6, -5, -5, -5, 4])) == [7]


def test_what_is_on_teaches_nothing_until_it_is_the_new_normal():
    judge = WatchJudge(rule(settle_s=20.0, learn=2))
    run(judge, [-5, -5, *[6] * 10])
    assert judge.baseline == 0.0
    later = run(judge, [6, 6, 6, 6, 9], start_s=24.0)
    assert events(later) == [4]
    assert judge.baseline == 6.0


def test_an_interruption_ends_what_was_on():
    judge = WatchJudge(rule())
    assert events(run(judge, [4, 4])) == [0]
    assert events(run(judge, [4], start_s=60.0)) == [0]


def test_confidence_is_the_share_of_yes_above_the_baseline():
    verdict = run(WatchJudge(rule()), [3.0])[0]
    assert verdict.confidence == pytest.approx(1 / (1 + math.exp(-3)))
    assert run(WatchJudge(rule()), [-800.0])[0].confidence == 0.0


@pytest.mark.parametrize("odds", [float("nan"), float("inf")])
def test_odds_that_are_no_number_are_refused(odds):
    with pytest.raises(ValueError, match="odds must be finite"):
        WatchJudge(rule()).step(0.0, odds)


def test_time_that_goes_back_is_refused():
    judge = WatchJudge(rule())
    judge.step(4.0, 0.0)
    with pytest.raises(ValueError, match="go forward in time"):
        judge.step(2.0, 0.0)


@given(rule=RULES, odds=st.lists(ODDS, max_size=60))
def test_between_two_events_lie_a_release_and_the_cool_down(rule, odds):
    verdicts = run(WatchJudge(rule), odds)
    told = events(verdicts)
    for first, second in itertools.pairwise(told):
        assert 2.0 * (second - first) >= rule.cool_down_s
        between = verdicts[first + 1 : second]
        settled = 2.0 * (second - first) >= rule.settle_s
        assert settled or any(v.score <= rule.release for v in between)


@given(rule=RULES, odds=st.lists(ODDS, max_size=60))
def test_an_event_stands_at_or_above_the_threshold_and_after_the_learning(rule, odds):
    for number, verdict in enumerate(run(WatchJudge(rule), odds)):
        if verdict.event:
            assert verdict.score >= rule.threshold
            assert number >= rule.learn
            assert 0.5 < verdict.confidence <= 1.0


@given(rule=RULES, odds=st.lists(ODDS, max_size=60))
def test_the_baseline_lies_between_the_floor_and_the_highest_odds(rule, odds):
    judge = WatchJudge(rule)
    run(judge, odds)
    assert rule.floor <= judge.baseline <= max([rule.floor, *odds])


@given(rule=RULES, odds=st.lists(ODDS, min_size=1, max_size=40))
def test_every_verdict_was_judged_by_the_baseline_known_before_it(rule, odds):
    judge = WatchJudge(rule)
    for number, value in enumerate(odds):
        known = judge.baseline
        verdict = judge.step(2.0 * number, value)
        assert (verdict.baseline, verdict.score) == (known, value - known)


@given(odds=st.lists(ODDS, max_size=60))
def test_quiet_odds_below_the_threshold_never_make_an_event(odds):
    low = [min(value, 1.9) for value in odds]
    assert events(run(WatchJudge(rule()), low)) == []


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"text": "  "}, "say in plain words"),
        ({"text": "a", "threshold": 1.0, "release": 1.0}, "release = 1 must be below threshold"),
        ({"text": "a", "treshold": 1.0}, "did you mean 'threshold'"),
        ({"text": "a" * 501}, "text"),
        ({"text": "a", "threshold": float("nan")}, "threshold"),
        ({"text": "\ud800"}, "text"),
    ],
)
def test_a_setting_that_is_not_allowed_is_named(values, words):
    with pytest.raises(ConfigError, match=words):
        make_watch(values)


def test_a_template_without_a_place_for_the_words_is_refused():
    with pytest.raises(ConfigError, match=r"\{watch\}, once"):
        make_config({"stream": {"watches": {"template": "is it now?"}}})


def test_settings_do_not_change_after_they_are_made():
    with pytest.raises(ValidationError):
        rule().threshold = 1.0
