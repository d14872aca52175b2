"""What the node tells without being asked: that it is there, its cameras, counters, events."""

from __future__ import annotations

import asyncio
import datetime
import json
import logging
import time
from collections.abc import Callable
from typing import Any

from clients.mqtt.claim import Claim
from clients.mqtt.config import MqttConfig
from clients.mqtt.messages import Outgoing
from clients.mqtt.outbox import Outbox
from clients.mqtt.ports import NodePort
from clients.mqtt.topics import Topics
from clients.node.news import LOOK_EVERY_S, CameraNews
from runtime.node import CameraStatus
from runtime.redact import redact

ONLINE, DRAINING, OFFLINE = b"online", b"draining", b"offline"
_LOG = logging.getLogger("clients.mqtt")


def node_status(topics: Topics, status: bytes) -> Outgoing:
    """``P/node/status``; also the last will."""
    return Outgoing(topics.node_status, status, 1, retain=True, content_type="text/plain")


def _nothing() -> None:
    """Nobody waits for it to be sent."""


class Presence:
    """Retained states and what is sent at intervals. Belongs to the event loop."""

    def __init__(
        self,
        node: NodePort,
        outbox: Outbox,
        topics: Topics,
        config: MqttConfig,
        claim: Claim,
        name: str,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """claim: it is told when the broker has our info."""
        self._node = node
        self._outbox = outbox
        self._topics = topics
        self._config = config
        self._claim = claim
        self._name = name
        self._wall = wall
        self._told: dict[str, tuple[object, ...]] = {}
        self._told_at: dict[str, float] = {}
        self._news = CameraNews()  # outlives connections
        self._listed: list[str] | None = None
        self._status = ONLINE

    def status(self, status: bytes) -> None:
        """Tell whether the node is there."""
        self._status = status
        self._outbox.put(node_status(self._topics, status))

    def connected(self) -> None:
        """A connection was made: everything retained is told anew."""
        self._told.clear()
        self._listed = None
        self.status(self._status)
        self.look()

    def info(self) -> dict[str, Any]:
        """``P/node/info``."""
        limits = self._config.limits
        return {
            "v": 1,
            "type": "node",
            "name": self._name,
            "instance": self._claim.instance,
            **self._node.about(),
            "cameras": self._node.cameras(),
            "schema": "urn:omnidrop-stream:contract:1",
            "limits": {
                "bytes": self._config.largest_bytes,
                "question_chars": self._node.decode.question_chars,
                "max_tokens": self._node.decode.max_tokens,
                "queries_per_s": limits.queries_per_s,
                "tokens_per_s": limits.tokens_per_s,
                "oldest_s": self._config.oldest_s,
            },
        }

    def look(self) -> None:
        """Tell each camera's state where it has changed or was last told long ago."""
        names = self._node.cameras()
        now = time.monotonic()
        before = set(self._told)
        for name in names:
            status = self._node.status(name)
            key = _key(status)
            due = now - self._told_at.get(name, 0.0) >= self._config.status_every_s
            if key != self._told.get(name):
                self._switches(status)
            elif not due:
                continue
            if (news := self._news.of(status)) is not None:
                self.event(news.text, news.camera, news.level)
            self._told[name], self._told_at[name] = key, now
            self._retained(self._topics.camera(name, "status"), status.message(self._wall()))
        for name in before - set(names):
            del self._told[name]
            self._news.gone(name)
            for topic in ("status", "enabled/state", "muted/state"):
                self._outbox.put(Outgoing(self._topics.camera(name, topic), b"", 1, retain=True))
        if names != self._listed:
            self._listed = names
            self._retained(self._topics.node_info, self.info(), self._claim.confirmed)

    def _switches(self, status: CameraStatus) -> None:
        for name, on in (("enabled", status.enabled), ("muted", status.muted)):
            topic = self._topics.camera(status.camera, f"{name}/state")
            state = b"ON" if on else b"OFF"
            self._outbox.put(Outgoing(topic, state, 1, retain=True, content_type="text/plain"))

    def event(self, text: str, camera: str = "", level: int = logging.WARNING) -> None:
        """News for people: in the log and on ``P/events``."""
        shown = redact(text)
        _LOG.log(level, "%s", shown)
        now = datetime.datetime.fromtimestamp(self._wall(), datetime.UTC)
        told = {"v": 1, "type": "news", "at": now.isoformat(timespec="milliseconds")}
        told |= {"camera": camera} if camera else {}
        self._outbox.put(
            Outgoing(self._topics.events, json.dumps({**told, "text": shown}).encode(), 0)
        )

    async def run(self) -> None:
        """Look and tell until cancelled."""
        stats_at = time.monotonic()
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            self.look()
            if time.monotonic() - stats_at >= self._config.stats_every_s:
                stats_at = time.monotonic()
                snapshot = json.dumps({"v": 1, "type": "stats", **self._node.stats.snapshot()})
                self._outbox.put(Outgoing(self._topics.stats, snapshot.encode(), 0))

    def _retained(
        self, topic: str, message: dict[str, Any], on_sent: Callable[[], None] = _nothing
    ) -> None:
        payload = json.dumps(message).encode("ascii")
        self._outbox.put(Outgoing(topic, payload, 1, retain=True, on_sent=on_sent))


def _key(status: CameraStatus) -> tuple[object, ...]:
    """What counts as a change; ages and counts do not."""
    session = status.session
    media = (session.video, session.audio) if session is not None else (None, None)
    return (status.state, status.code, status.enabled, status.muted, *media)
