"""The journal of questions: what was accepted, and how it ended. SQLite, WAL, synced on commit.

A question is *accepted* once its row is on disk; its end (a final answer or an error) is on disk
before anyone is told. So after a crash every accepted question is known, each has at most one end,
and sending it again sends the same bytes. One thread of its own owns the file; what waits for it is
committed together, in one sync.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from omnidrop_stream.errors import ConfigError
from runtime.stats import Stats

T = TypeVar("T")
DAY_S = 86_400.0
JOIN_S = 5.0
LOCK_S = 0.5
LAZY_S = 0.2
"""Notes that may be lost in a crash (that something was delivered) wait this long for company."""
MOST_TOGETHER = 256

_SCHEMA = """
create table if not exists queries (
    number integer primary key autoincrement,
    client text not null,
    id text not null,
    parent integer,
    camera text not null,
    request blob not null,
    accepted_wall_s real not null,
    deadline_wall_s real not null,
    told integer not null default 0,
    ended_as text,
    final blob,
    delivered integer not null default 0,
    unique (client, id)
) strict;
create index if not exists unfinished on queries (number) where delivered = 0;
create index if not exists parts on queries (parent) where parent is not null;
create table if not exists settings (name text primary key, value text not null) strict;
"""
_COLUMNS = (
    "number, client, id, parent, camera, request, accepted_wall_s, deadline_wall_s, told, "
    "ended_as, final, delivered"
)


@dataclass(frozen=True, slots=True)
class NewQuery:
    """What is to be accepted. ``request`` holds whatever is needed to answer it later."""

    client: str
    id: str
    camera: str
    request: bytes
    accepted_wall_s: float
    deadline_wall_s: float
    parts: tuple[tuple[str, str], ...] = ()
    """(id, camera) of the questions that this one stands for; they get rows of their own."""


@dataclass(frozen=True, slots=True)
class Row:
    """A question as the journal has it."""

    number: int
    client: str
    id: str
    parent: int | None
    """Number of the question that this one is a part of."""
    camera: str
    request: bytes
    accepted_wall_s: float
    deadline_wall_s: float
    told: bool
    """The asker was told that it is accepted, and the broker confirmed."""
    ended_as: str | None
    """``final``, ``error`` or ``summary``; None: not ended."""
    final: bytes | None
    """The message that ended it, byte for byte."""
    delivered: bool
    """That message was sent, and the broker confirmed."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """``row`` is new, or it was there before (``known``); ``parts`` in order of their cameras."""

    row: Row
    known: bool
    parts: tuple[Row, ...] = ()


class JournalFile:
    """The file itself, for one thread. Every method is one step inside the caller's transaction."""

    def __init__(self, path: Path) -> None:
        """Open or create. Raises sqlite3.Error, OSError."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path, timeout=LOCK_S, isolation_level=None)
        self._db.execute("pragma locking_mode = exclusive")
        self._db.execute("pragma journal_mode = wal")
        self._db.execute("pragma synchronous = full")
        self._db.executescript(_SCHEMA)

    def close(self) -> None:
        """Close the file; what is not committed is gone."""
        self._db.close()

    def begin(self) -> None:
        """Start a transaction."""
        self._db.execute("begin immediate")

    def commit(self) -> None:
        """End it: on disk when this returns."""
        self._db.execute("commit")

    def rollback(self) -> None:
        """End it as if it had not been."""
        if self._db.in_transaction:
            self._db.execute("rollback")

    @contextlib.contextmanager
    def savepoint(self) -> Any:
        """A step that fails leaves nothing behind and does not harm the steps beside it."""
        self._db.execute("savepoint step")
        try:
            yield
        except BaseException:
            self._db.execute("rollback to step")
            raise
        finally:
            self._db.execute("release step")

    def accept(self, new: NewQuery) -> Accepted:
        """Insert, or find the row that has this (client, id)."""
        row = self.find(new.client, new.id)
        if row is not None:
            return Accepted(row, True, self.parts(row.number))
        number = self._insert(new, new.id, new.camera, None)
        for id_, camera in new.parts:
            self._insert(new, id_, camera, number)
        return Accepted(self.get(number), False, self.parts(number))

    def _insert(self, new: NewQuery, id_: str, camera: str, parent: int | None) -> int:
        done = self._db.execute(
            "insert into queries (client, id, parent, camera, request, accepted_wall_s, "
            "deadline_wall_s) values (?, ?, ?, ?, ?, ?, ?)",
            (
                new.client,
                id_,
                parent,
                camera,
                new.request,
                new.accepted_wall_s,
                new.deadline_wall_s,
            ),
        )
        return int(done.lastrowid or 0)

    def get(self, number: int) -> Row:
        """The row of that number; raises KeyError."""
        rows = self._rows("where number = ?", number)
        if not rows:
            raise KeyError(f"the journal has no question {number}")
        return rows[0]

    def find(self, client: str, id_: str) -> Row | None:
        """The row of a client's id."""
        rows = self._rows("where client = ? and id = ?", client, id_)
        return rows[0] if rows else None

    def parts(self, number: int) -> tuple[Row, ...]:
        """The rows that a question stands for, oldest first."""
        return tuple(self._rows("where parent = ? order by number", number))

    def finish(self, number: int, ended_as: str, final: bytes) -> Row:
        """Write a question's end, unless it has one: the row afterwards, whose end counts."""
        self._db.execute(
            "update queries set ended_as = ?, final = ? where number = ? and ended_as is null",
            (ended_as, final, number),
        )
        return self.get(number)

    def reroute(self, number: int, request: bytes) -> None:
        """Replace what is needed to answer it, unless it has ended: it was sent again."""
        self._db.execute(
            "update queries set request = ? where number = ? and ended_as is null",
            (request, number),
        )

    def told(self, number: int) -> None:
        """The asker knows that it is accepted."""
        self._db.execute("update queries set told = 1 where number = ?", (number,))

    def delivered(self, number: int) -> None:
        """The end was sent and confirmed."""
        self._db.execute(
            "update queries set told = 1, delivered = 1 where number = ? and ended_as is not null",
            (number,),
        )

    def unfinished(self) -> list[Row]:
        """What has no end, or whose end may not have been delivered; oldest first."""
        return self._rows("where delivered = 0 order by number")

    def purge(self, before_wall_s: float) -> int:
        """Delete what was accepted before then and is done with; returns how many rows."""
        done = self._db.execute(
            "delete from queries where accepted_wall_s < ? and (delivered = 1 or "
            "deadline_wall_s < ?) and ended_as is not null",
            (before_wall_s, before_wall_s),
        )
        return done.rowcount

    def set(self, name: str, value: str) -> None:
        """Keep a small setting (whether a camera is muted, say)."""
        self._db.execute(
            "insert or replace into settings values (?, ?)",
            (name, value),
        )

    def unset(self, name: str) -> None:
        """Keep it no longer."""
        self._db.execute("delete from settings where name = ?", (name,))

    def settings(self) -> dict[str, str]:
        """All of them."""
        return dict(self._db.execute("select name, value from settings"))

    def _rows(self, where: str, *values: Any) -> list[Row]:
        found = self._db.execute(f"select {_COLUMNS} from queries {where}", values)
        return [_row(*values) for values in found.fetchall()]


def _row(*values: Any) -> Row:
    """A line of the table: its two switches are numbers there."""
    *first, told, ended_as, final, delivered = values
    number, client, id_, parent, camera, request, accepted_s, deadline_s = first
    return Row(
        number=number,
        client=client,
        id=id_,
        parent=parent,
        camera=camera,
        request=request,
        accepted_wall_s=accepted_s,
        deadline_wall_s=deadline_s,
        told=bool(told),
        ended_as=ended_as,
        final=final,
        delivered=bool(delivered),
    )


def open_file(path: Path, stats: Stats, wall: Callable[[], float] = time.time) -> JournalFile:
    """Open the journal; one that is no journal is moved aside and counted, never overwritten.

    Raises ConfigError where another process has it, sqlite3.Error, OSError.
    """
    try:
        return JournalFile(path)
    except sqlite3.DatabaseError as error:
        if "locked" in str(error):
            raise ConfigError(
                f"the journal {path} is in use by another process; stop that one, or give each "
                "node a journal of its own"
            ) from None
        if isinstance(error, sqlite3.OperationalError) or not path.is_file():
            raise
        path.rename(path.with_name(f"{path.name}.damaged-{int(wall())}"))
        for tail in ("-wal", "-shm"):
            path.with_name(path.name + tail).unlink(missing_ok=True)
        stats.count("journal.damaged")
        return JournalFile(path)


@dataclass(frozen=True, slots=True)
class _Step:
    """Work for the journal's thread. ``future``: None for a note that a crash may lose."""

    work: Callable[[JournalFile], Any]
    future: Future[Any] | None


class Journal:
    """The journal for an event loop: an async context manager around one thread."""

    def __init__(
        self, path: Path, stats: Stats | None = None, wall: Callable[[], float] = time.time
    ) -> None:
        self.stats = stats or Stats()
        self.path = path
        self._wall = wall
        self._steps: queue.SimpleQueue[_Step | None] = queue.SimpleQueue()
        self._opened: Future[None] = Future()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="omnidrop-journal", daemon=True)

    async def __aenter__(self) -> Self:
        """Open the file. Raises ConfigError where another process has it, sqlite3.Error,
        OSError.
        """
        self._thread.start()
        await asyncio.wrap_future(self._opened)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Write what waits and close."""
        self._closed = True
        self._steps.put(None)
        await asyncio.to_thread(self._thread.join, JOIN_S)

    async def do(self, work: Callable[[JournalFile], T]) -> T:
        """Run ``work`` on the journal's thread: on disk when this returns. Raises what it raises,
        sqlite3.Error where the disk refuses.
        """
        if self._closed:
            raise RuntimeError("the journal has been closed")
        future: Future[T] = Future()
        self._steps.put(_Step(work, future))
        return await asyncio.wrap_future(future)

    def later(self, work: Callable[[JournalFile], Any]) -> None:
        """The same for a note that a crash may lose; nobody waits for it."""
        if not self._closed:
            self._steps.put(_Step(work, None))

    # -- the journal's thread

    def _run(self) -> None:
        try:
            file = open_file(self.path, self.stats, self._wall)
        except BaseException as error:
            self._opened.set_exception(error)
            return
        self._opened.set_result(None)
        closing = False
        while not closing:
            steps, closing = self._next()
            if steps:
                self._commit(file, steps)
        file.close()

    def _next(self) -> tuple[list[_Step], bool]:
        """What is to be committed together, and whether that is all there will ever be."""
        found: list[_Step] = []
        wait_s: float | None = None
        while len(found) < MOST_TOGETHER:
            try:
                step = self._steps.get(timeout=wait_s)
            except queue.Empty:
                break
            if step is None:
                return found, True
            found.append(step)
            wait_s = LAZY_S if all(step.future is None for step in found) else 0.0
        return found, False

    def _commit(self, file: JournalFile, steps: list[_Step]) -> None:
        """All steps in one transaction; nobody is told before it is on disk."""
        started = time.monotonic()
        ended: list[tuple[Future[Any] | None, Any, BaseException | None]] = []
        try:
            file.begin()
            for step in steps:
                try:
                    with file.savepoint():
                        ended.append((step.future, step.work(file), None))
                except Exception as error:
                    ended.append((step.future, None, error))
            file.commit()
        except sqlite3.Error as error:
            file.rollback()
            self.stats.count("journal.failed")
            ended = [(step.future, None, error) for step in steps]
        self.stats.timing("journal.commit", (time.monotonic() - started) * 1e3)
        for future, result, failure in ended:
            if future is None or not future.set_running_or_notify_cancel():
                continue
            if failure is not None:
                future.set_exception(failure)
            else:
                future.set_result(result)
