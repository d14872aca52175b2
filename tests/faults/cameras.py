"""A camera of the suite: the GStreamer server behind a proxy, and all that can befall it."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from tests.faults.feeds import PICTURE_GATE, SOUND_GATE, Feed
from tests.runtime.proxy import Proxy
from tests.runtime.servers import RtspServer


class Camera:
    """Shows a feed at ``/live``. Every method blocks for a moment: call it beside an event loop."""

    def __init__(self, feed: Feed, *, proxied: bool = False) -> None:
        self.feed = feed
        self._server = RtspServer(*feed.mount())
        self._proxied = proxied
        self._proxy: Proxy | None = None

    def __enter__(self) -> Self:
        self._server.start()
        if self._proxied:
            self._proxy = Proxy(self._server.port).__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.kill()
        if self._proxy is not None:
            self._proxy.__exit__(kind, error, trace)

    @property
    def url(self) -> str:
        """Where a client finds it: through the proxy, if there is one."""
        port = self._server.port if self._proxy is None else self._proxy.port
        return f"rtsp://127.0.0.1:{port}/live"

    def kill(self) -> None:
        """It dies at once."""
        self._server.kill()

    def start(self, feed: Feed | None = None) -> None:
        """It is back, at the same port; perhaps with another feed."""
        if feed is not None and feed != self.feed:
            port, self.feed = self._server.port, feed
            self._server = RtspServer(*feed.mount())
            self._server.port = port
        self._server.start()

    def freeze(self) -> None:
        """It stops in the middle of whatever it does."""
        self._server.freeze()

    def thaw(self) -> None:
        """It goes on."""
        self._server.thaw()

    def show(self, on: bool) -> None:
        """Pictures are sent, or held back while sound goes on."""
        self._server.turn(PICTURE_GATE, "drop", str(not on).lower())

    def sound(self, on: bool) -> None:
        """Sound is sent, or held back while pictures go on."""
        self._server.turn(SOUND_GATE, "drop", str(not on).lower())

    def cut(self) -> None:
        """The network between it and its clients is cut."""
        assert self._proxy is not None
        self._proxy.cut()

    def heal(self) -> None:
        """The network is back."""
        assert self._proxy is not None
        self._proxy.heal()
