"""What all streams over the network share: FFmpeg's calls made safe, its errors in plain words.

FFmpeg's messages hold the URL with its password, so none of them leaves this file as it is.
"""

from __future__ import annotations

import errno
import ipaddress
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import av
import av.error
import av.logging

from omnidrop_stream.errors import (
    ConfigError,
    SourceDenied,
    SourceError,
    SourceNotFound,
    SourceUnreadable,
)
from runtime.redact import redact
from runtime.sources.address import StreamAddress

T = TypeVar("T")

_log = logging.getLogger(__name__)
_NO_TLS = ("WRONG_VERSION_NUMBER", "PACKET_LENGTH_TOO_LONG", "HTTP_REQUEST")
"""How OpenSSL names an answer that is none of TLS."""


@dataclass(frozen=True, slots=True, repr=False)
class Connection:
    """An open container, wrapped because its own ``repr`` shows the whole URL."""

    container: av.container.InputContainer
    clockless: bool = False
    """Its pictures carry no time of their own: their arrival counts."""
    finite: bool = False
    """It has an end (a file behind HTTP): it is read at its own pace."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why a stream cannot be had. ``hopeless``: waiting alone mends nothing."""

    code: str
    """A key of `REASON_CODES`."""
    reason: str
    """A few words, for a status line and the ledger."""
    advice: str
    kind: type[SourceError]
    hopeless: bool = False

    def error(self, address: StreamAddress) -> SourceError:
        """As an exception with a whole sentence."""
        return self.kind(f"{address.shown}: {self.reason}. {self.advice}")


class Broken(Exception):
    """A connection failed; raised without a context, since libav's messages hold the URL."""

    def __init__(self, trouble: Trouble) -> None:
        super().__init__(trouble.reason)
        self.trouble = trouble


def guarded(address: StreamAddress, limit_s: float, call: Callable[[], T]) -> T:
    """Call into FFmpeg: its log lines are kept from other people's logs, its errors translated."""
    began_s = time.monotonic()
    with av.logging.Capture() as lines:
        try:
            return call()
        except Broken as broken:
            trouble = broken.trouble
        except (av.error.FFmpegError, OSError, ValueError, RuntimeError, LookupError) as error:
            late = time.monotonic() - began_s > 0.9 * limit_s
            trouble = trouble_of(error, address, limit_s if late else None)
        finally:
            for _, name, line in lines:
                if "authoriz" not in line.lower():
                    _log.debug("%s: %s", name, address.scrub(line.strip()))
    raise Broken(trouble)


def trouble_of(error: Exception, address: StreamAddress, waited_s: float | None) -> Trouble:
    """What an error means; ``waited_s``: the time-out, where it ran out."""
    if isinstance(error, av.error.HTTPUnauthorizedError):
        return denied(address)
    if isinstance(error, av.error.HTTPForbiddenError):
        return FORBIDDEN
    if isinstance(error, av.error.PermissionError):
        # Much of FFmpeg returns -1 for any failure, and -1 reads as EPERM: nobody forbade anything.
        return FORBIDDEN if error.errno == errno.EACCES else ended()
    if isinstance(error, av.error.HTTPNotFoundError):
        return NO_SUCH_STREAM
    if isinstance(error, ConnectionRefusedError):
        return REFUSED
    if isinstance(error, ssl.SSLError):
        if error.reason in _NO_TLS:
            return plain(address)
        return untrusted(getattr(error, "verify_message", "") or error.reason or "TLS failed")
    if waited_s is not None or isinstance(error, TimeoutError | av.error.ExitError):
        return silent(waited_s)
    if isinstance(error, OSError) and error.errno in (errno.EHOSTUNREACH, errno.ENETUNREACH):
        advice = "Check the address, and this machine's network."
        return Trouble("unreachable", "the host cannot be reached", advice, SourceNotFound)
    if isinstance(error, ConnectionError):
        return ended()
    if isinstance(error, av.error.HTTPServerError):
        return SERVER_ERROR
    if isinstance(error, EOFError) and address.scheme.startswith("rtsp"):
        return ended()
    if isinstance(error, av.error.InvalidDataError | EOFError):
        return not_a_stream(address)
    if address.scheme == "rtsps" and getattr(error, "errno", None) == errno.EIO:
        return untrusted("")
    words = getattr(error, "strerror", None) or type(error).__name__
    advice = "Check the address, and whether a player such as ffplay can show it."
    reason = f"it cannot be read ({redact(words)})"
    return Trouble("unreadable", reason, advice, SourceUnreadable)


def denied(address: StreamAddress) -> Trouble:
    """The other end asks for a login, or for another one."""
    if address.has_login:
        reason, advice = "wrong user name or password", "Check both, and that the user may watch."
    else:
        reason = "it asks for a user name and a password"
        advice = f"Put them into the address: {address.scheme}://USER:PASSWORD@HOST/PATH"
    return Trouble("unauthorized", reason, advice, SourceDenied, hopeless=True)


def untrusted(words: str) -> Trouble:
    """No encrypted connection that can be trusted."""
    why = f" ({redact(words)})" if words else ""
    reason = f"no encrypted connection{why}; its certificate may be from an unknown authority"
    advice = (
        "Give that authority's file (--tls-ca-file FILE), or take any certificate "
        "(--tls-no-verify); in settings: tls_ca_file, tls_verify."
    )
    return Trouble("tls", reason, advice, SourceUnreadable)


def plain(address: StreamAddress) -> Trouble:
    """What answers knows nothing of encryption: no certificate is at fault."""
    scheme = address.scheme.removesuffix("s")
    reason = "no encrypted connection: what answers there does not speak TLS"
    advice = f"Use {scheme}:// there, or the port that is encrypted."
    return Trouble("tls", reason, advice, SourceUnreadable)


def silent(waited_s: float | None) -> Trouble:
    """Nothing came for so long."""
    within = f" within {waited_s:g} s" if waited_s is not None else " in time"
    advice = "Check host and port, that the camera is on, and that no firewall is between."
    return Trouble("timeout", f"no answer{within}", advice, SourceUnreadable)


def ended() -> Trouble:
    """A live stream has no end: this is a lost connection."""
    advice = "Check that the camera or server runs."
    return Trouble("ended", "the server closed the connection", advice, SourceUnreadable)


def not_a_stream(address: StreamAddress) -> Trouble:
    """Something answers in another language."""
    if address.scheme in ("http", "https"):
        reason = "what answers there is no live stream"
        advice = "Give the address of an MPEG-TS, MJPEG or FLV stream, or the camera's rtsp: one."
    else:
        reason = "what answers there is no usable RTSP stream"
        advice = "Check the port: RTSP is mostly on 554 or 8554."
    return Trouble("not_a_stream", reason, advice, SourceUnreadable)


FORBIDDEN = Trouble(
    "unauthorized",
    "access is forbidden",
    "Give a user name and password that may watch this stream.",
    SourceDenied,
    hopeless=True,
)
NO_SUCH_STREAM = Trouble(
    "not_found",
    "there is no such stream",
    "Check the path; the camera's manual or its ONVIF page names it.",
    SourceNotFound,
    hopeless=True,
)
REFUSED = Trouble(
    "refused",
    "connection refused, nothing listens there",
    "Check host and port, and that the camera or server is on.",
    SourceNotFound,
)
SERVER_ERROR = Trouble(
    "server_error",
    "the server reports an error of its own",
    "Look at its log, or restart it.",
    SourceUnreadable,
)
NO_MEDIA = Trouble(
    "no_media",
    "it has neither pictures nor sound that can be decoded",
    "Choose another stream of the camera, with H.264 or H.265 and AAC or G.711.",
    SourceUnreadable,
)
NO_HOST = Trouble(
    "unreachable",
    "there is no host of that name",
    "Check the spelling and the network; a password must be percent-encoded in an address.",
    SourceNotFound,
)


def authorities(file: str | None) -> ssl.SSLContext:
    """What to trust: the certificates in ``file`` (PEM), else the system's. Raises ConfigError."""
    try:
        return ssl.create_default_context(cafile=file)
    except FileNotFoundError:
        raise ConfigError(f"tls_ca_file = {file!r}: there is no such file.") from None
    except OSError:  # of the TLS layer, too
        raise ConfigError(
            f"tls_ca_file = {file!r} holds no certificate that can be read: give the authority's "
            "certificates as PEM."
        ) from None


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
