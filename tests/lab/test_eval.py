"""The scores of an evaluation: what is right, what is grounds, and how sure a mean is."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from omnidrop_stream.errors import ConfigError
from omnidrop_stream.lab.eval_check import offline_chunks
from omnidrop_stream.lab.eval_play import chunks_of, delivered, questions_for
from omnidrop_stream.lab.eval_score import (
    chance_of_hit,
    clustered,
    difference,
    evidence_cells,
    is_right,
    score_evidence,
)
from omnidrop_stream.lab.eval_types import eval_settings
from omnidrop_stream.types import Evidence
from omnidrop_stream.world import Event, World
from tests.streams import all_same

STARTS = [0.0, 2.0, 4.0, 6.0]


@pytest.mark.parametrize(
    "text", ["red circle", " Red circle.", "the  red circle", '"a red circle"']
)
def test_case_stop_article_and_blanks_do_not_make_an_answer_wrong(text: str) -> None:
    assert is_right(text.strip('"') if text[0] == '"' else text, "red circle")


@pytest.mark.parametrize("text", ["red", "red circle red", "circle", ""])
def test_more_or_less_than_the_truth_is_wrong(text: str) -> None:
    assert not is_right(text, "red circle")


def test_evidence_is_counted_in_chunks_once_for_both_modalities() -> None:
    named = [Evidence(2.0, 4.0, "audio", 0.5), Evidence(2.0, 4.0, "video", 0.2)]
    events = [Event("seven", "audio", 2.3, 2.9), Event("red ring", "video", 6.0, 7.0)]
    cells = evidence_cells(named, events, STARTS)
    assert (cells["named"], cells["true"], cells["right"], cells["window"]) == (1, 2, 1, 4)
    assert (cells["events"], cells["events_hit"], cells["spans"]) == (2, 1, 2)


def test_a_span_that_only_touches_a_chunk_is_not_in_it() -> None:
    cells = evidence_cells(
        [Evidence(2.0, 4.0, "audio", 1.0)], [Event("x", "audio", 4.0, 4.5)], STARTS
    )
    assert cells["right"] == 0


def test_chance_is_that_of_naming_chunks_at_random() -> None:
    window, true, named = 6, {0, 4}, 2
    draws = list(itertools.combinations(range(window), named))
    expected = sum(bool(true & set(draw)) for draw in draws) / len(draws)
    assert chance_of_hit(window, len(true), named) == pytest.approx(expected)


def test_a_standard_error_is_that_of_a_ratio_over_streams() -> None:
    found = clustered([(3, 4), (1, 2), (4, 4)])
    assert found is not None
    value = 8 / 10
    residuals = [3 - 4 * value, 1 - 2 * value, 4 - 4 * value]
    expected = math.sqrt(3 / 2 * sum(r * r for r in residuals)) / 10
    assert (found.n, found.value) == (10, pytest.approx(value))
    assert found.error == pytest.approx(expected)


def test_with_one_question_a_stream_the_error_is_the_usual_one() -> None:
    found = clustered([(1, 1)] * 8 + [(0, 1)] * 2)
    assert found is not None
    assert found.error == pytest.approx(math.sqrt(0.8 * 0.2 / 9))


def test_one_stream_tells_nothing_about_spread() -> None:
    found = clustered([(3, 4)])
    assert found is not None
    assert found.error is None


def test_a_paired_difference_of_like_answers_is_certain() -> None:
    found = difference([(3, 3, 4), (1, 1, 4)])
    assert found is not None
    assert (found.value, found.error) == (0.0, 0.0)


def test_evidence_is_scored_on_correct_answers_with_grounds_only() -> None:
    hit = evidence_cells([Evidence(0.0, 2.0, "audio", 1.0)], [Event("a", "audio", 0.5, 1)], STARTS)
    miss = evidence_cells([Evidence(4.0, 6.0, "audio", 1.0)], [Event("a", "audio", 0.5, 1)], STARTS)
    none = evidence_cells([Evidence(4.0, 6.0, "audio", 1.0)], [], STARTS)
    answers = [(True, hit), (True, miss), (False, miss), (True, none)]
    found = score_evidence([[{"ok": ok, "grounds": grounds} for ok, grounds in answers]])
    assert found is not None
    assert (found.hit.n, found.hit.value, found.precision.value) == (2, 0.5, 0.5)
    assert (found.chance, found.named) == (pytest.approx(0.25), 0.25)


@pytest.mark.parametrize("gaps", [0.0, 1.0])
def test_the_chunker_and_the_arrays_give_the_same_chunks(gaps: float) -> None:
    world, indices = World(4, "test"), delivered(4, 5, gaps)
    assert (len(indices), indices[-1] > 4) == (5, gaps == 1.0)
    streamed = list(chunks_of(indices, world.chunk, blocks=20))
    assert all_same(streamed, list(offline_chunks(world, indices)))


def test_questions_never_rest_on_a_chunk_that_is_missing() -> None:
    world, indices = World(4, "test"), delivered(4, 5, 1.0)
    for question in questions_for(world, indices, 4):
        assert all(int(event.from_s // 2) in indices for event in question.evidence)


def test_questions_are_the_same_for_the_same_stream() -> None:
    asked = [list(questions_for(World(4, "test"), range(4), 4)) for _ in range(2)]
    assert asked[0] == asked[1]


def test_a_policy_that_drops_nothing_is_one_cell_whatever_the_retention() -> None:
    grid = {"policies": ["keep-all", "omnidrop"], "retentions": [0.3, 0.4], "depths": [0, "exact"]}
    cells = eval_settings({"eval": grid}).cells
    assert len(cells) == 6
    assert cells[0].retention is None


@pytest.mark.parametrize(
    ("grid", "named"),
    [
        ({"polices": ["omnidrop"]}, "did you mean 'policies'"),
        ({"policies": ["best"]}, "there is no policy 'best'; allowed: "),
        ({"retentions": [1.5]}, "retentions.0 = 1.5"),
        ({"depths": ["deep"]}, "depths"),
        ({"depths": ["auto"]}, "auto depends on the machine"),
        ({"chunks": []}, "chunks"),
        ({"streams": 0}, "streams = 0"),
    ],
)
def test_a_setting_of_the_grid_that_is_not_allowed_is_named(grid: dict, named: str) -> None:
    with pytest.raises(ConfigError, match=named.replace("(", r"\(")) as caught:
        eval_settings({"eval": grid})
    assert "\n" not in str(caught.value)


def test_standing_gaps_come_in_the_share_that_is_asked_for() -> None:
    holed = np.mean([delivered(seed, 8, 0.25)[-1] == 8 for seed in range(400)])
    assert holed == pytest.approx(0.25, abs=0.06)
