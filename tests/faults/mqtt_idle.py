"""What a node costs while nobody asks: cameras connected, chunks cut, pruned and prefilled."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.clients.mqtt.broker import Broker
from tests.faults.cameras import Camera
from tests.faults.feeds import Feed
from tests.faults.mqtt_parts import Runtime

FEED = Feed(size=(640, 360), fps=15, sound="aac", rate=16_000)
SETTLED_S = 40.0
"""Until every camera is connected and the caches are full."""


def idle_processor(
    cameras: int = 4, seconds: float = 60.0, settled_s: float = SETTLED_S
) -> dict[str, Any]:
    """Processor time of a node with so many RTSP cameras (640x360, 15 fps, H.264 and AAC), the
    embedded model and a broker, over so many seconds without a question. The cameras themselves and
    the broker are processes of their own and not in it.
    """
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        feeds = [stack.enter_context(Camera(FEED)) for _ in range(cameras)]
        broker = Broker(folder / "broker")
        broker.start()
        stack.callback(broker.stop)
        runtime = Runtime(
            broker,
            folder / "node",
            {f"camera{number}": feed.url for number, feed in enumerate(feeds)},
            stream={"budget_tokens": 1500},
        )
        stack.callback(runtime.stop)
        runtime.start()
        time.sleep(settled_s)
        before, began_s = processor_s(runtime.pid), time.monotonic()
        time.sleep(seconds)
        used_s, took_s = processor_s(runtime.pid) - before, time.monotonic() - began_s
        resident = resident_mib(runtime.pid)
    return {
        "cameras": cameras,
        "picture": [*FEED.size, FEED.fps],
        "seconds": round(took_s, 1),
        "processor_percent_of_one_core": round(100 * used_s / took_s, 1),
        "processor_ms_per_camera_and_chunk": round(1e3 * used_s / cameras / (took_s / 2.0), 1),
        "resident_mib": round(resident),
    }


def processor_s(pid: int) -> float:
    """Processor time that a process has used, all its threads, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text("utf-8").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mib(pid: int) -> float:
    """Its memory that is in RAM."""
    pages = int(Path(f"/proc/{pid}/statm").read_text("utf-8").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
