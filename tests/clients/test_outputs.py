"""Where reports go is looked at before the work."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from clients.mistakes import told_of
from clients.outputs import check_outputs
from omnidrop_stream.errors import UsageError
from tests.clients.conftest import Omnidrop


@pytest.fixture
def nowhere(tmp_path: Path) -> Path:
    """A name under which no file can be made."""
    return tmp_path / ("x" * 300 + ".json")


def test_every_command_refuses_a_place_that_cannot_be_written_before_its_work(
    omnidrop: Omnidrop, nowhere: Path
) -> None:
    no_model = ("--model", nowhere.parent / "missing")  # told first, had the work begun
    avut = ("benchmark", "run", "--benchmark", "avut", "--data", "x")
    for flag, words in (
        ("--json", ("eval", "--quick")),
        ("--state", ("eval", "--quick")),
        ("--markdown", ("eval", "--quick")),
        ("--json", ("bench", "latency", "--quick")),
        ("--json", ("bench", "live")),
        ("--json", ("bench", "table2", "--quick")),
        ("--trace", ("bench", "profile", "--quick")),
        ("--markdown", ("bench", "weights", "--quick")),
        ("--markdown", ("bench", "watches", "--quick")),
        ("--markdown", ("bench", "streams", "--quick")),
        ("--state", avut),
        ("--json", avut),
        ("--png", ("inspect", "demo:")),
        ("--trace", ("live", "demo:", "--ask", "a")),
    ):
        ran = omnidrop(*words, *no_model, flag, nowhere)
        assert ran.code == 2, words
        assert ran.err.startswith(f"omnidrop: {flag} = {nowhere} cannot be written (File name too")
        assert ran.err.count("\n") == 1


def test_a_world_that_cannot_be_written_is_refused_by_its_name(
    omnidrop: Omnidrop, nowhere: Path
) -> None:
    out = nowhere.with_suffix(".mp4")
    ran = omnidrop("world", "render", out)
    assert ran.code == 2
    assert ran.err.startswith(f"omnidrop: OUT = {out} cannot be written (File name too long): ")


def test_looking_leaves_no_file_behind_and_changes_none(tmp_path: Path) -> None:
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    old.write_text("{}")
    check_outputs({"--json": old, "--markdown": new, "--png": None})
    assert (old.read_text(), new.exists()) == ("{}", False)


def test_a_pipe_is_not_opened_while_looking(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    check_outputs({"--json": tmp_path / "pipe"})


def test_a_folder_is_no_place_for_a_report(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--json = .* cannot be written \(Is a directory\)"):
        check_outputs({"--json": tmp_path})


@pytest.mark.parametrize(
    ("number", "advice"),
    [(28, "free some space"), (13, "check the permissions"), (2, "check the name")],
)
def test_what_the_system_refuses_is_named_with_advice_that_fits(number: int, advice: str) -> None:
    told = str(told_of(OSError(number, os.strerror(number), "there.mp4")))
    assert told.startswith(f"the system refused 'there.mp4': {os.strerror(number)}; {advice}")
