"""Keeps Home Assistant told: describes the cameras, repeats it after its birth, shows answers.

An `Extension` of the service; what it says is in `discovery`.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Mapping
from typing import Any

from clients.mqtt.discovery import BIRTH, Camera, message, topic_of
from clients.mqtt.messages import Incoming, Outgoing
from clients.mqtt.ports import NodePort, Publish
from clients.mqtt.topics import Topics

LONGEST_WAIT_S = 10.0
"""After a birth; many devices of one broker then do not speak at the same moment."""
LOOK_EVERY_S = 0.5


class HomeAssistant:
    """Belongs to the event loop. watches: a camera's standing questions, name -> words."""

    def __init__(
        self,
        node: NodePort,
        topics: Topics,
        name: str,
        discovery_prefix: str,
        watches: Callable[[str], Mapping[str, str]],
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._node = node
        self._topics = topics
        self._name = name
        self._discovery_prefix = discovery_prefix
        self._watches = watches
        self._draw = draw
        self._told: dict[str, bytes] = {}
        self._born = asyncio.Event()

    def topics(self) -> list[tuple[str, int]]:
        """Home Assistant's birth message."""
        return [(self._birth_topic, 1)]

    @property
    def _birth_topic(self) -> str:
        return f"{self._discovery_prefix}/status"

    def connected(self, publish: Publish) -> None:
        """Describe every camera."""
        self._told.clear()
        self._tell(publish)

    async def handle(self, message: Incoming, publish: Publish) -> bool:
        """A birth is answered after a while (not where it is retained: we have just connected)."""
        if message.topic != self._birth_topic:
            return False
        if message.payload == BIRTH.encode() and not message.retain:
            self._born.set()
        return True

    def answered(self, camera: str, owner: str, ended: dict[str, Any], publish: Publish) -> None:
        """Keep the newest answer where its entity looks."""
        if ended.get("type") != "final":
            return
        topic = self._topics.camera(camera, "last_answer")
        publish(Outgoing(topic, json.dumps(ended).encode("ascii"), 1, retain=True))

    async def run(self, publish: Publish) -> None:
        """Follow cameras and watches that come and go, and births; until cancelled."""
        while True:
            try:
                async with asyncio.timeout(LOOK_EVERY_S):
                    await self._born.wait()
            except TimeoutError:
                self._tell(publish)
                continue
            await asyncio.sleep(LONGEST_WAIT_S * self._draw())
            self._born.clear()
            self._told.clear()
            self._tell(publish)

    def _tell(self, publish: Publish) -> None:
        version = str(self._node.about().get("version", ""))
        now: dict[str, bytes] = {}
        for camera in self._node.cameras():
            about = Camera(camera, self._watches(camera))
            told = message(self._topics.prefix, self._name, about, version)
            now[camera] = json.dumps(told).encode("ascii")
        for camera in set(self._told) - set(now):
            for topic in (self._topic_of(camera), self._topics.camera(camera, "last_answer")):
                publish(Outgoing(topic, b"", 1, retain=True))
        for camera, payload in now.items():
            if self._told.get(camera) != payload:
                publish(Outgoing(self._topic_of(camera), payload, 1, retain=True))
        self._told = now

    def _topic_of(self, camera: str) -> str:
        return topic_of(self._name, camera, self._discovery_prefix)
