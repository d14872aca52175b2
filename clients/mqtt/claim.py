"""Whether another node has taken our names, by what ``P/node/info`` says and whose it was."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable

from clients.mqtt.messages import Incoming
from clients.mqtt.outbox import ONCE_MORE_S


class Claim:
    """Belongs to the event loop.

    What was retained before we told of ourselves is an earlier run's, also where a connection broke
    before ours had arrived, or where a broker that died had forgotten it: it means another node
    only once ours has stood for a while.
    """

    def __init__(
        self, topic: str, instance: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """topic: of ``P/node/info``; instance: differs for each run of a node."""
        self.instance = instance
        self._topic = topic
        self._clock = clock
        self._told = self._stood = False
        self._older: set[bytes] = set()
        self._confirmed_s: float | None = None

    def confirmed(self) -> None:
        """The broker has taken our info."""
        if self._confirmed_s is None:
            self._confirmed_s = self._clock()

    def disconnected(self) -> None:
        """The connection is over."""
        now_s, since_s = self._clock(), self._confirmed_s
        self._stood = self._stood or (since_s is not None and now_s - since_s >= ONCE_MORE_S)
        self._confirmed_s = None

    def given_up(self) -> None:
        """Another node had our names; what it left is there when we come back."""
        self._told = self._stood = False
        self._older.clear()

    def taken(self, retained: Iterable[Incoming]) -> bool:
        """Whether another node has told of itself since we did, by what a new connection finds.
        If not, we are about to tell of ourselves.
        """
        others = {message.payload for message in retained if self.foreign(message)}
        if not self._told:
            self._older |= others
            self._told = True
            return False
        return bool(others if self._stood else others - self._older)

    def foreign(self, message: Incoming) -> bool:
        """Whether somebody else wrote ``P/node/info``."""
        if message.topic != self._topic or not message.payload:
            return False
        try:
            info = json.loads(message.payload)
        except ValueError:
            return True
        return not isinstance(info, dict) or info.get("instance") != self.instance
