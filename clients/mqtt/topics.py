"""The names of the topics, and who may be answered where. Pure.

With prefix P: ``P/node/...`` is the node's, ``P/<camera>/...`` a camera's, ``P/all/query`` asks all
of them; ``P/stats`` and ``P/events`` are counters and news.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

PREFIX_PATTERN = r"^[A-Za-z0-9_.-]{1,64}(/[A-Za-z0-9_.-]{1,64}){0,3}$"
CAMERA = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
CLIENT = re.compile(r"[A-Za-z0-9_.@:-]{1,128}")
RESERVED = ("all", "node", "stats", "events")
LONGEST_TOPIC_BYTES = 512
ALL = "all"


def check_reply_pattern(pattern: str) -> None:
    """Raise ValueError for what cannot be a prefix of reply topics."""
    levels = pattern.split("/")
    plain = [level for level in levels[:-1] if level != "+"]
    if levels[-1] != "" or not plain or levels.count("+") > 1 or any(c in pattern for c in "#$\0"):
        raise ValueError(
            f"reply prefix {pattern!r}: write it like devices/+/ with a slash at the end and at "
            "most one + as a whole level"
        )


@dataclass(frozen=True, slots=True)
class Command:
    """A topic that something was sent to: ``action`` of ``camera`` (``all`` and ``node`` too)."""

    camera: str
    action: str
    """``query``, ``cancel``, ``forget``, ``enabled``, ``muted`` or ``watch``."""
    rest: str = ""
    """``query`` and ``cancel``: the client, whom the broker vouches for. ``watch``: its name."""


class Topics:
    """The topics under one prefix."""

    def __init__(self, prefix: str, reply_prefixes: tuple[str, ...] = ()) -> None:
        self.prefix = prefix
        self.node_status = f"{prefix}/node/status"
        self.node_info = f"{prefix}/node/info"
        self.stats = f"{prefix}/stats"
        self.events = f"{prefix}/events"
        own = (f"{prefix}/+/answer/", f"{prefix}/node/reply/+/")
        self._replies = [_Reply(pattern, pattern in own[:1]) for pattern in (*own, *reply_prefixes)]
        self._known_repliers = lru_cache(maxsize=1024)(self._replier)  # asked at every message

    @property
    def commands(self) -> list[tuple[str, int]]:
        """What the node subscribes to, with the quality of service."""
        each = ("query", "query/+", "cancel", "cancel/+", "forget", "enabled/set", "muted/set")
        return [(f"{self.prefix}/+/{name}", 1) for name in (*each, "watch/+/set")]

    def camera(self, camera: str, name: str) -> str:
        """A camera's topic, such as ``status`` or ``enabled/state``."""
        return f"{self.prefix}/{camera}/{name}"

    def answer(self, camera: str, id: str) -> str:
        """Where the answer goes when nobody says where."""
        return f"{self.prefix}/{camera}/answer/{id}"

    def command(self, topic: str) -> Command | None:
        """What a message to ``topic`` asks for; None where it is no command."""
        if not topic.startswith(f"{self.prefix}/"):
            return None
        camera, _, rest = topic[len(self.prefix) + 1 :].partition("/")
        levels = rest.split("/")
        match levels:
            case ["query" | "cancel" as action]:
                return Command(camera, action)
            case ["query" | "cancel" as action, client] if client:
                return Command(camera, action, client)
            case ["forget"]:
                return Command(camera, "forget")
            case ["enabled" | "muted" as action, "set"]:
                return Command(camera, action)
            case ["watch", name, "set"] if name:
                return Command(camera, "watch", name)
        return None

    def replier(self, topic: str) -> str | None:
        """The client that reads ``topic`` (empty: whoever); None where no answer may go there."""
        return self._known_repliers(topic)

    def _replier(self, topic: str) -> str | None:
        if not topic or len(topic.encode("utf-8", "replace")) > LONGEST_TOPIC_BYTES:
            return None
        if any(c in "+#\0" or "\ud800" <= c <= "\udfff" for c in topic):
            return None
        owners = [found for reply in self._replies if (found := reply.owner(topic)) is not None]
        if topic.startswith(f"{self.prefix}/"):
            owners = owners if self._is_ours_to_answer(topic) else []
        return owners[0] if owners else None

    def open_to_all(self, topic: str) -> bool:
        """Whether answers there are a camera's, not one client's."""
        return self._replies[0].owner(topic) is not None

    def _is_ours_to_answer(self, topic: str) -> bool:
        """Under our own prefix only the two families of reply topics, whatever the settings say."""
        return any(reply.owner(topic) is not None for reply in self._replies[:2])


class _Reply:
    """One allowed prefix."""

    def __init__(self, pattern: str, anybody: bool) -> None:
        self._levels = pattern.split("/")[:-1]
        self._anybody = anybody
        """The level that ``+`` stands for is a camera, not a client."""

    def owner(self, topic: str) -> str | None:
        levels = topic.split("/")
        if len(levels) <= len(self._levels) or not levels[-1]:
            return None
        owner = ""
        for pattern, level in zip(self._levels, levels, strict=False):
            if pattern == "+" and CLIENT.fullmatch(level):
                owner = level
            elif pattern != level:
                return None
        return "" if self._anybody else owner
