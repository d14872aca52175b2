"""The model thread: owns the model, its streams and their caches, and advances jobs turn by turn.

Everything that touches torch runs here, so nothing needs a lock. A job is a generator; one turn is
one ``next()``. `runtime.turns.choose_together` decides whose turn it is, and what is done with it:
what several of them want of the model is served together (`runtime.rounds`). Other threads hand
jobs over and get events back through call-backs, which must only pass them on
(`loop.call_soon_threadsafe`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from omnidrop_stream.model.heap import malloc_trim
from omnidrop_stream.types import Delta, Step
from omnidrop_stream.wanted import Wanted
from runtime.memory import FreedMemory
from runtime.model_load import ModelLoad
from runtime.rounds import Round
from runtime.stats import Stats
from runtime.turns import Candidate, Kind, choose_together

T = TypeVar("T")
JOIN_S = 2.0
LOOK_S = 0.001
"""How often it is looked whether a device is done, where there is nothing else to do."""


@dataclass(slots=True, eq=False)
class Job:
    """Work of the model thread. ``on_event`` and ``on_end`` are called on the model thread."""

    name: str
    kind: Kind
    turns: Generator[Any, None, Any]
    on_event: Callable[[Any], None]
    on_end: Callable[[BaseException | None], None]
    due: float = 0.0
    last_turn: float = 0.0
    turn_s: float = 0.0
    wanted: Wanted | None = None
    serving: Round | None = None
    cancelled: threading.Event = field(default_factory=threading.Event)


class Feed(Protocol):
    """A stream's chunks as the worker sees them: at most one in work, the rest waiting, bounded."""

    def due(self) -> float | None:
        """When the oldest waiting chunk was handed over (worker's clock), None where none waits."""

    def take(self) -> Generator[Any, None, Any] | None:
        """Turns of the next chunk's ingest; called on the model thread."""

    def background(self) -> Generator[Any, None, Any] | None:
        """Turns of work that may wait, None where there is none."""

    def failed(self, error: BaseException) -> None:
        """The ingest raised."""


@dataclass(slots=True, eq=False)
class _Lane:
    """One feed's work in progress."""

    feed: Feed
    turns: Generator[Any, None, Any] | None = None
    due: float = 0.0
    last_turn: float = 0.0
    spent_s: float = 0.0
    """The model's time for the chunk in work."""
    chunk_s: float = 0.0
    """The model's time that a chunk takes, of the last ones; 0 before the first."""
    phase: int = 0
    """Requests of the chunk in work that were served."""
    wanted: Wanted | None = None
    serving: Round | None = None
    background: Generator[Any, None, Any] | None = None


class ModelWorker:
    """One thread for one model. Start it, hand it feeds and jobs, close it."""

    def __init__(
        self,
        stats: Stats | None = None,
        clock: Callable[[], float] = time.monotonic,
        freed: FreedMemory | None = None,
    ) -> None:
        self.stats = stats or Stats()
        self.load = ModelLoad()
        self._clock = clock
        self._freed = freed or FreedMemory(malloc_trim())
        self._changed = threading.Condition()
        self._jobs: list[Job] = []
        self._lanes: list[_Lane] = []
        self._calls: list[tuple[Callable[[], Any], Future[Any]]] = []
        self._closing = self._device_busy = False
        self._thread = threading.Thread(target=self._run, name="omnidrop-model", daemon=True)
        self.turns_taken = 0

    # -- from any thread

    def start(self) -> None:
        """Start the thread; once."""
        self._thread.start()

    @property
    def ident(self) -> int | None:
        """The model thread's identity."""
        return self._thread.ident

    def wake(self) -> None:
        """Something may have become due."""
        with self._changed:
            self._changed.notify()

    def submit(self, job: Job) -> None:
        """Hand a job over. After `close` it ends at once with a RuntimeError."""
        with self._changed:
            if not self._closing:
                job.due = job.last_turn = self._clock()
                self._jobs.append(job)
                self._changed.notify()
                return
        job.on_end(RuntimeError("the model thread has been closed"))

    def call(self, work: Callable[[], T]) -> Future[T]:
        """Run a short function on the model thread, before anything else."""
        future: Future[T] = Future()
        with self._changed:
            if self._closing:
                future.set_exception(RuntimeError("the model thread has been closed"))
            else:
                self._calls.append((work, future))
                self._changed.notify()
        return future

    def add_feed(self, feed: Feed) -> None:
        """Begin to serve a stream's chunks."""
        with self._changed:
            self._lanes.append(_Lane(feed))
            self._changed.notify()

    def remove_feed(self, feed: Feed) -> None:
        """Stop serving a stream; an ingest in progress is abandoned, the trunk stays as it was."""
        with self._changed:
            self._lanes = [lane for lane in self._lanes if lane.feed is not feed]
            self.load.drop(feed)
            self._changed.notify()

    def close(self, timeout_s: float = JOIN_S) -> bool:
        """Cancel all jobs, end the thread; False if it did not end in time (a step still runs)."""
        with self._changed:
            self._closing = True
            for job in self._jobs:
                job.cancelled.set()
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    # -- the model thread

    def _run(self) -> None:
        while True:
            with self._changed:
                work = self._next_work()
                while work is None and not self._closing:
                    self._changed.wait(LOOK_S if self._device_busy else None)
                    work = self._next_work()
                if self._closing and not self._jobs and not self._calls:
                    break
            if work is None:
                work = self._first_job
            started = self._clock()
            name = work()
            self.turns_taken += 1
            self.stats.event(name, "model", started)
            started = self._clock()
            if self._freed.tidy():
                self.stats.event("memory", "model", started)

    def _next_work(self) -> Callable[[], str] | None:
        """What to do next, decided under the lock; running it happens outside."""
        if self._calls:
            return self._one_call
        if self._closing:
            return self._first_job if self._jobs else None
        found: list[tuple[Candidate, _Work]] = []
        self._device_busy = False
        for one in {id(w.serving): w.serving for w in self._served()}.values():
            if one is None:
                continue
            needs_s = sum(_needs_s(lane) for lane in self._lanes if lane.serving is one)
            if one.ready():
                found.append((Candidate(one.kind, one.due, one.last_turn, needs_s=needs_s), one))
            else:
                self._device_busy = True
        for job in self._jobs:
            if job.serving is None:
                group = "decode" if job.kind is Kind.DECODE else None
                candidate = Candidate(
                    job.kind, job.due, job.last_turn, group=group, turn_s=job.turn_s
                )
                found.append((candidate, job))
        for lane in self._lanes:
            if lane.serving is None:
                found += self._lane_work(lane)
        if not found:
            return None
        chosen = choose_together([candidate for candidate, _ in found], self._clock())
        return self._turn_of([found[index][1] for index in chosen])

    def _served(self) -> list[Job | _Lane]:
        """Whatever may wait for the model."""
        return [*self._jobs, *self._lanes]

    def _turn_of(self, works: Sequence[_Work]) -> Callable[[], str]:
        first = works[0]
        if isinstance(first, Round):
            return lambda: self._round_turn(first)
        if isinstance(first, _Background):
            return lambda: self._background_turn(first.lane)
        members = [work for work in works if isinstance(work, Job | _Lane)]
        return lambda: self._turn(members)

    def _lane_work(self, lane: _Lane) -> list[tuple[Candidate, _Work]]:
        needs_s = _needs_s(lane)
        if lane.turns is not None:
            group: Hashable = lane.phase or None
            return [(Candidate(Kind.CHUNK, lane.due, lane.last_turn, 2.0, group, needs_s), lane)]
        due = lane.feed.due()
        if due is not None and self._device_busy:
            return []  # what was encoded first is to be there first
        if due is not None:
            lane.due = lane.last_turn = due
            return [(Candidate(Kind.CHUNK, due, due, 2.0, "begin", needs_s), lane)]
        if lane.background is None:
            lane.background = lane.feed.background()
        if lane.background is not None:
            return [(Candidate(Kind.BACKGROUND, 0.0, 0.0), _Background(lane))]
        return []

    def _one_call(self) -> str:
        with self._changed:
            work, future = self._calls.pop(0)
        if not future.set_running_or_notify_cancel():
            return "call cancelled"
        try:
            result = work()
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(result)
        return "call"

    def _first_job(self) -> str:
        job = self._jobs[0]
        return self._turn([job]) if job.serving is None else self._round_turn(job.serving)

    def _turn(self, members: Sequence[Job | _Lane]) -> str:
        """One turn of each: on to where it wants something of the model, and that served."""
        names = [self._advance(member) for member in members]
        groups: dict[Hashable, list[Job | _Lane]] = {}
        for member in members:
            if member.wanted is not None:
                groups.setdefault(member.wanted.group, []).append(member)
        for group in groups.values():
            first = group[0]
            kind = first.kind if isinstance(first, Job) else Kind.CHUNK
            self.stats.count(f"rounds.{kind.name.lower()}")
            self.stats.count(f"served.{kind.name.lower()}", len(group))
            self._round_turn(Round(group, kind, self._clock()))
        return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"

    def _round_turn(self, one: Round) -> str:
        """A turn of what several wait for; once they have it they go on to the end of theirs."""
        started = self._clock()
        members = [member for member in self._served() if member.serving is one]
        done = one.step()
        one.last_turn = self._clock()
        for member in members:
            if isinstance(member, _Lane):
                member.spent_s += (one.last_turn - started) / len(members)
        for member in members if done else ():
            result, error = one.result_of(member)
            member.wanted = member.serving = None
            self._advance(member, result, error)
        return f"{one.kind.name.lower()} of {len(members)}"

    def _advance(
        self, member: Job | _Lane, result: Any = None, error: BaseException | None = None
    ) -> str:
        if isinstance(member, Job):
            return self._job_turn(member, result, error)
        if member.turns is None and not self._begin_chunk(member):
            return "chunk gone"
        return self._lane_turn(member, result, error)

    def _job_turn(self, job: Job, result: Any, error: BaseException | None) -> str:
        kind, started = job.kind, self._clock()
        try:
            event = _go_on(job.turns, result, error)
        except StopIteration:
            self._end(job, None)
        except BaseException as raised:
            self._end(job, raised)
        else:
            job.last_turn = self._clock()
            job.turn_s = job.last_turn - started
            if isinstance(event, Wanted):
                job.wanted = event
                return f"{job.name} {kind.name.lower()}"
            if isinstance(event, Delta) or event is Step.DECODE:
                job.kind = Kind.DECODE
            if not isinstance(event, Step):
                job.on_event(event)
        return f"{job.name} {kind.name.lower()}"

    def _end(self, job: Job, error: BaseException | None) -> None:
        with self._changed:
            self._jobs.remove(job)
        job.on_end(error)

    def _begin_chunk(self, lane: _Lane) -> bool:
        try:
            lane.turns = lane.feed.take()
        except BaseException as error:
            lane.feed.failed(error)
        lane.last_turn, lane.phase = self._clock(), 0
        return lane.turns is not None

    def _lane_turn(self, lane: _Lane, result: Any, error: BaseException | None) -> str:
        turns = lane.turns
        if turns is None:
            return "chunk gone"
        started = self._clock()
        try:
            event = _go_on(turns, result, error)
            if isinstance(event, Wanted):
                lane.wanted, lane.phase = event, lane.phase + 1
        except StopIteration:
            lane.turns = None
            with self._changed:
                if lane in self._lanes:
                    self.load.chunk(lane.feed, lane.spent_s + self._clock() - started)
                    lane.chunk_s = self.load.chunk_s(lane.feed)
        except BaseException as raised:
            lane.turns = None
            lane.feed.failed(raised)
        lane.last_turn = self._clock()
        lane.spent_s = 0.0 if lane.turns is None else lane.spent_s + lane.last_turn - started
        return "chunk"

    def _background_turn(self, lane: _Lane) -> str:
        turns = lane.background
        if turns is None:
            return "background gone"
        try:
            next(turns)
        except StopIteration:
            lane.background = None
        except BaseException as error:
            lane.background = None
            lane.feed.failed(error)
        return "background"


@dataclass(frozen=True, slots=True, eq=False)
class _Background:
    """A turn of a lane's work that may wait."""

    lane: _Lane


_Work = Job | _Lane | _Background | Round


def _needs_s(lane: _Lane) -> float:
    """The model's time that the chunk in work, or the next one, will still take."""
    return max(0.0, lane.chunk_s - lane.spent_s)


def _go_on(turns: Generator[Any, Any, Any], result: Any, error: BaseException | None) -> Any:
    """To the next turn, with what was wanted or with why it could not be had."""
    if error is not None:
        return turns.throw(error)
    return next(turns) if result is None else turns.send(result)
