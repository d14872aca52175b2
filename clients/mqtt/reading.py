"""From the bytes of a message to a JSON object, or to the reason why not. Pure.

Looked at in this order: size, UTF-8, depth, JSON; then the schema (`requests`). So the cheapest
look comes first, and no parser sees what an earlier look would have refused.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Any

from clients.mqtt.messages import Route
from omnidrop_stream.config import DecodeConfig

CODES = {
    "bad_request": "the message is not what it should be",
    "too_large": "the message has too many bytes",
    "unauthorized": "answers may not be sent there, or the name belongs to somebody else",
    "unknown_camera": "this node has no camera of that name",
    "camera_offline": "the camera has shown nothing yet, or all of it was forgotten",
    "model_not_ready": "the model cannot be had",
    "busy": "too many questions wait; ask again later",
    "rate_limited": "this client asks more than it may; ask again later",
    "expired": "the deadline came before the answer",
    "cancelled": "cancelled before the answer began",
    "internal": "a fault of the node; it is in its log",
}
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"?', re.DOTALL)
_BRACKET = re.compile(rb"[\[\]{}]")


class Refused(Exception):
    """A message that is not taken: a code of `CODES`, a sentence, and where to say so."""

    def __init__(
        self,
        code: str,
        text: str,
        id: str | None = None,
        route: Route | None = None,
        owner: str = "",
        retry_after_ms: int | None = None,
    ) -> None:
        super().__init__(text)
        self.code = code
        self.text = text
        self.id = id
        self.route = route
        """None: nobody can be told; it is counted."""
        self.owner = owner
        self.retry_after_ms = retry_after_ms


@dataclass(frozen=True, slots=True)
class Shape:
    """What a message may look like."""

    largest_bytes: int
    deepest: int
    decode: DecodeConfig


def read_text(payload: bytes, shape: Shape) -> str:
    """The characters of ``payload``; raises Refused (without a route)."""
    if len(payload) > shape.largest_bytes:
        raise Refused(
            "too_large",
            f"the message has {len(payload)} bytes; allowed: {shape.largest_bytes}; shorten it",
        )
    try:
        return payload.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Refused(
            "bad_request", f"byte {error.start} of the message is not UTF-8; send JSON in UTF-8"
        ) from None


def read_json(payload: bytes, shape: Shape) -> dict[str, Any]:
    """The object in ``payload``; raises Refused (without a route)."""
    text = read_text(payload, shape)
    if (deep := depth(payload)) > shape.deepest:
        raise Refused(
            "bad_request",
            f"the message is nested {deep} deep; allowed: {shape.deepest}; send a plain object",
        )
    try:
        value = json.loads(
            text,
            parse_constant=_no_number,
            parse_float=_finite,
            object_pairs_hook=_without_repeats,
        )
    except (ValueError, RecursionError) as error:
        raise Refused(
            "bad_request",
            f"the message is no JSON ({' '.join(str(error).split())[:200]}); "
            'send an object such as {"id": "1", "text": "What is there?"}',
        ) from None
    if not isinstance(value, dict):
        raise Refused(
            "bad_request", f"the message is a JSON {type(value).__name__}; an object is needed"
        )
    return value


def depth(payload: bytes) -> int:
    """How deep brackets are nested outside strings; linear, without a parser."""
    deepest = level = 0
    for bracket in _BRACKET.finditer(_STRING.sub(b"", payload)):
        level += 1 if bracket.group() in (b"[", b"{") else -1
        deepest = max(deepest, level)
    return deepest


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is out of range")
    return value


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return values
