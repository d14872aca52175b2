"""How the socket is read: all that is there at once, and in a flood only now and then."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import pytest

from clients.mqtt.adapter import BURST, RECEIVE_MAXIMUM, _Reader
from tests.clients.mqtt.conftest import until


class BytePaho:
    """Every byte is a packet."""

    def __init__(self, ours: socket.socket) -> None:
        self._socket = ours
        self._in_packet = object()
        self.read = self.turns = 0

    def socket(self) -> socket.socket:
        return self._socket

    def loop_read(self) -> None:
        try:
            found = self._socket.recv(1)
        except BlockingIOError:
            self.turns += 1  # nothing more is there
            return
        if not found:
            raise ConnectionResetError("closed")
        self.read, self._in_packet = self.read + 1, object()


class ByteClient:
    def __init__(self, paho: BytePaho) -> None:
        self._client = paho
        self._disconnected: asyncio.Future[None] = asyncio.get_running_loop().create_future()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    yield ours, theirs
    ours.close()
    theirs.close()


def is_watched(ours: socket.socket) -> bool:
    """Asks by removing it; for the end of a test."""
    return asyncio.get_running_loop().remove_reader(ours.fileno())


async def test_a_few_packets_are_read_in_one_turn_of_the_loop_and_the_socket_stays_watched(
    pair: tuple[socket.socket, socket.socket],
):
    ours, theirs = pair
    theirs.send(b"x" * 20)
    paho = BytePaho(ours)
    reader = _Reader(ByteClient(paho))  # type: ignore[arg-type]
    await until(lambda: paho.read == 20)
    assert paho.turns == 1
    reader.close()
    assert is_watched(ours)


async def test_in_a_flood_the_socket_is_left_alone_for_a_while_and_nothing_is_lost(
    pair: tuple[socket.socket, socket.socket],
):
    ours, theirs = pair
    many = RECEIVE_MAXIMUM + BURST
    theirs.send(b"x" * many)
    paho = BytePaho(ours)
    reader = _Reader(ByteClient(paho))  # type: ignore[arg-type]
    await until(lambda: paho.read > 0)
    assert paho.read == RECEIVE_MAXIMUM
    assert not is_watched(ours)
    await until(lambda: paho.read == many)
    reader.close()


async def test_what_goes_wrong_while_reading_ends_the_connection(
    pair: tuple[socket.socket, socket.socket],
):
    ours, theirs = pair
    theirs.close()
    client = ByteClient(BytePaho(ours))
    reader = _Reader(client)  # type: ignore[arg-type]
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(client._disconnected, 5)
    reader.close()
    assert is_watched(ours)
