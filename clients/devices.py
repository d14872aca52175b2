"""``omnidrop devices``: the cameras and microphones of this machine, and what to type for each."""

from __future__ import annotations

from typing import Any

from clients import contract
from clients.terminal import clean, complain, write_out
from omnidrop_stream.errors import MissingDependency


def devices(json: bool = False) -> int:
    """Print the list; 0 also where it is empty, since that is an answer, too."""
    from runtime.sources.devices import list_cameras, list_microphones

    note = ""
    cameras, microphones = list_cameras(), []
    try:
        microphones = list_microphones()
    except MissingDependency as error:
        note = str(error)
    rows: list[dict[str, Any]] = [
        {"kind": "camera", "type": one.type_this, "name": one.name, "detail": one.place}
        for one in cameras
    ]
    rows += [
        {
            "kind": "microphone",
            "type": one.type_this,
            "name": one.name,
            "detail": f"{one.system}, {one.rate_hz:g} Hz, {one.channels} "
            f"{'channel' if one.channels == 1 else 'channels'}",
            "default": one.default,
        }
        for one in microphones
    ]
    if json:
        message = {"v": contract.VERSION, "type": "devices", "devices": rows, "note": note}
        write_out(contract.line(message))
        return 0
    _table(rows)
    if note:
        complain(note)
    return 0


def _table(rows: list[dict[str, Any]]) -> None:
    for kind in ("camera", "microphone"):
        found = [row for row in rows if row["kind"] == kind]
        write_out(f"{kind}s:" if found else f"{kind}s: none found")
        width = max((len(row["type"]) for row in found), default=0)
        for row in found:
            star = " (default)" if row.get("default") else ""
            write_out(clean(f"  {row['type']:<{width}}  {row['name']}{star}, {row['detail']}"))
    eyes = [row["type"] for row in rows if row["kind"] == "camera"]
    heard = [row for row in rows if row["kind"] == "microphone"]
    ears = [row["type"] for row in sorted(heard, key=lambda row: not row["default"])]
    if eyes and ears:
        write_out(f"Use them: omnidrop live {eyes[0]}+{ears[0]}, or only omnidrop live")
    elif eyes or ears:
        write_out(f"Use it: omnidrop live {(eyes or ears)[0]}")
    else:
        write_out("Without a device: omnidrop live demo:, a file, or rtsp://HOST/PATH")
