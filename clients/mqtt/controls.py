"""What is sent to a camera besides questions: cancel, forget, enabled, muted. Switches are kept."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from clients.mqtt.answering import Answering
from clients.mqtt.messages import Incoming, Outgoing
from clients.mqtt.ports import NodePort, Publish
from clients.mqtt.reading import Refused, Shape, read_json
from clients.mqtt.requests import parse_cancel
from clients.mqtt.topics import ALL, Command, Topics
from omnidrop_stream.errors import UnknownCamera
from runtime.journal import Journal, JournalFile

ON_OFF = {b"ON": True, b"OFF": False}
SWITCHES = ("enabled", "muted")
LONGEST_S = 86_400


async def kept_switches(journal: Journal) -> dict[str, dict[str, bool]]:
    """What was last switched by MQTT: camera -> ``enabled``, ``muted``. It outlives a restart, so
    that no camera is unmuted by one.
    """
    found: dict[str, dict[str, bool]] = {}
    for key, value in (await journal.do(lambda file: file.settings())).items():
        camera, _, name = key.partition("/")
        if name in SWITCHES:
            found.setdefault(camera, {})[name] = value == "ON"
    return found


class Controls:
    """Belongs to the event loop. Whoever the broker lets write to these topics may use them."""

    def __init__(
        self,
        node: NodePort,
        journal: Journal,
        answering: Answering,
        topics: Topics,
        shape: Callable[[], Shape],
        publish: Publish,
        tell: Callable[[str, str], None],
        forgotten: Callable[[str], None],
    ) -> None:
        """tell: news for people, about a camera. forgotten: told of a camera that forgot."""
        self._forgotten = forgotten
        self._publish = publish
        self._node = node
        self._journal = journal
        self._answering = answering
        self._topics = topics
        self._shape = shape
        self._tell = tell

    async def handle(self, message: Incoming, command: Command) -> None:
        """Do it; what cannot be done is counted and told on ``P/events``."""
        try:
            if command.action == "cancel":
                self._cancel(message, command)
            elif command.action == "forget":
                await self._forget(message, command)
            else:
                await self._switch(message, command)
        except (Refused, UnknownCamera) as error:
            self._node.stats.count(f"mqtt.refused.{error.code}")
            self._node.stats.count("mqtt.dropped.unanswerable")
            name = command.camera.encode("ascii", "backslashreplace").decode()[:64]
            self._tell(f"{command.action} of {name} was not understood: {error}", "")

    def _cancel(self, message: Incoming, command: Command) -> None:
        cancel = parse_cancel(message, command, self._topics, self._shape())
        if not self._answering.cancel(command.camera, cancel):
            self._node.stats.count("mqtt.cancel_of_nothing")

    async def _forget(self, message: Incoming, command: Command) -> None:
        last_s: float | None = None
        if message.payload:
            values = read_json(message.payload, self._shape())
            given = values.get("last_s")
            counts = isinstance(given, int | float) and not isinstance(given, bool)
            number = float(given) if counts and given is not None else 0.0
            if set(values) - {"v", "last_s"} or not 0 < number <= LONGEST_S:
                raise Refused(
                    "bad_request",
                    'send nothing to forget everything, or {"last_s": seconds}, 0 to 86400',
                )
            last_s = number
        for camera in self._cameras(command):
            gone = await self._node.forget(camera, last_s)
            self._publish(Outgoing(self._topics.camera(camera, "last_answer"), b"", 1, retain=True))
            self._forgotten(camera)
            self._tell(f"{camera} forgot {gone} chunks", camera)

    async def _switch(self, message: Incoming, command: Command) -> None:
        on = ON_OFF.get(message.payload)
        if on is None:
            raise Refused("bad_request", "send ON or OFF")
        switch = self._node.set_enabled if command.action == "enabled" else self._node.set_muted
        for camera in self._cameras(command):
            await switch(camera, on)
            key, value = f"{camera}/{command.action}", "ON" if on else "OFF"
            await self._journal.do(partial(JournalFile.set, name=key, value=value))

    def _cameras(self, command: Command) -> list[str]:
        if command.camera == ALL:
            return self._node.cameras()
        self._node.status(command.camera)
        return [command.camera]
