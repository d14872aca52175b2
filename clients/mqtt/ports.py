"""What the service needs of a node, and what may be plugged into the service."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import Any, Protocol

from clients.mqtt.messages import Incoming, Outgoing
from omnidrop_stream.config import DecodeConfig
from omnidrop_stream.types import Answer, Delta
from runtime.node import AskRequest, CameraStatus
from runtime.stats import Stats

Publish = Callable[[Outgoing], bool]


class NodePort(Protocol):
    """A node as the service sees it; `runtime.node.Node` is one."""

    @property
    def stats(self) -> Stats:
        """Its counters."""
        ...

    @property
    def decode(self) -> DecodeConfig:
        """Bounds of questions and answers."""
        ...

    def cameras(self) -> list[str]:
        """Names, in the order they were added."""
        ...

    def about(self) -> dict[str, Any]:
        """Version and model, for ``P/node/info``."""
        ...

    def status(self, camera: str) -> CameraStatus:
        """The present state; raises UnknownCamera."""
        ...

    def ask(self, camera: str, request: AskRequest) -> AsyncGenerator[Delta | Answer, None]:
        """Pieces of text, then one answer; closing it early cancels."""
        ...

    def cancel(self, id: str) -> bool:
        """End an answer early; False where none of that id is in progress."""
        ...

    async def forget(self, camera: str, last_s: float | None = None) -> int:
        """Forget the last seconds (None: everything)."""
        ...

    async def set_enabled(self, camera: str, on: bool) -> None:
        """Watch or do not watch."""
        ...

    async def set_muted(self, camera: str, on: bool) -> None:
        """Throw sound away before anything sees it."""
        ...

    def control_tokens_in(self, text: str) -> list[str]:
        """The model's control tokens spelt out in a text; they have no effect."""
        ...


class Extension(Protocol):
    """Something that has topics of its own: standing questions, Home Assistant's discovery."""

    def topics(self) -> list[tuple[str, int]]:
        """What to subscribe to beside the node's own, with the quality of service."""
        ...

    def connected(self, publish: Publish) -> None:
        """A connection was made (again): publish what is retained."""
        ...

    async def handle(self, message: Incoming, publish: Publish) -> bool:
        """Take a message that is no question; False: it is for somebody else."""
        ...

    def answered(self, camera: str, owner: str, ended: dict[str, Any], publish: Publish) -> None:
        """A question ended whose answer went to the camera's own topic, for all to read: the
        ``final`` or ``error`` as it was sent, and whose it was.
        """
        ...

    async def run(self, publish: Publish) -> None:
        """Work beside the service until cancelled; may return at once."""
        ...
