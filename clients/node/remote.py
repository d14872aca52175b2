"""A running node as its client sees it: questions over MQTT 5, one after the other.

A broker that goes away in the middle is waited for: the question is sent again under its id, the
node knows it, and answers once.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import random
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from clients.mqtt.adapter import Connection, ConnectionLost, Endpoint, connected
from clients.mqtt.messages import Incoming, Outgoing
from clients.mqtt.topics import Topics
from clients.node.replies import Reply, read_reply
from omnidrop_stream.errors import NoAnswer, NodeError
from runtime.backoff import Outage
from runtime.redact import redact

TAKEN_S = 5.0
"""A node that is there has written a question down, and said so, long before."""
GRACE_S = 1.0
"""After the deadline, for the node's own word that it has passed."""
GOODBYE_S = 1.0
BATCH = 64
ANYBODY = "ask"
"""Whose answers they are where there is no user name."""


@dataclass(frozen=True, slots=True)
class Place:
    """Which camera (``all``: each of them) of which node, and as whom."""

    endpoint: Endpoint
    prefix: str
    camera: str

    def __str__(self) -> str:
        return f"{self.endpoint.host}:{self.endpoint.port}"


@dataclass(frozen=True, slots=True)
class Wanted:
    """How to answer; what is None is as the node's settings say."""

    timeout_s: float
    max_tokens: int | None = None
    retention: float | None = None
    look_back_s: float | None = None
    session: str = ""


@dataclass(slots=True, eq=False)
class Asked:
    """A question on its way."""

    number: int
    """1 for the first."""
    text: str
    id: str
    until: float = math.inf
    """The event loop's time; set when its turn comes."""
    taken: bool = False
    """The node has said something about it."""


Show = Callable[[Asked, Reply, str], None]
"""Told of each message: the question, the message, and the message as a line of JSON."""


@dataclass(slots=True)
class RemoteNode:
    """Belongs to one event loop."""

    place: Place
    wanted: Wanted
    show: Show
    _status: str = ""
    _met: bool = False
    _topics: Topics = field(init=False)
    _who: str = field(init=False)
    _reply_to: str = field(init=False)

    def __post_init__(self) -> None:
        self._topics = Topics(self.place.prefix)
        self._who = self.place.endpoint.user or ANYBODY
        tail = secrets.token_hex(6)
        self._reply_to = f"{self.place.prefix}/node/reply/{self._who}/{tail}"

    async def ask(self, texts: Sequence[str], failed: Callable[[Asked, NoAnswer], None]) -> None:
        """Ask one after the other; a question without an answer in time is told to ``failed``, and
        the next one is asked. Raises NodeError where no node can be asked at all.

        Cancelled, it has the node cancel the question before it ends.
        """
        run = secrets.token_hex(6)
        waiting = [Asked(n, text, f"ask-{run}-{n}") for n, text in enumerate(texts, start=1)]
        outage = Outage(random.random)
        while waiting:
            try:
                await self._over_one_connection(waiting, failed, outage)
            except ConnectionLost as lost:
                await self._wait(lost, waiting[0], outage)

    async def _over_one_connection(
        self, waiting: list[Asked], failed: Callable[[Asked, NoAnswer], None], outage: Outage
    ) -> None:
        loop = asyncio.get_running_loop()
        async with connected(self.place.endpoint, None, 0, _nothing) as connection:
            await self._meet(connection)
            outage.good(loop.time())
            while waiting:
                asked = waiting[0]
                if math.isinf(asked.until):
                    self._there()
                    asked.until = loop.time() + self.wanted.timeout_s + GRACE_S
                try:
                    await self._one(connection, asked)
                except NoAnswer as error:
                    failed(asked, error)
                waiting.pop(0)

    async def _wait(self, lost: ConnectionLost, asked: Asked, outage: Outage) -> None:
        """Until the next attempt; raises what cannot be mended by waiting."""
        loop = asyncio.get_running_loop()
        if lost.hopeless or not self._met:
            raise self._unreachable(lost)
        delay_s = outage.failed(loop.time())
        if loop.time() + delay_s > asked.until:
            raise NoAnswer(
                f"the connection to the broker at {self.place} was lost and did not come back in "
                f"{self.wanted.timeout_s:g} s ({redact(lost)}); ask again"
            )
        await asyncio.sleep(delay_s)

    def _unreachable(self, lost: ConnectionLost) -> NodeError:
        endpoint, reason = self.place.endpoint, redact(lost)
        if lost.login:
            who = f"{endpoint.user!r}" if endpoint.user else "nobody (no --user)"
            return NodeError(
                f"the broker at {self.place} refuses {who}: {reason}; give --user, and the "
                "password by --password-file or OMNIDROP_PASSWORD"
            )
        if lost.hopeless:
            return NodeError(
                f"the broker at {self.place} cannot be trusted or does not use TLS: {reason}; give "
                "its authority by --tls-ca-file, or mqtt://HOST where it is meant to be in the "
                "clear"
            )
        return NodeError(
            f"no broker answers at {self.place}: {reason}; give the node's broker as --node "
            "HOST or HOST:PORT"
        )

    # -- one connection

    async def _meet(self, connection: Connection) -> None:
        """Listen for answers, and read whether the node says that it is there."""
        topics = [(self._topics.node_status, 1), (self._reply_to, 1)]
        await connection.subscribe(topics)
        # Its answer comes after what is retained, so that is here once this returns.
        await connection.subscribe(topics[:1])
        for message in await connection.arrived():
            self._look(message)
        self._met = True

    def _there(self) -> None:
        if self._status in ("offline", "draining"):
            raise NodeError(
                f"the node {self.place.prefix!r} on the broker at {self.place} is {self._status}; "
                "start it (omnidrop serve), or ask again once it is there"
            )

    def _look(self, message: Incoming) -> bool:
        """Confirm a message; True where it is an answer to us."""
        message.ack()
        if message.topic == self._topics.node_status:
            self._status = message.payload.decode("ascii", "replace")
        return message.topic == self._reply_to

    async def _one(self, connection: Connection, asked: Asked) -> None:
        loop = asyncio.get_running_loop()
        first = asked.until if asked.taken else min(asked.until, loop.time() + TAKEN_S)
        try:
            async with asyncio.timeout_at(first) as limit:
                await connection.publish(self._query(asked))
                while True:
                    for message in await connection.batch(BATCH):
                        if not self._look(message) or message.correlation != asked.id.encode():
                            continue
                        asked.taken = True
                        limit.reschedule(asked.until)
                        if self._ends(asked, message):
                            return
        except TimeoutError:
            raise self._silence(asked) from None
        except asyncio.CancelledError:
            await self._cancel(connection, asked)
            raise

    def _ends(self, asked: Asked, message: Incoming) -> bool:
        reply, line = read_reply(message.payload)
        self.show(asked, reply, line)
        if reply.type == "summary":
            return True
        return reply.type in ("final", "error") and reply.id in (asked.id, None)

    def _silence(self, asked: Asked) -> NodeError | NoAnswer:
        """Why nothing came, as far as that can be known."""
        waited = f"{self.wanted.timeout_s:g} s"
        if asked.taken:
            return NoAnswer(f"no answer within {waited}; give more time with --timeout")
        if not self._status:
            return NodeError(
                f"nobody answers on the broker at {self.place} under the prefix "
                f"{self.place.prefix!r}: there is no {self._topics.node_status}; name the node, or "
                "its mqtt.prefix, with --prefix"
            )
        if self.wanted.timeout_s < TAKEN_S:
            return NoAnswer(f"the node did not answer within {waited}; give more with --timeout")
        return NodeError(
            f"the node {self.place.prefix!r} says that it is {self._status} but did not take the "
            f"question within {TAKEN_S:g} s; may this account write to {self._topic('query')} and "
            f"read {self._reply_to}?"
        )

    # -- what is sent

    def _topic(self, action: str) -> str:
        """With the account's name at its end, which the broker's access list vouches for."""
        topic = self._topics.camera(self.place.camera, action)
        return f"{topic}/{self._who}" if self.place.endpoint.user else topic

    def _query(self, asked: Asked) -> Outgoing:
        wanted = self.wanted
        given: dict[str, Any] = {
            "max_tokens": wanted.max_tokens,
            "retention": wanted.retention,
            "look_back_s": wanted.look_back_s,
            "session": wanted.session or None,
        }
        query = {
            "v": 1,
            "id": asked.id,
            "text": asked.text,
            "deadline_ms": max(1, round(wanted.timeout_s * 1e3)),
            **{key: value for key, value in given.items() if value is not None},
        }
        return self._outgoing("query", query, asked, math.ceil(wanted.timeout_s))

    def _outgoing(
        self, action: str, values: dict[str, Any], asked: Asked, expiry_s: int
    ) -> Outgoing:
        return Outgoing(
            self._topic(action),
            json.dumps(values).encode("ascii"),
            1,
            correlation=asked.id.encode("ascii"),
            reply_to=self._reply_to,
            expiry_s=expiry_s,
        )

    async def _cancel(self, connection: Connection, asked: Asked) -> None:
        """The user has gone: nobody needs the answer."""
        message = self._outgoing("cancel", {"v": 1, "id": asked.id}, asked, 60)
        with contextlib.suppress(ConnectionLost, TimeoutError):
            async with asyncio.timeout(GOODBYE_S):
                await connection.publish(message)


def _nothing() -> None:
    """Pieces of an answer may be dropped: the final has the whole text."""
