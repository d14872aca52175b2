"""``omnidrop inspect``: a file with questions, the world, a benchmark's folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests import benchmarks as made
from tests.clients.conftest import Omnidrop


def test_a_file_is_inspected_with_questions_of_two_kinds(
    omnidrop: Omnidrop, tmp_path: Path, clips: dict[str, Path]
) -> None:
    out, picture = tmp_path / "found.json", tmp_path / "found.png"
    ran = omnidrop(
        *("inspect", clips["av"], "What is shown?", "What is said?", "--model", "tiny"),
        *("--kind", "seeing", "--kind", "hearing", "--for", "4", "--json", out, "--png", picture),
    )
    assert ran.code == 0
    told = json.loads(out.read_text())
    assert [kept["kind"] for kept in told["retention"]] == ["seeing", "hearing"]
    assert told["chunks"] == 2
    assert picture.read_bytes()[1:4] == b"PNG"
    assert "the strongest 20 % of tokens hold" in ran.out
    assert "enter the last layer, hearing (1): video " in ran.out


def test_the_world_brings_its_own_questions(omnidrop: Omnidrop) -> None:
    ran = omnidrop(
        *("inspect", "demo:", "--model", "tiny", "--clips", "1", "--for", "8", "--kind", "audio")
    )
    assert ran.code == 0
    assert "enter the last layer, audio (1)" in ran.out
    assert "visual" not in ran.out


def test_a_benchmarks_folder_brings_its_own_questions(
    omnidrop: Omnidrop, tmp_path: Path, clips: dict[str, Path]
) -> None:
    folder = made.worldsense(tmp_path / "ws", ["bad", "one"], clips["av"])
    (folder / "videos" / "bad.mp4").write_bytes(b"cut off")
    ran = omnidrop("inspect", f"worldsense={folder}", "--model", "tiny", "--for", "2")
    assert ran.code == 0
    assert "bad skipped" in ran.err
    assert "enter the last layer, Scene Recognition (1)" in ran.out
    refused = omnidrop("inspect", f"worldsense={folder}", "--model", "tiny", "--kind", "Tasting")
    assert "no question of the kind Tasting" in refused.err


def test_without_matplotlib_json_works_and_a_picture_is_refused_at_once(
    omnidrop: Omnidrop,
    tmp_path: Path,
    clips: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == "matplotlib" else find(name)
    )
    command = ("inspect", clips["av"], "What?", "--model", "tiny", "--for", "2")
    ran = omnidrop(*command, "--png", tmp_path / "x.png")
    assert ran.code == 6
    assert "omnidrop-stream[inspect]" in ran.err
    assert omnidrop(*command, "--json", tmp_path / "x.json").code == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["clip.mp4"], "give a question about clip.mp4"),
        (["clip.mp4", "a?", "b?", "--kind", "x"], "2 questions but 1 time --kind"),
        (["clip.mp4", "a?", "--clips", "3"], "--clips is for sources with questions of their own"),
        (["demo:", "--clips", "0"], "--clips is for sources with questions of their own"),
        (["avut=/data", "a?"], "has questions of its own"),
        (["clip.mp4", "a?", "--for", "0"], "--for = 0"),
        (["clip.mp4", "a?", "--png", "no/where.png"], "no folder no"),
    ],
)
def test_a_mistake_is_told_before_anything_is_loaded(
    omnidrop: Omnidrop, words: list[str], told: str
) -> None:
    ran = omnidrop("inspect", *words)
    assert (ran.code, ran.out) == (2, "")
    assert told in ran.err
