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
_LONG = r"pass(?:word|wd|code|phrase)|secret|token|signature|credentials?"
"""Whatever stands before them: ``sessionToken``, ``X-Amz-Signature``."""
_SHORT = (
    r"pass|pwd?|pw|auth(?:orization)?|bearer|jwt|sig|hmac|session(?:[_-]?id)?|sid"
    r"|(?:(?:api|access|account|private|shared)[_-]?)?key|usr|user(?:name)?|login"
)
# To the parameter's or the word's end; what ends a sentence or closes a quotation is not its part.
_QUERY = re.compile(
    rf"(?i)({_LONG}|(?<![A-Za-z])(?:{_SHORT}))(\s*=\s*)"
    r"(?!['\"])(?:(?![,;:.)\]}]{0,8}(?:\s|\Z)|[,;:.)\]}]{0,8}['\"](?:\W|\Z))[^\s&])+"
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
