"""A sound server of the tests' own: PulseAudio with one room whose microphone hears what is played.

A feeder plays silence all the time: without it the room's clock stands still, and so does whoever
listens; which is itself a fault that the tests use.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

MEND = "sh tests/tools/apt-packages"
_CONFIG = """\
load-module module-native-protocol-unix auth-anonymous=1 socket={socket}
load-module module-null-sink sink_name=room rate=48000 channels=2
load-module module-remap-source source_name=mic master=room.monitor channels=1 \
master_channel_map=front-left channel_map=mono
set-default-sink room
set-default-source mic
"""


class SoundServer:
    """PulseAudio and its feeder as child processes in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        run = folder / "run"
        run.mkdir(mode=0o700)
        (folder / "state").mkdir()
        self._socket, self._config = run / "native", folder / "default.pa"
        self._config.write_text(_CONFIG.format(socket=self._socket), "utf-8")
        self.address = f"unix:{self._socket}"
        self._environment = {
            **os.environ,
            "HOME": str(folder),
            "XDG_RUNTIME_DIR": str(run),
            "PULSE_RUNTIME_PATH": str(run),
            "PULSE_STATE_PATH": str(folder / "state"),
            "PULSE_SERVER": self.address,
        }
        self._server: subprocess.Popen[bytes] | None = None
        self._feeder: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server, wait until it answers, and feed it."""
        command = ["pulseaudio", "-n", "-F", str(self._config), "--daemonize=no", "--fail=yes"]
        command += ["--exit-idle-time=-1", "--use-pid-file=no", "--disable-shm=yes"]
        self._server = self._child(command)
        for _ in range(400):
            if self._socket.exists() and self._asks("info"):
                break
            assert self._server.poll() is None, "pulseaudio ended by itself"
            time.sleep(0.025)  # bounded: until the child answers
        else:
            raise AssertionError("pulseaudio did not answer in time")
        self.feed()

    def kill(self) -> None:
        """Kill both."""
        self.starve()
        self._server = _killed(self._server)
        self._socket.unlink(missing_ok=True)

    def feed(self) -> None:
        """Play silence for ever."""
        command = ["pacat", "--rate=48000", "--channels=2", "--format=s16le", "--latency-msec=50"]
        self._feeder = self._child([*command, "/dev/zero"])

    def starve(self) -> None:
        """Stop the silence: nobody hears anything any more."""
        self._feeder = _killed(self._feeder)

    def freeze(self) -> None:
        """The server answers nobody."""
        assert self._server is not None
        os.kill(self._server.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """It answers again."""
        assert self._server is not None
        os.kill(self._server.pid, signal.SIGCONT)

    def suspend(self, on: bool) -> None:
        """The server gives and takes nothing, but answers."""
        for what in ("suspend-source", "suspend-sink"):
            assert self._asks(what, "mic" if what == "suspend-source" else "room", str(int(on)))

    def play(self, wav: Path) -> None:
        """Play a file into the room; returns when it is over."""
        subprocess.run(["paplay", str(wav)], env=self._environment, timeout=30, check=True)

    def _asks(self, *what: str) -> bool:
        command = ["pactl", *what]
        done = subprocess.run(command, env=self._environment, capture_output=True, timeout=10)
        return done.returncode == 0

    def _child(self, command: list[str]) -> subprocess.Popen[bytes]:
        nowhere = subprocess.DEVNULL
        return subprocess.Popen(command, env=self._environment, stdout=nowhere, stderr=nowhere)


def _killed(child: subprocess.Popen[bytes] | None) -> None:
    if child is not None:
        child.kill()
        child.wait(5)


@contextlib.contextmanager
def running(folder: Path) -> Iterator[SoundServer]:
    """A sound server that this process's PortAudio uses, until the end of the block."""
    for program in ("pulseaudio", "pacat", "pactl"):
        if shutil.which(program) is None:
            pytest.skip(f"no {program} here. Mend it with: {MEND}")
    pytest.importorskip("sounddevice", reason="no sounddevice or no PortAudio here")
    server = SoundServer(folder)
    before = os.environ.get("PULSE_SERVER")
    os.environ["PULSE_SERVER"] = server.address
    try:
        server.start()
        yield server
    finally:
        server.kill()
        if before is None:
            del os.environ["PULSE_SERVER"]
        else:
            os.environ["PULSE_SERVER"] = before


@pytest.fixture(scope="module")
def sound_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SoundServer]:
    """One for a module's tests; whoever kills it starts it again."""
    with running(tmp_path_factory.mktemp("sound")) as server:
        yield server
