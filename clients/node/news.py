"""What people are told of a node's cameras as they come and go."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from runtime.node import CameraStatus
from runtime.redact import redact

LOOK_EVERY_S = 0.5
_WELL = ("loading", "live", "paused", "ended")
"""States of a camera that are no news where nothing was told of it before."""
_log = structlog.get_logger(__name__)


class _Cameras(Protocol):
    def cameras(self) -> list[str]:
        """Their names."""

    def status(self, camera: str) -> CameraStatus:
        """The present state of one."""


@dataclass(frozen=True, slots=True)
class News:
    """A sentence, and how loud."""

    camera: str
    text: str
    level: int


@dataclass(slots=True)
class CameraNews:
    """Which state of each camera people were told last."""

    shown: dict[str, tuple[str, str]] = field(default_factory=dict)

    def of(self, status: CameraStatus) -> News | None:
        """What is new of a camera. One that tries again is told of by what comes of it."""
        now, before = (status.state, status.code), self.shown.get(status.camera)
        if status.state == "connecting":
            self.shown.setdefault(status.camera, now)
            return None
        self.shown[status.camera] = now
        well = status.state in _WELL
        if now == before or (before is None and well):
            return None
        reason = f": {status.reason}" if status.reason else ""
        text = f"{status.camera} is {status.state}{reason}"
        return News(status.camera, redact(text), logging.INFO if well else logging.WARNING)

    def gone(self, camera: str) -> None:
        """It is no camera of the node any more."""
        self.shown.pop(camera, None)


async def log_cameras(node: _Cameras) -> None:
    """Log what is new of the cameras until cancelled: of a node that no broker tells of."""
    news = CameraNews()
    while True:
        names = node.cameras()
        for name in names:
            told = news.of(node.status(name))
            if told is not None:
                _log.log(told.level, told.text, camera=told.camera)
        for name in set(news.shown) - set(names):
            news.gone(name)
        await asyncio.sleep(LOOK_EVERY_S)
