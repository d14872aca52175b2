"""How an HTTP server may ask for a login: Basic (RFC 7617) and Digest (RFC 7616)."""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Iterable
from urllib.request import parse_http_list, parse_keqv_list

_HASHES = {"MD5": "md5", "SHA-256": "sha256", "SHA-512-256": "sha512_256"}
_STRONGEST_FIRST = ("SHA-256", "SHA-512-256", "MD5")


def authorization(
    challenges: Iterable[str], login: tuple[str, str], method: str, target: str
) -> str | None:
    """The header that answers a 401's challenges; None where none of them is understood.

    Digest goes before Basic, and its stronger hashes first: the password itself then stays here.
    """
    digests: dict[str, dict[str, str]] = {}
    basic = False
    for challenge in challenges:
        scheme, _, rest = challenge.strip().partition(" ")
        if scheme.lower() == "basic":
            basic = True
        elif scheme.lower() == "digest":
            try:
                asked = parse_keqv_list(parse_http_list(rest))
            except ValueError:
                continue
            digests[asked.get("algorithm", "MD5").upper()] = asked
    for algorithm in _STRONGEST_FIRST:
        asked = digests.get(algorithm, {})
        if "realm" in asked and "nonce" in asked and _plain(asked):
            return _digest(asked, algorithm, login, method, target)
    if basic:
        word = base64.b64encode(":".join(login).encode()).decode("ascii")
        return f"Basic {word}"
    return None


def _plain(asked: dict[str, str]) -> bool:
    return "qop" not in asked or "auth" in [one.strip() for one in asked["qop"].split(",")]


def _digest(
    asked: dict[str, str], algorithm: str, login: tuple[str, str], method: str, target: str
) -> str:
    def hashed(*parts: str) -> str:
        return hashlib.new(_HASHES[algorithm], ":".join(parts).encode()).hexdigest()

    user, password = login
    who, what = hashed(user, asked["realm"], password), hashed(method, target)
    fields = {"username": _quoted(user), "realm": _quoted(asked["realm"])}
    fields |= {"nonce": _quoted(asked["nonce"]), "uri": _quoted(target)}
    if "qop" in asked:
        client, count = secrets.token_hex(8), "00000001"
        response = hashed(who, asked["nonce"], count, client, "auth", what)
        fields |= {"qop": "auth", "nc": count, "cnonce": _quoted(client)}
    else:
        response = hashed(who, asked["nonce"], what)
    fields["response"] = _quoted(response)
    if "algorithm" in asked:
        fields["algorithm"] = asked["algorithm"]
    if "opaque" in asked:
        fields["opaque"] = _quoted(asked["opaque"])
    return "Digest " + ", ".join(f"{name}={value}" for name, value in fields.items())


def _quoted(text: str) -> str:
    slashed = text.replace("\\", r"\\").replace('"', r"\"")
    return f'"{slashed}"'
