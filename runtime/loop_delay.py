"""How late the event loop is: a timer that notes how much after its time it was called."""

from __future__ import annotations

import asyncio

from runtime.stats import Stats

INTERVAL_S = 0.1


async def watch_loop(stats: Stats, interval_s: float = INTERVAL_S) -> None:
    """Note ``loop.delay`` in milliseconds until cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + interval_s
        await asyncio.sleep(interval_s)
        stats.timing("loop.delay", max(0.0, loop.time() - due) * 1e3)
