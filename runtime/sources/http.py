"""A live stream over HTTP(S): our own socket, FFmpeg for what is in it.

FFmpeg is handed bytes and may open nothing by itself (no protocol is on its list, and playlists are
not among the formats), so whatever the other end sends, no ``file:``, ``concat:`` or ``data:`` is
ever opened; HLS and other playlists are refused in words. Redirects are followed to http and https
only, five at most, never from https to http, and a login is not taken along to another host.

MPEG-TS, MJPEG (multipart) and FLV are what cameras send. A finite file works too as far as it can
be read from its beginning on: it is read at its own pace, and its end is a disconnect like any
other, after which it begins again.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import threading
import time
from functools import partial
from typing import Protocol
from urllib.parse import urljoin

import av
from av.codec.hwaccel import HWAccel

from omnidrop_stream.errors import SourceUnreadable, UsageError
from runtime.sources.address import StreamAddress
from runtime.sources.http_login import authorization
from runtime.sources.network import (
    FORBIDDEN,
    NO_SUCH_STREAM,
    SERVER_ERROR,
    Broken,
    Connection,
    Trouble,
    authorities,
    denied,
    guarded,
    not_a_stream,
    resolve,
    silent,
)

FORMATS = {
    "multipart/x-mixed-replace": "mpjpeg",
    "video/mp2t": "mpegts",
    "video/mpeg": "mpegts",
    "video/x-flv": "flv",
    "video/flv": "flv",
}
"""Content type -> FFmpeg's name. Of any other type FFmpeg looks for itself, among `ALLOWED`."""
ALLOWED = "mpegts,mpjpeg,flv,live_flv,mpeg,matroska,webm,mov,ogg,mp3,aac,wav,flac,h264,hevc"
CLOCKLESS = {"mpjpeg"}
MOST_REDIRECTS = 5
_BLOCK_BYTES = 32768
_PLAYLISTS = (b"#EXTM3U", b"ffconcat", b"[playlist]", b"<?xml", b"<MPD", b"<smil", b"v=0")
_PLAYLIST_TYPES = ("mpegurl", "dash+xml", "scpls", "x-ms-asf", "smil", "xspf")

PLAYLIST = Trouble(
    "not_a_stream",
    "it is a playlist (HLS, DASH or another), which may lead anywhere and is not followed",
    "Give the stream itself: MPEG-TS, MJPEG or FLV over HTTP, or the camera's rtsp: address.",
    SourceUnreadable,
    hopeless=True,
)
ONE_PICTURE = Trouble(
    "not_a_stream",
    "it is one picture, not a stream",
    "Give the camera's MJPEG (video) address, or its rtsp: address.",
    SourceUnreadable,
    hopeless=True,
)


class HttpLink:
    """One address's connections, one after the other. ``shut`` may be called from any thread."""

    def __init__(
        self,
        address: StreamAddress,
        *,
        tls_verify: bool,
        tls_ca_file: str | None,
        open_timeout_s: float,
        stall_timeout_s: float,
    ) -> None:
        self.address = address
        self._open_s, self._stall_s = open_timeout_s, stall_timeout_s
        self._tls = authorities(tls_ca_file)
        if not tls_verify:
            self._tls.check_hostname = False
            self._tls.verify_mode = ssl.CERT_NONE
        self._socket: socket.socket | None = None
        self._response: http.client.HTTPResponse | None = None

    def open(self, accel: HWAccel | None, stopped: threading.Event) -> Connection:
        """Connect. Raises `Broken`."""
        late = threading.Event()

        def give_up() -> None:  # each byte of a dripping answer would begin the time-out anew
            late.set()
            self.shut()

        timer = threading.Timer(self._open_s, give_up)
        timer.name, timer.daemon = "omnidrop-open", True
        timer.start()
        try:
            connection = self._followed(accel, stopped)
        except Broken:
            if late.is_set():
                raise Broken(silent(self._open_s)) from None
            raise
        finally:
            timer.cancel()
            timer.join()
        if late.is_set():  # in the last moment: its socket is shut
            connection.container.close()
            raise Broken(silent(self._open_s))
        return connection

    def _followed(self, accel: HWAccel | None, stopped: threading.Event) -> Connection:
        until_s = time.monotonic() + self._open_s
        address = self.address
        for _ in range(MOST_REDIRECTS + 1):
            response = self._asked(address, until_s, stopped)
            if response.status not in (301, 302, 303, 307, 308):
                return self._opened(address, response, accel, until_s)
            address = _redirected(address, response.headers.get("Location", ""))
            if time.monotonic() > until_s:
                raise Broken(silent(self._open_s))
        raise Broken(_leads("in a circle"))

    def shut(self) -> None:
        """End whatever call into the connection blocks; safe from any thread."""
        held = self._socket
        if held is not None:
            with contextlib.suppress(OSError):  # not of the TLS layer: its owner is in there
                socket.socket.shutdown(held, socket.SHUT_RDWR)

    def forget(self) -> None:
        """The connection is closed."""
        response, self._response = self._response, None
        held, self._socket = self._socket, None
        for one in (response, held):
            if one is not None:
                one.close()

    def _asked(
        self, address: StreamAddress, until_s: float, stopped: threading.Event
    ) -> http.client.HTTPResponse:
        """The response to GET; a 401 is answered once."""
        header: str | None = None
        for _ in range(2):
            host = resolve(address, max(0.1, until_s - time.monotonic()), stopped)
            left_s = max(0.1, until_s - time.monotonic())
            ask = partial(self._got, address, host, left_s, header)
            response = guarded(address, self._open_s, ask)
            if response.status != 401 or header is not None or not address.has_login:
                _look_at(address, response.status)
                return response
            challenges = response.headers.get_all("WWW-Authenticate") or []
            header = authorization(challenges, address.secret_login(), "GET", address.path_or_slash)
            if header is None:
                raise Broken(denied(address))
        raise Broken(denied(address))

    def _got(
        self, address: StreamAddress, hosts: tuple[str, ...], limit_s: float, header: str | None
    ) -> http.client.HTTPResponse:
        self.forget()
        connection = http.client.HTTPConnection(address.host, address.port)
        connection.sock = self._connected(address, hosts, limit_s)
        headers = {"User-Agent": "omnidrop", "Accept": "*/*", "Host": address.place}
        if header is not None:
            headers["Authorization"] = header
        try:
            connection.request("GET", address.path_or_slash, headers=headers)
            self._response = connection.getresponse()
            return self._response
        except http.client.HTTPException:  # its words may quote what was sent
            raise Broken(not_a_stream(address)) from None

    def _connected(
        self, address: StreamAddress, hosts: tuple[str, ...], limit_s: float
    ) -> socket.socket:
        error: OSError | None = None
        for host in hosts:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            plain = self._socket = socket.socket(family, socket.SOCK_STREAM)
            plain.settimeout(limit_s / len(hosts))
            try:
                plain.connect((host, address.port))
                plain.settimeout(limit_s)
                return plain if address.scheme == "http" else self._encrypted(address, plain)
            except OSError as one:
                error = one
                self.forget()
                plain.close()
        raise error or OSError("no address")

    def _encrypted(self, address: StreamAddress, plain: socket.socket) -> socket.socket:
        tls = self._tls.wrap_socket(
            plain, server_hostname=address.host, do_handshake_on_connect=False
        )
        self._socket = tls
        tls.do_handshake()
        return tls

    def _opened(
        self,
        address: StreamAddress,
        response: http.client.HTTPResponse,
        accel: HWAccel | None,
        until_s: float,
    ) -> Connection:
        kind = response.headers.get_content_type()
        if kind.startswith("image/"):
            raise Broken(ONE_PICTURE)
        if any(one in kind for one in _PLAYLIST_TYPES):
            raise Broken(PLAYLIST)
        body = _Body(response, until_s)
        finite = response.length is not None
        return guarded(address, self._open_s, lambda: self._demuxed(body, kind, accel, finite))

    def _demuxed(self, body: _Body, kind: str, accel: HWAccel | None, finite: bool) -> Connection:
        body.begin()
        if body.first.lstrip().startswith(_PLAYLISTS):
            raise Broken(PLAYLIST)
        name = FORMATS.get(kind)
        options = {
            "protocol_whitelist": "none",
            "format_whitelist": ALLOWED,
            "analyzeduration": "500000",
            "probesize": "500000",
            "merge_pmt_versions": "1",
        }
        container = av.open(
            body, "r", format=name, options=options, buffer_size=_BLOCK_BYTES, hwaccel=accel
        )
        if self._socket is not None:
            self._socket.settimeout(self._stall_s)
        body.opened()
        return Connection(container, container.format.name in CLOCKLESS, finite)


class _Readable(Protocol):
    def read1(self, n: int = -1, /) -> bytes: ...


class _Body:
    """The bytes of a response, as FFmpeg reads them; never past ``until_s`` while it is opened."""

    def __init__(self, response: _Readable, until_s: float) -> None:
        self._response, self._until_s = response, until_s
        self._opening = True
        self.first = self._ahead = b""

    def begin(self) -> None:
        """Read the first bytes, so that one can look at them."""
        self.first = self._ahead = self._read(_BLOCK_BYTES)

    def opened(self) -> None:
        """From now on only the socket's own time-out counts."""
        self._opening = False

    def read(self, size: int) -> bytes:
        """What is there, at most ``size`` bytes; empty at the end."""
        if self._ahead:
            some, self._ahead = self._ahead[:size], self._ahead[size:]
            return some
        return self._read(size)

    def _read(self, size: int) -> bytes:
        if self._opening and time.monotonic() > self._until_s:
            raise Broken(silent(None))
        try:
            return self._response.read1(size)
        except http.client.HTTPException:
            return b""  # cut off in the middle of a block: its end


def _look_at(address: StreamAddress, status: int) -> None:
    if status == 401:
        raise Broken(denied(address))
    if status == 403:
        raise Broken(FORBIDDEN)
    if status in (404, 410):
        raise Broken(NO_SUCH_STREAM)
    if status >= 500:
        raise Broken(SERVER_ERROR)
    if not (200 <= status < 300 or status in (301, 302, 303, 307, 308)):
        raise Broken(not_a_stream(address))


def _redirected(address: StreamAddress, location: str) -> StreamAddress:
    here = f"{address.scheme}://{address.place}{address.path_or_slash}"
    target = urljoin(here, location)
    scheme = target.partition(":")[0].lower()
    if scheme not in ("http", "https"):
        raise Broken(_leads("to another kind of address"))
    if address.scheme == "https" and scheme == "http":
        raise Broken(_leads("from an encrypted address to a plain one"))
    try:
        found = StreamAddress.parse(target)
        same = found.host == address.host and (found.port == address.port or scheme == "https")
        if same and address.has_login and not found.has_login:
            found = StreamAddress.parse(target, *address.secret_login())
    except UsageError:
        raise Broken(_leads("to an address that is none")) from None
    return found


def _leads(where: str) -> Trouble:
    return Trouble(
        "not_a_stream",
        f"it leads on {where}, which is not followed",
        "Give the address of the stream itself.",
        SourceUnreadable,
        hopeless=True,
    )
