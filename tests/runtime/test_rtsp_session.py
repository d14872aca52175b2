"""A session on a real RTSP server that is killed, restarted and frozen while it is watched."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

from runtime.session import StreamSession
from runtime.sources import RtspSource
from tests.helpers import settings, small_model
from tests.runtime.servers import RtspServer

StartServer = Callable[..., RtspServer]
WAIT_S = 60.0
KILLS, FREEZES = 5, 2


async def more_chunks(session: StreamSession, count: int = 2) -> None:
    """Wait for new chunks: the rest of the old epoch, and the first of the next."""
    goal = session.stats.counter("chunk.committed") + count
    async with asyncio.timeout(WAIT_S):
        while session.stats.counter("chunk.committed") < goal:
            session._settled.clear()
            await session._settled.wait()


async def interrupted(session: StreamSession, count: int) -> None:
    """Wait until so many interruptions have been noticed (bounded; asked once a loop turn)."""
    async with asyncio.timeout(WAIT_S):
        while session.stats.counter("source.interruptions") < count:
            await session.reached(session.status().stream_s + 0.01)


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_a_session_outlives_five_kills_and_two_freezes(rtsp_server: StartServer) -> None:
    model = small_model()
    server = rtsp_server()
    config = settings(pruning={"retention": 0.45}, stream={"budget_tokens": 4000})
    threads, files = {t.name for t in threading.enumerate()}, open_files()
    source = RtspSource(server.url(), stall_timeout_s=1.0)
    async with StreamSession(source, config, load=lambda: model) as session:
        await more_chunks(session)
        for _ in range(KILLS):
            server.kill()
            server.start()
            await more_chunks(session)
        seen = session.stats.counter("source.interruptions")
        for number in range(FREEZES):
            server.freeze()
            await offline(session)
            server.thaw()
            await interrupted(session, seen + number + 1)
            await more_chunks(session)
        events = [event async for event in session.ask("what happened?")]
        told = session.stats.snapshot()
    assert abs(told["gauges"]["source.skew_s"]) < 0.04
    assert told["timings_ms"]["chunk.to_prefill"]["n"] >= KILLS + FREEZES
    answer = events[-1]
    gaps = [gap for gap in answer.coverage.gaps if gap.reason != "audio_absent"]
    assert session.stats.counter("source.interruptions") >= KILLS + FREEZES
    assert len(gaps) >= KILLS + FREEZES
    assert all(gap.to_s > gap.from_s for gap in gaps)
    left = {t.name for t in threading.enumerate() if t.is_alive()} - threads
    assert not {name for name in left if name.startswith("omnidrop")}
    assert open_files() <= files


async def offline(session: StreamSession) -> None:
    """Wait until the source says that it is not live (bounded)."""
    async with asyncio.timeout(WAIT_S):
        while session.status().state == "live":
            await asyncio.to_thread(threading.Event().wait, 0.02)
