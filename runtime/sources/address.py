"""Addresses of streams, with their secrets.

A password is inside one private field and inside what opens the connection, nowhere else: not in a
message, a ``repr``, an exception's context or a log line.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from urllib.parse import quote, unquote

from omnidrop_stream.errors import UsageError
from runtime.redact import HIDDEN, redact

PORTS = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443}
_LONGEST_LOGIN = 127  # bytes that FFmpeg's RTSP client keeps of "user:password", encoded
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+(?:%\w+)?\]|[^\s/?#@:\[\]]+)(?::(\d{0,5}))?(?=[/?#]|\Z)")
_KEEP = "/?#=&;:@!$'()*+,~[]%"


@dataclass(frozen=True, slots=True, repr=False)
class StreamAddress:
    """Where a stream is. Only ``shown`` is for people and logs."""

    shown: str
    scheme: str
    """rtsp, rtsps, http or https."""
    host: str
    port: int
    path: str
    """From the first ``/`` or ``?`` on, percent-encoded; may hold a secret."""
    has_login: bool
    _login: tuple[str, str]
    _spellings: tuple[str, ...]

    def __repr__(self) -> str:
        return f"StreamAddress({self.shown!r})"

    @classmethod
    def parse(cls, text: str, user: str = "", password: str = "") -> StreamAddress:
        """From a URL; the login may stand in it (as it is or percent-encoded) or beside it."""
        scheme, _, rest = text.partition("://")
        scheme, shown = scheme.lower(), redact(text)
        if scheme not in PORTS:
            raise UsageError(
                f"{shown} is no stream address. Write it like rtsp://HOST/PATH or http://HOST/PATH"
            )
        if re.search(r"[\x00-\x1f\x7f]", text + user + password):
            raise UsageError(f"{redact(repr(text))} holds a control character. Leave it out.")
        login, end = _split_login(rest)
        found = _HOST.match(end)
        if found is None or int(found.group(2) or 1) not in range(1, 65536):
            raise UsageError(
                f"{shown} names no host, or a port that is none. Write it like "
                f"{scheme}://HOST:{PORTS[scheme]}/PATH; a user name or password with special "
                "characters must be percent-encoded."
            )
        host, path = found.group(1).strip("[]"), quote(end[found.end() :], safe=_KEEP)
        login_name, _, word = login.partition(":")
        given = (user, password) if user or password else (unquote(login_name), unquote(word))
        host = host if host.isascii() else _ascii_host(host, shown)
        place = f"[{host}]" if ":" in host else host
        place += f":{found.group(2)}" if found.group(2) else ""
        shown = redact(f"{scheme}://{place}{path}")
        if scheme.startswith("rtsp") and len(_encoded(given)) > _LONGEST_LOGIN:
            raise UsageError(
                f"{shown}: user name and password are too long; "
                f"FFmpeg takes {_LONGEST_LOGIN} characters, percent-encoded."
            )
        port = int(found.group(2) or PORTS[scheme])
        return cls(shown, scheme, host, port, path, any(given), given, _spellings(*given))

    @property
    def place(self) -> str:
        """``host:port`` as a URL writes it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def path_or_slash(self) -> str:
        """What an HTTP request names."""
        path = self.path.partition("#")[0]
        return path if path.startswith("/") else f"/{path}"

    def secret_url(self) -> str:
        """The whole URL with its login, for FFmpeg alone."""
        login = f"{_encoded(self._login)}@" if self.has_login else ""
        return f"{self.scheme}://{login}{self.place}{self.path}"

    def secret_login(self) -> tuple[str, str]:
        """User name and password as they are, for the connection alone."""
        return self._login

    def scrub(self, text: str) -> str:
        """``text`` without this address's user name and password in any spelling."""
        for secret in self._spellings:
            text = text.replace(secret, HIDDEN)
        return redact(text)


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


def _encoded(login: tuple[str, str]) -> str:
    return ":".join(quote(part, safe="") for part in login)


def _spellings(user: str, password: str) -> tuple[str, ...]:
    """Every way in which FFmpeg may print the secrets, longest first."""
    if not user and not password:
        return ()
    basic = base64.b64encode(f"{user}:{password}".encode()).decode("ascii")
    ways = {basic, password, quote(password, safe=""), quote(password)}
    ways |= {f"{user}:{password}", f"{quote(user, safe='')}:{quote(password, safe='')}"}
    return tuple(sorted(ways - {""}, key=len, reverse=True))
