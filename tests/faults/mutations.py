"""Ways in which the packets of a stream are damaged on their way."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

START = b"\x00\x00\x01"
PARAMETERS = {"h264": {7, 8}, "hevc": {32, 33, 34}}

Mutation = Callable[[Sequence[bytes], random.Random], list[bytes]]


def units(packet: bytes) -> list[bytes]:
    """The NAL units of an Annex B packet, each with its start code."""
    starts = []
    at = packet.find(START)
    while at >= 0:
        starts.append(at - 1 if at and packet[at - 1] == 0 else at)
        at = packet.find(START, at + 3)
    return [packet[a:b] for a, b in zip(starts, [*starts[1:], len(packet)], strict=True)]


def unit_type(unit: bytes, codec: str) -> int:
    """What kind of NAL unit it is, by the codec's own numbers."""
    first = unit[unit.index(START) + 3]
    return first & 31 if codec == "h264" else first >> 1 & 63


def flip_bits(packets: Sequence[bytes], draw: random.Random) -> list[bytes]:
    """One to forty bits, anywhere."""
    out = [bytearray(packet) for packet in packets]
    for _ in range(draw.randint(1, 40)):
        packet = draw.choice(out)
        if packet:
            packet[draw.randrange(len(packet))] ^= 1 << draw.randrange(8)
    return [bytes(packet) for packet in out]


def cut(packets: Sequence[bytes], draw: random.Random) -> list[bytes]:
    """One to three packets end early; an empty one is left out by whoever sends them."""
    out = list(packets)
    for _ in range(draw.randint(1, 3)):
        number = draw.randrange(len(out))
        out[number] = out[number][: draw.randrange(len(out[number]) + 1)]
    return out


def lose(packets: Sequence[bytes], draw: random.Random) -> list[bytes]:
    """One to three packets never come."""
    out = list(packets)
    for number in draw.sample(range(len(out)), min(len(out), draw.randint(1, 3))):
        out[number] = b""
    return out


def lose_unit(packets: Sequence[bytes], draw: random.Random) -> list[bytes]:
    """One NAL unit never comes, or ends early."""
    out = list(packets)
    number = draw.randrange(len(out))
    parts = units(out[number])
    if parts:
        gone = draw.randrange(len(parts))
        left = parts[gone][: draw.randrange(len(parts[gone]))] if draw.random() < 0.5 else b""
        out[number] = b"".join([*parts[:gone], left, *parts[gone + 1 :]])
    return out


def parameters(codec: str) -> Mutation:
    """The parameter sets are missing, or wrong."""

    def spoil(packets: Sequence[bytes], draw: random.Random) -> list[bytes]:
        missing = draw.random() < 0.5
        out = []
        for packet in packets:
            kept = []
            for unit in units(packet):
                if unit_type(unit, codec) not in PARAMETERS[codec]:
                    kept.append(unit)
                elif not missing:
                    body = bytearray(unit)
                    body[draw.randrange(5, len(body))] ^= 1 << draw.randrange(8)
                    kept.append(bytes(body))
            out.append(b"".join(kept))
        return out

    return spoil
