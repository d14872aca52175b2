"""A real RTSP server: both media arrive, in time with each other, and make whole chunks."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from omnidrop_stream.chunker import Chunker, ChunkerSettings
from omnidrop_stream.types import SAMPLE_RATE, Frame, Samples, StreamKind
from runtime.chunks import chunks_of
from runtime.media import write_mp4
from runtime.sources import FileSource, RtspSource, open_source
from runtime.sources.base import LiveSource, Source
from tests.runtime.servers import RtspServer, Watch

StartServer = Callable[..., RtspServer]
FLASH_S, FLASH_EVERY_S, CLIP_S = 0.1, 0.8, 3.0


@pytest.fixture(scope="module")
def flash_and_beep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every 0.8 s a white flash and a beep begin together."""
    path = tmp_path_factory.mktemp("flash") / "flash.mp4"
    times = np.arange(round(CLIP_S * 25)) / 25
    sound_s = np.arange(round(CLIP_S * SAMPLE_RATE)) / SAMPLE_RATE
    beep = 0.5 * np.sin(2 * np.pi * 1000 * sound_s) * (sound_s % FLASH_EVERY_S < FLASH_S)
    frames = [
        Frame(np.full((90, 160, 3), 235 if t % FLASH_EVERY_S < FLASH_S else 20, np.uint8), float(t))
        for t in np.round(times, 6)
    ]
    runs = [
        Samples(beep[i : i + 1600].astype(np.float32), i / SAMPLE_RATE)
        for i in range(0, len(beep), 1600)
    ]
    write_mp4(path, frames, runs, rate_fps=25)
    return path


def offsets_s(source: Source) -> list[float]:
    """For each flash that begins in sight: how much later its beep begins."""
    with source:
        items = []
        for item in source:
            items.append(item)
            if isinstance(item, Samples) and item.time_s > 2.2:
                source.stop()
    frames = [item for item in items if isinstance(item, Frame)]
    flashes = [b.time_s for a, b in pairwise(frames) if a.image.mean() < 128 < b.image.mean()]
    runs = [item for item in items if isinstance(item, Samples)]
    times = np.concatenate([run.time_s + np.arange(len(run.pcm)) / SAMPLE_RATE for run in runs])
    loud = times[np.abs(np.concatenate([run.pcm for run in runs])) > 0.2]
    beeps = loud[np.flatnonzero(np.diff(loud, prepend=-1.0) > 0.3)]
    return [float(beeps[np.abs(beeps - flash).argmin()] - flash) for flash in flashes]


def test_pictures_and_sound_arrive_and_the_stream_is_described(rtsp_server: StartServer) -> None:
    with Watch(RtspSource(rtsp_server().url())) as watch:
        watch.until(lambda: watch.count(Frame) >= 3 and watch.count(Samples) >= 20)
    info = watch.source.info
    assert (info.kind, info.width, info.height, info.fps) == (StreamKind.AV, 320, 180, 25)
    assert (info.live, info.duration_s) == (True, None)
    assert watch.error is None


def test_the_first_item_is_a_picture_at_time_zero(rtsp_server: StartServer) -> None:
    with Watch(RtspSource(rtsp_server().url())) as watch:
        watch.until(lambda: watch.count(Samples) >= 3)
    first, second = watch.items[:2]
    assert isinstance(first, Frame)
    assert first.time_s == 0
    assert 0 <= second.time_s < 1 / SAMPLE_RATE


def test_flash_and_beep_stay_together_through_the_server(
    rtsp_server: StartServer, flash_and_beep: Path
) -> None:
    server = rtsp_server("--file", str(flash_and_beep))
    from_file = offsets_s(FileSource(flash_and_beep, fps=None))
    from_server = offsets_s(RtspSource(server.url("/file"), fps=None))
    assert len(from_server) >= 2
    assert np.mean(from_server) == pytest.approx(np.mean(from_file), abs=0.005)
    assert np.abs(from_server).max() < 0.040


def test_a_live_stream_makes_whole_chunks(rtsp_server: StartServer) -> None:
    with open_source(rtsp_server().url()) as source:
        chunk = next(iter(chunks_of(source, Chunker(ChunkerSettings(kind=source.info.kind)))))
        source.stop()
    assert chunk.frames is not None
    assert chunk.frames.shape == (4, 180, 320, 3)
    assert len(chunk.audio) == 32000
    assert chunk.flags.repeated_frames == 0
    assert chunk.flags.silence_filled_samples == 0
    assert np.abs(chunk.audio).max() == pytest.approx(0.2, abs=0.03)


@pytest.mark.parametrize(
    ("path", "kind", "item"),
    [("/video", StreamKind.VIDEO, Frame), ("/audio", StreamKind.AUDIO, Samples)],
)
def test_a_stream_of_one_medium_works(
    rtsp_server: StartServer, path: str, kind: StreamKind, item: type
) -> None:
    with Watch(RtspSource(rtsp_server().url(path))) as watch:
        watch.until(lambda: watch.count(item) >= 2)
    assert watch.source.info.kind is kind
    assert watch.count(item) == len(watch.items)


def test_who_comes_in_the_middle_begins_with_a_keyframe(rtsp_server: StartServer) -> None:
    url = rtsp_server("--gop", "40").url()
    with Watch(RtspSource(url, fps=None)) as before:
        before.until(lambda: before.count(Frame) >= 5)
        with Watch(RtspSource(url, fps=None)) as watch:
            watch.until(lambda: watch.count(Frame) >= 3)
    assert watch.source.stats.decode_errors == 0
    assert watch.source.stats.corrupt_frames == 0
    first = next(item for item in watch.items if isinstance(item, Frame))
    assert first.image.max() > 200  # the ball is there
    assert first.image.min() < 30


def test_the_state_goes_from_connecting_to_live(rtsp_server: StartServer) -> None:
    source = RtspSource(rtsp_server().url())
    assert isinstance(source, LiveSource)
    assert (source.state.name, source.state.code) == ("connecting", "connecting")
    with Watch(source) as watch:
        watch.until(lambda: source.state.name == "live")
        watch.until(lambda: (source.state.video, source.state.audio) == (True, True))
    assert (source.state.name, source.state.code) == ("offline", "closed")
    assert source.reconnects == 0


def test_udp_may_be_chosen(rtsp_server: StartServer) -> None:
    with Watch(RtspSource(rtsp_server().url(), transport="udp")) as watch:
        watch.until(lambda: watch.count(Frame) >= 2 and watch.count(Samples) >= 2)


def test_info_is_not_to_be_had_before_opening() -> None:
    with pytest.raises(RuntimeError, match="with block"):
        _ = RtspSource("rtsp://127.0.0.1/x").info
