"""A medium that is missing, late or another one: what the source says, and what it goes on with."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from omnidrop_stream.errors import SourceNotFound
from omnidrop_stream.types import SAMPLE_RATE, Frame, Samples, StreamKind
from runtime.sources import Interruption, StreamSource
from tests.faults.feeds import PICTURE_GATE, SOUND_GATE, Feed
from tests.runtime.http_server import Answer, Server, live, media
from tests.runtime.servers import RtspServer, Watch

StartServer = Callable[..., RtspServer]
STOP_S = 2.0
STALL_S = 0.6


@pytest.fixture(scope="module")
def gated(needs_gstreamer: None) -> Iterator[RtspServer]:
    """Feeds whose media can be held back one by one, and feeds with unusual sound."""
    feed = Feed(fps=10, gop_s=0.5)
    wide = Feed(codec=None, sound="aac", rate=96000, channels=2)
    server = RtspServer(*feed.mount(), *wide.mount("/wide"), *Feed(sound=None).mount("/mute"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def camera(gated: RtspServer) -> Iterator[RtspServer]:
    hold(gated, PICTURE_GATE, False)
    hold(gated, SOUND_GATE, False)
    yield gated
    hold(gated, PICTURE_GATE, False)
    hold(gated, SOUND_GATE, False)


@pytest.fixture
def serve() -> Iterator[Callable[[dict[str, Answer]], Server]]:
    servers: list[Server] = []

    def start(paths: dict[str, Answer]) -> Server:
        servers.append(Server(paths).__enter__())
        return servers[-1]

    yield start
    for server in servers:
        server.__exit__(None, None, None)


def hold(server: RtspServer, gate: str, on: bool) -> None:
    server.turn(gate, "drop", str(on).lower())


def said(watch: Watch) -> tuple[str, str, bool | None, bool | None]:
    state = watch.source.state
    return state.name, state.code, state.video, state.audio


ALL_WELL = ("live", "", True, True)


def test_pictures_that_stop_while_sound_goes_on_are_missed_within_the_time_out(
    camera: RtspServer,
) -> None:
    with Watch(StreamSource(camera.url(), stall_timeout_s=STALL_S)) as watch:
        watch.until(lambda: said(watch) == ALL_WELL)
        hold(camera, PICTURE_GATE, True)
        watch.until(lambda: watch.source.state.name != "live", limit_s=STALL_S + 1)
        assert said(watch) == ("degraded", "no_video", False, True)
        so_far = watch.count(Samples)
        watch.until(lambda: watch.count(Samples) > so_far + 5)
        hold(camera, PICTURE_GATE, False)
        watch.until(lambda: said(watch) == ALL_WELL)
    assert watch.count(Interruption) == 0


def test_sound_that_stops_is_missed_and_pictures_go_on(camera: RtspServer) -> None:
    with Watch(StreamSource(camera.url(), stall_timeout_s=STALL_S)) as watch:
        watch.until(lambda: said(watch) == ALL_WELL)
        hold(camera, SOUND_GATE, True)
        watch.until(lambda: watch.source.state.name != "live", limit_s=STALL_S + 1)
        assert said(watch) == ("degraded", "no_audio", True, False)
        so_far = watch.count(Frame)
        watch.until(lambda: watch.count(Frame) > so_far + 2)
        hold(camera, SOUND_GATE, False)
        watch.until(lambda: said(watch) == ALL_WELL)
    assert watch.count(Interruption) == 0
    assert watch.source.reconnects == 0


def test_retry_now_makes_a_new_connection_where_a_medium_is_missing(camera: RtspServer) -> None:
    with Watch(StreamSource(camera.url(), stall_timeout_s=STALL_S)) as watch:
        watch.until(lambda: said(watch) == ALL_WELL)
        hold(camera, SOUND_GATE, True)
        watch.until(lambda: watch.source.state.code == "no_audio")
        watch.source.retry_now()
        watch.until(lambda: watch.source.state.name == "offline")
        hold(camera, SOUND_GATE, False)  # its server sends nothing before it has both
        watch.until(lambda: watch.count(Interruption) == 1)


def test_retry_now_does_nothing_to_what_is_well_and_stopping_is_quick_where_it_is_not(
    camera: RtspServer,
) -> None:
    with Watch(StreamSource(camera.url(), stall_timeout_s=STALL_S)) as watch:
        watch.until(lambda: said(watch) == ALL_WELL)
        watch.source.retry_now()
        so_far = watch.count(Frame)
        watch.until(lambda: watch.count(Frame) > so_far + 2)
        assert watch.count(Interruption) == 0
        hold(camera, PICTURE_GATE, True)
        watch.until(lambda: watch.source.state.name == "degraded")
        watch.source.stop()
        assert watch.ended(STOP_S)
    assert watch.error is None


def test_a_server_that_comes_back_with_another_codec_size_and_sound_is_taken_as_it_is(
    rtsp_server: StartServer,
) -> None:
    server = rtsp_server(*Feed(fps=10, gop_s=0.5).mount())
    with Watch(StreamSource(server.url(), stall_timeout_s=STALL_S)) as watch:
        watch.until(lambda: said(watch) == ALL_WELL)
        server.kill()
        other = Feed(
            size=(160, 96), fps=10, gop_s=0.5, codec="h265", sound="aac", rate=48000, channels=2
        )
        changed = RtspServer(*other.mount())
        changed.port = server.port
        changed.start()
        try:
            watch.until(lambda: watch.count(Interruption) == 1)
            after = len(watch.items)
            watch.until(lambda: said(watch) == ALL_WELL)
            watch.until(lambda: any(isinstance(item, Frame) for item in watch.items[after:]))
        finally:
            changed.kill()
    frames = [item for item in watch.after_interruption() if isinstance(item, Frame)]
    assert {frame.image.shape for frame in frames} == {(96, 160, 3)}
    assert (watch.source.info.width, watch.source.info.height) == (160, 96)
    assert [stream.codec for stream in watch.source.media] == ["hevc", "aac"]


def test_a_size_that_changes_in_one_connection_is_followed(
    serve: Callable[[dict[str, Answer]], Server],
) -> None:
    body = media("mpegts", 1.0) + media("mpegts", 3.0, (320, 180))
    server = serve({"/a": live(body, 4.0, "video/mp2t")})
    with Watch(StreamSource(server.url("/a"))) as watch:
        watch.until(
            lambda: any(i.image.shape == (180, 320, 3) for i in watch.items if isinstance(i, Frame))
        )
        assert (watch.source.info.width, watch.source.info.height) == (320, 180)
    assert len(server.asked) == 1


def test_a_codec_that_changes_in_one_connection_asks_for_a_new_one(
    serve: Callable[[dict[str, Answer]], Server],
) -> None:
    body = media("mpegts", 1.0, sound=False)
    body += media("mpegts", 10.0, (64, 48), sound=False, codec="mpeg2video")
    server = serve({"/a": live(body, 11.0, "video/mp2t")})
    with Watch(StreamSource(server.url("/a"))) as watch:
        watch.until(lambda: watch.count(Frame) >= 2)
        watch.until(lambda: len(server.asked) == 2)
        assert watch.source.state.code in ("no_keyframe", "connecting", "")


@pytest.mark.parametrize(
    ("path", "kind", "rate"), [("/live", StreamKind.AV, 8000), ("/wide", StreamKind.AUDIO, 96000)]
)
def test_sound_of_any_rate_comes_out_at_ours(
    camera: RtspServer, path: str, kind: StreamKind, rate: int
) -> None:
    with Watch(StreamSource(camera.url(path))) as watch:
        watch.until(lambda: watch.source.stats.samples > SAMPLE_RATE)
    assert watch.source.info.kind is kind
    assert watch.source.media[-1].rate == rate
    runs = [item for item in watch.items if isinstance(item, Samples)]
    pcm = np.concatenate([run.pcm for run in runs])
    spectrum = np.abs(np.fft.rfft(pcm[-8000:]))
    assert abs(np.argmax(spectrum) * SAMPLE_RATE / 8000 - 440) <= 4
    assert runs[-1].time_s - runs[0].time_s == pytest.approx(
        (len(pcm) - len(runs[-1].pcm)) / SAMPLE_RATE, abs=0.1
    )


def test_a_stream_that_promises_no_sound_says_nothing_of_it(camera: RtspServer) -> None:
    with Watch(StreamSource(camera.url("/mute"), stall_timeout_s=STALL_S)) as watch:
        watch.until(lambda: watch.count(Frame) >= 4)
        assert said(watch) == ("live", "", True, None)


def test_a_stream_number_that_is_not_there_is_told_with_those_that_are(camera: RtspServer) -> None:
    source = StreamSource(camera.url(), audio_stream=4)
    with pytest.raises(SourceNotFound, match=r"no audio stream 4.*0: pcm_alaw 8000 Hz"), source:
        pass
    assert source.state.code == "not_found"


def test_hardware_that_is_not_here_is_replaced_by_software_visibly(camera: RtspServer) -> None:
    with Watch(StreamSource(camera.url(), hwaccel="vaapi")) as watch:
        watch.until(lambda: watch.count(Frame) >= 1)
    assert watch.source.info.decoder == "software (this FFmpeg was built without vaapi)"
    assert watch.source.stats.hardware_refused == 1


def test_sources_that_open_and_stop_at_the_same_moment_do_not_disturb_each_other(
    camera: RtspServer,
) -> None:
    with Watch(StreamSource(camera.url())) as steady:
        steady.until(lambda: steady.count(Frame) >= 1)
        for _ in range(3):
            begin = threading.Barrier(2)
            staying, leaving = (Watch(Beginning(camera.url(), begin)) for _ in range(2))
            with staying, leaving:
                leaving.source.stop()
                assert leaving.ended(STOP_S)
                staying.until(lambda w=staying: w.count(Frame) >= 1)
            assert staying.error is None
            assert staying.source.stats.frames >= 1
    assert steady.source.reconnects == 0


class Beginning(StreamSource):
    """Begins when the other one does."""

    def __init__(self, url: str, begin: threading.Barrier) -> None:
        super().__init__(url)
        self._begin = begin

    def __enter__(self) -> Beginning:
        self._begin.wait(5)
        super().__enter__()
        return self
