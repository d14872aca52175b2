"""Judgements as jobs of the model thread: in turn with the decoding of answers, behind chunks and
behind the prefill of questions. Belongs to the event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any

from omnidrop_stream.errors import Busy, NothingHeld
from runtime.stats import Stats
from runtime.turns import Kind
from runtime.worker import Job, ModelWorker

if TYPE_CHECKING:  # torch comes with the model, on its thread
    from omnidrop_stream.stream import OmniStream
    from omnidrop_stream.watch import Judgement, Standing


@dataclass(slots=True)
class Learnt:
    """What a new standing question was told of the past."""

    odds: list[float] = field(default_factory=list)
    """Of chunks before the newest one, oldest first."""
    cost_s: list[float] = field(default_factory=list)
    """The model's time for each of these, and for the newest chunk."""
    newest: Judgement | None = None
    """Of the newest chunk; None where nothing is held."""

    @property
    def usual_s(self) -> float:
        """What a judgement costs: the middle one, for the first warms things up, and others may
        have held the processor during some.
        """
        return median(self.cost_s)


@dataclass(slots=True, eq=False)
class _Round:
    """The judgements of one chunk."""

    count: int
    began_s: float
    spent_s: float = 0.0
    missed: int = 0
    """Chunks that came meanwhile."""


Judged = Callable[[int, "Judgement", float], None]
"""Which question, its judgement, and the milliseconds since its chunk was in the trunk."""


class Rounds:
    """At most one round at a time; chunks that come meanwhile are judged with the newest one."""

    def __init__(
        self,
        worker: ModelWorker,
        stats: Stats,
        post: Callable[..., None],
        fail: Callable[[BaseException], None],
        on_idle: Callable[[], None] = lambda: None,
    ) -> None:
        """post: from any thread to the loop. fail: told what no judgement may raise. on_idle:
        called when nothing is judged any more.
        """
        self._worker = worker
        self._stats = stats
        self._post = post
        self._fail = fail
        self._on_idle = on_idle
        self._round: _Round | None = None
        self._jobs: set[Job] = set()
        self.idle = asyncio.Event()
        """Nothing is being judged."""
        self.idle.set()
        self.closed = False

    def cancel(self) -> None:
        """Give up what is being judged; nothing is told of it."""
        for job in self._jobs:
            job.cancelled.set()
        self._worker.wake()

    def start(
        self,
        stream: OmniStream,
        questions: Sequence[Standing],
        on_judged: Judged,
        again: Callable[[], None],
    ) -> None:
        """Judge the newest chunk. again: called when that is done and another one has come."""
        if self._round is not None:
            self._round.missed += 1
            return
        if not questions or self.closed:
            return
        now = self._round = _Round(len(questions), time.monotonic())

        def turns(job: Job) -> Generator[Any, None, None]:
            yield from stream.judge_steps(questions, None, job.cancelled.is_set)

        def judged(job: Job, found: Judgement) -> None:
            now.spent_s += (found.own_ms + found.shared_ms) / 1e3
            if not job.cancelled.is_set():
                self._stats.timing("watch.judge", found.own_ms + found.shared_ms)
                on_judged(found.number, found, (time.monotonic() - now.began_s) * 1e3)

        def ended(error: BaseException | None) -> None:
            self._round = None
            if now.spent_s:
                self._worker.load.judged(self, now.spent_s, now.count)
                self._stats.timing("watch.chunk", now.spent_s * 1e3)
            if isinstance(error, Busy | NothingHeld):
                self._stats.count("watch.skipped.busy")
            elif error is not None and not self.closed:
                self._fail(error)
                return
            if now.missed:
                self._stats.count("watch.skipped.late", now.missed - 1)
                again()

        self._submit("watch", turns, judged, ended)

    async def learn(self, stream: OmniStream, question: Standing, count: int) -> Learnt:
        """Judge what is held; empty where that is nothing, or where it cannot be done now."""
        from omnidrop_stream.watch import Judgement, earlier_pairs, newest_pair

        learnt = Learnt()
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def turns(job: Job) -> Generator[Any, None, None]:
            held = stream.snapshot()
            pairs = [*earlier_pairs(held, count), newest_pair(held)] if held else []
            for number, pair in enumerate(pairs):
                for turn in stream.judge_steps([question], pair, job.cancelled.is_set):
                    if not isinstance(turn, Judgement):
                        yield turn
                        continue
                    learnt.cost_s.append((turn.own_ms + turn.shared_ms) / 1e3)
                    if number + 1 == len(pairs):
                        learnt.newest = turn
                    elif turn.odds is not None:
                        learnt.odds.append(turn.odds)

        def ended(error: BaseException | None) -> None:
            if not done.done():
                done.set_result(None) if error is None else done.set_exception(error)

        job = self._submit("watch learns", turns, lambda *_: None, ended)
        try:
            await done
        except (Busy, NothingHeld):
            self._stats.count("watch.skipped.busy")
            return Learnt()
        finally:
            job.cancelled.set()
            self._worker.wake()
        return learnt

    def _submit(
        self,
        name: str,
        turns: Callable[[Job], Generator[Any, None, None]],
        on_event: Callable[[Job, Any], None],
        on_end: Callable[[BaseException | None], None],
    ) -> Job:
        def begin() -> Generator[Any, None, None]:
            yield from turns(job)

        def ended(error: BaseException | None) -> None:
            self._jobs.discard(job)
            on_end(error)
            if not self._jobs:
                self.idle.set()
                self._on_idle()

        job = Job(
            name=name,
            kind=Kind.WATCH,
            turns=begin(),
            on_event=lambda event: self._post(on_event, job, event),
            on_end=lambda error: self._post(ended, error),
        )
        self._jobs.add(job)
        self.idle.clear()
        self._worker.submit(job)
        return job
