"""Rows and results, on screen and in files."""

from __future__ import annotations

from pathlib import Path

from tests.faults import report
from tests.faults.report import Result, Row

GOOD = Row("killed 50x", "p95 3.1 s", "<= 6 s", True, {"seconds": [3.1]})
BAD = Row("cut | healed", "12 s", "<= 10 s", False)


def test_a_line_says_what_was_measured_against_what() -> None:
    assert report.line("restarts", GOOD) == "ok   restarts: killed 50x: p95 3.1 s (limit: <= 6 s)"
    assert report.line("cut", BAD).startswith("FAIL cut:")


def test_a_result_holds_only_where_every_row_does_and_it_came_to_its_end() -> None:
    assert Result("a", (GOOD,), 1.0).passed
    assert not Result("a", (GOOD, BAD), 1.0).passed
    assert not Result("a", (GOOD,), 1.0, broke="exit status -11").passed
    assert not Result("a", (), 1.0).passed


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "faults.json"
    results = [Result("restarts", (GOOD, BAD), 2.5, "", report.conditions())]
    report.write(results, path)
    assert report.read(path) == results
    assert report.read(tmp_path / "none.json") == []


def test_a_new_run_replaces_only_its_own_fault() -> None:
    old = [Result("a", (BAD,), 1.0), Result("b", (GOOD,), 1.0)]
    assert report.merged(old, [Result("a", (GOOD,), 2.0)]) == [
        Result("a", (GOOD,), 2.0),
        Result("b", (GOOD,), 1.0),
    ]


def test_the_table_names_what_did_not_hold_and_what_broke() -> None:
    text = report.to_markdown([Result("cut", (BAD,), 1.0, "exit status -11")])
    assert "| cut | cut / healed | 12 s | <= 10 s | **no** |" in text
    assert "exit status -11" in text


def test_conditions_name_commit_machine_load_and_versions() -> None:
    told = report.conditions()
    assert told["commit"]
    assert told["cores"] >= 1
    assert len(told["load_average"]) == 3
    assert set(told["versions"]) == set(report.VERSIONS)
