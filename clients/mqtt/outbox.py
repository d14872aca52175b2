"""What goes out: one queue in order, that outlives the connection.

A message of quality of service 1 stays until the broker has confirmed it. What a broker confirmed
in the last seconds before the connection broke is sent once more, the same bytes: it may have died
before it had written them. Pieces of answers (quality of service 0) never wait behind a limit: they
are dropped and counted.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from clients.mqtt.messages import Outgoing
from runtime.stats import Stats

UNCONFIRMED = 20
"""Sent and not yet confirmed at most; more would wait in the library, behind pieces sent later."""
ONCE_MORE_S = 5.0


class Sender(Protocol):
    """The part of a connection that sends."""

    async def publish(self, message: Outgoing) -> None:
        """Returns when it is confirmed, or written where nothing confirms it."""


class Outbox:
    """Belongs to the event loop."""

    def __init__(
        self, stats: Stats, waiting_deltas: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stats = stats
        self._most = waiting_deltas
        self._clock = clock
        self._waiting: deque[Outgoing] = deque()
        self._sent: dict[Outgoing, None] = {}
        self._confirmed: deque[tuple[float, Outgoing]] = deque()
        self._droppable = 0
        self._changed = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        stats.gauge("mqtt.outbox", lambda: len(self._waiting) + len(self._sent))

    def put(self, message: Outgoing) -> bool:
        """Send it when its turn comes; False: it was dropped."""
        if message.qos == 0:
            if self._droppable >= self._most:
                self._stats.count("mqtt.dropped.slow_connection")
                return False
            self._droppable += 1
        self._waiting.append(message)
        self._empty.clear()
        self._changed.set()
        return True

    async def emptied(self) -> None:
        """Wait until everything is sent and confirmed."""
        await self._empty.wait()

    async def run(self, sender: Sender) -> None:
        """Send over this connection until cancelled, or until it breaks (its exception)."""
        self._again()
        room = asyncio.Semaphore(UNCONFIRMED)
        async with asyncio.TaskGroup() as group:
            while True:
                while not self._waiting:
                    self._changed.clear()
                    await self._changed.wait()
                if self._waiting[0].qos:
                    await room.acquire()
                    message = self._waiting.popleft()
                    self._sent[message] = None
                    group.create_task(self._confirm(sender, message, room))
                    await asyncio.sleep(0)  # it is written before the next one
                else:
                    await self._write(sender, self._waiting.popleft())

    async def _write(self, sender: Sender, message: Outgoing) -> None:
        self._droppable -= 1
        await sender.publish(message)
        self._stats.count("mqtt.sent")
        message.on_sent()
        self._look_if_empty()

    async def _confirm(self, sender: Sender, message: Outgoing, room: asyncio.Semaphore) -> None:
        await sender.publish(message)
        room.release()
        del self._sent[message]
        now = self._clock()
        if not message.retain:
            self._confirmed.append((now, message))
        while self._confirmed and self._confirmed[0][0] < now - ONCE_MORE_S:
            self._confirmed.popleft()
        self._stats.count("mqtt.sent")
        message.on_sent()
        self._look_if_empty()

    def _look_if_empty(self) -> None:
        if not self._waiting and not self._sent:
            self._empty.set()

    def _again(self) -> None:
        """A new connection: what the old one may not have carried comes first, in its order."""
        late = self._clock() - ONCE_MORE_S
        again = [message for at, message in self._confirmed if at >= late]
        self._confirmed.clear()
        unsent = [message for message in self._waiting if message.qos]
        lost = len(self._waiting) - len(unsent)
        if lost:  # pieces of answers from before the break: the final has it all
            self._stats.count("mqtt.dropped.disconnected", lost)
        self._droppable = 0
        if again or self._sent:
            self._stats.count("mqtt.sent_again", len(again) + len(self._sent))
        self._waiting = deque((*again, *self._sent, *unsent))
        self._sent.clear()
        self._changed.set()
        if not self._waiting:
            self._empty.set()

    def settled(self) -> None:
        """The connection is closed on purpose: nothing of it needs to be sent again."""
        self._confirmed.clear()
