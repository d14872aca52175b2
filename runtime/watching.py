"""The standing questions of one session: added and removed at any time, judged after each chunk.

`Watching` keeps them and belongs to the event loop; `watch_rounds` has them judged on the model
thread, `watch_judge` decides what the odds mean, `watch_telling` tells it.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING

from omnidrop_stream.errors import Busy, OmniDropError, UsageError
from omnidrop_stream.types import Chunk
from omnidrop_stream.watch_config import WatchConfig, WatchesConfig
from omnidrop_stream.watch_judge import State, Verdict, WatchJudge
from runtime.key_frames import KeyFrames
from runtime.stats import Stats
from runtime.watch_rounds import Rounds
from runtime.watch_telling import Ask, Reader, Telling
from runtime.watch_types import WatchEvent, WatchStage, WatchState
from runtime.worker import ModelWorker

if TYPE_CHECKING:  # torch comes with the model, on its thread
    from omnidrop_stream.stream import OmniStream
    from omnidrop_stream.watch import Judgement, Standing

COSTS = 9
"""Judgements whose cost is remembered: one may have been disturbed."""
_STAGES = {
    State.LEARNING: WatchStage.LEARNING,
    State.QUIET: WatchStage.WATCHING,
    State.COOLING: WatchStage.WATCHING,
    State.ON: WatchStage.HAPPENING,
}


@dataclass(slots=True, eq=False)
class _Watch:
    """One standing question."""

    id: str
    config: WatchConfig
    judge: WatchJudge
    standing: Standing | None = None
    """In the model's tokens, from when it is judged on."""
    stage: WatchStage = WatchStage.WAITING
    refusal: OmniDropError | None = None
    events: int = 0
    last: Verdict | None = None
    costs_ms: deque[float] = field(default_factory=lambda: deque(maxlen=COSTS))
    """Of the last judgements; the first is what it usually took to learn."""
    beginning: asyncio.Task[None] | None = None

    def state(self) -> WatchState:
        judged = self.last
        return WatchState(
            id=self.id,
            text=self.config.text,
            sound_only=self.config.sound_only,
            stage=self.stage,
            reason="" if self.refusal is None else str(self.refusal),
            refusal=self.refusal,
            events=self.events,
            odds=None if judged is None else judged.odds,
            baseline=None if judged is None else judged.baseline,
            learn=self.config.learn,
            judge_ms=median(self.costs_ms) if self.costs_ms else None,
        )


class Watching:
    """Add, remove, list, and read what happens."""

    def __init__(
        self,
        worker: ModelWorker,
        stats: Stats,
        post: Callable[..., None],
        fail: Callable[[BaseException], None],
        ask: Ask,
        settings: WatchesConfig,
        realtime: bool = True,
    ) -> None:
        """post: from any thread to the loop. fail: ends the session with what telling may not
        raise. ask: a follow-up question. realtime: the model has to keep pace, so what it cannot
        carry is refused.
        """
        self._worker = worker
        self._stats = stats
        self._settings = settings
        self._realtime = realtime
        self._stream: OmniStream | None = None
        self._pictures = KeyFrames()
        self._pending = False
        self._rounds = Rounds(worker, stats, post, self._broken, on_idle=self._release)
        self._telling = Telling(stats, ask, fail)
        self._watches: dict[str, _Watch] = {}
        self._number = 0
        stats.gauge("watch.count", lambda: len(self._watches))
        for config in settings.questions:
            self._register(config, "")

    # -- for whoever watches; on the event loop

    async def add(self, watch: WatchConfig, id: str = "") -> WatchState:
        """Begin to watch; the baseline is learnt from what is held. Before the model and the first
        chunk are there it waits for them, and `events` tells what is refused then.

        Raises UsageError (an id that is taken, or what this stream cannot be asked), ModelMismatch,
        Busy: the stream has its number, or the model cannot carry it (with the figures).
        """
        added = self._register(watch, id)
        if self._stream is not None:
            try:
                await self._begin(added)
            except BaseException:
                self.remove(added.id)
                raise
        return added.state()

    def remove(self, id: str) -> bool:
        """Watch no longer for it; False where there is no such standing question."""
        gone = self._watches.pop(id, None)
        if gone is None:
            return False
        if gone.beginning is not None:
            gone.beginning.cancel()
        if not self._watches:
            self._pictures.clear()
        self._worker.load.carries(self._rounds, len(self._due()))
        self._release()
        return True

    def states(self) -> tuple[WatchState, ...]:
        """All standing questions, in the order in which they were added."""
        return tuple(watch.state() for watch in self._watches.values())

    def events(self) -> Reader:
        """Each `WatchEvent`, and a `WatchState` for what was refused after it was added, from now
        on until the session ends. Who does not read loses the oldest of 64 (counted).
        """
        return self._telling.events()

    async def read(self) -> None:
        """Wait until all readers of `events` are done with what was told."""
        await self._telling.read()

    # -- for the session

    def look(self, chunk: Chunk) -> None:
        """A raw chunk on its way into the trunk; any thread. Pictures are kept only while something
        is watched for.
        """
        if self._watches:
            self._pictures.add(chunk)
            self._pending = not self._realtime

    def held(self) -> bool:
        """Whether the next chunk has to wait for the judgements of this one: a stream that need not
        keep pace skips none. Any thread.
        """
        return self._pending

    def attach(self, stream: OmniStream) -> None:
        """The stream is open."""
        self._stream = stream

    def committed(self) -> None:
        """A chunk has joined the trunk: judge it."""
        stream = self._stream
        if stream is None or self._rounds.closed:
            return
        for watch in self._watches.values():
            if watch.stage is WatchStage.WAITING and watch.beginning is None:
                watch.beginning = self._telling.spawn(self._begin_late(watch))
        self._judge()
        self._release()

    def _release(self) -> None:
        """Let the next chunk in, once nothing is judged or begun any more."""
        begun = all(watch.beginning is None for watch in self._watches.values())
        if self._pending and begun and self._rounds.idle.is_set():
            self._pending = False
            self._worker.wake()

    def forget(self) -> None:
        """Pictures, and what is being judged or about to be told, are forgotten."""
        self._pictures.clear()
        self._rounds.cancel()
        self._telling.cancel()

    async def settled(self) -> None:
        """Wait until nothing is being judged or about to be told."""
        await self._rounds.idle.wait()
        while await self._telling.settled():
            await self._rounds.idle.wait()

    async def close(self) -> None:
        """End everything; who reads `events` comes to their end."""
        self._rounds.closed = True
        self.forget()
        self._worker.load.drop(self._rounds)
        await self._telling.close()

    # -- beginning

    def _register(self, config: WatchConfig, id: str) -> _Watch:
        if len(self._watches) >= self._settings.limit:
            raise Busy(
                f"this stream has {len(self._watches)} standing questions, and watches.limit "
                f"allows {self._settings.limit}: remove one first"
            )
        if id in self._watches:
            raise UsageError(f"there is a standing question {id!r} already; choose another id")
        while not id or id in self._watches:
            self._number += 1
            id = f"w{self._number}"
        watch = _Watch(id, config, WatchJudge(config))
        self._watches[id] = watch
        return watch

    async def _begin_late(self, watch: _Watch) -> None:
        """Begin with the first chunk; what is refused is told."""
        try:
            await self._begin(watch)
        except Exception as error:  # whatever it is, it concerns this one only
            watch.stage, watch.refusal = WatchStage.REFUSED, _as_refusal(error)
            self._stats.count("watch.refused")
            self._telling.tell(watch.state())
        finally:
            watch.beginning = None
            self._release()

    async def _begin(self, watch: _Watch) -> None:
        """Learn from the chunks that are held, and see whether the model can carry it."""
        stream = self._stream
        if stream is None:
            return
        prepared = self._worker.call(lambda: stream.standing(watch.config))
        standing = await asyncio.wrap_future(prepared)
        learnt = await self._rounds.learn(stream, standing, watch.config.learn)
        gone = self._watches.get(watch.id) is not watch
        if gone or watch.standing is not None or learnt.newest is None:
            return  # without any chunk to judge it waits for the first one
        cost_s = learnt.usual_s
        load = self._worker.load
        refusal = load.refusal(cost_s, self._settings.share) if self._realtime else ""
        if refusal:
            raise Busy(refusal)
        for odds in learnt.odds:
            watch.judge.learn(odds)
        watch.standing = standing
        watch.costs_ms.append(cost_s * 1e3)
        watch.stage = _STAGES[watch.judge.state]
        load.judged(self._rounds, cost_s, 1)
        load.carries(self._rounds, len(self._due()))
        self._judged(watch, learnt.newest, 0.0)

    # -- judging

    def _due(self) -> list[_Watch]:
        return [watch for watch in self._watches.values() if watch.standing is not None]

    def _judge(self) -> None:
        """Have the newest chunk judged, now or when the round under way is done."""
        due, stream = self._due(), self._stream
        questions = [watch.standing for watch in due if watch.standing is not None]

        def judged(number: int, judgement: Judgement, late_ms: float) -> None:
            self._judged(due[number], judgement, late_ms)

        if stream is not None:
            self._rounds.start(stream, questions, judged, again=self._judge)

    def _broken(self, error: BaseException) -> None:
        """A judgement raised what none may raise: nothing is judged any more, and that is told;
        the stream and its answers go on.
        """
        self._stats.count("watch.failed")
        refusal = _as_refusal(error)
        for watch in self._due():
            watch.standing, watch.stage, watch.refusal = None, WatchStage.REFUSED, refusal
            self._telling.tell(watch.state())
        self._worker.load.carries(self._rounds, 0)

    def _judged(self, watch: _Watch, judgement: Judgement, late_ms: float) -> None:
        if self._watches.get(watch.id) is not watch or watch.standing is None:
            return
        self._stats.count("watch.judged")
        watch.costs_ms.append(judgement.own_ms + judgement.shared_ms)
        if judgement.odds is None:
            self._stats.count("watch.nothing_to_judge")
            return
        verdict = watch.last = watch.judge.step(judgement.to_s, judgement.odds)
        watch.stage = _STAGES[verdict.state]
        if not verdict.event:
            return
        watch.events += 1
        self._stats.count("watch.events")
        self._stats.timing("watch.delay", late_ms)
        event = WatchEvent(
            id=watch.id,
            seq=watch.events,
            text=watch.config.text,
            time_s=judgement.to_s,
            from_s=judgement.from_s,
            wall_s=time.time(),
            confidence=verdict.confidence,
            odds=verdict.odds,
            baseline=verdict.baseline,
            evidence=judgement.evidence,
            key_frame=None,
        )
        self._telling.happened(event, self._pictures.at(judgement.key_s), watch.config.ask)


def _as_refusal(error: BaseException) -> OmniDropError:
    if isinstance(error, OmniDropError):
        return error
    why = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    return OmniDropError(f"judging failed unexpectedly ({why}); remove it and add it again")
