"""``omnidrop live`` as a real process: a terminal, signals, readers that leave or do not read."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.runtime.servers import silent_port

__all__ = ["silent_port"]

WAIT_S = 40.0
CTRL_C = "\x03"
ENDLESS = ("live", "demo:", "--model", "tiny", "--max-tokens", "6")
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>]")


OWNED = """
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
"""Makes standard input the terminal of the process, as a shell's is: where keys are not read as
keys, while something is printed, Ctrl-C comes as a signal.
"""


@contextmanager
def started(
    repository: Path, *arguments: str, owned: bool = False, **streams: int
) -> Iterator[subprocess.Popen[bytes]]:
    front = ["-c", OWNED] if owned else []
    process = subprocess.Popen(
        [sys.executable, *front, "-m", "clients.cli", *arguments],
        cwd=repository,
        env={**os.environ, "TERM": "xterm"},
        **streams,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait(WAIT_S)
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


class Terminal:
    """The person's end of a pseudo-terminal."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._text = ""
        self.seen = ""
        """All that was read until what was waited for last."""

    def type(self, text: str) -> None:
        os.write(self._number, text.encode())

    def sees(self, text: str) -> None:
        """Read until ``text`` appears after what was waited for before."""
        until = time.monotonic() + WAIT_S
        while (at := self._text.find(text)) < 0:
            left = until - time.monotonic()
            assert left > 0, f"{text!r} is not in {self._text!r}"
            if select.select([self._number], [], [], left)[0]:
                read = os.read(self._number, 65536).decode(errors="replace")
                self._text = _ESCAPES.sub("", self._text + read)
        self.seen += self._text[: at + len(text)]
        self._text = self._text[at + len(text) :]


@contextmanager
def at_a_terminal(
    repository: Path, *arguments: str
) -> Iterator[tuple[Terminal, subprocess.Popen[bytes]]]:
    try:
        mine, theirs = pty.openpty()
    except OSError as error:
        pytest.skip(f"no pseudo-terminal here ({error}). Mend it: mount -t devpts devpts /dev/pts")
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    try:
        ends = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
        with started(repository, *arguments, owned=True, **ends) as process:
            yield Terminal(mine), process
    finally:
        os.close(mine)
        os.close(theirs)


def test_at_a_terminal_one_asks_looks_and_leaves(repository: Path) -> None:
    with at_a_terminal(repository, *ENDLESS) as (terminal, process):
        terminal.sees("watching demo:")
        terminal.type("What is it?\r")
        terminal.sees("] What is it?")
        terminal.sees("evidence ")
        assert "WARNING" not in terminal.seen  # this terminal tells no place of its cursor
        terminal.type("/status\r")
        terminal.sees("answer.ttft")
        terminal.sees("\n> ")  # the line is drawn again: from here on keys are read as keys
        terminal.type(CTRL_C)
        terminal.sees("press Ctrl-C once more to quit")
        terminal.sees("\n> ")
        terminal.type(CTRL_C)
        terminal.sees("interrupted")
        assert process.wait(WAIT_S) == 130


def test_sigterm_at_a_terminal_ends_with_143(repository: Path) -> None:
    with at_a_terminal(repository, *ENDLESS) as (terminal, process):
        terminal.sees("loading tiny")
        process.terminate()
        terminal.sees("terminated")
        assert process.wait(WAIT_S) == 143


@pytest.mark.parametrize(
    ("number", "code", "state"),
    [(signal.SIGINT, 130, "loading tiny"), (signal.SIGTERM, 143, "watching demo:")],
    ids=["SIGINT while loading", "SIGTERM while live"],
)
def test_a_signal_ends_a_script_with_its_code(
    repository: Path, number: int, code: int, state: str
) -> None:
    with started(
        repository, *ENDLESS, "--ask", "What?", "--at", "9000", stderr=subprocess.PIPE
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if state in line.decode():
                break
        process.send_signal(number)
        assert process.wait(WAIT_S) == code
        words = "interrupted" if code == 130 else "terminated"
        assert process.stderr.read().decode() == f"omnidrop: {words}\n"


def test_a_signal_ends_it_while_the_camera_says_nothing(repository: Path, silent_port: int) -> None:
    url = f"rtsp://user:geheim@127.0.0.1:{silent_port}/live"
    with started(
        repository, "live", url, "--model", "tiny", "--ask", "What?", stderr=subprocess.PIPE
    ) as process:
        assert process.stderr is not None
        said = b""
        for line in process.stderr:
            said += line
            if b"queued" in line:
                break
        process.terminate()
        assert process.wait(WAIT_S) == 143
        assert b"geheim" not in said + process.stderr.read()


@pytest.mark.slow
def test_a_camera_that_says_nothing_is_a_sentence(repository: Path, silent_port: int) -> None:
    url = f"rtsp://user:geheim@127.0.0.1:{silent_port}/live"
    with started(repository, "live", url, "--model", "tiny", "-q", stderr=subprocess.PIPE) as it:
        assert it.stderr is not None
        said = it.stderr.read().decode()
        assert it.wait(WAIT_S) == 3
        assert "no answer within" in said
        assert "geheim" not in said


def test_a_reader_that_leaves_ends_it_quietly_with_0(repository: Path) -> None:
    pipe = subprocess.PIPE
    with started(repository, *ENDLESS, "--json", "-q", stdout=pipe, stderr=pipe) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(WAIT_S) == 0
        assert process.stderr.read() == b""


def test_a_reader_that_does_not_read_does_not_keep_it_from_ending(repository: Path) -> None:
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(writing, False)
    for size in (1024, 1):  # full to the brim
        while True:
            try:
                os.write(writing, b"x" * size)
            except BlockingIOError:
                break
    os.set_blocking(writing, True)
    try:
        with started(
            repository, *ENDLESS, "--json", stdout=writing, stderr=subprocess.PIPE
        ) as process:
            assert process.stderr is not None
            for line in process.stderr:
                if b"no --ask" in line:
                    break
            process.terminate()
            assert process.wait(WAIT_S) == 143
    finally:
        os.close(reading)
        os.close(writing)


def test_no_face_imports_torch_before_the_model_loads(repository: Path) -> None:
    code = (
        "import sys, clients.live, clients.live_screen, clients.live_desk, runtime.session\n"
        "sys.exit(', '.join({'torch', 'transformers'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=repository, check=False)
    assert done.returncode == 0
