"""Run the command line in this process or as a real one, on the tiny model and small clips."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from clients.cli import main
from runtime.media import write_mp4
from tests.runtime.conftest import grey_frames, tone


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str

    @property
    def messages(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]

    def of(self, type_: str) -> list[dict[str, Any]]:
        return [message for message in self.messages if message["type"] == type_]


Omnidrop = Callable[..., Ran]


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The tiny checkpoint is written once, and not into the user's home."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


@pytest.fixture
def omnidrop(capsys: pytest.CaptureFixture[str]) -> Omnidrop:
    """``main`` in this process."""

    def run(*arguments: str | Path) -> Ran:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    return run


@pytest.fixture
def ask(omnidrop: Omnidrop) -> Omnidrop:
    """``omnidrop ask`` with the tiny model and short answers."""
    return lambda *rest: omnidrop("ask", *rest, "--model", "tiny", "--max-tokens", "4")


@pytest.fixture
def interruptible() -> Iterator[None]:
    """What is started here can be interrupted, even where these tests run in the background: there
    shells have SIGINT ignored, and a process hands that on.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def process(repository: Path) -> Omnidrop:
    """A real process whose stdout and stderr are pipes."""

    def run(*arguments: str | Path) -> Ran:
        command = [sys.executable, "-m", "clients.cli", *map(str, arguments)]
        done = subprocess.run(
            command, cwd=repository, capture_output=True, timeout=100, check=False, env=os.environ
        )
        return Ran(done.returncode, done.stdout.decode(), done.stderr.decode())

    return run


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Five seconds with picture and sound, with one of them, and broken ones."""
    folder = tmp_path_factory.mktemp("clips")
    times = [n / 10 for n in range(50)]
    made = {name: folder / f"{name}.mp4" for name in ("av", "video", "audio")}
    write_mp4(made["av"], grey_frames(times, 160, 90), tone(5.0), rate_fps=10)
    write_mp4(made["video"], grey_frames(times, 90, 160), None, rate_fps=10)
    write_mp4(made["audio"], None, tone(5.0))
    whole = made["av"].read_bytes()
    broken = {
        "empty": b"",
        "truncated": whole[: len(whole) // 3],
        "corrupt": bytes(range(256)) * 40,
        "text": b"this is no media file\n" * 50,
    }
    for name, content in broken.items():
        made[name] = folder / f"{name}.mp4"
        made[name].write_bytes(content)
    made["missing"], made["directory"] = folder / "missing.mp4", folder
    return made
