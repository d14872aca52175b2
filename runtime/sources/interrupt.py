"""Wake a thread that is blocked in a socket inside FFmpeg, from another thread.

FFmpeg's call-back for that is out of reach from PyAV, and closing a container from outside would
crash. On Linux the socket itself can be found and shut down, so that the blocked call returns with
an error at once; the container stays its owner's. Elsewhere nothing is done, and FFmpeg's own
time-out bounds the wait.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import struct
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

_TABLES = (Path("/proc/self/net/tcp"), Path("/proc/self/net/tcp6"))
_OPEN_FILES = Path("/proc/self/fd")
_ESTABLISHED = "01"
_LOOK_EVERY_S = 0.005
# The table of sockets belongs to the whole process and does not tell who made one: so only one
# connection is begun at a time, and whatever appears meanwhile is that one's.
_ONE_BEGINS = threading.Lock()


class SocketBreaker:
    """Make one just before a connection is opened; ``shut`` breaks what was opened since then.

    port, addresses: of the other end; no addresses: any. With ``beginning`` around the opening it
    is sure to be one's own connection, also while others open theirs to the same end.
    """

    def __init__(self, port: int, addresses: Iterable[str] = ()) -> None:
        self._port = port
        self._addresses = {_plain(address) for address in addresses}
        self._before = self._sockets()
        self._own: frozenset[int] | None = None

    @contextlib.contextmanager
    def beginning(self, stopped: threading.Event) -> Iterator[None]:
        """Open the connection inside. Others wait only until its socket has appeared; where the
        other end has several addresses, until one of them has answered.
        """
        if not _TABLES[0].exists():
            yield  # nothing can be found here, so nothing can be confused
            return
        self._own = frozenset()  # what appears while it waits is another's
        while not _ONE_BEGINS.acquire(timeout=0.05):
            if stopped.is_set():
                yield  # to find out by itself
                return
        self._before, self._own = self._sockets(), None
        opened = threading.Event()
        watcher = threading.Thread(target=self._claim, args=(opened,), name="omnidrop-claim")
        watcher.start()
        try:
            yield
        finally:
            opened.set()
            watcher.join()

    def _claim(self, opened: threading.Event) -> None:
        several = len(self._addresses) != 1
        try:
            while not opened.wait(_LOOK_EVERY_S):
                found = self._sockets(_ESTABLISHED if several else "") - self._before
                if found:
                    self._own = found
                    return
            self.settle()
        finally:
            _ONE_BEGINS.release()

    def settle(self) -> None:
        """The connection is open: what others open from now on is not touched."""
        self._own = self._sockets() - self._before

    def shut(self) -> int:
        """Shut the connection down; returns how many sockets that were. Safe from any thread."""
        own = self._sockets() - self._before if self._own is None else self._own
        return sum(_shut(int(link.name), inode) for link, inode in _open_sockets() if inode in own)

    def _sockets(self, state: str = "") -> frozenset[int]:
        """Inodes of all TCP sockets here that lead to the other end, connecting ones too; those in
        one ``state`` of the kernel's only, where given.
        """
        found = set()
        for table in _TABLES:
            try:
                lines = table.read_text("ascii").splitlines()[1:]
            except OSError:
                continue
            for line in lines:
                columns = line.split()
                address, _, port = columns[2].partition(":")
                if int(port, 16) != self._port or (state and columns[3] != state):
                    continue
                if not self._addresses or _from_hex(address) in self._addresses:
                    found.add(int(columns[9]))
        return frozenset(found - {0})


def _open_sockets() -> Iterable[tuple[Path, int]]:
    try:
        links = list(_OPEN_FILES.iterdir())
    except OSError:
        return
    for link in links:
        with contextlib.suppress(OSError, ValueError):
            target = os.readlink(link)
            if target.startswith("socket:["):
                yield link, int(target[8:-1])


def _shut(number: int, inode: int) -> bool:
    """On a copy of the descriptor: its owner may close it, and its number be reused, meanwhile."""
    try:
        copy = os.dup(number)
    except OSError:
        return False
    try:
        if os.fstat(copy).st_ino != inode:
            return False
        with socket.socket(fileno=os.dup(copy)) as other, contextlib.suppress(OSError):
            other.shutdown(socket.SHUT_RDWR)
        return True
    except OSError:
        return False
    finally:
        os.close(copy)


def _from_hex(text: str) -> str:
    """An address as the kernel's tables write it: words in the machine's own byte order."""
    words = [int(text[i : i + 8], 16) for i in range(0, len(text), 8)]
    return _plain(str(ipaddress.ip_address(b"".join(struct.pack("=I", word) for word in words))))


def _plain(text: str) -> str:
    address = ipaddress.ip_address(text.partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)
