"""Whether a node lives and is ready, and what its metrics look at."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from clients.node.http import Health
from clients.node.metrics import CameraView, NodeView
from omnidrop_stream.errors import UnknownCamera
from omnidrop_stream.types import CHUNK_SECONDS
from runtime.node import Node

TURN_S = 10.0
"""So long the model thread may need for one turn; a node on a slow processor has long turns."""
FRESH_S = 3 * CHUNK_SECONDS


class Broker(Protocol):
    """The part of the broker's service that is looked at."""

    @property
    def state(self) -> str:
        """``connected`` where it is."""
        ...


class NodeHealth:
    """Looks at a running node."""

    def __init__(self, node: Node, service: Callable[[], Broker | None]) -> None:
        self._node = node
        self._service = service

    async def alive(self) -> Health:
        """That this runs shows that the event loop does; the model thread must take a turn."""
        host = self._node.host
        if not host.loaded:
            return Health(True)  # loading is one long turn
        try:
            async with asyncio.timeout(TURN_S):
                await asyncio.wrap_future(host.worker.call(lambda: None))
        except TimeoutError:
            return Health(False, (f"the model thread took no turn for {TURN_S:g} s",))
        except RuntimeError as error:
            return Health(False, (f"the model thread has ended ({error})",))
        return Health(True)

    def ready(self) -> Health:
        """The model is loaded and at least one camera is fresh."""
        reasons = []
        if not self._node.host.loaded:
            reasons.append(self._node.host.trouble or "the model is being loaded")
        if not any(self._fresh(name) for name in self._node.cameras()):
            reasons.append("no camera is fresh")
        return Health(not reasons, tuple(reasons))

    def _fresh(self, name: str) -> bool:
        status = self._node.status(name)
        held = status.session
        watched = status.state in ("live", "degraded")
        return watched and held is not None and held.tokens > 0 and held.lag_s <= FRESH_S

    def look(self) -> NodeView:
        """What the metrics show. Called on another thread; each part is read whole."""
        node, service = self._node, self._service()
        cameras = []
        for name in node.cameras():
            try:
                status, stats = node.status(name), node.camera_stats(name)
            except UnknownCamera:  # it was removed in this moment
                continue
            cameras.append(CameraView(name, status.state, status.session, stats))
        return NodeView(
            cameras=cameras,
            stats=(node.stats,),
            model_loaded=node.host.loaded,
            broker=None if service is None else service.state == "connected",
        )
