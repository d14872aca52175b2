"""Tell systemd how the node is doing: ready, alive, stopping. Does nothing elsewhere.

The protocol is one datagram to ``$NOTIFY_SOCKET`` (sd_notify(3)).
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping


class Notifier:
    """Made from the environment once, at the start."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        values = os.environ if environment is None else environment
        self._address = values.get("NOTIFY_SOCKET", "")
        limit_us = values.get("WATCHDOG_USEC", "")
        self.every_s = int(limit_us) / 2e6 if limit_us.isdigit() and int(limit_us) else None
        """How often the watchdog wants to hear of us: half of its patience; None: it does not."""

    def ready(self, text: str) -> None:
        """The node serves."""
        self._send(f"READY=1\nSTATUS={text}")

    def alive(self, text: str) -> None:
        """The event loop and the model thread turn."""
        self._send(f"WATCHDOG=1\nSTATUS={text}")

    def stopping(self) -> None:
        """The node drains."""
        self._send("STOPPING=1")

    def _send(self, message: str) -> None:
        if not self._address:
            return
        address = self._address
        if address.startswith("@"):
            address = "\0" + address[1:]
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
                line.setblocking(False)
                line.sendto(message.encode("utf-8"), address)
        except OSError:
            return  # nobody listens any more: the service manager goes by its own time-outs
