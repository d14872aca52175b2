"""Damaged packets through the decoder of a live stream: flagged, left out, and over soon."""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import av
import av.logging
import numpy as np
import pytest

from clients.cli import main
from runtime.sources.base import SourceStats
from runtime.sources.complaints import complaints, listen
from runtime.sources.decode import PictureDecoder, ToRgb
from runtime.sources.doubt import GROUPS, Habit
from runtime.sources.units import Headers, spoilt_header
from tests.faults import mutations
from tests.faults.clips import FPS, GOP, SIZE, picture, pictures
from tests.faults.heard import heard, listening

PICTURES = 2 * GOP
VPS, SPS, PPS, IDR = 32, 7, 8, 5
Damage = Callable[[list[bytes]], Sequence[bytes]]


@pytest.fixture(autouse=True)
def log_on() -> Iterator[None]:
    with listening():
        yield


@dataclass(frozen=True, slots=True)
class Came:
    """One picture: its number, that of the packet it came with, whether it is as it was sent,
    whether it is flagged, and whether FFmpeg had complained in its group.
    """

    number: int
    pushed: int
    right: bool
    corrupt: bool
    noticed: bool


def through(codec: str, damage: Damage, rounds: int = 1) -> tuple[list[Came], SourceStats]:
    """A clean clip, and then the damaged one so many times, through one decoder."""
    container = pictures(codec, PICTURES)
    stream = container.streams.video[0]
    stream.codec_context.thread_count = 1
    packets = [packet for packet in container.demux(stream) if packet.size]
    damaged = damage([bytes(packet) for packet in packets])
    step, zero = round(1 / FPS / packets[0].time_base), packets[0].pts
    stats, to_rgb = SourceStats(), ToRgb()
    decoder = PictureDecoder(stream, stats, live=True)
    came: list[Came] = []
    sent: list[np.ndarray] = []
    complained: set[int] = set()
    for number in range(PICTURES * (rounds + 1)):
        original = packets[number % PICTURES]
        data = bytes(original) if number < PICTURES else damaged[number % PICTURES]
        if not data:
            continue  # lost on its way
        packet = av.Packet(data)
        packet.stream, packet.time_base = stream, original.time_base
        packet.pts = packet.dts = zero + number * step
        packet.is_keyframe = original.is_keyframe
        with heard() as lines:
            found = list(decoder.push(packet))
        complained |= {number} if lines else set()
        for one in found:
            at = round((one.frame.pts - zero) / step)
            image = to_rgb(one)
            if at < PICTURES:
                sent.append(image)
            like = sent[at % PICTURES]
            right = image.shape == like.shape and np.abs(image.astype(np.int16) - like).mean() < 4
            noticed = any(begin <= at for begin in complained if begin // GOP == at // GOP)
            came.append(Came(at, number, bool(right), one.corrupt, noticed))
    return came, stats


def with_every(kind: int, codec: str, spoil: Callable[[bytes], bytes], packet: bytes) -> bytes:
    parts = mutations.units(packet)
    return b"".join(
        spoil(unit) if mutations.unit_type(unit, codec) == kind else unit for unit in parts
    )


def flipped(unit: bytes, bit: int) -> bytes:
    out = bytearray(unit)
    out[bit // 8] ^= 1 << bit % 8
    return bytes(out)


def first_sps(spoil: Callable[[bytes], bytes]) -> Damage:
    return lambda sent: [with_every(SPS, "h264", spoil, sent[0]), *sent[1:]]


# HEVC: its decoder marks nothing


@pytest.mark.parametrize(("codec", "seeds"), [("h264", range(40)), ("hevc", [21])])
def test_a_picture_that_ffmpeg_complained_about_is_not_shown_as_good(
    codec: str, seeds: Sequence[int]
) -> None:
    noticed = 0
    for seed in seeds:
        draw = random.Random(seed)
        came, stats = through(
            codec, lambda sent, draw=draw: mutations.flip_bits(sent[:GOP], draw) + sent[GOP:]
        )
        noticed += stats.decode_errors + sum(one.noticed for one in came)
        assert not [one for one in came if one.noticed and not (one.right or one.corrupt)], seed
    assert noticed > 0


def test_what_rests_on_a_lost_hevc_packet_is_left_out_and_counted() -> None:
    came, stats = through("hevc", lambda sent: [sent[0], b"", *sent[2:]])
    assert all(one.right for one in came)
    assert stats.decode_errors > 0
    assert {one.number for one in came} >= {*range(PICTURES), *range(PICTURES + GOP, 2 * PICTURES)}


def complaining(packet: bytes) -> bytes:
    """With a parameter set more that is no such thing, as some cameras send."""
    return b"\0\0\0\1" + bytes([VPS << 1, 1]) + b"\xff" * 9 + packet


def test_of_a_camera_that_ffmpeg_always_complains_about_every_picture_is_shown() -> None:
    container = pictures("hevc", PICTURES)
    stream = container.streams.video[0]
    stats, came = SourceStats(), []
    decoder = PictureDecoder(stream, stats, live=True)
    for packet in [packet for packet in container.demux(stream) if packet.size]:
        odd = av.Packet(complaining(bytes(packet)))
        odd.stream, odd.time_base = stream, packet.time_base
        odd.pts, odd.dts, odd.is_keyframe = packet.pts, packet.dts, packet.is_keyframe
        came += decoder.push(odd)
    assert len(came) == PICTURES
    assert not any(one.corrupt for one in came)


def test_where_ffmpeg_begins_to_complain_about_everything_pictures_come_again() -> None:
    came, _ = through("hevc", lambda sent: [complaining(data) for data in sent], rounds=3)
    numbers = [one.number for one in came]
    assert numbers == [*range(PICTURES), *range(PICTURES + 3 * GOP, 4 * PICTURES)]


# what FFmpeg passes over in silence


def of_another_layer(packet: bytes) -> bytes:
    """Its first unit (a delimiter) says that it belongs to layer 32."""
    at = packet.index(mutations.START) + 3
    return packet[:at] + bytes([packet[at] | 1]) + packet[at + 1 :]


def test_after_a_unit_of_a_layer_that_is_not_there_pictures_are_flagged_up_to_a_keyframe() -> None:
    came, stats = through("hevc", lambda sent: [*sent[:2], of_another_layer(sent[2]), *sent[3:]])
    assert stats.decode_errors == 0  # FFmpeg only skips it
    flagged = [one.number - PICTURES for one in came if one.corrupt]
    assert flagged == list(range(2, GOP))


def test_of_a_stream_that_begins_with_layers_no_header_is_suspected() -> None:
    container = pictures("hevc", PICTURES)
    stream, came = container.streams.video[0], []
    decoder = PictureDecoder(stream, SourceStats(), live=True)
    for packet in [packet for packet in container.demux(stream) if packet.size]:
        layered = av.Packet(of_another_layer(bytes(packet)))
        layered.stream, layered.time_base = stream, packet.time_base
        layered.pts, layered.dts, layered.is_keyframe = packet.pts, packet.dts, packet.is_keyframe
        came += decoder.push(layered)
    assert len(came) == PICTURES
    assert not any(one.corrupt for one in came)


def with_first_unit_of(kind: int, packet: bytes) -> bytes:
    """HEVC: its first unit (a delimiter) says that it is of this kind."""
    at = packet.index(mutations.START) + 3
    return packet[:at] + bytes([kind << 1]) + packet[at + 1 :]


def test_after_a_delimiter_that_reads_as_a_parameter_set_pictures_are_flagged() -> None:
    came, stats = through(
        "hevc", lambda sent: [*sent[:2], with_first_unit_of(34, sent[2]), *sent[3:]]
    )
    assert stats.decode_errors == 0  # FFmpeg refuses the set, and says that all went well
    assert [one.number - PICTURES for one in came if one.corrupt] == list(range(2, GOP))


def test_after_a_parameter_set_that_is_refused_pictures_are_flagged_up_to_a_keyframe() -> None:
    came, stats = through("h264", first_sps(lambda unit: flipped(unit, 66)))
    assert stats.decode_errors == 0  # the set from before is still there
    assert [one.number - PICTURES for one in came if one.corrupt] == list(range(GOP))


@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_the_headers_of_an_undamaged_stream_are_sound(codec: str) -> None:
    container = pictures(codec, PICTURES)
    stream = container.streams.video[0]
    headers = Headers(stream)
    assert not [n for n, p in enumerate(container.demux(stream)) if headers.spoilt(p)]


PLAIN_X265 = "log-level=none:pools=none:frame-threads=1"


@pytest.mark.parametrize(
    ("encoder", "options"),
    [
        ("libx264", "slices=4:bframes=3:b-pyramid=normal:weightp=2:ref=4"),
        ("libx264", "interlaced=1:cabac=0"),
        ("libx264", "open-gop=1:aud=1:nal-hrd=vbr:vbv-maxrate=500:vbv-bufsize=500"),
        ("libx264", "intra-refresh=1"),
        ("libx265", f"{PLAIN_X265}:bframes=4:b-pyramid=1:ref=4:weightb=1:open-gop=1"),
        ("libx265", f"{PLAIN_X265}:hash=1:scaling-list=default:temporal-layers=3:repeat-headers=1"),
    ],
)
def test_nothing_is_suspected_of_an_encoder_that_uses_all_its_means(
    encoder: str, options: str
) -> None:
    name = "x264-params" if encoder == "libx264" else "x265-params"
    stream, packets = encoded(encoder, 4 * GOP, GOP, {"preset": "fast", name: options})
    stream.codec_context.thread_count = 1
    headers, stats = Headers(stream), SourceStats()
    assert not [number for number, packet in enumerate(packets) if headers.spoilt(packet)]
    decoder = PictureDecoder(stream, stats, live=True)
    came = [one for packet in packets for one in decoder.push(packet)]
    assert len(came) > 3 * GOP
    assert stats.decode_errors + sum(one.corrupt for one in came) == 0


@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_slices_whose_parameter_sets_came_before_the_stream_are_sound(codec: str) -> None:
    container = pictures(codec, GOP)
    stream = container.streams.video[0]
    headers, bare = Headers(stream), mutations.parameters(codec)
    sent = [bytes(packet) for packet in container.demux(stream) if packet.size]
    missing = next(
        out for n in range(9) if len((out := bare(sent, random.Random(n)))[0]) < len(sent[0]) - 20
    )
    assert not any(headers.spoilt(av.Packet(data)) for data in missing)


@pytest.mark.parametrize("packet", [b"", mutations.START, b"\0\0\1\x67", b"\0\0\0\1"])
def test_a_packet_without_a_whole_unit_has_no_spoilt_header(packet: bytes) -> None:
    container = pictures("h264", GOP)
    assert not Headers(container.streams.video[0]).spoilt(av.Packet(packet))


def test_what_a_stream_shows_with_its_first_picture_is_no_sign_of_damage() -> None:
    habit = Habit()
    assert not habit.is_news(True, at_first=True)
    habit.next_group()
    assert not habit.is_news(True, at_first=False)


def test_what_every_group_shows_is_news_no_more_until_a_group_comes_without_it() -> None:
    habit = Habit()
    told = []
    for found in [True] * (GROUPS + 2) + [False, True]:
        habit.next_group()
        told.append(habit.is_news(found, at_first=False))
    assert told == [True] * GROUPS + [False] * 3 + [True]


def silenced(packet: bytes) -> bytes:
    """A bit of the SPS and one of the PPS: FFmpeg takes the keyframe's slice for a spare one."""
    packet = with_every(SPS, "h264", lambda unit: flipped(unit, 87), packet)
    return with_every(PPS, "h264", lambda unit: flipped(unit, 48), packet)


def test_after_a_keyframe_that_gives_no_picture_what_follows_is_flagged() -> None:
    came, stats = through("h264", lambda sent: [silenced(sent[0]), *sent[1:]])
    assert stats.decode_errors == 0
    assert PICTURES not in {one.number for one in came}
    assert {one.number for one in came if one.corrupt} == set(range(PICTURES + 1, PICTURES + GOP))


@pytest.mark.parametrize(
    ("codec", "header", "spoilt"),
    [
        ("h264", "6588", False),
        ("h264", "e588", True),  # the forbidden bit
        ("h264", "7f88", True),  # kind 31
        ("hevc", "2601", False),
        ("hevc", "a601", True),
        ("hevc", "2701", True),  # layer 32
        ("hevc", "2609", True),  # layer 1
        ("hevc", "2600", True),  # no temporal level
        ("mpeg4", "ffff", False),
    ],
)
def test_a_header_that_no_encoder_writes_is_seen(codec: str, header: str, spoilt: bool) -> None:
    delimiter = {"h264": "09f0", "hevc": "460150"}.get(codec, "00")
    unit = f"{header}80808080"
    packet = bytes.fromhex(f"00000001{delimiter}000001{unit}")
    assert spoilt_header(packet, codec) is spoilt
    assert not spoilt_header(bytes.fromhex(f"00000006{unit}"), codec)  # a length, no start code


# what FFmpeg only says in its log


def kept_for_long(packet: bytes) -> bytes:
    """The keyframe says that it is a long-term reference, which leaves no room for any other."""
    return with_every(
        IDR, "h264", lambda unit: flipped(unit, 8 * (unit.index(b"\x65") + 2)), packet
    )


def test_what_ffmpeg_only_complains_about_is_flagged_up_to_a_keyframe() -> None:
    came, stats = through("h264", lambda sent: [kept_for_long(sent[0]), *sent[1:]])
    assert stats.decode_errors == 0
    assert {one.number - PICTURES for one in came if one.noticed} >= {1, 2, 3, 4}
    assert {one.number - PICTURES for one in came if one.corrupt} == {1, 2, 3, 4}


def test_what_ffmpeg_always_complains_about_is_no_sign_of_damage() -> None:
    refused = b"\0\0\1\x68\0\x80\x80"  # a PPS whose number is out of range
    came, _ = through("h264", lambda sent: [refused + data for data in sent], rounds=3)
    assert all(one.right and one.noticed for one in came[PICTURES:])
    flagged = [one.number - PICTURES for one in came if one.corrupt]
    assert flagged == list(range(GROUPS * GOP))


def test_errors_are_heard_by_decoders_alone(caplog: pytest.LogCaptureFixture) -> None:
    av.logging.set_level(None)
    listen()
    with complaints() as said:
        av.logging.log(av.logging.ERROR, "h264", "error while decoding")
        av.logging.log(av.logging.ERROR, "h264", "SEI type 5 truncated")
        av.logging.log(av.logging.WARNING, "h264", "strange")
    av.logging.log(av.logging.ERROR, "mov", "nobody listens")
    assert said == ["error while decoding"]
    assert not caplog.records


def test_a_level_that_was_chosen_stays() -> None:
    av.logging.set_level(av.logging.WARNING)
    listen()
    assert av.logging.get_level() == av.logging.WARNING


@pytest.mark.parametrize("command", [["ask", "none.mp4", "What?"], ["live", "x:"], ["probe", "x:"]])
def test_the_commands_that_read_a_source_listen(command: list[str]) -> None:
    av.logging.set_level(None)
    assert main(command) != 0
    assert av.logging.get_level() == av.logging.ERROR


# H.264: a damaged header may tell the decoder to hold back many pictures


def test_after_a_damaged_header_no_picture_is_held_back_for_good() -> None:
    came, _ = through("h264", first_sps(lambda unit: flipped(unit, 100)))
    late = [one for one in came if one.number >= PICTURES + GOP]
    assert [one.number for one in late] == [*range(PICTURES + GOP, 2 * PICTURES)]
    assert all(one.pushed == one.number for one in late)


def test_what_a_damaged_header_held_back_is_flagged_and_nothing_after_it() -> None:
    came, _ = through("h264", first_sps(lambda unit: flipped(unit, 100)))
    flagged = [one.number for one in came if one.corrupt]
    assert flagged
    assert all(PICTURES <= number < PICTURES + GOP for number in flagged)


def test_a_keyframe_from_before_the_damage_does_not_end_the_doubt() -> None:
    stream, packets = all_keyframes(12)
    stream.codec_context.thread_count = 2  # holds a picture back, as reordering does
    stream.codec_context.thread_type = "FRAME"
    packets[3].is_corrupt = True
    decoder = PictureDecoder(stream, SourceStats(), live=True)
    came = [one for packet in packets for one in decoder.push(packet)]
    assert [number for number, one in enumerate(came) if one.corrupt][-1] == 3
    assert len(came) > 8


def all_keyframes(count: int) -> tuple[av.VideoStream, list[av.Packet]]:
    options = {"preset": "ultrafast", "tune": "zerolatency", "threads": "1"}
    return encoded("libx264", count, 1, options)


def encoded(
    encoder: str, count: int, gop: int, options: dict[str, str]
) -> tuple[av.VideoStream, list[av.Packet]]:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mpegts") as container:
        stream = container.add_stream(encoder, rate=FPS)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = *SIZE, "yuv420p", gop
        stream.options = options
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    read = av.open(io.BytesIO(buffer.getvalue())).streams.video[0]
    return read, [packet for packet in read.container.demux(read) if packet.size]
