"""Servers that the tests start, freeze and kill; every wait is bounded."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runtime.sources import Interruption, RtspSource
from tests.conftest import REPOSITORY
from tests.ports import free_port

PYTHON = "/usr/bin/python3"  # the system's own: GStreamer's bindings live there, in no venv
SCRIPT = REPOSITORY / "tests" / "tools" / "rtsp_server.py"
MEND = "sh tests/tools/apt-packages"


def gstreamer_is_there() -> bool:
    code = "import gi; gi.require_version('GstRtspServer', '1.0'); "
    code += "from gi.repository import Gst, GstRtspServer; Gst.init(None); "
    code += "import sys; sys.exit(not all(map(Gst.ElementFactory.find, "
    code += "['x264enc', 'avenc_aac', 'rtph264pay', 'qtdemux'])))"
    if not Path(PYTHON).exists():
        return False
    return subprocess.run([PYTHON, "-c", code], capture_output=True, timeout=60).returncode == 0


class RtspServer:
    """The GStreamer server as a child process; always on the same port."""

    def __init__(self, *options: str, user: str = "", password: str = "") -> None:
        self._options = options
        self._login = {"RTSP_USER": user, "RTSP_PASSWORD": password} if user else {}
        self._process: subprocess.Popen[str] | None = None
        self.port = free_port()

    def start(self) -> None:
        command = [PYTHON, str(SCRIPT), "--port", str(self.port), *self._options]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **self._login},
        )
        out = self._process.stdout
        assert out is not None
        assert select.select([out], [], [], 20)[0], "the RTSP server said nothing in 20 s"
        assert out.readline().split() == ["ready", str(self.port)]

    def kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait(5)
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                pipe.close()

    def turn(self, element: str, option: str, value: str) -> None:
        """Set a property of an element of the feeds that were given by ``--mount``."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(f"set {element} {option} {value}\n")
        self._process.stdin.flush()

    def freeze(self) -> None:
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def url(self, path: str = "/live", login: str = "") -> str:
        return f"rtsp://{login and login + '@'}127.0.0.1:{self.port}{path}"

    def _signal(self, number: int) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)


@pytest.fixture(scope="session")
def needs_gstreamer() -> None:
    if not gstreamer_is_there():
        pytest.skip(f"no GStreamer RTSP server here. Mend it with: {MEND}")


@pytest.fixture
def rtsp_server(needs_gstreamer: None) -> Iterator[Callable[..., RtspServer]]:
    """Start a server; it is killed after the test."""
    with contextlib.ExitStack() as stack:

        def start(*options: str, user: str = "", password: str = "") -> RtspServer:
            server = RtspServer(*options, user=user, password=password)
            stack.callback(server.kill)
            server.start()
            return server

        yield start


class Watch:
    """Reads a source in a thread of its own, as a capture thread does, and keeps what came."""

    def __init__(self, source: RtspSource) -> None:
        self.source = source
        self.items: list[object] = []
        self.error: BaseException | None = None
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.source.stop()
        assert self.ended(10)

    def _run(self) -> None:
        try:
            with self.source as source:
                for item in source:
                    with self._news:
                        self.items.append(item)
                        self._news.notify_all()
        except BaseException as error:  # looked at by the test
            self.error = error
        with self._news:
            self._news.notify_all()

    def until(self, there: Callable[[], bool], limit_s: float = 8.0) -> None:
        """Wait for something that an item or a change of state brings about."""
        with self._news:
            for _ in range(round(limit_s / 0.02)):
                if there():
                    return
                assert self._thread.is_alive() or there(), f"ended: {self.error!r}"
                self._news.wait(0.02)  # a change of state alone does not notify
        raise AssertionError(
            f"not within {limit_s} s; {self.source.state}, {len(self.items)} items"
        )

    def until_at_rest(self, quiet_s: float = 0.3, limit_s: float = 8.0) -> None:
        """Wait until nothing has come for a while: the reader is blocked."""
        with self._news:
            for _ in range(round(limit_s / quiet_s)):
                before = len(self.items)
                if not self._news.wait_for(lambda n=before: len(self.items) > n, quiet_s):
                    return
        raise AssertionError(f"items still come after {limit_s} s")

    def count(self, *kinds: type) -> int:
        return sum(isinstance(item, kinds) for item in list(self.items))

    def after_interruption(self) -> list[object]:
        """What came since the newest interruption, that included."""
        items = list(self.items)
        last = max(i for i, item in enumerate(items) if isinstance(item, Interruption))
        return items[last:]

    def ended(self, limit_s: float) -> bool:
        self._thread.join(limit_s)
        return not self._thread.is_alive()


@pytest.fixture
def silent_port() -> Iterator[int]:
    """Accepts (the kernel does) and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=8) as listener:
        yield listener.getsockname()[1]


@pytest.fixture
def deaf_port() -> Iterator[int]:
    """A port whose queue is full: connecting to it gets no answer at all."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(3):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


@pytest.fixture
def refused_port() -> Iterator[int]:
    """Nothing listens there, and nothing else can take it meanwhile."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]
