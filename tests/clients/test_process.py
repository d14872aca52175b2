"""The command as a real process: pipes, exit codes, a reader that leaves, an interruption."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from clients.cli import main
from tests.clients.conftest import Omnidrop

LIGHT = "clients.cli, clients.ask, clients.options, clients.contract, clients.doctor, clients.demo"


def test_no_face_imports_torch_or_transformers(repository: Path) -> None:
    code = (
        f"import sys, {LIGHT}, clients.terminal, runtime.asking, runtime.models, runtime.health\n"
        "heavy = {'torch', 'transformers', 'rich', 'huggingface_hub'} & set(sys.modules)\n"
        "sys.exit(', '.join(sorted(heavy)) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_pipe_gets_no_control_character_and_no_colour(process: Omnidrop, clips: dict) -> None:
    ran = process("ask", clips["av"], "What?", "--model", "tiny", "--max-tokens", "8")
    assert ran.code == 0
    for text in (ran.out, ran.err):
        assert text.replace("\n", "").isprintable()
    assert len(ran.err.splitlines()) == 1


def test_a_mistake_has_its_exit_code_and_one_sentence(process: Omnidrop, clips: dict) -> None:
    ran = process("ask", clips["missing"], "What?")
    assert (ran.code, ran.out) == (3, "")
    assert ran.err.startswith("omnidrop: ")
    assert ran.err.count("\n") == 1


@pytest.mark.parametrize(
    "command",
    [
        ["ask", "CLIP", "a", "--json", "-q"],
        ["config", "--help"],
        ["config", "schema"],
        ["--help"],
    ],
    ids=" ".join,
)
def test_a_reader_that_has_left_ends_it_quietly(
    repository: Path, clips: dict, command: list[str]
) -> None:
    words = [str(clips["av"]) if word == "CLIP" else word for word in command]
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "clients.cli", *words],
            cwd=repository,
            stdout=writing,
            stderr=subprocess.PIPE,
            timeout=100,
            check=False,
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("form", ["plain", "json"])
def test_a_live_run_whose_reader_has_left_ends_with_0(
    monkeypatch: pytest.MonkeyPatch, clips: dict, form: str
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as stdout:
        monkeypatch.setattr("sys.stdout", stdout)
        command = ["live", str(clips["av"]), "--fast", "--ask", "a", "--model", "tiny", "-q"]
        assert main([*command, "--json"] if form == "json" else command) == 0


def test_an_interruption_ends_it_with_its_code(interruptible: None, repository: Path) -> None:
    command = [sys.executable, "-m", "clients.cli", "ask", "demo:", "a", "--at", "900000"]
    with subprocess.Popen(
        [*command, "--model", "tiny", "--json", "-q"],
        cwd=repository,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ,
    ) as running:
        states = (json.loads(line)["state"] for line in running.stdout)
        assert next(state for state in states if state == "reading")
        running.send_signal(signal.SIGINT)
        err = running.stderr.read()
        assert (running.wait(100), err) == (130, b"omnidrop: interrupted\n")


def test_a_terminal_that_knows_only_ascii_gets_an_answer_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    raw = io.BytesIO()
    with io.TextIOWrapper(raw, encoding="ascii") as stdout:
        monkeypatch.setattr("sys.stdout", stdout)
        code = main(["ask", "demo:?seconds=3", "Wie groß?", "--model", "tiny", "--max-tokens", "4"])
        written = raw.getvalue()
    assert code == 0
    assert written.startswith(b"[00:03] Wie gro\\xdf?\n")
