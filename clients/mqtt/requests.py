"""From a message to a question and who asks it, or to the reason why not. Pure."""

from __future__ import annotations

import difflib
import json
import re
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from clients.mqtt.messages import TRACE, Incoming, Pairs, Route
from clients.mqtt.reading import CODES, Refused, Shape, read_json
from clients.mqtt.topics import CLIENT, Command, Topics
from omnidrop_stream.allowed import allowed, field_at
from omnidrop_stream.errors import (
    Busy,
    ModelError,
    NothingHeld,
    OmniDropError,
    Overloaded,
    SourceError,
    UnknownCamera,
    UsageError,
)

_ID = r"^[A-Za-z0-9_.:@~-]{1,128}$"

Id = Annotated[str, Field(pattern=_ID)]
T = TypeVar("T", bound=BaseModel)


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    v: Literal[1] = 1
    client: Annotated[str, Field(pattern=rf"^{CLIENT.pattern}$")] = ""
    reply_to: str = ""


class QueryMessage(_Message):
    """What is sent to ``P/<camera>/query``."""

    id: Id | None = None
    text: str
    stream: bool = True
    """False: nothing but the end is sent, one message for each camera that is asked; for programs
    that take one reply. That it was accepted shows in the broker's confirmation only.
    """
    max_tokens: Annotated[int, Field(ge=1, le=8192)] | None = None
    look_back_s: Annotated[float, Field(gt=0.0, le=86_400.0, strict=False)] | None = None
    retention: Annotated[float, Field(gt=0.0, le=1.0, strict=False)] | None = None
    deadline_ms: Annotated[int, Field(ge=1, le=86_400_000)] | None = None
    session: Annotated[str, Field(pattern=r"^[^\x00-\x1f]{0,128}$")] = ""


class CancelMessage(_Message):
    """What is sent to ``P/<camera>/cancel``."""

    id: Id


@dataclass(frozen=True, slots=True)
class Asker:
    """Who sent a message, as far as it can be told.

    owner: whom limits count for: the client that the topic names (the broker's access list vouches
    for it), else the one whose reply topic it is, else what the message says, else nobody.
    """

    owner: str
    name: str
    """The message's own word, telling several programs of one owner apart."""
    route: Route

    @property
    def key(self) -> str:
        """Within it an id stands for one question only."""
        if self.owner or self.name:
            return f"{self.owner}/{self.name}"
        return f"//{self.route.topic}"


@dataclass(frozen=True, slots=True)
class Question:
    """A question that may be accepted. Times are seconds from its arrival."""

    id: str
    camera: str
    text: str
    asker: Asker
    stream: bool
    max_tokens: int | None
    look_back_s: float | None
    retention: float | None
    deadline_s: float
    session: str
    """Whose conversation it belongs to, with its owner in front; empty: none."""
    shown_session: str
    """The same as the asker calls it."""

    def request(self) -> bytes:
        """For the journal: whatever is needed to answer it after a restart."""
        route = self.asker.route
        return json.dumps(
            {
                "text": self.text,
                "stream": self.stream,
                "max_tokens": self.max_tokens,
                "look_back_s": self.look_back_s,
                "retention": self.retention,
                "session": self.session,
                "shown_session": self.shown_session,
                "owner": self.asker.owner,
                "name": self.asker.name,
                "topic": route.topic,
                "correlation": None if route.correlation is None else route.correlation.hex(),
                "trace": route.trace,
            }
        ).encode("ascii")


@dataclass(frozen=True, slots=True)
class Cancel:
    """Which of whose questions is to end."""

    id: str
    owner: str
    name: str


@dataclass(frozen=True, slots=True)
class Kept:
    """A question as the journal gives it back."""

    text: str
    stream: bool
    max_tokens: int | None
    look_back_s: float | None
    retention: float | None
    session: str
    shown_session: str
    owner: str
    name: str
    route: Route

    @classmethod
    def of(cls, request: bytes) -> Kept:
        """From `Question.request`'s bytes."""
        values = json.loads(request)
        correlation = values.pop("correlation")
        trace = tuple((name, value) for name, value in values.pop("trace"))
        route = Route(
            values.pop("topic"),
            None if correlation is None else bytes.fromhex(correlation),
            trace,
        )
        return cls(**values, route=route)

    def same_as(self, other: Kept) -> bool:
        """Whether both are one question sent twice: all but where the answer goes."""
        mine, theirs = asdict(self), asdict(other)
        mine.pop("route")
        theirs.pop("route")
        return bool(mine == theirs)


def asker_of(
    message: Incoming, command: Command, topics: Topics, client: str, reply_to: str, default: str
) -> Asker:
    """Who asks; ``default`` is the reply topic where none is given. Raises Refused."""
    named = dict(message.properties)
    name = client or named.get("client", "")
    if name and not CLIENT.fullmatch(name):
        raise Refused("bad_request", f"client must match {CLIENT.pattern}; the property does not")
    topic = message.reply_to or reply_to or default
    replier = topics.replier(topic) if topic else ""
    if replier is None:
        raise Refused(
            "unauthorized",
            f"answers may not be sent to {topic[:200]!a}; allowed are topics under "
            f"{topics.prefix}/<camera>/answer/, {topics.prefix}/node/reply/<client>/ and the "
            "node's mqtt.reply_prefixes",
        )
    vouched = command.rest
    if vouched and replier and replier != vouched:
        raise Refused(
            "unauthorized", f"{vouched} asks, but the reply topic is {replier}'s; use your own"
        )
    if vouched and not CLIENT.fullmatch(vouched):
        raise Refused("bad_request", f"the topic's last level must match {CLIENT.pattern}")
    trace: Pairs = tuple(pair for pair in message.properties if pair[0] in TRACE)
    return Asker(
        vouched or replier or name, name, Route(topic, message.correlation, trace[: len(TRACE)])
    )


def early_owner(message: Incoming, command: Command, topics: Topics) -> str:
    """Whose message it is as far as topics and properties tell: `early_route`'s owner, for little,
    since every message of a flood is asked for it.
    """
    if command.rest or not message.reply_to:
        return early_route(message, command, topics)[0]
    return topics.replier(message.reply_to) or early_route(message, command, topics)[0]


def early_route(message: Incoming, command: Command, topics: Topics) -> tuple[str, Route | None]:
    """Owner and reply route as far as they are known before the payload is read."""
    try:
        asker = asker_of(message, command, topics, "", "", "")
    except Refused:
        return command.rest, None
    return asker.owner, asker.route if asker.route.topic else None


def parse_query(
    message: Incoming,
    command: Command,
    topics: Topics,
    shape: Shape,
    fresh_id: str,
    oldest_s: float,
) -> Question:
    """The question in ``message``; raises Refused, with a route wherever one is allowed.

    fresh_id: its id where it has none. oldest_s: its deadline where it has none, and the longest.
    """
    owner, route = early_route(message, command, topics)
    id_: str | None = None
    try:
        values = read_json(message.payload, shape)
        id_ = _id_of(values)
        query = _validated(QueryMessage, values)
        id_ = query.id or fresh_id
        default = topics.answer(command.camera, id_)
        asker = asker_of(message, command, topics, query.client, query.reply_to, default)
        owner, route = asker.owner, asker.route
        try:
            shape.decode.check_question(query.text)
        except OmniDropError as error:
            raise Refused("bad_request", str(error)) from None
        deadline_s = _deadline_s(message, query, oldest_s)
    except Refused as refused:
        if route is None and id_ is not None:
            route = _told_in_json(message, command, topics, refused, values, id_)
        raise Refused(refused.code, refused.text, id_, route, owner) from None
    session = f"{asker.owner}/{asker.name}/{query.session}" if query.session else ""
    return Question(
        id=id_,
        camera=command.camera,
        text=query.text,
        asker=asker,
        stream=query.stream,
        max_tokens=query.max_tokens,
        look_back_s=query.look_back_s,
        retention=query.retention,
        deadline_s=deadline_s,
        session=session,
        shown_session=query.session,
    )


def _told_in_json(
    message: Incoming,
    command: Command,
    topics: Topics,
    refused: Refused,
    values: dict[str, Any],
    id_: str,
) -> Route:
    """Where to tell of a mistake: the JSON's reply topic where it is allowed, else the default."""
    reply_to = values.get("reply_to")
    if refused.code != "unauthorized" and isinstance(reply_to, str) and topics.replier(reply_to):
        return Route(reply_to, message.correlation)
    return Route(topics.answer(command.camera, id_), message.correlation)


def parse_cancel(message: Incoming, command: Command, topics: Topics, shape: Shape) -> Cancel:
    """What is to be cancelled. Raises Refused, without a route: a cancel is never answered."""
    cancel = _validated(CancelMessage, read_json(message.payload, shape))
    asker = asker_of(message, command, topics, cancel.client, cancel.reply_to, "")
    return Cancel(cancel.id, asker.owner, asker.name)


def code_for(error: BaseException) -> str:
    """The code of what an answer failed with."""
    kinds: list[tuple[type[BaseException], str]] = [
        (UnknownCamera, "unknown_camera"),
        (UsageError, "bad_request"),
        (Busy, "busy"),
        (NothingHeld, "camera_offline"),
        (Overloaded, "camera_offline"),
        (SourceError, "camera_offline"),
        (ModelError, "model_not_ready"),
    ]
    named = error.code if isinstance(error, OmniDropError) else "internal"
    found = next((code for kind, code in kinds if isinstance(error, kind)), named)
    return found if found in CODES else "internal"


def _id_of(values: dict[str, Any]) -> str | None:
    given = values.get("id")
    return given if isinstance(given, str) and re.fullmatch(_ID, given) else None


def _deadline_s(message: Incoming, query: QueryMessage, oldest_s: float) -> float:
    limits = [oldest_s]
    if message.expiry_s is not None:
        limits.append(float(message.expiry_s))
    if query.deadline_ms is not None:
        limits.append(query.deadline_ms / 1e3)
    return min(limits)


def _validated(model: type[T], values: dict[str, Any]) -> T:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        told = [_mistake(model, item) for item in error.errors()]
        raise Refused("bad_request", "; ".join(told)[:500]) from None


def _mistake(model: type[BaseModel], item: ErrorDetails) -> str:
    path = item["loc"]
    key = ".".join(str(part) for part in path)[:60].encode("ascii", "backslashreplace").decode()
    if item["type"] == "missing":
        return f"{key} is missing"
    if item["type"] != "extra_forbidden":
        return f"{key}: {allowed(item, field_at(model, path))}"
    near = difflib.get_close_matches(key, list(model.model_fields), n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(model.model_fields)}"
    return f"{key!r} is no key; {hint}"
