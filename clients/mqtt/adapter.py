"""The one file that knows the MQTT library (aiomqtt 2.x over paho): a connection, in our own words.

aiomqtt 2.x confirms a message on arrival and would lose it in a crash, so paho's manual
acknowledgement is on: whoever takes a message calls its ``ack``. aiomqtt 3 brings the same built
in; it is to be fitted here and nowhere else.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import aiomqtt
from aiomqtt.exceptions import MqttConnectError
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from clients.mqtt.messages import Incoming, Outgoing

CONNECT_S = 3.0
ANSWER_S = 10.0
RECEIVE_MAXIMUM = 64
"""Messages that the broker may send before we have confirmed the first of them."""
INBOX = 1024
"""Messages of quality of service 0 that may wait for us; beyond, they are dropped and counted."""
CALM_PER_S, BURST, PAUSE_S = 100.0, 50, 0.02
"""More packets a second than that, beyond a burst, and the socket is looked at every 20 ms only."""
SESSION_TAKEN_OVER = 142
_LOGIN = (134, 135, 140)  # bad user name or password, not authorized, bad authentication method
_LOGIN_3 = (4, 5)
_LOG = logging.getLogger("clients.mqtt.connection")


class ConnectionLost(Exception):
    """There is no connection, or no longer."""

    def __init__(
        self,
        reason: str,
        *,
        hopeless: bool = False,
        taken_over: bool = False,
        login: bool = False,
    ) -> None:
        super().__init__(reason)
        self.hopeless = hopeless
        """Waiting alone mends nothing: login or certificate."""
        self.taken_over = taken_over
        """Another connection uses our client id."""
        self.login = login
        """The broker does not know this user name and password."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Whom to connect to, and as whom."""

    host: str
    port: int
    version: str
    client_id: str
    user: str = ""
    password: str = ""
    tls: ssl.SSLContext | None = None
    keepalive_s: int = 15
    session_expiry_s: int = 0
    """0: the broker keeps nothing for us."""


class Connection:
    """An open connection. Its methods raise ConnectionLost."""

    def __init__(self, client: aiomqtt.Client, v5: bool) -> None:
        self._client = client
        self._v5 = v5

    async def subscribe(self, topics: list[tuple[str, int]]) -> None:
        """Ask for topics, with the best quality of service for each. A broker that denies one by
        its access list may still say that it is granted.
        """
        with _translated(), _cancellable():
            await self._client.subscribe(topics)

    async def publish(self, message: Outgoing) -> None:
        """Send; returns when the broker has confirmed it (quality of service 0: once written)."""
        with _translated(), _cancellable():
            await self._client.publish(
                message.topic,
                message.payload,
                message.qos,
                message.retain,
                _publish_properties(message) if self._v5 else None,
            )

    async def batch(self, most: int) -> list[Incoming]:
        """Wait for a message; it and those behind it that are there already."""
        with _translated(), _cancellable():
            found = [await anext(self._client.messages)]
        waiting = self._client._queue  # at a task for each, as aiomqtt does it, a flood costs more
        while len(found) < most and not waiting.empty():
            found.append(waiting.get_nowait())
        return [self._incoming(message) for message in found]

    async def lost(self) -> None:
        """Wait until it breaks: raises ConnectionLost. For a connection that is only sent over."""
        while True:
            await self.batch(1)

    async def arrived(self) -> list[Incoming]:
        """What has come and was not taken yet; without waiting."""
        waiting = len(self._client.messages)
        return await self.batch(waiting) if waiting else []

    def _incoming(self, message: aiomqtt.Message) -> Incoming:
        given = _given(message)
        return Incoming(
            topic=message.topic.value,
            payload=bytes(message.payload),
            qos=message.qos,
            retain=message.retain,
            ack=lambda: self._ack(message),
            reply_to=given.get("ResponseTopic", ""),
            correlation=given.get("CorrelationData"),
            expiry_s=given.get("MessageExpiryInterval"),
            properties=tuple((str(k), str(v)) for k, v in given.get("UserProperty", ())),
        )

    def _ack(self, message: aiomqtt.Message) -> None:
        if message.qos:
            self._client._client.ack(message.mid, message.qos)  # aiomqtt 2 has no method for it


@asynccontextmanager
async def connected(
    endpoint: Endpoint, will: Outgoing | None, will_delay_s: int, on_drop: Callable[[], None]
) -> AsyncGenerator[Connection, None]:
    """A connection for as long as the block lasts; raises ConnectionLost.

    will: sent by the broker when the connection breaks. on_drop: a message of quality of service 0
    found the inbox full.
    """
    v5 = endpoint.version == "5"
    client = aiomqtt.Client(
        endpoint.host,
        endpoint.port,
        identifier=endpoint.client_id,
        username=endpoint.user or None,
        password=endpoint.password or None,
        protocol=aiomqtt.ProtocolVersion.V5 if v5 else aiomqtt.ProtocolVersion.V311,
        clean_session=None if v5 else endpoint.session_expiry_s == 0,
        clean_start=endpoint.session_expiry_s == 0 if v5 else 3,
        properties=_connect_properties(endpoint) if v5 else None,
        will=None if will is None else _will(will, will_delay_s if v5 else 0),
        keepalive=endpoint.keepalive_s,
        timeout=ANSWER_S,
        tls_context=endpoint.tls,
        # Without it (and the broker's set_tcp_nodelay) an answer waits 40 to 90 ms for company.
        socket_options=((socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),),
        queue_type=_inbox(on_drop),
        logger=_LOG,
    )
    client.pending_calls_threshold = 4 * RECEIVE_MAXIMUM
    paho = client._client
    paho.manual_ack_set(True)
    paho.connect_timeout = CONNECT_S
    cancels = _cancellable()
    with _translated():
        await client.__aenter__()
    try:
        cancels.check()
        reader = _Reader(client)
        try:
            yield Connection(client, v5)
        finally:
            reader.close()
    finally:
        ended = client._disconnected
        if ended.done() and not ended.cancelled():
            ended.exception()  # looked at, or asyncio tells of it when it is thrown away
        # It may find no time for a goodbye; what ends the block (a cancellation, say) stays.
        with suppress(aiomqtt.MqttError):
            await client.__aexit__(None, None, None)


class _Reader:
    """Reads the socket in place of aiomqtt's call-back, which takes one packet in a turn of the
    loop. In a flood the loop is woken for each of them, and the model thread stops each time while
    it waits for Python's lock: so all that is there is read at once, and then nothing for a while.
    """

    def __init__(self, client: aiomqtt.Client) -> None:
        self._client, self._paho = client, client._client
        self._loop = asyncio.get_running_loop()
        self._level, self._looked = 0.0, self._loop.time()
        self._later: asyncio.TimerHandle | None = None
        self._resume()

    def close(self) -> None:
        """aiomqtt's own closing removes the call-back from the loop."""
        if self._later is not None:
            self._later.cancel()

    def _resume(self) -> None:
        socket = self._paho.socket()
        if socket is not None and socket.fileno() >= 0:
            self._loop.add_reader(socket.fileno(), self._readable)

    def _readable(self) -> None:
        count = 0
        try:
            while count < RECEIVE_MAXIMUM and self._read_one():
                count += 1
        except Exception as error:  # as aiomqtt's call-back does
            if not self._client._disconnected.done():
                self._client._disconnected.set_exception(error)
            return
        now = self._loop.time()
        self._level = max(0.0, self._level - (now - self._looked) * CALM_PER_S) + count
        self._looked = now
        socket = self._paho.socket()
        if self._level > BURST and socket is not None and socket.fileno() >= 0:
            self._level = float(BURST)  # what was is forgotten soon
            self._loop.remove_reader(socket.fileno())
            self._later = self._loop.call_later(PAUSE_S, self._resume)

    def _read_one(self) -> bool:
        """Whether a whole packet was there: paho begins a new one then."""
        before = self._paho._in_packet
        self._paho.loop_read()
        return self._paho._in_packet is not before


def _inbox(on_drop: Callable[[], None]) -> type[asyncio.Queue[aiomqtt.Message]]:
    """A queue that never refuses what the broker will send only once more after a reconnect."""

    class Inbox(asyncio.Queue[aiomqtt.Message]):
        def put_nowait(self, item: aiomqtt.Message) -> None:
            if item.qos == 0 and self.qsize() >= INBOX:
                on_drop()
            else:
                super().put_nowait(item)

    return Inbox


class _translated:
    """The library's errors in our own words."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, aiomqtt.MqttError):
            raise _lost(error) from None


class _cancellable:
    """Passes on a cancellation that the library's ``asyncio.wait_for`` may swallow: Python 3.11's
    does where what it waits for is there in the same moment, and a task that goes on after it was
    cancelled once is waited for without end.
    """

    def __init__(self) -> None:
        self._task = asyncio.current_task()
        self._before = 0 if self._task is None else self._task.cancelling()

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            self.check()

    def check(self) -> None:
        """Raise CancelledError where the task was cancelled since this was made."""
        if self._task is not None and self._task.cancelling() > self._before:
            raise asyncio.CancelledError


def _lost(error: aiomqtt.MqttError) -> ConnectionLost:
    cause = error.__cause__ if isinstance(error.__cause__, aiomqtt.MqttCodeError) else error
    code = cause.rc if isinstance(cause, aiomqtt.MqttCodeError) else None
    number = code.value if isinstance(code, ReasonCode) else code
    refused = isinstance(error, MqttConnectError) and number in (*_LOGIN, *_LOGIN_3)
    certificate = "CERTIFICATE_VERIFY_FAILED" in str(error) or "SSL" in str(error)
    return ConnectionLost(
        str(cause),
        hopeless=refused or certificate,
        taken_over=number == SESSION_TAKEN_OVER and isinstance(code, ReasonCode),
        login=refused,
    )


def _given(message: aiomqtt.Message) -> dict[str, Any]:
    """What came with a message, by MQTT 5's names without blanks (and paho's own fields)."""
    return {} if message.properties is None else vars(message.properties)


def _properties(packet: int) -> Properties:
    return Properties(packet)  # type: ignore[no-untyped-call]


def _connect_properties(endpoint: Endpoint) -> Properties:
    properties = _properties(PacketTypes.CONNECT)
    properties.SessionExpiryInterval = endpoint.session_expiry_s
    properties.ReceiveMaximum = RECEIVE_MAXIMUM
    return properties


def _publish_properties(message: Outgoing) -> Properties:
    properties = _properties(PacketTypes.PUBLISH)
    if message.content_type:
        properties.ContentType = message.content_type
    if message.reply_to:
        properties.ResponseTopic = message.reply_to
    if message.correlation is not None:
        properties.CorrelationData = message.correlation
    if message.properties:
        properties.UserProperty = list(message.properties)
    if message.expiry_s is not None:
        properties.MessageExpiryInterval = message.expiry_s
    return properties


def _will(message: Outgoing, delay_s: int) -> aiomqtt.Will:
    properties = None
    if delay_s:
        properties = _properties(PacketTypes.WILLMESSAGE)
        properties.WillDelayInterval = delay_s
    return aiomqtt.Will(message.topic, message.payload, message.qos, message.retain, properties)
