"""The tests' own proxy: what passes, what does not while it is cut, and what comes after it."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.runtime.proxy import Proxy


@pytest.fixture
def ends() -> Iterator[tuple[Proxy, socket.socket, socket.socket]]:
    """A proxy and both ends of one connection through it."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        Proxy(listener.getsockname()[1]) as proxy,
        socket.create_connection(("127.0.0.1", proxy.port), 5) as near,
    ):
        far, _ = listener.accept()
        with far:
            far.settimeout(5)
            yield proxy, near, far


def test_both_directions_pass(ends: tuple[Proxy, socket.socket, socket.socket]) -> None:
    _, near, far = ends
    near.sendall(b"question")
    assert far.recv(64) == b"question"
    far.sendall(b"answer")
    assert near.recv(64) == b"answer"


def test_while_cut_nothing_passes_and_nothing_is_lost(
    ends: tuple[Proxy, socket.socket, socket.socket],
) -> None:
    proxy, near, far = ends
    proxy.cut()
    near.sendall(b"held")
    far.settimeout(0.3)
    with pytest.raises(TimeoutError):
        far.recv(64)
    proxy.heal()
    far.settimeout(5)
    assert far.recv(64) == b"held"


def test_while_cut_a_new_connection_gets_no_answer(
    ends: tuple[Proxy, socket.socket, socket.socket],
) -> None:
    proxy, _, _ = ends
    proxy.cut()
    with socket.create_connection(("127.0.0.1", proxy.port), 5) as late:
        late.settimeout(0.3)
        with pytest.raises(TimeoutError):
            late.recv(64)


def test_the_end_of_one_side_is_the_end_of_the_other(
    ends: tuple[Proxy, socket.socket, socket.socket],
) -> None:
    _, near, far = ends
    far.close()
    assert near.recv(64) == b""
