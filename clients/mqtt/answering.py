"""Accepted questions on their way to an answer: fair turns, deadlines, one end each.

What ends a question is journalled first and sent as the journal has it, so there is one end only,
and sending it again sends the same bytes.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from clients import contract
from clients.mqtt.config import LimitsConfig
from clients.mqtt.fair import FairQueue
from clients.mqtt.messages import Route, reply
from clients.mqtt.outbox import Outbox
from clients.mqtt.ports import Extension, NodePort
from clients.mqtt.requests import Cancel, Kept, code_for
from clients.mqtt.topics import Topics
from omnidrop_stream.errors import OmniDropError
from omnidrop_stream.types import Delta
from runtime.journal import Journal, JournalFile, Row
from runtime.limits import Limits
from runtime.node import AskRequest
from runtime.redact import redact

DELTA_GOOD_S = 10
"""A piece of an answer that a device has not taken by then is of no use."""
RETRY_S = 1.0
PRESSING_S, CALM_S = 5.0, 1.0
_LOG = logging.getLogger("clients.mqtt")


@dataclass(slots=True, eq=False)
class _Item:
    """A question that waits or is being answered."""

    row: Row
    kept: Kept
    deadline: float
    """The event loop's time."""
    reserved: int
    used: int = 0
    cancelled: bool = False
    timer: asyncio.TimerHandle | None = None
    limit: asyncio.Timeout | None = None


class Answering:
    """Belongs to the event loop."""

    def __init__(
        self,
        node: NodePort,
        journal: Journal,
        outbox: Outbox,
        limits: Limits,
        topics: Topics,
        config: LimitsConfig,
        extensions: tuple[Extension, ...] = (),
    ) -> None:
        self._node = node
        self._journal = journal
        self._outbox = outbox
        self._limits = limits
        self._topics = topics
        self._stats = node.stats
        self._extensions = extensions
        self._fair: FairQueue[_Item] = FairQueue(config.at_once, config.at_once_together)
        self._items: dict[int, _Item] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._held = False
        self._pressing: dict[str, float] = {}
        self._asked_at = float("-inf")
        """When somebody who does not press last had a turn."""
        self._later: asyncio.TimerHandle | None = None
        self._stats.gauge("mqtt.waiting", lambda: len(self._fair))
        self._stats.gauge("mqtt.answering", lambda: len(self._tasks))

    def held(self, owner: str) -> int:
        """How many accepted questions of an owner wait for their turn or are being answered."""
        return self._fair.held(owner)

    def tokens(self, max_tokens: int | None) -> int:
        """What an answer is reserved."""
        return max_tokens or self._node.decode.max_tokens

    def accept(self, row: Row, kept: Kept, seconds: float) -> None:
        """Answer it, or end it as ``expired`` after ``seconds``."""
        loop = asyncio.get_running_loop()
        item = _Item(row, kept, loop.time() + seconds, self.tokens(kept.max_tokens))
        self._items[row.number] = item
        item.timer = loop.call_later(max(0.0, seconds), self._overdue, item)
        self._fair.put(kept.owner, item)
        self._next()

    def reroute(self, number: int, kept: Kept) -> None:
        """The same question came again: its answer goes where the newer one says."""
        item = self._items.get(number)
        if item is not None:
            item.kept = kept
            request = json.loads(item.row.request)
            request.update(_place(kept.route))
            self._journal.later(lambda file: file.reroute(number, json.dumps(request).encode()))

    def cancel(self, camera: str, cancel: Cancel) -> int:
        """End somebody's question (to all cameras: its parts); returns how many were found."""
        found = [
            item
            for item in self._items.values()
            if item.kept.owner == cancel.owner
            and cancel.name in ("", item.kept.name)
            and (item.row.id == cancel.id or item.row.id.startswith(f"{cancel.id}/"))
            and camera in (item.row.camera, "all")
        ]
        for item in found:
            item.cancelled = True
            if self._fair.remove(item.kept.owner, item):
                self._spawn(self._end(item, "error", _cancelled(item)))
            elif not self._node.cancel(_key(item)) and item.limit is not None:
                # It has not reached the model yet: ended from here.
                item.limit.reschedule(asyncio.get_running_loop().time())
        return len(found)

    async def drain(self, seconds: float) -> None:
        """Start nothing more, let what runs end; what does not stays in the journal, unended."""
        self._held = True
        if self._later is not None:
            self._later.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)
        for item in self._items.values():
            if item.timer is not None:
                item.timer.cancel()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # -- one question

    def press(self, owner: str) -> None:
        """An owner asks more than it may: for a while the others come first."""
        self._pressing[owner] = asyncio.get_running_loop().time() + PRESSING_S

    def _next(self) -> None:
        """Begin what may begin. Who presses has to wait until the others have been quiet for a
        while: else each of their questions would find the model busy.
        """
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._pressing = {o: until for o, until in self._pressing.items() if until > now}
        pressing = self._pressing
        calm = now >= self._asked_at + CALM_S
        while not self._held and (item := self._fair.take(pressing, calm)) is not None:
            if item.kept.owner not in pressing:
                self._asked_at = now
            self._spawn(self._answer(item))
        if self._later is not None:
            self._later.cancel()
        if len(self._fair) and not self._held and not self._tasks:
            self._later = loop.call_later(CALM_S, self._next)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _overdue(self, item: _Item) -> None:
        if self._fair.remove(item.kept.owner, item):
            self._spawn(self._end(item, "error", _expired(item)))

    async def _answer(self, item: _Item) -> None:
        try:
            ended_as, message = await self._asked(item)
            await self._end(item, ended_as, message)
        finally:
            self._fair.done(item.kept.owner)
            asyncio.get_running_loop().call_soon(self._next)  # this task is over by then

    async def _asked(self, item: _Item) -> tuple[str, contract.Message]:
        """How it ended, and the message that says so."""
        limit = asyncio.timeout_at(item.deadline)
        try:
            async with limit:
                item.limit = limit
                return "final", await self._streamed(item)
        except OmniDropError as error:
            code = code_for(error)
            self._stats.count(f"mqtt.failed.{code}")
            return "error", contract.problem(code, redact(error), item.row.id)
        except Exception as error:
            if isinstance(error, TimeoutError) and limit.expired():
                return "error", _cancelled(item) if item.cancelled else _expired(item)
            self._stats.count("mqtt.failed.internal")
            _LOG.exception("question %s failed", item.row.number)
            text = "the node failed at this question; its log says how"
            return "error", contract.problem("internal", text, item.row.id)
        finally:
            item.limit = None

    async def _streamed(self, item: _Item) -> contract.Message:
        kept, row = item.kept, item.row
        request = AskRequest(
            text=kept.text,
            id=_key(item),
            session=kept.session,
            look_back_s=kept.look_back_s,
            max_tokens=kept.max_tokens,
            retention=kept.retention,
        )
        async with aclosing(self._node.ask(row.camera, request)) as events:
            async for event in events:
                if not isinstance(event, Delta):
                    item.used = event.answer_tokens
                    named = replace(event, id=row.id, session=kept.shown_session)
                    return contract.final(named, row.camera, row.accepted_wall_s)
                if kept.stream:
                    piece = contract.line(contract.delta(replace(event, id=row.id)))
                    self._outbox.put(reply(item.kept.route, piece.encode(), 0, DELTA_GOOD_S))
        raise RuntimeError("the node's answer had no end")

    # -- its end

    async def end(self, row: Row, ended_as: str, message: contract.Message) -> None:
        """End a question that never began."""
        kept = Kept.of(row.request)
        await self._end(_Item(row, kept, 0.0, self.tokens(kept.max_tokens)), ended_as, message)

    async def _end(self, item: _Item, ended_as: str, message: contract.Message) -> None:
        if item.timer is not None:
            item.timer.cancel()
        spare = max(0, item.reserved - item.used)
        self._limits.give_back(item.kept.owner, tokens=spare)
        payload = contract.line(message).encode("ascii")
        ended = await self._journalled(
            lambda file: _finish(file, item.row.number, ended_as, payload)
        )
        self._items.pop(item.row.number, None)
        self._stats.count(f"mqtt.ended.{ended_as}")
        for row in ended:
            self.send_end(row, item.kept.route)
        if not self._topics.open_to_all(item.kept.route.topic):
            return  # it is between the node and whoever asked
        for extension in self._extensions:
            extension.answered(item.row.camera, item.kept.owner, message, self._outbox.put)

    def send_end(self, row: Row, route: Route) -> None:
        """Send a question's end, as the journal has it."""
        if row.final is None:
            raise ValueError(f"question {row.number} has not ended")
        number = row.number
        message = reply(route, row.final)
        message.on_sent = lambda: self._journal.later(lambda file: file.delivered(number))
        self._outbox.put(message)

    async def _journalled(self, step: Callable[[JournalFile], list[Row]]) -> list[Row]:
        """On a full disk nothing is said: it is tried until there is room."""
        while True:
            try:
                return await self._journal.do(step)
            except sqlite3.Error as error:
                _LOG.error("the journal cannot be written (%s); trying again", error)
                await asyncio.sleep(RETRY_S)


def _key(item: _Item) -> str:
    return f"mqtt-{item.row.number}"


def _place(route: Route) -> dict[str, object]:
    correlation = None if route.correlation is None else route.correlation.hex()
    return {"topic": route.topic, "correlation": correlation, "trace": route.trace}


def _expired(item: _Item) -> contract.Message:
    return contract.problem(
        "expired", "the deadline came before the answer; allow more time", item.row.id
    )


def _cancelled(item: _Item) -> contract.Message:
    return contract.problem("cancelled", "cancelled before the answer began", item.row.id)


def _finish(file: JournalFile, number: int, ended_as: str, payload: bytes) -> list[Row]:
    """End a question and, where it was the last part of another, that one too, in one step."""
    row = file.finish(number, ended_as, payload)
    if row.parent is None:
        return [row]
    parts = file.parts(row.parent)
    if any(part.ended_as is None for part in parts):
        return [row]
    parent = file.get(row.parent)
    told = contract.line(contract.summary(parent.id, [_part(part) for part in parts]))
    return [row, file.finish(parent.number, "summary", told.encode("ascii"))]


def _part(row: Row) -> contract.Message:
    told: contract.Message = {"id": row.id, "camera": row.camera, "type": row.ended_as}
    if row.ended_as == "error" and row.final is not None:
        told["code"] = json.loads(row.final)["code"]
    return told
