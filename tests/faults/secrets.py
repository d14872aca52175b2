"""Two hundred hostile addresses: no secret in any output, traceback, process list or file."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from tests.conftest import REPOSITORY
from tests.faults.feeds import Feed
from tests.faults.report import Row, Tell
from tests.faults.scale import Scale
from tests.runtime.servers import RtspServer

HOSTILE = "@:/#?% &=;+$!'(),*~[]<>|^`{}ü漢é🔑\"\\"
WAYS = ("as it is in the address", "percent-encoded in the address", "environment", "file")
FAULTS = ("wrong", "no path", "refused", "silent", "no rtsp", "no host", "tls", "scheme", "works")
COMMANDS = ("probe", "ask", "live")
LOOK_S = 0.05
IN_A_BATCH = 20


@dataclass(frozen=True, slots=True)
class Case:
    """One call of the command line. ``mark``: a part of the password found nowhere else."""

    fault: str
    way: str
    arguments: tuple[str, ...]
    user: str
    password: str
    mark: str

    @property
    def spellings(self) -> tuple[str, ...]:
        """What must not be found."""
        login = f"{self.user}:{self.password}".encode()
        return (
            self.mark,
            self.password,
            quote(self.password, safe=""),
            quote(self.password),
            base64.b64encode(login).decode(),
        )


def run(tell: Tell, scale: Scale) -> None:
    """Batches in processes of their own; all they leave behind is searched."""
    count = scale.pick(200, 18)
    with contextlib.ExitStack() as stack:
        ports = _Ports(stack)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        cases = [_case(number, scale.seed, ports, folder) for number in range(count)]
        found, codes, ends = [], [], []
        for first in range(0, count, IN_A_BATCH):
            batch = cases[first : first + IN_A_BATCH]
            told = _run(batch, folder)
            codes += [word for line in told.output.splitlines() if (word := _code(line))]
            if told.code != 0:
                ends.append(f"{told.code} in {batch[min(_done(told), len(batch) - 1)].fault}")
            found += _search(batch, told, folder)
    kinds = {name: codes.count(name) for name in sorted(set(codes))}
    tell(
        Row(
            f"{count} hostile addresses ({len(WAYS)} ways to give a password, {len(FAULTS)} "
            "failures, all logging at its loudest, FFmpeg at trace): secrets found in output, "
            "logs, tracebacks, the process list and files",
            f"{len(found)} {'; '.join(found[:5])}".strip(),
            "0",
            not found,
            {"found": found},
        )
    )
    tell(
        Row(
            "calls that ended by themselves, and their exit codes",
            f"{len(codes)} of {count}, {kinds}; batches that did not end well: {ends or 'none'}",
            f"{count}, no code 1 (an unexpected error)",
            len(codes) == count and not ends and "1" not in kinds,
            {"codes": kinds},
        )
    )


class _Ports:
    """Where the cases lead."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self.right_password = "r!ght @ll:along/and?so#on%41ü"
        server = RtspServer(*Feed().mount(), user="me", password=self.right_password)
        server.start()
        stack.callback(server.kill)
        self.server = server.port
        self.silent = _listen(stack, None)
        self.web = _listen(stack, b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
        bound = stack.enter_context(socket.socket())
        bound.bind(("127.0.0.1", 0))
        self.refused = bound.getsockname()[1]


def _listen(stack: contextlib.ExitStack, answer: bytes | None) -> int:
    listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=64))

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                if answer is not None:
                    with connection:
                        connection.recv(4096)
                        connection.sendall(answer)

    if answer is not None:
        threading.Thread(target=serve, name="web", daemon=True).start()
    port: int = listener.getsockname()[1]
    return port


def _case(number: int, seed: int, ports: _Ports, folder: Path) -> Case:
    draw = random.Random(seed * 10_000 + number)
    fault, way = FAULTS[number % len(FAULTS)], WAYS[number // len(FAULTS) % len(WAYS)]
    mark = f"{draw.getrandbits(48):012x}"
    words = "".join(draw.choices(HOSTILE, k=draw.randint(2, 7)))
    cut = draw.randrange(len(words))
    user, password = draw.choice(["me", "me.my", "admin"]), words[:cut] + mark + words[cut:]
    if fault == "works":
        # The right password; its own mark is what is looked for.
        user, password, mark = "me", ports.right_password, "ght @ll"
    if way == "as it is in the address":  # what looks like an escape is one
        password = password.replace("%", "%25") if fault != "works" else password
    scheme, place, path = _place(fault, ports)
    login = ""
    if way == "as it is in the address" and fault != "works":
        login = f"{user}:{password}@"
    elif way == "percent-encoded in the address" or (way == WAYS[0] and fault == "works"):
        login = f"{quote(user, safe='')}:{quote(password, safe='')}@"
    command = "probe" if fault == "works" else draw.choice(COMMANDS)
    arguments = [command, f"{scheme}://{login}{place}{path}"]
    if arguments[0] == "ask":
        arguments += ["What?", "--at", "0.5", "--max-tokens", "1"]
    if arguments[0] == "probe":
        arguments += ["--seconds", "1"]
    if not login:
        arguments += ["--user", user]
        if way == "file":
            secret = folder / f"password-{number}"
            secret.write_text(password + "\n", "utf-8")
            arguments += ["--password-file", str(secret)]
    arguments += ["--open-timeout", "0.5", "--no-wait", "--debug"]
    return Case(fault, way, tuple(arguments), user, password, mark)


def _place(fault: str, ports: _Ports) -> tuple[str, str, str]:
    """Scheme, host and port, path."""
    port = {
        "wrong": ports.server,
        "no path": ports.server,
        "works": ports.server,
        "refused": ports.refused,
        "silent": ports.silent,
        "no rtsp": ports.web,
        "tls": ports.web,
    }.get(fault, 554)
    host = "nowhere.invalid" if fault == "no host" else f"127.0.0.1:{port}"
    scheme = {"tls": "rtsps", "scheme": "gopher"}.get(fault, "rtsp")
    return scheme, host, "/none" if fault == "no path" else "/live"


@dataclass(frozen=True, slots=True)
class _Told:
    output: str
    processes: str
    code: int


def _run(batch: list[Case], folder: Path) -> _Told:
    """The worker's whole output, and all command lines seen below it while it ran."""
    home = folder / "home"
    home.mkdir(exist_ok=True)
    calls = [
        {"arguments": case.arguments, "password": case.password if case.way == WAYS[2] else None}
        for case in batch
    ]
    seen: set[str] = set()
    over = threading.Event()
    with subprocess.Popen(
        [sys.executable, "-m", "tests.faults.secrets_worker"],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={
            **os.environ,
            "HOME": str(home),
            "TMPDIR": str(home),
            "XDG_CACHE_HOME": str(home / "cache"),
            "COLUMNS": "200",
        },
    ) as child:

        def look() -> None:
            while not over.wait(LOOK_S):
                seen.update(_command_lines(child.pid))

        looker = threading.Thread(target=look)
        looker.start()
        out, _ = child.communicate(json.dumps(calls).encode() + b"\n")
        over.set()
        looker.join()
    return _Told(out.decode("utf-8", "replace"), "\n".join(seen), child.returncode)


def _command_lines(root: int) -> Iterator[str]:
    """Of a process and all that came from it."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                stat = (entry / "stat").read_text()
                parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
    for pid in parents:
        at = pid
        while at not in (0, root):
            at = parents.get(at, 0)
        if at == root:
            with contextlib.suppress(OSError):
                yield (Path("/proc") / str(pid) / "cmdline").read_text("utf-8", "replace")


def _search(batch: list[Case], told: _Told, folder: Path) -> list[str]:
    places = {"output": told.output, "process list": told.processes}
    for path in (folder / "home").rglob("*"):
        if path.is_file():
            places[f"file {path.name}"] = path.read_bytes().decode("utf-8", "replace")
    return [
        f"{case.fault}, {case.way}: {case.mark} in the {where}"
        for case in batch
        for where, text in places.items()
        if any(word in text for word in case.spellings)
    ]


def _done(told: _Told) -> int:
    return sum(bool(_code(line)) for line in told.output.splitlines())


def _code(line: str) -> str:
    return line.removeprefix("exit ") if line.startswith("exit ") else ""
