"""Connections that come and go leave no memory behind: decoders, scalers, containers."""

from __future__ import annotations

import gc
from collections.abc import Callable

import pytest

from omnidrop_stream.types import Frame
from runtime.sources import open_source
from tests.faults.feeds import Feed
from tests.faults.measure import allocated_mib
from tests.runtime.servers import RtspServer

WARM_UP, CYCLES, ALLOWED_MIB = 10, 40, 4.0
"""A decoder and what belongs to it take half a MiB and more: kept, they would be 20 MiB."""


def look(url: str) -> None:
    """Connect, take two pictures and leave."""
    with open_source(url) as source:
        seen = 0
        for item in source:
            seen += isinstance(item, Frame)
            if seen >= 2:
                source.stop()


@pytest.mark.slow
@pytest.mark.parametrize(
    "feed",
    [Feed(sound="aac", rate=16_000), Feed(codec="mjpeg", sound="mulaw")],
    ids=["h264", "jpg"],
)
def test_forty_connections_leave_no_memory_behind(
    feed: Feed, rtsp_server: Callable[..., RtspServer]
) -> None:
    server = rtsp_server(*feed.mount())
    url = f"rtsp://127.0.0.1:{server.port}/live"
    for _ in range(WARM_UP):
        look(url)
    gc.collect()
    before_mib = allocated_mib()
    if before_mib != before_mib:
        pytest.skip("not glibc: nobody tells what is in use")
    for _ in range(CYCLES):
        look(url)
    gc.collect()
    assert allocated_mib() - before_mib < ALLOWED_MIB


def test_a_connection_leaves_nothing_for_the_collector_of_garbage(
    rtsp_server: Callable[..., RtspServer],
) -> None:
    """Beside a model's objects it comes once in days."""
    server = rtsp_server(*Feed(sound="aac", rate=16_000).mount())
    url = f"rtsp://127.0.0.1:{server.port}/live"
    look(url)
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        look(url)
        gc.collect()
        kinds = {f"{type(thing).__module__}.{type(thing).__name__}" for thing in gc.garbage}
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    ours = ("av.", "runtime.", "omnidrop_stream.")
    assert sorted(kind for kind in kinds if kind.startswith(ours)) == []
