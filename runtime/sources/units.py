"""Damage that shows in a packet's own headers (H.264, H.265, Annex B).

FFmpeg's decoder passes over much of it: a unit of a kind or layer that it does not know, a
parameter set that it refuses. Its log may tell, but no error comes and no picture is marked, so a
slice or a set whose header was hit is missed by nobody. FFmpeg's reader of coded bitstreams is
stricter: it holds every field of a header against its range, and knows which sets there are. Bits
as in ITU-T H.264 7.3.1 and H.265 7.3.1.2.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import av
import av.error
from av.bitstream import BitStreamFilterContext

from runtime.sources.complaints import complaints

START = b"\x00\x00\x01"
_STARTS = (START, b"\0" + START)
_READERS = {"h264": "h264_metadata", "hevc": "hevc_metadata"}


class Headers:
    """The headers of one stream's packets. It knows the parameter sets that the stream itself came
    with, and those of the packets before.
    """

    def __init__(self, stream: av.VideoStream) -> None:
        self._codec, self._reader = stream.codec_context.name, None
        if self._codec not in _READERS:
            return
        try:
            self._reader = BitStreamFilterContext(_READERS[self._codec], stream)
        except (av.error.FFmpegError, ValueError):
            return  # the sets that it came with are none: nothing to hold a slice against

    def spoilt(self, packet: av.Packet[Any]) -> bool:
        """Whether a header is one that no encoder writes. False for other codecs, and where the
        packet does not begin with a start code.
        """
        if self._codec not in _READERS:
            return False
        data = bytes(packet)
        if spoilt_header(data, self._codec):
            return True
        if self._reader is None or not data.startswith(_STARTS):
            return False
        read = b"".join(START + unit for unit in _split(data) if _is_read(unit, self._codec))
        with complaints():
            try:
                return bool(read) and not self._reader.filter(av.Packet(read))
            except (av.error.FFmpegError, ValueError):
                return True


def spoilt_header(packet: bytes, codec: str) -> bool:
    """Whether a unit's header is one that no encoder of a single layer writes: its forbidden bit is
    set, H.264 of kind 0 or 24 to 31, H.265 of another layer or of no temporal level. False for
    other codecs, and where the packet does not begin with a start code.
    """
    if codec not in _READERS or not packet.startswith(_STARTS):
        return False
    wrong = _wrong_h264 if codec == "h264" else _wrong_hevc
    return any(wrong(packet, at) for at in _units(packet))


def _units(packet: bytes) -> Iterator[int]:
    """Where each unit's header is."""
    at = packet.find(START)
    while at >= 0 and at + 4 < len(packet):
        yield at + 3
        at = packet.find(START, at + 3)


def _split(packet: bytes) -> list[bytes]:
    """Each unit from its header on."""
    begins = list(_units(packet))
    ends = [*(at - len(START) for at in begins[1:]), len(packet)]
    return [packet[at:end] for at, end in zip(begins, ends, strict=False)]  # it may have no unit


def _is_read(unit: bytes, codec: str) -> bool:
    """Slices and the sets they rest on: what else there is may be strange, and harms no picture."""
    if codec == "h264":
        return unit[0] & 0x1F in (1, 5, 7, 8)
    return unit[0] >> 1 & 0x3F in (*range(10), *range(16, 22), 32, 33, 34)


def _wrong_h264(packet: bytes, at: int) -> bool:
    return packet[at] >= 0x80 or not 0 < packet[at] & 0x1F < 24


def _wrong_hevc(packet: bytes, at: int) -> bool:
    """Forbidden bit 1, kind 6, layer 6, temporal level + 1: 3 bits."""
    return bool(packet[at] & 0x81 or packet[at + 1] & 0xF8 or not packet[at + 1] & 7)
