"""Size, rate, rotation, codec change while a session watches: by a restart, and in mid-stream."""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import tempfile
import time
from pathlib import Path

from omnidrop_stream.config import make_config
from runtime.session import StreamSession
from runtime.sources import SourceOptions
from tests.faults import clips, measure
from tests.faults.cameras import Camera
from tests.faults.feeds import Feed
from tests.faults.follow import Follower
from tests.faults.report import Row, Tell
from tests.faults.scale import Scale
from tests.faults.silence import FLOW_LIMIT_S, followed
from tests.runtime.servers import RtspServer

VALID_LIMIT_S = 4.0
BUDGET_TOKENS = 900
FEEDS = (
    Feed(),
    Feed(size=(320, 180), fps=15),
    Feed(size=(96, 176), sound="aac", rate=48_000, channels=2),
    Feed(turn="clockwise"),
    Feed(codec="h265"),
    Feed(codec="mjpeg", size=(160, 120)),
    Feed(codec="vp8", size=(144, 80)),
    Feed(fps=25, gop_s=1.0),
    Feed(size=(640, 360), fps=10, sound="mulaw"),
    Feed(codec="h265", size=(176, 144), turn="counterclockwise", sound="aac", rate=16_000),
)
PATIENCE_S = 30.0
BACKOFF_OVER_S = 6.0
"""Good data after which an outage of a second or so counts as over."""
SIZES = [(128, 96), (96, 128), (176, 144), (64, 64), (160, 90)]
EACH_S = 6.0
FILE = (
    'filesrc location="{path}" ! tsdemux ! h264parse config-interval=-1 ! '
    "rtph264pay name=pay0 pt=96"
)


def run(tell: Tell, scale: Scale) -> None:
    """Both kinds of change."""
    asyncio.run(_by_restart(tell, scale))
    _in_stream(tell, SIZES[: scale.pick(5, 2)])


async def _by_restart(tell: Tell, scale: Scale) -> None:
    """The camera's settings are changed; it comes back with another feed."""
    draw, count = random.Random(scale.seed), scale.pick(20, 2)
    config = make_config(
        {"model": {"model": "embedded"}, "stream": {"budget_tokens": BUDGET_TOKENS}}
    )
    options = SourceOptions(wait_for_first=True)
    took: list[tuple[float, str]] = []
    with contextlib.ExitStack() as stack:
        camera = stack.enter_context(Camera(FEEDS[0]))
        follower = stack.enter_context(followed(camera.url, 5.0))
        async with StreamSession(camera.url, config, options=options) as session:
            await session.ready()
            over = asyncio.Event()
            budget = asyncio.create_task(_most_tokens(session, over))
            for _ in range(count):
                feed = draw.choice([feed for feed in FEEDS if feed != camera.feed])
                await asyncio.to_thread(camera.kill)
                await asyncio.to_thread(camera.start, feed)
                took.append(await asyncio.to_thread(_valid, follower, feed))
                await asyncio.sleep(BACKOFF_OVER_S)
            over.set()
            most, committed = await budget, session.stats.counter("chunk.committed")
    seconds = [took_s for took_s, _ in took]
    slowest = max(took)
    tell(
        Row(
            f"size, rate, rotation, codec or sound changed {count}x (the camera restarts with it): "
            "first whole chunk of the new kind, from the server's being ready",
            f"worst {slowest[0]:.2f} s, p95 {measure.p95(seconds):.2f} s, "
            f"median {sorted(seconds)[count // 2]:.2f} s",
            f"<= {VALID_LIMIT_S:g} s",
            slowest[0] <= VALID_LIMIT_S,
            {"took": took},
        )
    )
    tell(
        Row(
            "token budget while all that changed",
            f"at most {most} of {BUDGET_TOKENS} tokens, {committed} chunks",
            f"<= {BUDGET_TOKENS}",
            0 < most <= BUDGET_TOKENS,
            {"tokens": most},
        )
    )


async def _most_tokens(session: StreamSession, over: asyncio.Event) -> int:
    most = 0
    while not over.is_set():
        most = max(most, session.status().tokens)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(over.wait(), 0.05)
    return most


def _valid(follower: Follower, feed: Feed) -> tuple[float, str]:
    """Seconds to the first whole chunk of this feed; the feed, and where none came what came."""
    ready_s = time.monotonic()
    found = follower.wait_chunk(
        lambda seen: seen.whole and seen.size == feed.shown and seen.samples is not None,
        ready_s,
        PATIENCE_S,
    )
    if found is not None:
        return found.at_s - ready_s, str(feed)
    states = [f"{at - ready_s:.1f} s {state}" for at, state in follower.states if at >= ready_s]
    chunks = [
        f"{seen.at_s - ready_s:.1f} s {seen.size} {seen.samples} {seen.flags}"
        for seen in follower.seen
        if seen.at_s >= ready_s
    ]
    return math.inf, f"{feed}; states {states}; chunks {chunks}"


def _in_stream(tell: Tell, sizes: list[tuple[int, int]]) -> None:
    """One connection, whose parameter sets change."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sizes.ts"
        clips.of_two_sizes(str(path), sizes, EACH_S)
        server = RtspServer("--mount", "/sizes", FILE.format(path=path))
        server.start()
        try:
            with followed(server.url("/sizes")) as follower:
                follower.wait(lambda: len(follower.seen) > 0, FLOW_LIMIT_S)
                follower.wait(lambda: len(follower.sizes) >= len(sizes), EACH_S * len(sizes) + 10)
                follower.wait(lambda: follower.seen[-1].size == sizes[-1], 2 * VALID_LIMIT_S)
                changes, seen = follower.sizes[1 : len(sizes)], list(follower.seen)
                reconnects = len(follower.interruptions)
        finally:
            server.kill()
    took = []
    for at_s, size in changes:
        valid = [s.at_s - at_s for s in seen if s.at_s >= at_s and s.size == size and s.whole]
        took.append(min(valid, default=float("inf")))
    tell(
        Row(
            f"size changed {len(changes)}x inside one connection (new parameter sets): first whole "
            "chunk of the new size, from its first picture",
            f"worst {max(took, default=float('inf')):.2f} s, {reconnects} reconnects",
            f"<= {VALID_LIMIT_S:g} s",
            len(changes) == len(sizes) - 1 and max(took) <= VALID_LIMIT_S,
            {"seconds": took},
        )
    )
