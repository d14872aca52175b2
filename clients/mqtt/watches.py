"""Standing questions through topics: ``P/<camera>/watch/<name>/set``, ``state``, ``event``.

``set`` takes the settings of a standing question as JSON, at least its ``text``, or only its words;
an empty message removes it. What was set outlives a restart and wins over the node's file; one of
the file that was removed comes back with the next start. ``state`` is retained, ``event`` is the
contract's, ``frame`` (retained) the picture of the newest event. An `Extension` of the service.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import asdict, replace
from functools import partial
from typing import Any, Protocol

from pydantic import ValidationError

from clients import contract
from clients.live_watch import from_words
from clients.mqtt.messages import Incoming, Outgoing
from clients.mqtt.ports import Publish
from clients.mqtt.reading import Refused, Shape, read_json, read_text
from clients.mqtt.topics import Command, Topics
from omnidrop_stream.config import explain
from omnidrop_stream.errors import OmniDropError
from omnidrop_stream.watch_config import WatchConfig
from runtime.journal import Journal, JournalFile
from runtime.redact import redact
from runtime.stats import Stats
from runtime.watch_telling import Told
from runtime.watch_types import WatchEvent, WatchState

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
LOOK_EVERY_S = 0.5
JPEG = "image/jpeg"
_LOG = logging.getLogger("clients.mqtt")
_KEPT = "/watch/"


class WatchNode(Protocol):
    """What is needed of a node; `runtime.node.Node` is one."""

    @property
    def stats(self) -> Stats:
        """Its counters."""
        ...

    def cameras(self) -> list[str]:
        """Names."""
        ...

    async def set_watch(self, camera: str, name: str, watch: WatchConfig) -> WatchState:
        """Watch for it; raises what refuses it."""
        ...

    def remove_watch(self, camera: str, name: str) -> bool:
        """Watch no longer for it."""
        ...

    def watches(self, camera: str) -> tuple[WatchState, ...]:
        """A camera's, as they are now."""
        ...

    def watch_events(self) -> AsyncGenerator[tuple[str, Told], None]:
        """What happens, from now on."""
        ...


async def kept_watches(journal: Journal) -> dict[str, dict[str, WatchConfig]]:
    """What was set by MQTT and not removed: camera -> name -> settings."""
    found: dict[str, dict[str, WatchConfig]] = {}
    for key, value in (await journal.do(JournalFile.settings)).items():
        camera, middle, name = key.partition(_KEPT)
        if not middle or not value:
            continue
        try:
            found.setdefault(camera, {})[name] = WatchConfig.model_validate_json(value)
        except ValidationError as error:  # kept by another version
            _LOG.error(
                "the standing question %s is no longer allowed: %s",
                key,
                explain(error, WatchConfig, "watch"),
            )
            journal.stats.count("watch.kept_unreadable")
    return found


class Watches:
    """Belongs to the event loop. Whoever the broker lets write to these topics may use them."""

    def __init__(
        self,
        node: WatchNode,
        journal: Journal,
        topics: Topics,
        shape: Callable[[], Shape],
        tell: Callable[[str, str], None],
    ) -> None:
        """tell: news for people, about a camera."""
        self._node = node
        self._journal = journal
        self._topics = topics
        self._shape = shape
        self._tell = tell
        self._told: dict[tuple[str, str], bytes] = {}

    def topics(self) -> list[tuple[str, int]]:
        """None beside the node's own commands, among which theirs is."""
        return []

    def connected(self, publish: Publish) -> None:
        """Tell every state."""
        self._told.clear()
        self._look(publish)

    async def handle(self, message: Incoming, publish: Publish) -> bool:
        """Set or remove one."""
        command = self._topics.command(message.topic)
        if command is None or command.action != "watch":
            return False
        if message.retain:
            self._node.stats.count("mqtt.ignored.retained")
            return True
        try:
            await self._change(message, command)
        except (Refused, OmniDropError) as error:
            self._node.stats.count(f"mqtt.refused.{error.code}")
            about = f"{command.camera}/{command.rest}"[:128]
            about = about.encode("ascii", "backslashreplace").decode()
            self._tell(f"the standing question {about} was refused: {redact(error)}", "")
        self._look(publish)
        return True

    async def _change(self, message: Incoming, command: Command) -> None:
        camera, name = command.camera, command.rest
        if not NAME.fullmatch(name):
            raise Refused("bad_request", f"its name must match {NAME.pattern}")
        key = f"{camera}{_KEPT}{name}"
        if message.payload:
            watch = _config(_settings(message.payload, self._shape()))
            await self._node.set_watch(camera, name, watch)
            value = watch.model_dump_json(exclude_unset=True)
            await self._journal.do(partial(JournalFile.set, name=key, value=value))
        else:
            self._node.remove_watch(camera, name)
            await self._journal.do(partial(JournalFile.unset, name=key))

    def answered(self, camera: str, owner: str, ended: dict[str, Any], publish: Publish) -> None:
        """An answer is no standing question."""

    async def run(self, publish: Publish) -> None:
        """Tell events as they happen, and states as they change, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._states(publish))
            async with aclosing(self._node.watch_events()) as events:
                async for camera, told in events:
                    if isinstance(told, WatchEvent):
                        self._event(camera, told, publish)
                    else:
                        self._tell(f"{camera} cannot watch for {told.text}: {told.reason}", camera)
                    self._look(publish)

    async def _states(self, publish: Publish) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            self._look(publish)

    def _event(self, camera: str, event: WatchEvent, publish: Publish) -> None:
        told = contract.line(contract.event(event, camera)).encode("ascii")
        publish(Outgoing(self._topic(camera, event.id, "event"), told, 1))
        if event.key_frame is not None:
            topic, picture = self._topic(camera, event.id, "frame"), event.key_frame.jpeg
            publish(Outgoing(topic, picture, 1, retain=True, content_type=JPEG))

    def forgotten(self, camera: str, publish: Publish) -> None:
        """What a camera has seen is forgotten: its pictures at the broker too."""
        for state in self._node.watches(camera):
            publish(Outgoing(self._topic(camera, state.id, "frame"), b"", 1, retain=True))

    def _topic(self, camera: str, name: str, what: str) -> str:
        return self._topics.camera(camera, f"watch/{name}/{what}")

    def _look(self, publish: Publish) -> None:
        now: dict[tuple[str, str], bytes] = {}
        for camera in self._node.cameras():
            for state in self._node.watches(camera):
                told = {"v": 1, "type": "watch", "camera": camera, **_lasting(state)}
                now[camera, state.id] = json.dumps(told).encode("ascii")
        for camera, name in set(self._told) - set(now):
            for what in ("state", "frame"):
                publish(Outgoing(self._topic(camera, name, what), b"", 1, retain=True))
        for (camera, name), payload in now.items():
            if self._told.get((camera, name)) != payload:
                topic = self._topic(camera, name, "state")
                publish(Outgoing(topic, payload, 1, retain=True))
        self._told = now


def _settings(payload: bytes, shape: Shape) -> dict[str, Any]:
    """From JSON, or from words alone."""
    if not payload.lstrip().startswith((b"{", b"[", b'"')):
        return from_words(read_text(payload, shape))
    values = read_json(payload, shape)
    values.pop("v", None)
    return values


def _config(values: dict[str, Any]) -> WatchConfig:
    try:
        return WatchConfig.model_validate(values)
    except ValidationError as error:
        raise Refused("bad_request", str(explain(error, WatchConfig, "watch"))) from None


def _lasting(state: WatchState) -> dict[str, Any]:
    """Without what changes at every chunk, and without the error beside its sentence."""
    told = asdict(replace(state, refusal=None))
    for name in ("odds", "baseline", "judge_ms", "refusal"):
        del told[name]
    return {**told, "stage": state.stage.value, "reason": redact(state.reason)}
