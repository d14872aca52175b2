"""``omnidrop ask --node HOST --camera NAME "question" ...``: ask a running node by its broker.

The same lines as where a source is read here; with --json the messages as the node sends them.
"""

from __future__ import annotations

import asyncio
import math
import os
import re
import secrets
import ssl
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Protocol

from pydantic import ValidationError

from clients import contract, terminal
from clients.mqtt.adapter import Endpoint
from clients.mqtt.config import MqttConfig, TlsConfig
from clients.mqtt.topics import ALL, CAMERA, CLIENT, PREFIX_PATTERN
from clients.node.remote import Asked, Place, RemoteNode, Wanted
from clients.node.replies import Reply
from clients.node_flags import NodeFlags, flag
from clients.options import Flags, SourceFlags, password_of
from clients.spans import unseen
from omnidrop_stream.errors import ConfigError, NoAnswer, UsageError

DEFAULT_PREFIX = "omnidrop"
DEFAULT_TIMEOUT_S = 60.0
LONGEST_S = 86_400.0
_NODE = re.compile(
    r"(?:(?P<scheme>mqtts?)://)?(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(?P<port>\d{1,5}))?"
)
_SOURCE = re.compile(r"[a-z][a-z0-9+.-]*:\S*")
_SHARED = ("retention", "max_tokens", "user", "password_file", "tls_ca_file")


def ask_node(
    given: NodeFlags,
    texts: Sequence[str],
    at_s: Sequence[float],
    flags: Flags,
    taken: SourceFlags,
    session: str = "",
    json: bool = False,
    quiet: bool = False,
    verbose: bool = False,
) -> int:
    """Print what comes; returns the exit code of the first question that failed, or 0."""
    _refuse_mixed(at_s, flags, taken)
    _refuse_source(texts)
    place = place_of(given, taken)
    wanted = _wanted(given, flags, session)
    screen: Screen = JsonLines() if json else Lines(place.camera, quiet, verbose)
    try:
        asyncio.run(RemoteNode(place, wanted, screen.reply).ask(texts, screen.failed))
    finally:
        screen.close()
    return screen.code


# -- what was asked for


def _refuse_mixed(at_s: Sequence[float], flags: Flags, taken: SourceFlags) -> None:
    """A node reads its own sources with its own model: only what a question may say is taken."""
    told = ["at"] if at_s else []
    for kind in (flags, taken):
        default = type(kind)()
        told += [
            field.name
            for field in fields(kind)
            if field.name not in _SHARED
            and getattr(kind, field.name) != getattr(default, field.name)
        ]
    if told:
        raise UsageError(
            f"{flag(told[0])} is for a source that is read here, and --node asks one that its "
            "node reads: leave one of the two out"
        )


def _refuse_source(texts: Sequence[str]) -> None:
    if not texts:
        raise UsageError(
            'there is no question: omnidrop ask --node HOST --camera NAME "What is there?"'
        )
    first = texts[0]
    if _SOURCE.fullmatch(first) or (len(first) < 256 and Path(first).is_file()):
        raise UsageError(
            f"{first!r} is a source, and with --node there is none (the node reads its own): give "
            "only questions, and --camera NAME"
        )


def place_of(given: NodeFlags, taken: SourceFlags) -> Place:
    """Broker, prefix, camera, login. Raises UsageError, which names the flag."""
    prefix, camera = given.prefix or DEFAULT_PREFIX, given.camera
    if not re.fullmatch(PREFIX_PATTERN, prefix):
        raise UsageError(
            f"--prefix = {prefix!r} is not allowed: give the node's name or its mqtt.prefix, of "
            "letters, digits, . _ - and /"
        )
    if camera is None:
        raise UsageError(
            "--node needs --camera: give the name of one of its cameras, or all for each of them"
        )
    if not CAMERA.fullmatch(camera):
        raise UsageError(f"--camera = {camera!r} is not allowed: use a to z, 0 to 9, _ and -")
    if taken.user and not CLIENT.fullmatch(taken.user):
        raise UsageError(
            f"--user = {taken.user!r} cannot be answered: its name is part of the topic, so use "
            "letters, digits and . _ - @ :"
        )
    return Place(_endpoint(given.node or "", taken), prefix, camera)


def _endpoint(node: str, taken: SourceFlags) -> Endpoint:
    match = _NODE.fullmatch(node)
    if match is None:
        told = "it holds a login; use --user and OMNIDROP_PASSWORD" if "@" in node else "write it "
        shown = "..." if "@" in node else repr(node)
        raise UsageError(
            f"--node = {shown} is not allowed: "
            + (told if "@" in node else f"{told}HOST or HOST:PORT, of the node's broker")
        )
    scheme, port = match["scheme"], match["port"]
    if scheme == "mqtt" and taken.tls_ca_file is not None:
        raise UsageError("--tls-ca-file and mqtt:// contradict: mqtts:// is the encrypted one")
    encrypted = scheme == "mqtts" or taken.tls_ca_file is not None
    tls = {"enabled": scheme != "mqtt", "ca": taken.tls_ca_file} if scheme or encrypted else None
    values = {"host": match["host"].strip("[]"), "port": port and int(port), "tls": tls}
    try:
        config = MqttConfig.model_validate(values)
    except ValidationError:
        raise UsageError(f"--node = {node!r} is not allowed: a port is 1 to 65535") from None
    host, number = config.endpoint
    return Endpoint(
        host=host,
        port=number,
        version="5",
        client_id=f"omnidrop-ask-{secrets.token_hex(6)}",
        user=taken.user or "",
        password=(password_of(taken.password_file, os.environ) or "") if taken.user else "",
        tls=_context(config.tls or TlsConfig(), taken) if config.encrypted else None,
    )


def _context(tls: TlsConfig, taken: SourceFlags) -> ssl.SSLContext:
    try:
        return tls.context()
    except ConfigError:
        raise UsageError(
            f"--tls-ca-file = {taken.tls_ca_file} cannot be used: give certificates as PEM, in a "
            "file that you may read"
        ) from None


def _wanted(given: NodeFlags, flags: Flags, session: str) -> Wanted:
    timeout_s = DEFAULT_TIMEOUT_S if given.timeout is None else given.timeout
    for name, value in (("timeout", timeout_s), ("look_back", given.look_back)):
        if value is not None and not (math.isfinite(value) and 0 < value <= LONGEST_S):
            raise UsageError(
                f"{flag(name)} = {value:g} is not allowed: give seconds, more than 0 and at most "
                f"{LONGEST_S:g}"
            )
    if flags.retention is not None and not 1 <= flags.retention <= 100:
        raise UsageError(
            f"--retention = {flags.retention:g} is not allowed: give percent, from 1 to 100"
        )
    if flags.max_tokens is not None and flags.max_tokens < 1:
        raise UsageError(f"--max-tokens = {flags.max_tokens} is not allowed: give 1 or more")
    return Wanted(
        timeout_s=timeout_s,
        max_tokens=flags.max_tokens,
        retention=None if flags.retention is None else flags.retention / 100,
        look_back_s=given.look_back,
        session=session,
    )


# -- what is printed


class Screen(Protocol):
    """Where replies go."""

    code: int
    """Exit code of the first question that failed, or 0."""

    def reply(self, asked: Asked, reply: Reply, line: str) -> None:
        """One message of the node; ``line`` is the same as JSON."""

    def failed(self, asked: Asked, error: NoAnswer) -> None:
        """A question that got no answer in time."""

    def close(self) -> None:
        """Nothing is shown after it."""


class JsonLines:
    """The node's messages, one a line; what failed is told on stderr too."""

    def __init__(self) -> None:
        self.code = 0

    def reply(self, asked: Asked, reply: Reply, line: str) -> None:
        """As it came."""
        terminal.write_out(line)
        if reply.type == "error":
            self.code = self.code or reply.exit_code
            terminal.complain(_failure(asked, reply))

    def failed(self, asked: Asked, error: NoAnswer) -> None:
        """The node did not say so itself: an error in its place."""
        self.code = self.code or error.exit_code
        terminal.write_out(contract.line(contract.error(error, str(error), asked.id)))
        terminal.complain(f"question {asked.number}: {error}")

    def close(self) -> None:
        """Nothing is left open between lines."""


class Lines:
    """Question, answer as it streams, and what it rests on. The answers of several cameras come at
    the same time: each is printed when it is whole.
    """

    def __init__(self, camera: str, quiet: bool, verbose: bool) -> None:
        self.code = 0
        self._camera = camera
        self._verbose = verbose and not quiet
        plain = not terminal.is_terminal(sys.stdout)
        self._printer = (terminal.PlainPrinter if plain else terminal.TerminalPrinter)(quiet)
        self._begun = 0
        self._shown = ""
        self._next = 0

    def reply(self, asked: Asked, reply: Reply, line: str) -> None:
        """One message."""
        if reply.type == "accepted" and self._verbose:
            terminal.complain(f"question {asked.number} was taken")
        elif reply.type == "delta":
            self._delta(asked, reply)
        elif reply.type == "final":
            self._final(asked, reply)
        elif reply.type == "error":
            self.code = self.code or reply.exit_code
            self._printer.close()
            terminal.complain(_failure(asked, reply))

    def failed(self, asked: Asked, error: NoAnswer) -> None:
        """Below whatever came of it."""
        self.code = self.code or error.exit_code
        self._printer.close()
        terminal.complain(f"question {asked.number}: {error}")

    def close(self) -> None:
        """End an unfinished line."""
        self._printer.close()

    def _begin(self, asked: Asked, camera: str) -> None:
        if self._begun != asked.number or self._camera == ALL:
            self._begun, self._shown, self._next = asked.number, "", 0
            self._printer.heading(camera, asked.text)

    def _delta(self, asked: Asked, reply: Reply) -> None:
        """In order only: after a piece that was lost the final has the rest."""
        if self._camera == ALL:
            return
        self._begin(asked, self._camera)
        if reply.seq == self._next:
            self._next += 1
            self._shown += reply.text
            self._printer.piece(reply.text)

    def _final(self, asked: Asked, reply: Reply) -> None:
        self._begin(asked, reply.source or self._camera)
        if not reply.text.startswith(self._shown.rstrip()):
            self._printer.close()
            self._shown = ""
        if rest := reply.text[len(self._shown) :]:
            self._printer.piece(rest)
        share = reply.tokens.mean_entering
        missing = unseen(reply.coverage, reply.staleness_s)
        self._printer.rests_on(
            terminal.grounds_line(
                reply.evidence, reply.ttft_ms, share, reply.label, reply.finish, missing
            )
        )


def _failure(asked: Asked, reply: Reply) -> str:
    """A node's error for people; of several cameras with the one it is about."""
    part = (reply.id or "").partition("/")[2]
    return f"question {asked.number}{f' ({part})' if part else ''}: {reply.message}"
