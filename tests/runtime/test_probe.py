"""What ``omnidrop probe`` measures, and what it advises."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from omnidrop_stream.errors import SourceNotFound, UsageError
from runtime.probe import Drift, PacketNotes, Report, advice, probe
from runtime.sources import SourceOptions
from runtime.sources.choose import MediaStream
from tests.faults.feeds import Feed
from tests.runtime.servers import RtspServer
from tests.runtime.test_file_source import remuxed

StartServer = Callable[..., RtspServer]
VIDEO = MediaStream("video", 0, "h264", "Main", 640, 360, 25.0, 0, 0)
AUDIO = MediaStream("audio", 0, "aac", "LC", 0, 0, None, 48000, 1)
WELL = Report(
    source="rtsp://camera/1",
    live=True,
    seconds=6.0,
    video=VIDEO,
    audio=AUDIO,
    decoder="software",
    fps=25.0,
    keyframe_every_s=1.0,
    connect_s=0.5,
    first_picture_s=0.6,
    first_sound_s=0.6,
    av_offset_ms=12.0,
    video_drift=Drift(3.0, 200.0),
    audio_drift=None,
    corrupt_frames=0,
    decode_errors=0,
    untimed=0,
    interruptions=0,
)


def notes(times: np.ndarray, arrivals: np.ndarray, every: int = 25) -> PacketNotes:
    keyframes = [float(at) for at in times[::every]]
    return PacketNotes([float(t) for t in times], [float(a) for a in arrivals], keyframes)


def test_a_camera_is_described_and_measured(rtsp_server: StartServer) -> None:
    server = rtsp_server(*Feed(size=(320, 180), fps=10, gop_s=0.5).mount())
    report = probe(server.url(), seconds=2.5)
    assert report.live
    assert report.video is not None
    assert (report.video.codec, report.video.width, report.video.height) == ("h264", 320, 180)
    assert report.audio is not None
    assert (report.audio.codec, report.audio.rate, report.audio.channels) == ("pcm_alaw", 8000, 1)
    assert report.fps == pytest.approx(10, abs=0.5)
    assert report.keyframe_every_s == pytest.approx(0.5, abs=0.01)
    assert report.first_picture_s is not None
    assert 0 < report.connect_s <= report.first_picture_s
    assert report.av_offset_ms is not None
    assert abs(report.av_offset_ms) < 200
    assert (report.corrupt_frames, report.decode_errors) == (0, 0)
    assert report.advice.startswith("All is well")


def test_a_file_is_described_without_a_clock_of_arrival(clip: Callable[..., Path]) -> None:
    report = probe(str(clip(5.0)), seconds=3.0)
    assert not report.live
    assert report.video is not None
    assert (report.video.codec, report.video.width, report.fps) == ("h264", 160, pytest.approx(25))
    assert (report.video_drift, report.audio_drift) == (None, None)
    assert report.av_offset_ms == pytest.approx(0, abs=70)
    assert report.seconds == pytest.approx(3.0, abs=0.3)


def test_of_a_file_with_several_streams_the_one_that_is_read_is_described(
    clip: Callable[..., Path], tmp_path: Path
) -> None:
    two = remuxed(tmp_path / "two.mp4", clip(2.0, size=(64, 36)), clip(3.0, audio=False))
    small = probe(str(two), SourceOptions(video_stream=0), seconds=1.0).video
    large = probe(str(two), seconds=1.0).video
    assert small is not None
    assert (small.number, small.width) == (0, 64)
    assert large is not None
    assert (large.number, large.width) == (1, 160)


def test_any_other_source_is_described_by_what_comes() -> None:
    report = probe("demo:", seconds=1.0)
    assert report.video is not None
    assert (report.video.codec, report.fps) == ("raw", pytest.approx(30, abs=0.5))
    assert report.audio is not None


def test_what_is_not_there_is_refused_also_where_one_would_wait(refused_port: int) -> None:
    with pytest.raises(SourceNotFound):
        probe(f"rtsp://127.0.0.1:{refused_port}/x", SourceOptions(wait_for_first=True))


@pytest.mark.parametrize("seconds", [0, -1, 601, float("nan")])
def test_a_length_out_of_range_is_refused(seconds: float) -> None:
    with pytest.raises(UsageError, match="seconds"):
        probe("demo:", seconds=seconds)


@pytest.mark.parametrize("ppm", [-500.0, 0.0, 200.0])
def test_a_clock_that_is_off_is_measured_with_its_uncertainty(ppm: float) -> None:
    rng = np.random.default_rng(1)
    times = np.arange(3000) / 25
    arrivals = 50 + times / (1 + ppm / 1e6) + np.abs(rng.normal(0, 0.004, 3000))
    drift = notes(times, arrivals).drift()
    assert drift is not None
    assert drift.ppm == pytest.approx(ppm, abs=2 * drift.plus_minus_ppm)
    assert drift.plus_minus_ppm < 20


def test_too_few_packets_say_nothing_about_a_clock() -> None:
    times = np.arange(15) / 25
    assert notes(times, times).drift() is None
    assert PacketNotes().drift() is None
    assert (PacketNotes().delay_s(), PacketNotes().rate()) == (None, None)


def test_what_a_server_sends_at_once_is_not_taken_for_its_clock() -> None:
    times = np.arange(250) / 25
    arrivals = np.maximum(100.0, 95 + times)  # five seconds were held ready
    measured = notes(times[100:], arrivals[100:])
    drift = measured.drift()
    assert drift is not None
    assert abs(drift.ppm) < 1
    assert measured.keyframe_every_s() == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({}, "All is well"),
        ({"interruptions": 1}, "connection was lost"),
        ({"first_picture_s": None}, "No picture came"),
        ({"corrupt_frames": 2}, "--transport tcp"),
        ({"keyframe_every_s": 10.0}, "keyframe interval to 1 or 2 s (it is 10.0 s)"),
        ({"keyframe_every_s": None}, "longer than 6 s"),
        ({"decoder": "software (no cuda here)"}, "no cuda here"),
        ({"video": replace(VIDEO, width=3840, height=2160)}, "sub-stream"),
        ({"av_offset_ms": -800.0}, "800 ms apart"),
        ({"audio": None}, "--microphone"),
        ({"live": False, "audio": None, "keyframe_every_s": None}, "omnidrop ask"),
        ({"video": replace(VIDEO, codec="mjpeg"), "keyframe_every_s": None}, "All is well"),
    ],
)
def test_the_advice_names_what_is_most_worth_doing(change: dict[str, object], told: str) -> None:
    said = advice(replace(WELL, **change))
    assert told in said
    assert said.endswith(".")
