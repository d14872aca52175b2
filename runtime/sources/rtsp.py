"""How an RTSP connection is opened, broken from another thread, and closed: FFmpeg's own client."""

from __future__ import annotations

import ssl
import threading

import av
from av.codec.hwaccel import HWAccel

from runtime.sources.address import StreamAddress
from runtime.sources.interrupt import SocketBreaker
from runtime.sources.network import Connection, guarded, resolve

PROTOCOLS = "rtp,srtp,udp,tcp,tls"
"""All that FFmpeg may open for an RTSP stream: whatever the other end says, never a file."""


def rtsp_options(
    transport: str, timeout_s: float, *, tls_verify: bool = True, tls_ca_file: str | None = None
) -> dict[str, str]:
    """FFmpeg's settings: a short probe and its own time-out (``timeout``, in microseconds). By
    itself FFmpeg would take any certificate.
    """
    authorities = tls_ca_file or ssl.get_default_verify_paths().cafile
    return {
        "tls_verify": str(int(tls_verify)),
        **({"ca_file": authorities} if authorities else {}),
        "rtsp_transport": transport,
        "timeout": str(round(timeout_s * 1e6)),
        "analyzeduration": "200000",
        "probesize": "200000",
        "allowed_media_types": "video+audio",
        "protocol_whitelist": PROTOCOLS,
    }


class RtspLink:
    """One camera's connections, one after the other. ``shut`` may be called from any thread."""

    def __init__(
        self,
        address: StreamAddress,
        *,
        transport: str,
        tls_verify: bool,
        tls_ca_file: str | None,
        open_timeout_s: float,
        stall_timeout_s: float,
    ) -> None:
        self.address = address
        self._open_s = open_timeout_s
        self._options = rtsp_options(
            transport,
            max(open_timeout_s, stall_timeout_s),
            tls_verify=tls_verify,
            tls_ca_file=tls_ca_file,
        )
        # FFmpeg's own time-out bounds reads without taking the interpreter's lock, as PyAV's would
        # each time it looks; it has one value for opening and reading.
        self._read_s = None if stall_timeout_s >= open_timeout_s else stall_timeout_s
        self._breaker: SocketBreaker | None = None

    def open(self, accel: HWAccel | None, stopped: threading.Event) -> Connection:
        """Connect. Raises `Broken`."""
        addresses = resolve(self.address, self._open_s, stopped)
        breaker = self._breaker = SocketBreaker(self.address.port, addresses)
        with breaker.beginning(stopped):
            return guarded(self.address, self._open_s, lambda: self._opened(accel))

    def shut(self) -> None:
        """End whatever call into the connection blocks; safe from any thread."""
        breaker = self._breaker
        if breaker is not None:
            breaker.shut()

    def forget(self) -> None:
        """The connection is closed."""
        self._breaker = None

    def _opened(self, accel: HWAccel | None) -> Connection:
        return Connection(
            av.open(
                self.address.secret_url(),
                "r",
                format="rtsp",
                options=self._options,
                timeout=(self._open_s, self._read_s),
                hwaccel=accel,
            )
        )
