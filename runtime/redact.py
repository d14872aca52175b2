"""Take user names and passwords out of text before anyone sees it: messages, logs, names.

Fails closed: where it cannot tell where a secret ends, more is hidden than needed, never less.
"""

from __future__ import annotations

import re

HIDDEN = "***"

_SCHEME = r"[A-Za-z][A-Za-z0-9+.\-]*"
# From a scheme to the next one or the line's end; what stands before the last "@" may be secret.
_URL = re.compile(rf"({_SCHEME}:/{{1,2}})(.*?)(?={_SCHEME}://|[\r\n]|\Z)")
_BARE = re.compile(r"[^\s/@:]+:(?!//)\S+@(?=[\w.\[])")
_QUERY = re.compile(
    r"(?i)(?<![A-Za-z])(pass(?:word|wd|phrase)?|pwd|secret|token|auth|(?:api|access)?[_-]?key|user(?:name)?|login)"
    r"(\s*[=]\s*)[^\s&;,'\"]+"
)
# A colon before a blank is a sentence's: "rtsp://cam: connection refused".
_OPEN_END = re.compile(r"^[^\s/?#@:]*:(?!\s|\d{1,5}(?:[/?#\s'\",)]|:\s|$))[^/?#]*")


def redact(text: object) -> str:
    """``text`` without the ``user:password`` of any URL in it and without passwords in queries."""
    try:
        shown = str(text).replace("%40", "@").replace(r"\/", "/")
        shown = _URL.sub(_without_login, shown)
        shown = _BARE.sub(f"{HIDDEN}@", shown)
        return _QUERY.sub(rf"\1\2{HIDDEN}", shown)
    except Exception:  # what cannot be read is not shown
        return "(hidden)"


def _without_login(found: re.Match[str]) -> str:
    scheme, rest = found.groups()
    if "@" in rest:
        return f"{scheme}{HIDDEN}@{rest.rpartition('@')[2]}"
    # "user:secret" without a host is a URL cut short; what looks like "host:port" is shown.
    if not rest.startswith("[") and scheme.endswith("//"):
        rest = _OPEN_END.sub(HIDDEN, rest)
    return f"{scheme}{rest}"
