"""A TCP proxy that can stop forwarding: a network cut, without touching the machine's network."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from typing import Self

_PIECE = 65_536
_SEND_LIMIT_S = 1.0


class Proxy:
    """Forwards every connection to ``127.0.0.1:port``. While cut, nothing passes: connections are
    neither accepted nor closed, no byte is forwarded, and nothing is thrown away; what the kernel
    holds for either side comes through when the cut is healed.
    """

    def __init__(self, port: int) -> None:
        self._target = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=16)
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self._selector = selectors.DefaultSelector()
        self._peers: dict[socket.socket, socket.socket] = {}
        self._flows = threading.Event()
        self._flows.set()
        self._over = threading.Event()
        self._bell, self._ear = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)

    def __enter__(self) -> Self:
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._ear, selectors.EVENT_READ)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._flows.set()
        self._bell.send(b"!")
        self._thread.join(5)
        for end in (*self._peers, self._listener, self._bell, self._ear):
            end.close()
        self._selector.close()
        assert not self._thread.is_alive(), "the proxy's thread hangs"

    def cut(self) -> None:
        """Nothing passes from now on."""
        self._flows.clear()
        self._bell.send(b"!")

    def heal(self) -> None:
        """What waits passes, and what comes."""
        self._flows.set()

    def _run(self) -> None:
        while not self._over.is_set():
            for key, _ in self._selector.select(1.0):
                end = key.fileobj
                assert isinstance(end, socket.socket)
                if end is self._ear:
                    end.recv(64)
                    self._flows.wait()
                    break  # what was selected before the cut is looked at again after it
                if end is self._listener:
                    self._accept()
                elif end in self._peers:
                    self._forward(end)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            near, _ = self._listener.accept()
            try:
                far = socket.create_connection(self._target, 1.0)
            except OSError:
                near.close()
                return
            for end, peer in ((near, far), (far, near)):
                end.settimeout(_SEND_LIMIT_S)
                self._peers[end] = peer
                self._selector.register(end, selectors.EVENT_READ)

    def _forward(self, end: socket.socket) -> None:
        try:
            piece = end.recv(_PIECE)
            self._peers[end].sendall(piece)
        except OSError:
            piece = b""
        if not piece:
            self._drop(end)

    def _drop(self, end: socket.socket) -> None:
        for one in (end, self._peers[end]):
            self._selector.unregister(one)
            self._peers.pop(one)
            one.close()
