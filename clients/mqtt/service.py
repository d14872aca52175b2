"""The node on a broker: connects, takes questions, sends answers, and comes back by itself.

What is accepted is in the journal; what is to be sent outlives a connection; so a broker that dies,
a network that breaks and a restart of the node change when an answer comes, not whether.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import secrets
import sqlite3
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from functools import partial
from pathlib import Path

from clients import contract
from clients.mqtt.adapter import Connection, ConnectionLost, Endpoint, connected
from clients.mqtt.answering import Answering
from clients.mqtt.claim import Claim
from clients.mqtt.config import MqttConfig, TlsConfig, kept_client_id
from clients.mqtt.controls import Controls
from clients.mqtt.intake import Intake, make_limits
from clients.mqtt.leftovers import Leftovers
from clients.mqtt.messages import Incoming
from clients.mqtt.outbox import Outbox
from clients.mqtt.ports import Extension, NodePort
from clients.mqtt.presence import DRAINING, OFFLINE, Presence, node_status
from clients.mqtt.requests import Kept
from clients.mqtt.topics import Command, Topics
from clients.mqtt.watches import Watches, WatchNode
from omnidrop_stream.errors import ConfigError
from runtime.backoff import Outage
from runtime.journal import DAY_S, Journal, JournalFile, Row
from runtime.redact import redact

BATCH = 64
GOODBYE_S = 1.0
PURGE_EVERY_S = 3600.0
ASIDE_S = 10.0
"""Least time that a node stays away from a broker where another uses its client id."""
_LOG = logging.getLogger("clients.mqtt")


class TakenOver(Exception):
    """Another node is connected with our client id."""


class MqttService:
    """One node on one broker. ``run`` until cancelled, after ``drain`` where there is time."""

    def __init__(
        self,
        config: MqttConfig,
        node: NodePort,
        journal: Journal,
        name: str = "omnidrop",
        state: Path | None = None,
        extensions: tuple[Extension, ...] = (),
        wall: Callable[[], float] = time.time,
        draw: Callable[[], float] = random.random,
        watch_node: WatchNode | None = None,
    ) -> None:
        """journal: open, and closed after the service. name: of the node. state: where the client
        id is kept; not needed where the configuration has one. watch_node: the same node, where
        standing questions are to have topics. Raises ConfigError.
        """
        if config.client_id is None and state is None:
            raise ConfigError("mqtt.client_id is not set, and there is no folder to keep one in")
        self.config = config
        self.topics = Topics(config.prefix or name, config.reply_prefixes)
        self.client_id = config.client_id or kept_client_id(state or Path(), name)
        self.state = "starting"
        """``starting``, ``connected``, ``offline``, ``aside`` (taken over) or ``draining``."""
        self.online = asyncio.Event()
        """Set while connected and subscribed."""
        self._claim = Claim(self.topics.node_info, secrets.token_hex(8))
        self._node = node
        self._stats = node.stats
        self._journal = journal
        self._wall = wall
        self._extensions = extensions
        self._outage = Outage(draw)
        self._draw = draw
        self._draining = False
        self._retry = asyncio.Event()
        self.outbox = Outbox(node.stats, config.waiting_deltas)
        limits = make_limits(config)
        self.answering = Answering(
            node, journal, self.outbox, limits, self.topics, config.limits, extensions
        )
        self.intake = Intake(
            node, journal, self.outbox, self.answering, limits, self.topics, config, wall
        )
        self.presence = Presence(node, self.outbox, self.topics, config, self._claim, name, wall)
        forgotten: Callable[[str], None] = _nothing
        if watch_node is not None:
            watches = Watches(
                watch_node,
                journal,
                self.topics,
                lambda: self.intake.shape,
                self.presence.event,
            )
            self._extensions = (*extensions, watches)
            forgotten = partial(watches.forgotten, publish=self.outbox.put)

        def watched(camera: str) -> list[str]:
            return [state.id for state in watch_node.watches(camera)] if watch_node else []

        prefix = config.discovery_prefix
        leftovers = Leftovers(node, journal, self.topics, name, prefix, watched)
        self._extensions = (*self._extensions, leftovers)
        self._controls = Controls(
            node,
            journal,
            self.answering,
            self.topics,
            lambda: self.intake.shape,
            self.outbox.put,
            self.presence.event,
            forgotten,
        )
        self._stats.gauge("mqtt.state", lambda: self.state)

    # -- life

    async def run(self) -> None:
        """Take up what a restart left, then serve, over as many connections as it takes."""
        await self._resume()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._purge())
            group.create_task(self.presence.run())
            for extension in self._extensions:
                group.create_task(extension.run(self.outbox.put))
            await self._stay_connected()

    async def drain(self, seconds: float) -> None:
        """Say so, take nothing more, let answers end; then say ``offline``. Cancel ``run`` next.

        What has not ended by then stays in the journal and is answered after the restart.
        """
        until = time.monotonic() + seconds
        self._draining, self.state = True, "draining"
        self.presence.status(DRAINING)
        await self.answering.drain(max(0.0, seconds - 0.5))
        self.presence.status(OFFLINE)
        if self.online.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.2, until - time.monotonic())):
                    await self.outbox.emptied()

    def retry_now(self) -> None:
        """Try to connect at once instead of waiting."""
        self._retry.set()

    async def _resume(self) -> None:
        rows = await self._journal.do(lambda file: file.unfinished())
        with_parts = {row.parent for row in rows if row.parent is not None}
        for row in rows:
            await self._resume_one(row, row.number in with_parts)
        if rows:
            self._stats.count("mqtt.resumed", len(rows))

    async def _resume_one(self, row: Row, is_parent: bool) -> None:
        kept = Kept.of(row.request)
        if not row.told and row.parent is None:
            self.intake.tell_accepted(row, kept)
        left_s = row.deadline_wall_s - self._wall()
        if row.ended_as is not None:
            self.answering.send_end(row, kept.route)
        elif is_parent:
            return  # it ends with the last of its parts
        elif left_s <= 0:
            text = "the node was away, and the deadline passed; ask again"
            await self.answering.end(row, "error", contract.problem("expired", text, row.id))
        else:
            self.answering.accept(row, kept, left_s)

    async def _purge(self) -> None:
        while True:
            before = self._wall() - self.config.journal_days * DAY_S
            try:
                gone = await self._journal.do(partial(JournalFile.purge, before_wall_s=before))
                self._stats.count("journal.purged", gone)
            except sqlite3.Error as error:
                _LOG.error("old questions cannot be deleted from the journal: %s", error)
            await asyncio.sleep(PURGE_EVERY_S)

    # -- connections

    async def _stay_connected(self) -> None:
        while True:
            try:
                await self._one_connection()
            except ConnectionLost as lost:
                if lost.taken_over:
                    await self._stand_aside()
                    continue
                delay_s = self._outage.failed(time.monotonic(), hopeless=lost.hopeless)
                self._stats.count("mqtt.lost")
                _LOG.warning(
                    "no broker at %s:%d: %s; next attempt in %.1f s",
                    *self.config.endpoint,
                    redact(lost),
                    delay_s,
                )
            except TakenOver:
                await self._stand_aside()
                continue
            except ConfigError as error:
                delay_s = self._outage.failed(time.monotonic(), hopeless=True)
                _LOG.error("%s; next attempt in %.1f s", redact(error), delay_s)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay_s):
                    await self._retry.wait()
            self._retry.clear()

    def _endpoint(self, client_id: str, session_expiry_s: int) -> Endpoint:
        config = self.config
        host, port = config.endpoint
        tls = config.tls or TlsConfig()
        return Endpoint(
            host=host,
            port=port,
            version=config.version,
            client_id=client_id,
            user=config.user,
            password=config.secret(),
            tls=tls.context() if config.encrypted else None,
            keepalive_s=config.keepalive_s,
            session_expiry_s=session_expiry_s,
        )

    async def _one_connection(self) -> None:
        """In a task of its own: a cancellation that comes with the loss of the connection would
        be lost in a task group, which tells only of its errors.
        """
        serving = asyncio.create_task(self._connection(), name="mqtt-connection")
        try:
            await asyncio.wait({serving})
        finally:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)
        serving.result()

    async def _connection(self) -> None:
        """Serve over one connection; ends by raising."""
        endpoint = self._endpoint(self.client_id, self.config.session_expiry_s)
        will = node_status(self.topics, OFFLINE)
        on_drop = self._count_drop
        try:
            async with (
                connected(endpoint, will, self.config.will_delay_s, on_drop) as connection,
                self._sender(connection) as sender,
            ):
                early = await self._subscribed(connection)
                self._connected()
                try:
                    async with asyncio.TaskGroup() as group:
                        group.create_task(self.outbox.run(sender))
                        group.create_task(self._read(connection, early))
                        if sender is not connection:
                            group.create_task(_lost(sender))
                except asyncio.CancelledError:
                    # We close in good order, so the broker will not send the last will.
                    with contextlib.suppress(ConnectionLost, TimeoutError):
                        async with asyncio.timeout(GOODBYE_S):
                            await connection.publish(will)
                    raise
        except BaseExceptionGroup as group:
            # Not by except*: what is raised inside stays in a group before Python 3.11.4.
            found, others = group.split((ConnectionLost, TakenOver))
            if found is None or others is not None:
                raise
            raise _first(found) from None
        finally:
            self.online.clear()
            self._claim.disconnected()
            self.state = "draining" if self._draining else "offline"

    @contextlib.asynccontextmanager
    async def _sender(self, connection: Connection) -> AsyncGenerator[Connection, None]:
        """What is sent over: a connection of its own, unless the configuration says otherwise."""
        if not self.config.send_apart:
            yield connection
            return
        endpoint = self._endpoint(f"{self.client_id}-send", 0)
        async with connected(endpoint, None, 0, self._count_drop) as sender:
            yield sender

    async def _subscribed(self, connection: Connection) -> list[Incoming]:
        """Subscribe, and look whether another node uses our names, before saying anything."""
        topics = [(self.topics.node_info, 0), *self.topics.commands]
        for extension in self._extensions:
            topics += extension.topics()
        await connection.subscribe(topics)
        # Its answer comes after what is retained, so that is here once this returns.
        await connection.subscribe([(self.topics.node_info, 0)])
        early = await connection.arrived()
        if self._claim.taken(early):
            raise TakenOver
        return early

    def _connected(self) -> None:
        self._outage.good(time.monotonic())
        self._stats.count("mqtt.connected")
        self.state = "draining" if self._draining else "connected"
        self.presence.connected()
        for extension in self._extensions:
            extension.connected(self.outbox.put)
        self.online.set()
        _LOG.info("connected to the broker at %s:%d", *self.config.endpoint)

    async def _read(self, connection: Connection, early: list[Incoming]) -> None:
        batch = early
        while True:
            if batch and not self._draining:
                await self._take(batch)
                for message in batch:
                    message.ack()
            batch = await connection.batch(BATCH)

    async def _take(self, batch: list[Incoming]) -> None:
        queries: list[tuple[Incoming, Command]] = []
        for message in batch:
            command = self.topics.command(message.topic)
            if message.topic == self.topics.node_info:
                self._look_at_info(message)
            elif command is None or command.action == "watch":
                await self._extended(message)
            elif message.retain:
                self._stats.count("mqtt.ignored.retained")
            elif command.action == "query":
                queries.append((message, command))
            else:
                # In order: a cancel is for a question that came before it.
                await self._accept(queries)
                queries = []
                with self._guarded(message):
                    await self._controls.handle(message, command)
        await self._accept(queries)

    async def _accept(self, queries: list[tuple[Incoming, Command]]) -> None:
        """Take all of them together; where that fails by a fault of ours, one by one."""
        try:
            await self.intake.take(queries)
        except Exception:
            for message, command in queries:
                with self._guarded(message):
                    await self.intake.take([(message, command)])

    async def _extended(self, message: Incoming) -> None:
        for extension in self._extensions:
            with self._guarded(message):
                if await extension.handle(message, self.outbox.put):
                    return
        self._stats.count("mqtt.ignored.unknown_topic")

    @contextlib.contextmanager
    def _guarded(self, message: Incoming) -> Iterator[None]:
        """No message may end the service, whatever it is; what it did is counted and logged."""
        try:
            yield
        except Exception:
            self._stats.count("mqtt.failed.message")
            _LOG.exception("a message to %a could not be handled", message.topic[:200])

    def _look_at_info(self, message: Incoming) -> None:
        if not message.retain and self._claim.foreign(message):
            self._stats.count("mqtt.two_nodes")
            self.presence.event(
                f"another node tells of itself under {self.topics.prefix}/: both answer every "
                "question; give each node a prefix of its own (mqtt.prefix)"
            )

    async def _stand_aside(self) -> None:
        """Another node has our client id: say so, and stay away until it is gone."""
        self.state = "aside"
        self._stats.count("mqtt.taken_over")
        _LOG.error(
            "another node is connected to %s:%d with our client id %s; this one stays away until "
            "that one goes. Give each node a state folder (or mqtt.client_id) of its own",
            *self.config.endpoint,
            self.client_id,
        )
        gone = False
        while not gone:
            await asyncio.sleep(ASIDE_S * (0.5 + self._draw() / 2))
            gone = await self._other_is_gone()
        _LOG.warning("the other node with client id %s has gone; connecting", self.client_id)
        self._claim.given_up()

    async def _other_is_gone(self) -> bool:
        """Look at ``P/node/status`` under another client id until it is ``offline``."""
        try:
            endpoint = self._endpoint(f"{self.client_id}-look", 0)
            async with connected(endpoint, None, 0, self._count_drop) as connection:
                await connection.subscribe([(self.topics.node_status, 1)])
                while True:
                    for message in await connection.batch(BATCH):
                        message.ack()
                        if message.payload == OFFLINE:
                            return True
        except (ConnectionLost, ConfigError) as error:
            _LOG.warning("cannot look whether the other node is there: %s", redact(error))
            return False

    def _count_drop(self) -> None:
        self._stats.count("mqtt.dropped.inbox_full")


def _nothing(camera: str) -> None:
    """Nobody keeps anything of a camera."""


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """One of the errors inside; of the two kinds, the one that says more."""
    found: list[BaseException] = []
    for error in group.exceptions:
        found.append(_first(error) if isinstance(error, BaseExceptionGroup) else error)
    return next((e for e in found if isinstance(e, TakenOver) or _is_taken_over(e)), found[0])


def _is_taken_over(error: BaseException) -> bool:
    return isinstance(error, ConnectionLost) and error.taken_over


async def _lost(sender: Connection) -> None:
    """Raise ConnectionLost once the connection that is only sent over breaks. Whoever takes it over
    is not another node: that one would have taken the main one before.
    """
    try:
        await sender.lost()
    except ConnectionLost as lost:
        raise ConnectionLost(f"the connection for sending: {lost}") from None
