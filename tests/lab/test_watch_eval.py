"""Standing questions measured: what is an event, what is a hit, and a small run of the command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from omnidrop_stream.config import make_config
from omnidrop_stream.errors import ConfigError
from omnidrop_stream.lab.watch_eval import WatchBench, p95, report_of, watches_of
from omnidrop_stream.lab.watch_score import Hit, Point, happenings, messages_of, score
from omnidrop_stream.types import Evidence
from omnidrop_stream.watch_config import WatchConfig
from omnidrop_stream.world import Event, World
from omnidrop_stream.world.items import BELL
from tests.clients.conftest import Omnidrop
from tests.clients.conftest import omnidrop as omnidrop

RULE = WatchConfig(text="x", learn=0, cool_down_s=0.0)


def bell(chunk: int) -> tuple[int, Event]:
    return chunk, Event(BELL, "audio", 2.0 * chunk + 0.5, 2.0 * chunk + 1.2)


def points(odds: list[float | None], evidence: tuple[Evidence, ...] = ()) -> list[Point]:
    return [Point(n, 2.0 * n + 2.0, value, evidence, 30.0) for n, value in enumerate(odds)]


def test_occurrences_at_most_two_chunks_apart_are_one_event():
    found = happenings([bell(3), bell(5), bell(8), bell(9)])
    assert [(e.first, e.last, len(e.occurrences)) for e in found] == [(3, 5, 2), (8, 9, 2)]
    assert found[0].ended_s == 7.2


def test_a_message_after_the_event_s_chunk_or_the_next_is_a_hit():
    for told_at in (3, 4):
        odds = [-5.0] * 6
        odds[told_at] = 5.0
        outcome = score(points(odds), happenings([bell(3)]), RULE)
        delay_s = 2.0 * told_at + 2.0 - 7.2
        assert outcome.hits == (Hit(pytest.approx(delay_s), 30.0, grounded=False),)
        assert (outcome.missed, outcome.false, outcome.again) == (0, 0, 0)


@pytest.mark.parametrize("told_at", [2, 5])
def test_a_message_before_or_later_is_false_and_the_event_missed(told_at):
    odds = [-5.0] * 6
    odds[told_at] = 5.0
    outcome = score(points(odds), happenings([bell(3)]), RULE)
    assert (outcome.hits, outcome.missed, outcome.false) == ((), 1, 1)


def test_a_second_message_about_the_same_event_counts_against_precision():
    odds = [-5.0, 5.0, -5.0, 5.0, -5.0]
    outcome = score(points(odds), happenings([bell(1), bell(2)]), RULE)
    assert (len(outcome.hits), outcome.again, outcome.messages) == (1, 1, 2)


def test_events_that_begin_while_it_learns_are_left_out():
    rule = RULE.model_copy(update={"learn": 2})
    outcome = score(points([5.0, 5.0, -5.0, -5.0]), happenings([bell(1)]), rule)
    assert (outcome.events, outcome.unheard, outcome.messages) == (0, 1, 0)


def test_evidence_is_right_in_its_modality_and_where_it_overlaps():
    events = happenings([bell(1)])
    for span, right in [
        (Evidence(2.0, 4.0, "audio", 1.0), True),
        (Evidence(2.0, 4.0, "video", 1.0), False),
        (Evidence(0.0, 2.0, "audio", 1.0), False),
    ]:
        hit = score(points([-5.0, 5.0], (span,)), events, RULE).hits[0]
        assert hit.grounded is right


def test_stretches_without_odds_tell_nothing():
    assert messages_of(points([None, 5.0, None]), RULE)[0].chunk == 1
    assert score(points([None, None]), [], RULE).judged == 2


def test_watches_are_drawn_from_the_seed_and_name_what_comes_and_what_never_does():
    bench = WatchBench(make_config({}), RULE, chunks=40)
    world = World(5, "test")
    asked = watches_of(world, bench, 5)
    shown = {truth.thing for truth in world.truths(0, 40)}
    things = [what for kind, what, _ in asked if kind == "thing"]
    assert [what in shown for what in things] == [True] * 5 + [False] * 2
    assert [config.sound_only for kind, _, config in asked] == [k != "thing" for k, _, _ in asked]
    assert asked == watches_of(world, bench, 5)
    assert asked != watches_of(world, bench, 6)


def test_p95_is_the_value_that_95_percent_do_not_pass():
    assert p95(list(np.arange(1, 101, dtype=float))) == 95.0
    assert p95([3.0]) == 3.0


def test_a_report_of_nothing_is_refused():
    with pytest.raises(ConfigError, match="no stream was played"):
        report_of(None, WatchBench(make_config({}), RULE), [])


def test_the_command_writes_a_report(omnidrop: Omnidrop, tmp_path: Path):
    json_at, markdown_at = tmp_path / "w.json", tmp_path / "w.md"
    files = ("--json", json_at, "--markdown", markdown_at)
    ran = omnidrop(
        "bench", "watches", "--streams", 1, "--chunks", 10, "--model", "embedded", *files
    )
    report = json.loads(json_at.read_text())
    assert ran.code == 0
    watches = [row["watches"] for row in report["rows"]]
    assert [row["kind"] for row in report["rows"]] == ["bell", "word", "thing", "all"]
    assert watches[:2] == [1, 4]
    assert watches[3] == sum(watches[:3])
    assert report["totals"]["judgements"] == 10 * watches[3]
    assert report["totals"]["events"] == sum(row["events"] for row in report["rows"][:3])
    assert 0 < report["cost"]["share_of_period_one"] < report["cost"]["share_of_period_all"]
    assert markdown_at.read_text() == ran.out
    assert "## What was told" in ran.out


def test_a_report_that_cannot_be_written_is_refused_at_once(omnidrop: Omnidrop, tmp_path: Path):
    ran = omnidrop("bench", "watches", "--quick", "--json", tmp_path / "no" / "w.json")
    assert ran.code == 2
    assert "there is no folder" in ran.err
