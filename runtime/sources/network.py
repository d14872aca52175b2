"""What all streams over the network share: addresses with secrets, FFmpeg's options, its errors.

A password is inside one private field and inside FFmpeg, nowhere else: not in a message, a
``repr``, an exception's context or a log line.
"""

from __future__ import annotations

import base64
import errno
import ipaddress
import logging
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import quote, unquote

import av
import av.error
import av.logging

from omnidrop_stream.errors import (
    SourceDenied,
    SourceError,
    SourceNotFound,
    SourceUnreadable,
    UsageError,
)
from runtime.redact import HIDDEN, redact

T = TypeVar("T")

PROTOCOLS = "rtp,srtp,udp,tcp,tls"
"""All that FFmpeg may open for an RTSP stream: whatever the other end says, never a file."""
PORTS = {"rtsp": 554, "rtsps": 322}
_LONGEST_LOGIN = 127  # bytes that FFmpeg's RTSP client keeps of "user:password", encoded
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+(?:%\w+)?\]|[^\s/?#@:\[\]]+)(?::(\d{0,5}))?(?=[/?#]|\Z)")
_KEEP = "/?#=&;:@!$'()*+,~[]%"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, repr=False)
class StreamAddress:
    """Where a stream is. Only ``shown`` is for people and logs."""

    shown: str
    host: str
    port: int
    has_login: bool
    _url: str
    _secrets: tuple[str, ...]

    def __repr__(self) -> str:
        return f"StreamAddress({self.shown!r})"

    @classmethod
    def parse(cls, text: str, user: str = "", password: str = "") -> StreamAddress:
        """From a URL; the login may stand in it (as it is or percent-encoded) or beside it."""
        scheme, _, rest = text.partition("://")
        scheme, shown = scheme.lower(), redact(text)
        if scheme not in PORTS:
            raise UsageError(f"{shown} is no stream address. Write it like rtsp://HOST/PATH")
        if re.search(r"[\x00-\x1f\x7f]", text + user + password):
            raise UsageError(f"{redact(repr(text))} holds a control character. Leave it out.")
        login, end = _split_login(rest)
        found = _HOST.match(end)
        if found is None or int(found.group(2) or 1) not in range(1, 65536):
            raise UsageError(
                f"{shown} names no host, or a port that is none. Write it like "
                "rtsp://HOST:554/PATH; a user name or password with special characters must be "
                "percent-encoded."
            )
        host, path = found.group(1).strip("[]"), quote(end[found.end() :], safe=_KEEP)
        if user or password:
            secrets = (user, password)
        else:
            name, _, word = login.partition(":")
            secrets = (unquote(name), unquote(word))
        host = host if host.isascii() else _ascii_host(host, shown)
        port = int(found.group(2) or PORTS[scheme])
        place = f"[{host}]" if ":" in host else host
        target = f"{place}:{found.group(2)}{path}" if found.group(2) else f"{place}{path}"
        encoded = ":".join(quote(part, safe="") for part in secrets)
        if len(encoded) > _LONGEST_LOGIN:
            raise UsageError(
                f"{redact(f'{scheme}://{target}')}: user name and password are too long; "
                f"FFmpeg takes {_LONGEST_LOGIN} characters, percent-encoded."
            )
        return cls(
            redact(f"{scheme}://{target}"),
            host,
            port,
            any(secrets),
            f"{scheme}://{encoded}@{target}" if any(secrets) else f"{scheme}://{target}",
            _spellings(*secrets),
        )

    def scrub(self, text: str) -> str:
        """``text`` without this address's user name and password in any spelling."""
        for secret in self._secrets:
            text = text.replace(secret, HIDDEN)
        return redact(text)

    def open(self, options: dict[str, str], timeouts_s: tuple[float, float]) -> Connection:
        """Connect; the only place that sees the whole URL. timeouts_s: to open, to read."""
        return Connection(
            av.open(self._url, "r", format="rtsp", options=options, timeout=timeouts_s)
        )


@dataclass(frozen=True, slots=True, repr=False)
class Connection:
    """An open container, wrapped because its own ``repr`` shows the whole URL."""

    container: av.container.InputContainer


def _split_login(rest: str) -> tuple[str, str]:
    """Login and what follows it. A password may hold ``@``, ``:``, ``/``, ``?`` and ``#``: of the
    places where a host may follow, the first is taken where it has a dot or a port.
    """
    if _HOST.match(rest):
        return "", rest
    ends = [found.end() for found in re.finditer("@", rest)]
    hosts = {end: found.group() for end in ends if (found := _HOST.match(rest, end))}
    whole = [end for end, host in hosts.items() if re.search(r"[.:]", host)]
    for end in [*whole, *hosts]:
        return rest[: end - 1], rest[end:]
    return "", rest


def _ascii_host(host: str, shown: str) -> str:
    try:
        return host.encode("idna").decode("ascii")
    except UnicodeError:
        raise UsageError(f"{shown}: {host!r} is no name of a host.") from None


def _spellings(user: str, password: str) -> tuple[str, ...]:
    """Every way in which FFmpeg may print the secrets, longest first."""
    if not user and not password:
        return ()
    basic = base64.b64encode(f"{user}:{password}".encode()).decode("ascii")
    ways = {basic, password, quote(password, safe=""), quote(password)}
    ways |= {f"{user}:{password}", f"{quote(user, safe='')}:{quote(password, safe='')}"}
    return tuple(sorted(ways - {""}, key=len, reverse=True))


def rtsp_options(
    transport: str, timeout_s: float, *, tls_verify: bool = True, tls_ca_file: str | None = None
) -> dict[str, str]:
    """FFmpeg's settings: a short probe, its own time-out (``timeout``, in microseconds) as the last
    resort behind PyAV's. By itself FFmpeg would take any certificate.
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


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why a stream cannot be had. ``hopeless``: waiting alone mends nothing."""

    reason: str
    """A few words, for a status line and the ledger."""
    advice: str
    kind: type[SourceError]
    hopeless: bool = False

    def error(self, address: StreamAddress) -> SourceError:
        """As an exception with a whole sentence."""
        return self.kind(f"{address.shown}: {self.reason}. {self.advice}")


class Broken(Exception):
    """A call into FFmpeg failed; raised without a context, since libav's messages hold the URL."""

    def __init__(self, trouble: Trouble) -> None:
        super().__init__(trouble.reason)
        self.trouble = trouble


def guarded(address: StreamAddress, limit_s: float, call: Callable[[], T]) -> T:
    """Call into FFmpeg: its log lines are kept from other people's logs, its errors translated."""
    began_s = time.monotonic()
    with av.logging.Capture() as lines:
        try:
            return call()
        except (av.error.FFmpegError, OSError, ValueError, RuntimeError) as error:
            late = time.monotonic() - began_s > 0.9 * limit_s
            trouble = trouble_of(error, address, limit_s if late else None)
        finally:
            for _, name, line in lines:
                if "authoriz" not in line.lower():
                    _log.debug("%s: %s", name, address.scrub(line.strip()))
    raise Broken(trouble)


def trouble_of(error: Exception, address: StreamAddress, waited_s: float | None) -> Trouble:
    """What FFmpeg's error means; ``waited_s``: the time-out, where it ran out."""
    if isinstance(error, av.error.HTTPUnauthorizedError):
        if address.has_login:
            reason, advice = (
                "wrong user name or password",
                "Check both, and that the user may watch.",
            )
        else:
            reason = "it asks for a user name and a password"
            advice = "Put them into the address: rtsp://USER:PASSWORD@HOST/PATH"
        return Trouble(reason, advice, SourceDenied, hopeless=True)
    if isinstance(error, av.error.HTTPForbiddenError | av.error.PermissionError):
        advice = "Give a user name and password that may watch this stream."
        return Trouble("access is forbidden", advice, SourceDenied, hopeless=True)
    if isinstance(error, av.error.HTTPNotFoundError):
        advice = "Check the path; the camera's manual or its ONVIF page names it."
        return Trouble("there is no such stream", advice, SourceNotFound, hopeless=True)
    if isinstance(error, ConnectionRefusedError):
        advice = "Check host and port, and that the camera or server is on."
        return Trouble("connection refused, nothing listens there", advice, SourceNotFound)
    if waited_s is not None or isinstance(error, TimeoutError | av.error.ExitError):
        return silent(waited_s)
    if isinstance(error, OSError) and error.errno in (errno.EHOSTUNREACH, errno.ENETUNREACH):
        advice = "Check the address, and this machine's network."
        return Trouble("the host cannot be reached", advice, SourceNotFound)
    if isinstance(error, av.error.HTTPServerError):
        advice = "Look at its log, or restart it."
        return Trouble("the server reports an error of its own", advice, SourceUnreadable)
    if isinstance(error, av.error.InvalidDataError):
        advice = "Check the port: RTSP is mostly on 554 or 8554."
        return Trouble("what answers there is no usable RTSP stream", advice, SourceUnreadable)
    if address.shown.startswith("rtsps:") and getattr(error, "errno", None) == errno.EIO:
        reason = "no encrypted connection; its certificate may be from an unknown authority"
        advice = "Give that authority's file (tls_ca_file); tls_verify = False takes any."
        return Trouble(reason, advice, SourceUnreadable)
    words = getattr(error, "strerror", None) or type(error).__name__
    advice = "Check the address, and whether a player such as ffplay can show it."
    return Trouble(f"it cannot be read ({redact(words)})", advice, SourceUnreadable)


def silent(waited_s: float | None) -> Trouble:
    """Nothing came for so long."""
    within = f" within {waited_s:g} s" if waited_s is not None else " in time"
    advice = "Check host and port, that the camera is on, and that no firewall is between."
    return Trouble(f"no answer{within}", advice, SourceUnreadable)


def ended() -> Trouble:
    """A live stream has no end: this is a lost connection."""
    advice = "Check that the camera or server runs."
    return Trouble("the server closed the connection", advice, SourceUnreadable)


NO_MEDIA = Trouble(
    "it has neither pictures nor sound that can be decoded",
    "Choose another stream of the camera, with H.264 or H.265 and AAC or G.711.",
    SourceUnreadable,
)
NO_HOST = Trouble(
    "there is no host of that name",
    "Check the spelling and the network; a password must be percent-encoded in an address.",
    SourceNotFound,
)


def resolve(address: StreamAddress, limit_s: float, stopped: threading.Event) -> tuple[str, ...]:
    """The host's numeric addresses; raises `Broken`. A name server may keep a caller for long, so
    a thread of its own asks, and is left alone when the limit is over or ``stopped`` is set.
    """
    try:
        return (str(ipaddress.ip_address(address.host.partition("%")[0])),)
    except ValueError:
        pass
    answers: list[str] = []
    done = threading.Event()

    def ask() -> None:
        try:
            found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
            answers.extend(str(entry[4][0]) for entry in found)
        except (OSError, UnicodeError):
            pass  # no answer is an answer
        finally:
            done.set()

    threading.Thread(target=ask, name="omnidrop-resolve", daemon=True).start()
    until_s = time.monotonic() + limit_s
    while not done.wait(0.05) and not stopped.is_set() and time.monotonic() < until_s:
        continue
    if not answers:
        raise Broken(NO_HOST)
    return tuple(answers)
