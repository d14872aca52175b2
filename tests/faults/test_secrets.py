"""The search of the suite finds what it looks for, wherever it is and however it is spelt."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.secrets import Case, _command_lines, _search, _Told

CASE = Case("wrong", "file", (), "me", "p@ss 1234/5ü", "ss 12")


@pytest.mark.parametrize(
    "text",
    [
        "p@ss 1234/5ü",
        "p%40ss%201234%2F5%C3%BC",
        "p%40ss%201234/5%C3%BC",
        "..ss 12..",
        "bWU6cEBzcyAxMjM0LzXDvA==",
    ],
)
@pytest.mark.parametrize("where", ["output", "processes", "file"])
def test_a_secret_is_found(tmp_path: Path, text: str, where: str) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "log").write_text(text if where == "file" else "nothing", "utf-8")
    told = _Told(text if where == "output" else "", text if where == "processes" else "", 0)
    assert len(_search([CASE], told, tmp_path)) == 1


def test_nothing_is_found_where_nothing_is(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    assert _search([CASE], _Told("rtsp://***@cam/1", "python", 0), tmp_path) == []


def test_the_command_lines_of_a_process_and_its_children_are_seen() -> None:
    code = "import subprocess, sys; subprocess.run(['cat', '-', '/dev/null'])"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as child:
        for _ in range(2000):
            lines = [line.split("\0")[0] for line in _command_lines(child.pid)]
            if "cat" in lines:
                break
        child.communicate(b"")
    assert "cat" in lines
    assert any("python" in line for line in lines)
