"""What passes between the connection and the service: values without a library behind them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

JSON_TYPE = "application/json"
TRACE = ("traceparent", "tracestate", "trace_id")
"""User properties that are handed back as they came."""

Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Incoming:
    """A message that came; ``ack`` tells the broker that it need not send it again."""

    topic: str
    payload: bytes
    qos: int
    retain: bool
    ack: Callable[[], None]
    reply_to: str = ""
    """MQTT 5: the response topic."""
    correlation: bytes | None = None
    expiry_s: int | None = None
    """MQTT 5: seconds that the message is still good for."""
    properties: Pairs = ()
    """MQTT 5: user properties."""


@dataclass(frozen=True, slots=True)
class Route:
    """Where the answers to a question go, and what goes with them unchanged."""

    topic: str
    correlation: bytes | None = None
    trace: Pairs = ()


@dataclass(slots=True, eq=False)
class Outgoing:
    """A message to send. Quality of service 0 may be dropped for a slow connection, 1 may not."""

    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = False
    correlation: bytes | None = None
    properties: Pairs = ()
    expiry_s: int | None = None
    content_type: str = JSON_TYPE
    reply_to: str = ""
    """MQTT 5: the response topic."""
    on_sent: Callable[[], None] = field(default=lambda: None)
    """Called when the broker has confirmed it (at quality of service 0: when it is written)."""


def reply(route: Route, payload: bytes, qos: int = 1, expiry_s: int | None = None) -> Outgoing:
    """A message to whoever asked."""
    return Outgoing(
        route.topic,
        payload,
        qos,
        correlation=route.correlation,
        properties=route.trace,
        expiry_s=expiry_s,
    )
