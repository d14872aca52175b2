"""Servers killed and restarted, fifty times in all: sessions of one process that see it through."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from omnidrop_stream.config import Config, make_config
from omnidrop_stream.model.template import Turn
from omnidrop_stream.types import Answer
from runtime.host import ModelHost
from runtime.session import StreamSession
from runtime.sources import SourceOptions
from tests.faults import measure
from tests.faults.cameras import Camera
from tests.faults.feeds import Feed
from tests.faults.report import Row, Tell
from tests.faults.scale import Scale

CAMERAS = 5
DOWN_S = (0.2, 10.0)
GOP_S = 1.0
FRESH_LIMIT_S, DRIFT_LIMIT_MIB = 6.0, 20.0
LEAST_GOOD_S = 5.0
"""An outage counts as over after as much good data as it was long, at least so much."""
WAIT_S = 60.0
POLL_S = 0.02
WARM_UP = 2
"""Restarts of each camera before the memory's baseline is taken."""


def config() -> Config:
    """The embedded model, with a cache that is soon full and short answers."""
    return make_config(
        {
            "model": {"model": "embedded"},
            "stream": {"budget_tokens": 1500},
            "decode": {"max_tokens": 8},
        }
    )


@dataclass(slots=True)
class Log:
    """What the restarts did."""

    fresh_s: list[float] = field(default_factory=list)
    """From the server's being back to the first chunk in the trunk that was filmed after that."""
    kept: int = 0
    """Outages over which every token stayed in the cache, and the history of the asker too."""
    named: int = 0
    """Outages that the answer after them names as a gap."""
    lost: list[str] = field(default_factory=list)
    memory_mib: list[float] = field(default_factory=list)
    allocated_mib: list[float] = field(default_factory=list)

    def sample(self) -> None:
        """Memory as it is now."""
        self.memory_mib.append(measure.resident_mib())
        self.allocated_mib.append(measure.allocated_mib())


def run(tell: Tell, scale: Scale) -> None:
    """Kill, wait, restart, wait for a fresh chunk; again and again."""
    asyncio.run(_run(tell, scale))


async def _run(tell: Tell, scale: Scale) -> None:
    cameras, rounds = scale.pick(CAMERAS, 1), scale.pick(10, 2)
    log = Log()
    async with ModelHost(config().model) as host:
        await host.model()
        threads, files = measure.capture_threads(), measure.open_files()
        live = await _watch_all(log, host, cameras, rounds, scale.seed)
        after = measure.capture_threads(), measure.open_files()
    _tell_fresh(tell, log, cameras * rounds)
    tell(
        Row(
            "threads and open files: while all feeds were live, before and after; and when closed",
            f"{live[0]} -> {live[1]} (threads, files); {len(after[0]) - len(threads)} threads and "
            f"{after[1] - files} files left",
            "back to the baseline",
            live[1] <= live[0] and after[0] == threads and after[1] <= files,
        )
    )
    drift = log.memory_mib[-1] - log.memory_mib[0]
    tell(
        Row(
            f"resident memory, from after {WARM_UP} restarts of each feed to the end",
            f"{log.memory_mib[0]:.1f} -> {log.memory_mib[-1]:.1f} MiB: {drift:+.1f} MiB "
            f"(in use by malloc: {log.allocated_mib[0]:.1f} -> {log.allocated_mib[-1]:.1f} MiB)",
            f"drift < {DRIFT_LIMIT_MIB:g} MiB",
            drift < DRIFT_LIMIT_MIB,
            {"mib": log.memory_mib, "allocated_mib": log.allocated_mib},
        )
    )


async def _watch_all(
    log: Log, host: ModelHost, cameras: int, rounds: int, seed: int
) -> tuple[tuple[int, int], tuple[int, int]]:
    """(threads, open files) while all feeds are live, before the first kill and after the last."""
    options = SourceOptions(wait_for_first=True)
    with contextlib.ExitStack() as servers:
        feeds = [servers.enter_context(Camera(Feed(gop_s=GOP_S))) for _ in range(cameras)]
        async with contextlib.AsyncExitStack() as stack:
            sessions = [
                await stack.enter_async_context(
                    StreamSession(feed.url, config(), host, options=options)
                )
                for feed in feeds
            ]
            for session in sessions:
                await session.ready()
                await _answer(session, "before")
            before = _counts()
            turns: list[asyncio.Task[None]] = []
            memory = asyncio.create_task(_memory(log, sessions))
            for number, (camera, session) in enumerate(zip(feeds, sessions, strict=True)):
                draw = random.Random(seed * 100 + number)
                turns.append(asyncio.create_task(_restarts(log, camera, session, rounds, draw)))
            await asyncio.gather(*turns)
            memory.cancel()
            log.sample()
            return before, _counts()


async def _memory(log: Log, sessions: list[StreamSession]) -> None:
    """The baseline once every feed was restarted twice; then a sample each half minute."""
    while True:
        if all(s.stats.counter("source.interruptions") >= WARM_UP for s in sessions):
            log.sample()
        await asyncio.sleep(15)


def _counts() -> tuple[int, int]:
    return len(measure.capture_threads()), measure.open_files()


async def _restarts(
    log: Log, camera: Camera, session: StreamSession, rounds: int, draw: random.Random
) -> None:
    for _ in range(rounds):
        down_s = draw.uniform(*DOWN_S)
        tokens = await _settled_tokens(session)
        before, pushed = session.status(), session.stats.counter("chunk.committed")
        earlier = _history(session)[-1]
        killed_s = time.monotonic()
        await asyncio.to_thread(camera.kill)
        await asyncio.sleep(down_s)
        remembered = earlier in _history(session)
        held = session.status().tokens
        if session.stats.counter("chunk.committed") > pushed and held > 0:
            tokens = held  # what was being cut when it was killed came in, and the oldest left
        during = await _answer(session, "before")
        await asyncio.to_thread(camera.start)
        back_s = time.monotonic()
        fresh_from_s = before.stream_s + (back_s - killed_s)
        took_s = await _fresh(session, fresh_from_s)
        log.fresh_s.append(took_s)
        after = await _answer(session, "before")
        _judge(log, tokens, held if remembered else -1, during, after, before.stream_s)
        await asyncio.sleep(max(LEAST_GOOD_S, down_s) + 1.0)


def _history(session: StreamSession) -> tuple[Turn, ...]:
    """The asker's questions and answers that the stream remembers."""
    stream = session._stream
    assert stream is not None
    return stream._conversations.of("before")


async def _settled_tokens(session: StreamSession) -> int:
    """The cache just after a chunk came in, so that none comes between the count and the kill."""
    number = session.stats.counter("chunk.committed")
    await _until(lambda: session.stats.counter("chunk.committed") > number)
    return session.status().tokens


async def _fresh(session: StreamSession, from_s: float) -> float:
    """Seconds until the trunk holds a chunk that begins after ``from_s`` of stream time."""
    began_s = time.monotonic()

    def fresh() -> bool:
        status = session.status()
        return status.stream_s - status.lag_s >= from_s + 2.0

    return time.monotonic() - began_s if await _until(fresh) else float("inf")


async def _until(there: Callable[[], bool], limit_s: float = WAIT_S) -> bool:
    until_s = time.monotonic() + limit_s
    while not there():
        if time.monotonic() > until_s:
            return False
        await asyncio.sleep(POLL_S)
    return True


async def _answer(session: StreamSession, asker: str) -> Answer:
    *_, last = [event async for event in session.ask("What happened?", session=asker)]
    assert isinstance(last, Answer)
    return last


def _judge(
    log: Log, tokens: int, held: int, during: Answer, after: Answer, killed_s: float
) -> None:
    """Whether the cache lived through the outage, and whether the outage is told."""
    kept = held >= tokens and during.coverage.to_s >= killed_s - 4.0 and during.tokens.unpruned > 0
    log.kept += kept
    gaps = [gap for gap in after.coverage.gaps if gap.to_s > gap.from_s]
    named = any(gap.from_s - 2.5 <= killed_s <= gap.to_s + 2.5 for gap in gaps)
    log.named += named
    if not kept:
        log.lost.append(f"cache {tokens} -> {held}, seen to {during.coverage.to_s:.1f} s")
    if not named:
        log.lost.append(f"no gap at {killed_s:.1f} s in {gaps}")


def _tell_fresh(tell: Tell, log: Log, kills: int) -> None:
    worst, usual = max(log.fresh_s), measure.p95(log.fresh_s)
    middle = sorted(log.fresh_s)[kills // 2]
    tell(
        Row(
            f"server killed and restarted {kills}x, down {DOWN_S[0]:g} - {DOWN_S[1]:g} s, keyframe "
            f"every {GOP_S:g} s; next kill after as much good data as the outage was long, at "
            f"least {LEAST_GOOD_S:g} s; first chunk filmed after it is back is in the cache",
            f"p95 {usual:.2f} s, median {middle:.2f} s, worst {worst:.2f} s",
            f"p95 <= {FRESH_LIMIT_S:g} s",
            usual <= FRESH_LIMIT_S,
            {"seconds": log.fresh_s},
        )
    )
    tell(
        Row(
            "cache during the outage: every token still held, earlier answers remembered, and a "
            "question answered from it",
            f"{log.kept} of {kills}",
            "all",
            log.kept == kills,
        )
    )
    tell(
        Row(
            "the answer after the outage names it as a gap",
            f"{log.named} of {kills}",
            "all",
            log.named == kills,
            {"lost": log.lost},
        )
    )
