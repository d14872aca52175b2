"""A port for a server that goes away and comes back."""

from __future__ import annotations

import random
import socket

PORTS = range(20_000, 30_000)
"""Below those that systems hand out to whoever connects: one of these would now and then be taken
while the server is away, by any connection of any program, even by a client's attempt to reach it.
"""


def free_port() -> int:
    """One that nobody listens at."""
    draw = random.SystemRandom()
    while True:
        port = draw.choice(PORTS)
        with socket.socket() as probe:
            # As servers do: what only lingers from connections that are over is no hindrance.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
