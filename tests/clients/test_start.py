"""The process from its first line: closed and full standard streams, an early Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

from runtime.models import interrupt_waits
from tests.clients.conftest import Ran

ASK = '-m clients.cli ask missing.mp4 "What?"'


def shell(repository: Path, words: str) -> Ran:
    """Python with ``words``, which a shell reads; its output buffered, as it is by default."""
    default = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(
        f'exec "{sys.executable}" {words}',
        shell=True,
        executable="/bin/sh",
        cwd=repository,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        stdin=subprocess.DEVNULL,
        env=default,
    )
    return Ran(done.returncode, done.stdout, done.stderr)


def test_the_installed_command_begins_where_nothing_heavy_is_imported(repository: Path) -> None:
    scripts = tomllib.loads((repository / "pyproject.toml").read_text())["project"]["scripts"]
    module, _, name = scripts["omnidrop"].partition(":")
    assert callable(getattr(import_module(module), name))
    code = f"import sys, {module}; sys.exit(bool({{'typer', 'typing'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-S", "-c", code], cwd=repository, check=False)
    assert done.returncode == 0


def test_a_closed_stdout_is_told_in_a_sentence_before_any_work(repository: Path) -> None:
    ran = shell(repository, f"{ASK} >&-")
    assert ran.code == 1
    assert ran.err.startswith("omnidrop: standard output is closed: ")
    assert ran.err.count("\n") == 1


def test_a_closed_stderr_does_not_matter(repository: Path) -> None:
    assert shell(repository, f"{ASK} 2>&-") == Ran(3, "", "")


def test_a_closed_stdin_is_an_empty_one(repository: Path) -> None:
    live = '-m clients.cli live "demo:?seconds=2" --fast --model tiny --ask - -q <&-'
    assert shell(repository, live) == Ran(0, "", "")


def test_a_node_may_be_started_with_stdout_closed(repository: Path, tmp_path: Path) -> None:
    ran = shell(repository, f"-m clients.cli serve {tmp_path}/none.yaml >&-")
    assert ran.code == 2
    assert "there is no configuration file" in ran.err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_behind_stdout_is_named(repository: Path) -> None:
    ran = shell(repository, "-m clients.cli --version >/dev/full")
    assert ran.code == 1
    assert ran.err == (
        "omnidrop: standard output cannot be written (No space left on device); send it to a place "
        "with free space\n"
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("command", ["ask missing.mp4 x", "live missing.mp4", "probe missing.mp4"])
def test_a_failure_is_told_in_a_sentence_where_its_json_cannot_be_written(
    repository: Path, command: str
) -> None:
    ran = shell(repository, f"-m clients.cli {command} --json >/dev/full")
    assert ran.code == 3
    *_, last = ran.err.splitlines()
    assert last.startswith("omnidrop: missing.mp4: ")
    assert "; besides, standard output cannot be written (No space left on device)" in last
    assert "Traceback" not in ran.err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("command", ["doctor", 'ask "demo:?seconds=2" x --model tiny -q'])
def test_a_full_disk_behind_json_lines_is_told_once(repository: Path, command: str) -> None:
    ran = shell(repository, f"-m clients.cli {command} --json >/dev/full")
    assert ran.code == 1
    assert ran.err.startswith("omnidrop: standard output cannot be written (No space left on dev")
    assert ran.err.count("\n") == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_behind_stderr_changes_no_exit_code(repository: Path) -> None:
    assert shell(repository, f"{ASK} 2>/dev/full") == Ran(3, "", "")


def test_ctrl_c_while_the_command_line_is_imported_ends_it_with_its_code(
    interruptible: None, repository: Path, tmp_path: Path
) -> None:
    (tmp_path / "typer.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    done = subprocess.run(
        [sys.executable, "-m", "clients.start", "doctor"],
        cwd=repository,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        timeout=100,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"omnidrop: interrupted\n")


def test_ctrl_c_waits_for_the_end_of_what_must_not_be_torn(interruptible: None) -> None:
    reached: list[bool] = []

    def torn() -> None:
        with interrupt_waits():
            os.kill(os.getpid(), signal.SIGINT)
            reached.append(True)

    with pytest.raises(KeyboardInterrupt):
        torn()
    assert reached
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
