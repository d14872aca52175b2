"""From a judgement to an event, with its picture and its answer, and to whoever reads events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from omnidrop_stream.errors import OmniDropError
from omnidrop_stream.types import Answer
from runtime.key_frames import Picture, key_frame
from runtime.stats import Stats
from runtime.watch_types import WatchEvent, WatchState

Told = WatchEvent | WatchState
Ask = Callable[[str], AsyncGenerator[Any, None]]
MOST_UNREAD = 64
ANSWER_S = 30.0
"""Patience with the answer to a follow-up question."""


class Reader:
    """An asynchronous iterator over what is told; it reads from the moment it is made until
    `aclose`, or to the end.
    """

    def __init__(self, readers: list[Reader]) -> None:
        """readers: those that are told; it puts itself there."""
        self._readers = readers
        self._unread: asyncio.Queue[Told | None] = asyncio.Queue(MOST_UNREAD)
        self._held = False
        readers.append(self)

    def put(self, told: Told | None) -> bool:
        """Hand something over, None as the last; False where the oldest had to go."""
        full = self._unread.full()
        if full:
            self._unread.get_nowait()
            self._unread.task_done()
        self._unread.put_nowait(told)
        return not full

    async def done(self) -> None:
        """Wait until all that was handed over has been read, and the next asked for."""
        await self._unread.join()

    def __aiter__(self) -> Reader:
        return self

    async def __anext__(self) -> Told:
        if self._held:
            self._unread.task_done()
            self._held = False
        told = await self._unread.get()
        self._held = True
        if told is None:
            await self.aclose()
            raise StopAsyncIteration
        return told

    async def aclose(self) -> None:
        """Read no more."""
        if self in self._readers:
            self._readers.remove(self)
        while not self._unread.empty():
            self._unread.get_nowait()
            self._unread.task_done()
        if self._held:
            self._unread.task_done()
            self._held = False


class Telling:
    """Belongs to the event loop."""

    def __init__(self, stats: Stats, ask: Ask, fail: Callable[[BaseException], None]) -> None:
        """ask: a follow-up question. fail: told what should not have happened."""
        self._stats = stats
        self._ask = ask
        self._fail = fail
        self._readers: list[Reader] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    def events(self) -> Reader:
        """Everything that is told from now on, until `close`."""
        reader = Reader(self._readers)
        if self._closed:
            reader.put(None)
        return reader

    def tell(self, told: Told) -> None:
        """To every reader; one that does not read loses the oldest (counted)."""
        for reader in self._readers:
            if not reader.put(told):
                self._stats.count("watch.unread")

    def happened(self, event: WatchEvent, picture: Picture | None, question: str) -> None:
        """Tell an event once its picture is encoded and its question, if any, answered."""
        self.spawn(self._happened(event, picture, question))

    async def _happened(self, event: WatchEvent, picture: Picture | None, question: str) -> None:
        if picture is not None:
            shown = await asyncio.to_thread(key_frame, picture)
            event = replace(event, key_frame=shown)
        if event.key_frame is None:
            self._stats.count("watch.no_key_frame")
        if question:
            answer, problem = await self._answer(question)
            event = replace(event, answer=answer, problem=problem)
        self.tell(event)

    async def _answer(self, text: str) -> tuple[Answer | None, str]:
        problem = "it ended without an answer"
        try:
            async with asyncio.timeout(ANSWER_S), aclosing(self._ask(text)) as pieces:
                async for piece in pieces:
                    if isinstance(piece, Answer):
                        return piece, ""
        except TimeoutError:
            problem = f"it took more than {ANSWER_S:g} s"
        except OmniDropError as error:
            problem = str(error)
        self._stats.count("watch.unanswered")
        return None, problem

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Work of its own that `cancel` ends; what it raises is told to ``fail``."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._fail(error)

    async def settled(self) -> bool:
        """Wait for what is about to be told; False where there was nothing."""
        if not self._tasks:
            return False
        await asyncio.wait(self._tasks)
        return True

    async def read(self) -> None:
        """Wait until every reader is done with what was told."""
        await asyncio.gather(*(reader.done() for reader in self._readers))

    def cancel(self) -> None:
        """What is about to be told is not told."""
        for task in self._tasks:
            task.cancel()

    async def close(self) -> None:
        """Nothing is told any more; readers end."""
        self._closed = True
        self.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for reader in self._readers:
            reader.put(None)
