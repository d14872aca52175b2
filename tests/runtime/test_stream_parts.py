"""The parts of a network source without any network: watchdogs, hurry, stream choice, hardware."""

from __future__ import annotations

import io
import threading
from fractions import Fraction

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnidrop_stream.errors import ConfigError
from runtime.sources import hwaccel
from runtime.sources.base import REASON_CODES, SourceStats
from runtime.sources.choose import choose, described
from runtime.sources.decode import Picture, PictureDecoder
from runtime.sources.hurry import LEVELS, Hurry
from runtime.sources.hwaccel import decoding
from runtime.sources.interrupt import _ONE_BEGINS, SocketBreaker
from runtime.sources.network import Broken
from runtime.sources.watchdog import CHANGED, KEYFRAME_S, NO_AUDIO, MediaWatch, Verdict


class Watched:
    """A watch in simulated time; ``run`` lets packets come ten times a second."""

    def __init__(self, *, video: bool = True, audio: bool = True, suspect: bool = False) -> None:
        self.now = 100.0
        self.watch = MediaWatch(
            self.now, video=video, audio=audio, gap_s=5.0, patience_s=KEYFRAME_S, suspect=suspect
        )

    def run(self, seconds: float, *media: str) -> Verdict:
        """media: pictures, sound, undecodable pictures, undecodable sound, silent pictures."""
        for _ in range(round(seconds * 10)):
            self.now += 0.1
            for medium in media:
                video = "pictures" in medium
                self.watch.packet(video=video, keyframe=video, now_s=self.now)
                if medium.startswith("undecodable"):
                    self.watch.failed(video=video, now_s=self.now)
                elif not medium.startswith("silent"):
                    self.watch.decoded(video=video, now_s=self.now)
        return self.watch.verdict(self.now)


# Watchdogs


def test_with_both_media_all_is_well() -> None:
    assert Watched().run(60, "pictures", "sound") == Verdict("live", "", "", True, True)


def test_before_the_first_picture_it_is_connecting() -> None:
    watched = Watched()
    assert watched.run(0.5, "sound").name == "connecting"
    assert watched.run(0.1, "pictures", "sound").name == "live"


def test_missing_sound_is_shown_within_five_seconds_and_nothing_else_follows() -> None:
    watched = Watched()
    watched.run(10, "pictures", "sound")
    assert watched.run(3, "pictures").name == "live"
    verdict = watched.run(1.9, "pictures")
    assert (verdict.name, verdict.code) == ("degraded", "no_audio")
    assert (verdict.video, verdict.audio) == (True, False)
    assert watched.run(3600, "pictures").trouble is None
    assert watched.run(0.1, "pictures", "sound") == Verdict("live", "", "", True, True)


def test_sound_that_never_comes_is_missing_too() -> None:
    watched = Watched()
    assert watched.run(3, "pictures").audio is None
    assert watched.run(1.5, "pictures").audio is False


def test_missing_pictures_are_shown_and_a_new_connection_is_tried_later() -> None:
    watched = Watched()
    watched.run(10, "pictures", "sound")
    verdict = watched.run(5.2, "sound")
    assert (verdict.name, verdict.code, verdict.video) == ("degraded", "no_video", False)
    assert verdict.trouble is None
    late = watched.run(KEYFRAME_S - 5, "sound")
    assert late.trouble is not None
    assert late.trouble.code == "no_video"


def test_pictures_that_cannot_be_decoded_yet_are_told_from_none() -> None:
    verdict = Watched().run(6, "silent pictures", "sound")
    assert (verdict.name, verdict.code) == ("degraded", "no_keyframe")


def test_after_a_connection_without_pictures_the_next_is_not_called_connecting() -> None:
    verdict = Watched(suspect=True).run(0.5, "sound")
    assert (verdict.name, verdict.code, verdict.video) == ("degraded", "no_video", False)


@pytest.mark.parametrize("medium", ["pictures", "sound"])
def test_what_cannot_be_decoded_any_more_asks_for_a_new_connection(medium: str) -> None:
    watched = Watched()
    watched.run(10, "pictures", "sound")
    other = "sound" if medium == "pictures" else "pictures"
    assert watched.run(1.5, f"undecodable {medium}", other).trouble is None
    assert watched.run(1.0, f"undecodable {medium}", other).trouble is CHANGED


def test_a_few_broken_packets_ask_for_nothing() -> None:
    watched = Watched()
    watched.run(10, "pictures", "sound")
    for _ in range(20):
        watched.run(0.3, "undecodable pictures", "sound")
        assert watched.run(0.2, "pictures", "sound").name == "live"


def test_a_stream_of_one_medium_says_nothing_of_the_other() -> None:
    assert Watched(audio=False).run(60, "pictures") == Verdict("live", "", "", True, None)
    assert Watched(video=False).run(60, "sound") == Verdict("live", "", "", None, True)


@given(
    st.lists(
        st.tuples(
            st.floats(0.1, 8),
            st.sets(st.sampled_from(["pictures", "sound", "undecodable pictures"])),
        ),
        max_size=8,
    )
)
def test_every_verdict_has_a_code_that_programs_know(runs: list[tuple[float, set[str]]]) -> None:
    watched = Watched()
    for seconds, media in runs:
        verdict = watched.run(seconds, *sorted(media))
        assert verdict.name in ("connecting", "live", "degraded")
        assert verdict.code in REASON_CODES
        assert (verdict.name == "live") == (verdict.code == "")
        assert verdict.trouble is not NO_AUDIO


# Hurry


def hurried(hurry: Hurry, seconds: float, share: float, now: float, *, every: int = 25) -> float:
    for number in range(round(seconds * 25)):
        now += 0.04
        hurry.read(0.04 * share, now)
        hurry.level(keyframe=number % every == 0)
    return now


def test_who_waits_for_data_leaves_nothing_out() -> None:
    hurry = Hurry(0.0)
    hurried(hurry, 60, 0.9, 0.0)
    assert hurry.level(keyframe=False) == "DEFAULT"


def test_who_never_waits_leaves_out_more_and_more() -> None:
    hurry = Hurry(0.0)
    now = hurried(hurry, 1.5, 0.0, 0.0)
    assert hurry.level(keyframe=True) == "NONREF"
    hurried(hurry, 1.5, 0.0, now)
    assert hurry.level(keyframe=True) == "NONKEY"


def test_from_keyframes_only_it_goes_back_with_a_keyframe() -> None:
    hurry = Hurry(0.0)
    now = hurried(hurry, 3, 0.0, 0.0)
    assert hurry.level(keyframe=True) == "NONKEY"
    hurried(hurry, 3, 0.9, now, every=1000)
    assert hurry.level(keyframe=False) == "NONKEY"
    assert hurry.level(keyframe=True) == "NONREF"


def test_going_back_too_early_takes_longer_each_time() -> None:
    hurry, now, backs = Hurry(0.0), 0.0, []
    for _ in range(4):
        while hurry.level(keyframe=True) != "NONKEY":
            now = hurried(hurry, 0.2, 0.0, now)
        began = now
        while hurry.level(keyframe=True) == "NONKEY":
            now = hurried(hurry, 0.2, 0.9, now)
        backs.append(now - began)
    assert backs == sorted(backs)
    assert backs[-1] > 3 * backs[0]


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0.001, 3)), max_size=60))
def test_a_level_is_always_one_of_three(reads: list[tuple[float, float]]) -> None:
    hurry, now = Hurry(0.0), 0.0
    for share, long_s in reads:
        now += long_s
        hurry.read(share * long_s, now)
        assert hurry.level(keyframe=True) in LEVELS


# Which streams


@pytest.fixture(scope="module")
def several() -> bytes:
    """Three pictures of other sizes, two sounds."""
    out = io.BytesIO()
    with av.open(out, "w", format="mpegts") as container:
        videos = []
        for width, height in ((1280, 720), (640, 360), (320, 180)):
            video = container.add_stream("mpeg2video", rate=25)
            video.width, video.height, video.pix_fmt = width, height, "yuv420p"
            videos.append(video)
        audios = [
            container.add_stream("mp2", rate=rate, layout=layout)
            for rate, layout in ((32000, "mono"), (48000, "stereo"))
        ]
        for number in range(12):
            for video in videos:
                frame = av.VideoFrame(video.width, video.height, "yuv420p")
                for plane in frame.planes:
                    plane.update(bytes(plane.buffer_size))
                frame.pts, frame.time_base = number, Fraction(1, 25)
                container.mux(video.encode(frame))
            for audio in audios:
                pcm = np.zeros((1, 1152 * audio.codec_context.channels), np.int16)
                run = av.AudioFrame.from_ndarray(
                    pcm, format="s16", layout=audio.codec_context.layout.name
                )
                run.sample_rate, run.pts = audio.rate, number * 1152
                container.mux(audio.encode(run))
        for stream in (*videos, *audios):
            container.mux(stream.encode(None))
    return out.getvalue()


@pytest.mark.parametrize(
    ("video", "audio", "size", "rate"),
    [
        (None, None, (640, 360), 48000),
        (0, 0, (1280, 720), 32000),
        (2, 1, (320, 180), 48000),
    ],
)
def test_a_feed_of_many_streams_gives_the_one_asked_for_or_the_best_suited(
    several: bytes, video: int | None, audio: int | None, size: tuple[int, int], rate: int
) -> None:
    with av.open(io.BytesIO(several)) as container:
        chosen = choose(container, video, audio)
        assert chosen.video is not None
        assert chosen.audio is not None
        assert (chosen.video.width, chosen.video.height) == size
        assert chosen.audio.rate == rate


@pytest.mark.parametrize(
    ("video", "audio", "told"),
    [
        (3, None, ["no video stream 3", "0: mpeg2video 1280x720 25 fps", "2: mpeg2video 320x180"]),
        (None, 5, ["no audio stream 5", "0: mp2", "32000 Hz", "1: mp2"]),
    ],
)
def test_a_stream_that_is_not_there_is_answered_with_those_that_are(
    several: bytes, video: int | None, audio: int | None, told: list[str]
) -> None:
    with av.open(io.BytesIO(several)) as container, pytest.raises(Broken) as caught:
        choose(container, video, audio)
    trouble = caught.value.trouble
    assert (trouble.code, trouble.hopeless) == ("not_found", True)
    assert all(part in f"{trouble.reason}. {trouble.advice}" for part in told)


def test_a_medium_that_is_not_there_at_all_is_said_so(several: bytes) -> None:
    out = io.BytesIO()
    with av.open(out, "w", format="wav") as container:
        audio = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        run = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        run.sample_rate = 8000
        container.mux(audio.encode(run))
    with av.open(io.BytesIO(out.getvalue())) as container:
        assert str(described(container.streams.audio[0], 0)).startswith("0: pcm_s16le 8000 Hz")
        with pytest.raises(Broken) as caught:
            choose(container, 0, None)
    assert "no video in it at all" in caught.value.trouble.advice


# Hardware decoding


def test_nobody_asks_for_hardware_and_nothing_is_said() -> None:
    found = decoding("none")
    assert (found.accel, found.told(None)) == (None, "")


def test_a_device_that_is_not_here_falls_back_and_says_so(
    monkeypatch: pytest.MonkeyPatch, several: bytes
) -> None:
    monkeypatch.setattr(hwaccel, "_tried", lambda _: None)
    with av.open(io.BytesIO(several)) as container:
        video = container.streams.video[0]
        assert decoding("cuda").told(video) == "software (no cuda here)"
        assert decoding("auto").told(video) == "software (no hardware decoder works here)"
        assert decoding("videotoolbox").told(video).startswith("software (this FFmpeg")


def test_an_unknown_device_is_refused_and_the_known_ones_are_named() -> None:
    with pytest.raises(ConfigError, match=r"turbo.*none, auto.*cuda"):
        decoding("turbo")


# Pictures that rest on something broken


def coded(pictures: int, gop: int) -> tuple[av.VideoStream, list[av.Packet]]:
    out = io.BytesIO()
    with av.open(out, "w", format="mpegts") as container:
        video = container.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt, video.gop_size = 64, 48, "yuv420p", gop
        video.options = {"tune": "zerolatency", "preset": "ultrafast", "threads": "1"}
        rng = np.random.default_rng(0)
        for number in range(pictures):
            image = rng.integers(0, 255, (48, 64, 3), np.uint8)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
    container = av.open(io.BytesIO(out.getvalue()))
    stream = container.streams.video[0]
    stream.codec_context.thread_count = 1
    return stream, [packet for packet in container.demux(stream) if packet.size]


def decoded(decoder: PictureDecoder, packets: list[av.Packet]) -> list[Picture]:
    return [picture for packet in packets for picture in decoder.push(packet)]


def test_a_clean_stream_has_no_corrupt_picture() -> None:
    stream, packets = coded(30, 10)
    stats = SourceStats()
    assert not any(one.corrupt for one in decoded(PictureDecoder(stream, stats), packets))
    assert (stats.corrupt_frames, stats.decode_errors, stats.skipped_frames) == (0, 0, 0)


def test_what_rests_on_a_torn_picture_is_corrupt_up_to_the_next_keyframe() -> None:
    stream, packets = coded(30, 10)
    packets[13].is_corrupt = True
    pictures = decoded(PictureDecoder(stream, SourceStats()), packets)
    assert [n for n, one in enumerate(pictures) if one.corrupt] == list(range(13, 20))


def test_after_an_undecodable_packet_the_rest_of_the_group_is_corrupt() -> None:
    stream, packets = coded(30, 10)
    packets[13] = broken = av.Packet(b"\0\0\0\1\x65" + bytes(40))
    broken.pts, broken.time_base = 0, packets[0].time_base
    stats = SourceStats()
    pictures = decoded(PictureDecoder(stream, stats), packets)
    late = [one.time_s for one in pictures if one.corrupt]
    assert stats.decode_errors + stats.corrupt_frames >= 6
    assert len(late) >= 6
    assert not any(one.corrupt for one in pictures[-10:])


def test_pictures_left_out_are_counted() -> None:
    stream, packets = coded(30, 10)
    stats = SourceStats()
    decoder = PictureDecoder(stream, stats)
    decoder.leave_out("NONKEY")
    assert len(decoded(decoder, packets)) == 3
    assert stats.skipped_frames == 27


# Whose socket it is


def test_who_is_stopped_does_not_wait_for_its_turn() -> None:
    stopped = threading.Event()
    stopped.set()
    with _ONE_BEGINS, SocketBreaker(1, ["127.0.0.1"]).beginning(stopped):
        pass
