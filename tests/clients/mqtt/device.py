"""A device as others write one: aiomqtt without anything of ours."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import aiomqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

LIMIT_S = 10.0


class Device:
    """Sends and keeps what comes; ``until`` waits for it. MQTT 5 or 3.1.1."""

    def __init__(
        self,
        port: int,
        user: str = "lamp",
        password: str = "lamp-secret",
        v5: bool = True,
        **options: Any,
    ) -> None:
        self.v5 = v5
        self.user = user
        self.came: list[aiomqtt.Message] = []
        self._news = asyncio.Condition()
        self._client = aiomqtt.Client(
            "127.0.0.1",
            port,
            username=user or None,
            password=password or None,
            protocol=aiomqtt.ProtocolVersion.V5 if v5 else aiomqtt.ProtocolVersion.V311,
            socket_options=((socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),),
            **options,
        )
        self._client.pending_calls_threshold = 10_000
        self._reading: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        self._reading = asyncio.create_task(self._read())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._reading is not None
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)
        await self._client.__aexit__(kind, error, trace)

    async def _read(self) -> None:
        async for message in self._client.messages:
            async with self._news:
                self.came.append(message)
                self._news.notify_all()

    async def listen(self, topic: str, qos: int = 1) -> None:
        await self._client.subscribe(topic, qos)

    async def send(
        self,
        topic: str,
        payload: bytes | str | dict[str, Any],
        reply_to: str = "",
        correlation: bytes | None = None,
        user_properties: list[tuple[str, str]] | None = None,
        expiry_s: int | None = None,
        qos: int = 1,
        retain: bool = False,
    ) -> None:
        body = json.dumps(payload) if isinstance(payload, dict) else payload
        properties = None
        if self.v5:
            properties = Properties(PacketTypes.PUBLISH)
            if reply_to:
                properties.ResponseTopic = reply_to
            if correlation is not None:
                properties.CorrelationData = correlation
            if user_properties:
                properties.UserProperty = user_properties
            if expiry_s is not None:
                properties.MessageExpiryInterval = expiry_s
        await self._client.publish(topic, body, qos, retain, properties)

    async def until(self, there: Callable[[], bool], limit_s: float = LIMIT_S) -> None:
        """Wait for what messages bring about."""
        try:
            async with asyncio.timeout(limit_s), self._news:
                await self._news.wait_for(there)
        except TimeoutError:
            came = [(m.topic.value, bytes(m.payload)[:150]) for m in self.came[-12:]]
            raise AssertionError(f"not within {limit_s} s; the last that came: {came}") from None

    def told(self, id: str | None = None, *types: str) -> list[dict[str, Any]]:
        """The JSON messages of an id (None: all), of these types (none given: all)."""
        found = []
        for message in list(self.came):
            if not bytes(message.payload).startswith(b"{"):
                continue
            told = json.loads(bytes(message.payload))
            if (id is None or told.get("id") == id) and (not types or told.get("type") in types):
                found.append(told)
        return found

    async def ended(self, id: str, limit_s: float = LIMIT_S) -> dict[str, Any]:
        """Wait for the end of a question."""
        ends = ("final", "error", "summary")
        await self.until(lambda: bool(self.told(id, *ends)), limit_s)
        return self.told(id, *ends)[0]
