"""Takes from the broker what it keeps of cameras and standing questions of an earlier run.

A file is mostly changed while the node is away: what a run has told of is kept in the journal, or
the camera would be "live" at the broker for ever. What goes while the node runs is taken away by
whoever told of it. An `Extension` of the service.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable
from typing import Any

from clients.mqtt.discovery import topic_of
from clients.mqtt.messages import Incoming, Outgoing
from clients.mqtt.ports import NodePort, Publish
from clients.mqtt.topics import Topics
from runtime.journal import Journal, JournalFile

LOOK_EVERY_S = 0.5
_KEY = "retained"
_WATCH = "/watch/"
_OF_CAMERA = ("status", "enabled/state", "muted/state", "last_answer")
_OF_WATCH = ("state", "frame")


class Leftovers:
    """Belongs to the event loop. watches: names of a camera's standing questions."""

    def __init__(
        self,
        node: NodePort,
        journal: Journal,
        topics: Topics,
        name: str,
        discovery_prefix: str,
        watches: Callable[[str], Iterable[str]],
    ) -> None:
        """name: of the node."""
        self._node = node
        self._journal = journal
        self._topics = topics
        self._name = name
        self._discovery_prefix = discovery_prefix
        self._watches = watches

    def topics(self) -> list[tuple[str, int]]:
        """None: what is kept is known from the journal."""
        return []

    def connected(self, publish: Publish) -> None:
        """What is to be removed waits in the outbox."""

    async def handle(self, message: Incoming, publish: Publish) -> bool:
        """No message is for this."""
        return False

    def answered(self, camera: str, owner: str, ended: dict[str, Any], publish: Publish) -> None:
        """Its topic is among a camera's."""

    async def run(self, publish: Publish) -> None:
        """Take away what is left, then note what there is; until cancelled."""
        kept = (await self._journal.do(JournalFile.settings)).get(_KEY, "[]")
        told: set[str] = set(json.loads(kept))
        for gone in sorted(told - self._now()):
            for topic in self._topics_of(gone):
                publish(Outgoing(topic, b"", 1, retain=True))
        while True:
            now = self._now()
            if now != told:
                self._keep(now)
                told = now
            await asyncio.sleep(LOOK_EVERY_S)

    def _keep(self, now: set[str]) -> None:
        value = json.dumps(sorted(now))
        self._journal.later(lambda file: file.set(_KEY, value))

    def _now(self) -> set[str]:
        cameras = self._node.cameras()
        watches = {f"{one}{_WATCH}{name}" for one in cameras for name in self._watches(one)}
        return {*cameras, *watches}

    def _topics_of(self, what: str) -> list[str]:
        camera, middle, watch = what.partition(_WATCH)
        if middle:
            return [self._topics.camera(camera, f"watch/{watch}/{name}") for name in _OF_WATCH]
        own = [self._topics.camera(camera, name) for name in _OF_CAMERA]
        return [*own, topic_of(self._name, camera, self._discovery_prefix)]
