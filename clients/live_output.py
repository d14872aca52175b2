"""How a scripted run meets its pipes: one answer at a time, printing that blocks nobody, lines of
stdin, and a reader that has gone.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import queue
import stat
import threading
from collections.abc import AsyncGenerator, Callable
from typing import TYPE_CHECKING, TextIO

from clients.terminal import ReaderGone
from omnidrop_stream.types import Delta
from runtime.asking import Answered, Asked, Event, Failed

if TYPE_CHECKING:
    from runtime.stats import Stats

WAITING_EVENTS = 256
WAITING_LINES = 16

Shown = Event | str
"""An event, or a line of a command's reply."""


class Turnstile:
    """Lets one answer through at a time; the others wait whole, in the order they began, and what
    belongs to no answer waits for the end of the line. Bounded by the answers in progress, each by
    its token limit, and by the changes of state meanwhile.
    """

    def __init__(self, show: Callable[[Shown], None]) -> None:
        self._show = show
        self._held: dict[str, list[Shown]] = {}
        self._between: list[Shown] = []

    def show(self, event: Shown) -> None:
        """Show it now or when its turn comes."""
        id = question_of(event)
        if id is None:
            self._between.append(event)
        else:
            self._held.setdefault(id, []).append(event)
        while self._held and self._first_ended():
            self._show_between()
        if not self._held:
            self._show_between()

    def _first_ended(self) -> bool:
        """Show what the first one has; whether that was the end of it."""
        first = next(iter(self._held))
        waiting, self._held[first] = self._held[first], []
        ended = any(isinstance(event, Answered | Failed) for event in waiting)
        for event in waiting:
            self._show(event)
        if ended:
            del self._held[first]
        return ended

    def _show_between(self) -> None:
        waiting, self._between = self._between, []
        for event in waiting:
            self._show(event)


def question_of(event: Shown) -> str | None:
    """The id of the question an event belongs to, None where it belongs to none."""
    if isinstance(event, Asked):
        return event.question.id
    if isinstance(event, Answered):
        return event.answer.id
    return event.id if isinstance(event, Delta | Failed) else None


class PrintThread:
    """Calls ``show`` on a thread of its own. At most 256 events wait; then `put` waits."""

    def __init__(self, show: Callable[[Shown], None], stats: Stats) -> None:
        self._show = show
        self._loop = asyncio.get_running_loop()
        self._waiting: queue.Queue[Shown | None] = queue.Queue(WAITING_EVENTS)
        self._room = asyncio.Event()
        self.ended: asyncio.Future[None] = self._loop.create_future()
        """Done when everything is printed; fails with what printing raised."""
        stats.gauge("output.waiting", self._waiting.qsize)
        stats.gauge("output.limit", lambda: WAITING_EVENTS)
        self._thread = threading.Thread(target=self._run, name="omnidrop-print", daemon=True)
        self._thread.start()

    async def put(self, event: Shown | None) -> None:
        """Hand an event over, None as the last one; at once where printing has ended."""
        while not self.ended.done():
            try:
                self._waiting.put_nowait(event)
                return
            except queue.Full:
                self._room.clear()
                await self._room.wait()

    def _run(self) -> None:
        error: Exception | None = None
        try:
            while (event := self._waiting.get()) is not None:
                self._post(self._room.set)
                self._show(event)
        except Exception as caught:  # raised where the end is waited for
            error = caught
        self._post(self._end, error)

    def _post(self, call: Callable[..., None], *values: object) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(call, *values)

    def _end(self, error: Exception | None) -> None:
        self._room.set()
        if self.ended.done():
            return
        if error is None:
            self.ended.set_result(None)
        else:
            self.ended.set_exception(error)


def reader_gone(stream: TextIO) -> asyncio.Future[None] | None:
    """A future that fails with ReaderGone as soon as nobody reads the pipe any more; None
    where ``stream`` is no pipe. Cancel it when it is no longer needed.
    """
    try:
        number = stream.fileno()
        only_written = fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY
        if not only_written or not stat.S_ISFIFO(os.fstat(number).st_mode):
            return None
    except (OSError, ValueError):  # no file at all, as under a test's capture
        return None
    loop = asyncio.get_running_loop()
    gone: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        # The writing end of a pipe is never readable: epoll reports only that it is broken.
        if not gone.done():
            gone.set_exception(ReaderGone())

    loop.add_reader(number, wake)
    gone.add_done_callback(lambda _: loop.remove_reader(number))
    return gone


async def lines_of(stream: TextIO) -> AsyncGenerator[str, None]:
    """The lines of ``stream``, read on a thread; at most 16 wait, then reading waits."""
    loop = asyncio.get_running_loop()
    waiting: asyncio.Queue[str | None] = asyncio.Queue()
    room, stopped = threading.Semaphore(WAITING_LINES), threading.Event()

    def hand_over(line: str | None) -> None:
        room.acquire()
        if not stopped.is_set() and not loop.is_closed():
            loop.call_soon_threadsafe(waiting.put_nowait, line)

    def read() -> None:
        try:
            for line in stream:
                hand_over(line)
                if stopped.is_set():
                    return
        except (OSError, ValueError):  # stdin is closed, or no text: there are no more lines
            pass
        hand_over(None)

    threading.Thread(target=read, name="omnidrop-stdin", daemon=True).start()
    try:
        while (line := await waiting.get()) is not None:
            room.release()
            yield line.rstrip("\r\n")
    finally:
        stopped.set()
        room.release()
