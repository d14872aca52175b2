"""Damage that shows in a packet's own headers (H.264, H.265, Annex B).

A unit of a kind or layer that FFmpeg does not know is passed over: its log may tell, but no error
comes and no picture is marked, so a slice whose header was hit is missed by nobody. Bits as in
ITU-T H.264 7.3.1 and H.265 7.3.1.2. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator

START = b"\x00\x00\x01"
CHECKED = ("h264", "hevc")


def spoilt_header(packet: bytes, codec: str) -> bool:
    """Whether a unit's header is one that no encoder of a single layer writes: its forbidden bit is
    set, H.264 of kind 0 or 24 to 31, H.265 of another layer or of no temporal level. False for
    other codecs, and where the packet does not begin with a start code.
    """
    if codec not in CHECKED or not packet.startswith((START, b"\0" + START)):
        return False
    wrong = _wrong_h264 if codec == "h264" else _wrong_hevc
    return any(wrong(packet, at) for at in _units(packet))


def _units(packet: bytes) -> Iterator[int]:
    """Where each unit's header is."""
    at = packet.find(START)
    while at >= 0 and at + 4 < len(packet):
        yield at + 3
        at = packet.find(START, at + 3)


def _wrong_h264(packet: bytes, at: int) -> bool:
    return packet[at] >= 0x80 or not 0 < packet[at] & 0x1F < 24


def _wrong_hevc(packet: bytes, at: int) -> bool:
    """Forbidden bit 1, kind 6, layer 6, temporal level + 1: 3 bits."""
    return bool(packet[at] & 0x81 or packet[at + 1] & 0xF8 or not packet[at + 1] & 7)
