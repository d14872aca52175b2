"""Four feeds, one model, random faults, for an hour or more: memory, stuck tasks, latency."""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import time
from array import array
from collections.abc import Awaitable, Callable, Sequence

from omnidrop_stream.config import make_config
from omnidrop_stream.errors import OmniDropError
from runtime.host import ModelHost
from runtime.session import StreamSession
from runtime.sources import SourceOptions
from runtime.stats import Stats
from tests.faults import measure
from tests.faults.cameras import Camera
from tests.faults.feeds import Feed
from tests.faults.report import Row, Tell
from tests.faults.scale import Scale

FEEDS = (
    Feed(),
    Feed(size=(96, 128), sound="mulaw"),
    Feed(sound="aac", rate=16_000),
    Feed(size=(160, 90), sound=None),
)
CHANGED = (
    Feed(size=(144, 80)),
    Feed(codec="mjpeg"),
    Feed(sound=None),
    Feed(sound="aac", rate=48_000, channels=2),
    Feed(turn="clockwise"),
    Feed(fps=3),
)
BUDGET_TOKENS = 1500
"""Small, so that every cache is full, and evicts, long before the figures begin."""
STALL_S = 2.0
BETWEEN_FAULTS_S = (20.0, 70.0)
"""Of each feed. More often, and the growing waits of reconnecting would keep it off the air."""
ASK_EVERY_S = 20.0
SAMPLE_EVERY_S = 5.0
ANSWER_S = 30.0
QUIET_S = ANSWER_S + 10.0
"""A sample waits so long for a question to be done with; then it is left out, and counted."""
HEALED_S = 60.0
SLOPE_LIMIT_MIB_H, LATENCY_RATIO = 5.0, 1.1


class Meter:
    """What every chunk cost, over all sessions: written by the model thread alone; and whether a
    question is open.
    """

    def __init__(self) -> None:
        self.at = array("d")
        self.wall_ms = array("d")
        self.cpu_ms = array("d")
        self.asked = self.answered = 0
        self.idle = asyncio.Event()
        """No question is open."""
        self.idle.set()
        self._cpu_s, self._answered = 0.0, 0

    def question(self) -> None:
        """One is asked; by the event loop, as `replied`."""
        self.asked += 1
        self.idle.clear()

    def replied(self) -> None:
        """It is done with, well or not."""
        self.answered = self.asked
        self.idle.set()

    def committed(self, wall_ms: float) -> None:
        """A chunk is in the trunk. The thread's processor time since the chunk before is its own,
        unless a question was answered meanwhile.
        """
        now_s, asked = time.thread_time(), self.asked
        self.at.append(time.monotonic())
        self.wall_ms.append(wall_ms)
        clean = asked == self._answered
        self.cpu_ms.append((now_s - self._cpu_s) * 1e3 if clean else math.nan)
        self._cpu_s, self._answered = now_s, self.answered

    def quarters(self, values: array[float], from_s: float) -> tuple[float, float]:
        """p95 of the first and of the last quarter of the time since ``from_s``."""
        to_s = self.at[-1]
        span_s = (to_s - from_s) / 4
        pairs = [(at, v) for at, v in zip(self.at, values, strict=True) if v == v and at >= from_s]
        first = [value for at, value in pairs if at <= from_s + span_s]
        last = [value for at, value in pairs if at >= to_s - span_s]
        return measure.p95(first), measure.p95(last)


class MeteredStats(Stats):
    """A session's statistics that also tell the meter."""

    def __init__(self, meter: Meter) -> None:
        super().__init__()
        self._meter, self._waited_ms = meter, 0.0

    def timing(self, name: str, ms: float) -> None:
        """As the session's own; a chunk's two times are added up."""
        super().timing(name, ms)
        if name == "chunk.waited":
            self._waited_ms = ms
        elif name == "chunk.push":
            self._meter.committed(self._waited_ms + ms)


class Soak:
    """The feeds, their sessions, and who bothers them."""

    def __init__(self, seconds: float, seed: int, tell: Tell) -> None:
        self._seconds, self._tell = seconds, tell
        self._random = random.Random(seed)
        self._meter = Meter()
        self._memory: list[tuple[float, float, float]] = []  # s, MiB resident, MiB allocated
        self._faults: dict[str, int] = {}
        self._errors: dict[str, int] = {}
        self._answers = 0
        self._unhealed = self._skipped = 0
        self._began_s = time.monotonic()

    async def run(self) -> None:
        """All of it; rows are told as it goes and at the end."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._unhandled)
        threads = measure.capture_threads()
        config = make_config(
            {"model": {"model": "embedded"}, "stream": {"budget_tokens": BUDGET_TOKENS}}
        )
        with contextlib.ExitStack() as stack:
            cameras = [stack.enter_context(Camera(feed, proxied=True)) for feed in FEEDS]
            async with ModelHost(config.model) as host, contextlib.AsyncExitStack() as sessions:
                options = SourceOptions(stall_timeout_s=STALL_S, wait_for_first=True)
                opened = [
                    await sessions.enter_async_context(
                        StreamSession(
                            camera.url,
                            config,
                            host,
                            stats=MeteredStats(self._meter),
                            options=options,
                        )
                    )
                    for camera in cameras
                ]
                for session in opened:
                    await session.ready()
                self._began_s = time.monotonic()
                await self._hour(cameras, opened)
                await self._all_well(opened)
        left = [name for name in measure.capture_threads() if name not in threads]
        tasks = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
        self._tell_end(left, [task.get_name() for task in tasks])

    async def _hour(self, cameras: list[Camera], sessions: list[StreamSession]) -> None:
        over = asyncio.Event()
        workers: list[Awaitable[None]] = [
            self._bother(number, camera, over) for number, camera in enumerate(cameras)
        ]
        workers += [self._ask(sessions, over), self._sample(sessions, over)]
        tasks = [asyncio.ensure_future(worker) for worker in workers]
        await asyncio.wait(tasks, timeout=self._seconds, return_when=asyncio.FIRST_EXCEPTION)
        over.set()
        await asyncio.gather(*tasks)

    async def _bother(self, number: int, camera: Camera, over: asyncio.Event) -> None:
        draw = random.Random(self._random.random() + number)
        kinds: list[Callable[[Camera, random.Random], Awaitable[None]]] = [
            self._kill,
            self._freeze,
            self._cut,
            self._change,
        ]
        while not await _set_within(over, draw.uniform(*BETWEEN_FAULTS_S)):
            kind = draw.choice(kinds)
            name = kind.__name__.strip("_")
            self._faults[name] = self._faults.get(name, 0) + 1
            await kind(camera, draw)
        if camera.feed != FEEDS[number]:
            await asyncio.to_thread(camera.kill)
            await asyncio.to_thread(camera.start, FEEDS[number])

    async def _kill(self, camera: Camera, draw: random.Random) -> None:
        await asyncio.to_thread(camera.kill)
        await asyncio.sleep(draw.uniform(0.2, 10.0))
        await asyncio.to_thread(camera.start)

    async def _freeze(self, camera: Camera, draw: random.Random) -> None:
        camera.freeze()
        await asyncio.sleep(draw.uniform(0.5, 10.0))
        camera.thaw()

    async def _cut(self, camera: Camera, draw: random.Random) -> None:
        camera.cut()
        await asyncio.sleep(draw.uniform(0.5, 20.0))
        camera.heal()

    async def _change(self, camera: Camera, draw: random.Random) -> None:
        await asyncio.to_thread(camera.kill)
        await asyncio.to_thread(camera.start, draw.choice(CHANGED))

    async def _ask(self, sessions: list[StreamSession], over: asyncio.Event) -> None:
        turn = 0
        while not await _set_within(over, ASK_EVERY_S / len(sessions)):
            session = sessions[turn % len(sessions)]
            turn += 1
            self._meter.question()
            try:
                async with asyncio.timeout(ANSWER_S):
                    async for _ in session.ask("What happened?"):
                        pass
                self._answers += 1
            except (OmniDropError, TimeoutError) as error:
                self._error(type(error).__name__)
            self._meter.replied()

    async def _sample(self, sessions: list[StreamSession], over: asyncio.Event) -> None:
        told_s = 0.0
        while not await _set_within(over, SAMPLE_EVERY_S):
            await self._take_sample(QUIET_S)
            now_s = time.monotonic() - self._began_s
            if self._memory and now_s - told_s >= 60:
                told_s = now_s
                await asyncio.to_thread(self._tell_partial, sessions)

    async def _take_sample(self, limit_s: float) -> None:
        """Between answers: single samples stood 13 to 16 MiB above the others, and no longer do.
        How often one meets an answer is how busy the machine is, and no growth.
        """
        if not await _set_within(self._meter.idle, limit_s):
            self._skipped += 1
            return
        sizes = measure.resident_mib(), measure.allocated_mib()
        self._memory.append((time.monotonic() - self._began_s, *sizes))

    async def _all_well(self, sessions: list[StreamSession]) -> None:
        """All is healed: every session is to be live, and to give answers, in bounded time."""
        before = [session.stats.counter("chunk.committed") for session in sessions]
        until_s = time.monotonic() + HEALED_S
        while time.monotonic() < until_s:
            pairs = zip(sessions, before, strict=True)
            late = [s for s, n in pairs if s.stats.counter("chunk.committed") < n + 2]
            if not late:
                return
            await asyncio.sleep(0.2)
        self._unhealed = len(late)

    def _unhandled(self, _: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        self._error(f"event loop: {context.get('message')}")

    def _error(self, name: str) -> None:
        self._errors[name] = self._errors.get(name, 0) + 1

    def _tell_partial(self, sessions: list[StreamSession]) -> None:
        states = " ".join(session.status().state for session in sessions)
        now_s, mib, _ = self._memory[-1]
        text = f"{now_s / 60:.0f} min: {mib:.1f} MiB, {len(self._meter.at)} chunks, {states}"
        slope = self._slope_row()
        print(f"{text}; {slope.figure}; faults {self._faults}; errors {self._errors}", flush=True)  # noqa: T201

    @property
    def _warm_s(self) -> float:
        """Until the caches are full, and every kind of fault was seen."""
        return min(600.0, self._seconds / 6)

    def _slope_row(self) -> Row:
        return slope_row(self._memory, self._seconds / 2, self._skipped)

    def _latency_row(self) -> Row:
        """Judged by processor time: what a shared machine's other work does to the wall time is
        told beside it.
        """
        from_s = self._began_s + self._warm_s
        first, last = self._meter.quarters(self._meter.cpu_ms, from_s)
        first_wall, last_wall = self._meter.quarters(self._meter.wall_ms, from_s)
        return Row(
            "cost of a chunk, processor time of the model thread, p95 of the last quarter against "
            "the first's (after the warm-up)",
            f"{last:.1f} ms against {first:.1f} ms: {last / first:.2f}x; capture to prefilled, "
            f"wall time on a shared machine: {last_wall:.0f} ms against {first_wall:.0f} ms",
            f"<= {LATENCY_RATIO:g}x",
            last <= LATENCY_RATIO * first,
            {
                "cpu_ms": [first, last],
                "wall_ms": [first_wall, last_wall],
            },
        )

    def _tell_end(self, threads: list[str], tasks: list[str]) -> None:
        minutes = (time.monotonic() - self._began_s) / 60
        total = sum(self._faults.values())
        told = ", ".join(f"{count} {name}" for name, count in sorted(self._faults.items()))
        self._tell(
            Row(
                f"{len(FEEDS)} feeds, {minutes:.0f} min, {total} faults ({told})",
                f"{len(self._meter.at)} chunks, {self._answers} answers, {len(threads)} threads "
                f"and {len(tasks)} tasks left, {self._unhealed} feeds not back after {HEALED_S:g} "
                f"s, errors {self._errors or 'none'}",
                "all feeds back; no thread, task or error left",
                not (threads or tasks or self._unhealed or self._errors),
                {"minutes": minutes, "faults": self._faults, "threads": threads, "tasks": tasks},
            )
        )
        self._tell(self._slope_row())
        self._tell(self._latency_row())


def slope_row(
    samples: Sequence[tuple[float, float, float]], from_s: float, skipped: int = 0
) -> Row:
    """How memory goes from ``from_s`` on; samples: s, MiB resident, MiB in use by malloc; skipped:
    how many were left out, since an answer took too long.

    Before that the allocator's heaps fill up, step by step and for good; what is left of it at the
    end of a long run is what counts.
    """
    at_h, resident = _by_minute(samples, 1, from_s)
    slope, bound = measure.slope_with_bound(at_h, resident)
    own_slope, own_bound = measure.slope_with_bound(*_by_minute(samples, 2, from_s))
    own = f" (in use by malloc: {own_slope:.2f}, upper bound {own_bound:.2f})"
    sizes = [mib for _, mib, _ in samples] or [math.nan]
    return Row(
        f"memory slope over the second half, from minute {from_s / 60:.0f} on: least squares over "
        "means of a minute, sampled between answers; one-sided 95 % bound, corrected for "
        "autocorrelation",
        f"{slope:.2f} MiB/h, upper bound {bound:.2f} MiB/h{'' if math.isnan(own_slope) else own}; "
        f"resident at first {sizes[0]:.0f}, at half {resident[0] if resident else math.nan:.0f}, "
        f"at the end {sizes[-1]:.0f} MiB; {len(samples)} samples, {skipped} left out for an answer "
        f"that took more than {QUIET_S:g} s",
        f"upper bound < {SLOPE_LIMIT_MIB_H:g} MiB/h",
        bound < SLOPE_LIMIT_MIB_H,
        {
            "slope_mib_h": slope,
            "upper_mib_h": bound,
            "skipped": skipped,
            "minutes": _by_minute(samples, 1, 0.0)[1],
        },
    )


def _by_minute(
    samples: Sequence[tuple[float, float, float]], column: int, from_s: float
) -> tuple[list[float], list[float]]:
    """Hours, and means of a minute of a column."""
    minutes: dict[int, list[float]] = {}
    for sample in samples:
        if sample[0] >= from_s:
            minutes.setdefault(int(sample[0] // 60), []).append(sample[column])
    means = [sum(values) / len(values) for values in minutes.values()]
    return [minute / 60 for minute in minutes], means


async def _set_within(event: asyncio.Event, seconds: float) -> bool:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)
    return event.is_set()


def run(tell: Tell, scale: Scale) -> None:
    """Four small RTSP feeds on the embedded model, bothered at random for so long."""
    asyncio.run(Soak(scale.minutes * 60, scale.seed, tell).run())
