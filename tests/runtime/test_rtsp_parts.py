"""The parts of a live source without any network: back-off, time line, grid, socket breaker."""

from __future__ import annotations

import errno
import socket
import threading
from pathlib import Path

import av
import av.error
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from omnidrop_stream.chunker import Chunker, ChunkerSettings
from omnidrop_stream.types import SAMPLE_RATE, Frame, Samples, StreamKind
from runtime.backoff import Outage, reconnect_delay
from runtime.sources.address import StreamAddress
from runtime.sources.decode import Picture, ToRgb
from runtime.sources.interrupt import SocketBreaker
from runtime.sources.live import FIRST_PICTURE_S, GridPick, LiveItems, Timeline
from runtime.sources.network import trouble_of

linux = pytest.mark.skipif(
    not Path("/proc/self/net/tcp").exists(), reason="sockets can be found on Linux only"
)


class Clock:
    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def picture(at_s: float, size: tuple[int, int] = (16, 16)) -> Picture:
    return Picture(av.VideoFrame(*size, "rgb24"), at_s, 0.04, False)


def sound(at_s: float, seconds: float = 0.1) -> Samples:
    return Samples(np.zeros(round(seconds * SAMPLE_RATE), np.float32), at_s)


def live(fps: float | None = None, has_video: bool = True) -> tuple[LiveItems, Clock]:
    clock = Clock()
    return LiveItems(Timeline(clock), fps, has_video=has_video, to_rgb=ToRgb()), clock


# Back-off


@given(st.integers(0, 10_000), st.floats(0, 1e6), st.floats(0, 1, exclude_max=True))
def test_a_delay_stays_within_its_phase(attempt: int, outage_s: float, draw: float) -> None:
    longest = 1.0 if outage_s < 30 else 5.0 if outage_s < 120 else 30.0
    assert 0.25 <= reconnect_delay(attempt, outage_s, draw) <= longest


@given(st.integers(0, 10_000), st.floats(0, 1e6), st.floats(0, 1, exclude_max=True))
def test_where_waiting_mends_nothing_the_delay_is_long(
    attempt: int, outage_s: float, draw: float
) -> None:
    assert 15 <= reconnect_delay(attempt, outage_s, draw, hopeless=True) <= 30


def test_delays_of_an_outage_grow_to_half_a_minute() -> None:
    outage, now, delays = Outage(draw=lambda: 1.0), 0.0, []
    while now < 300:
        delays.append(outage.failed(now))
        now += delays[-1]
    assert delays[:3] == [0.5, 1.0, 1.0]
    assert delays == sorted(delays)
    assert delays[-1] == 30


def test_an_attempt_that_nothing_answered_was_waiting_too() -> None:
    patient, prompt = Outage(draw=lambda: 0.9), Outage(draw=lambda: 0.9)
    for outage in (patient, prompt):
        for at_s in (0.0, 10.0, 20.0, 30.0):
            outage.failed(at_s)
    assert prompt.failed(60.0) == pytest.approx(4.75)
    assert patient.failed(60.0, tried_s=3.0) == pytest.approx(1.75)


@given(st.floats(0, 300), st.floats(0, 300), st.floats(0, 1, exclude_max=True))
def test_a_long_attempt_neither_hastens_nor_lengthens_the_next_too_much(
    outage_s: float, tried_s: float, draw: float
) -> None:
    plain, tried = Outage(draw=lambda: draw), Outage(draw=lambda: draw)
    delays = [(plain.failed(at), tried.failed(at, tried_s=tried_s)) for at in (0.0, outage_s)]
    assert all(0.25 <= after <= full for full, after in delays)


def test_clients_whose_attempts_timed_out_together_do_not_come_back_at_once() -> None:
    delays = {Outage().failed(0.0, tried_s=5.0) for _ in range(50)}
    assert len(delays) > 40


def test_many_clients_do_not_come_back_at_once() -> None:
    delays = {Outage().failed(0.0) for _ in range(50)}
    assert len(delays) > 40


@pytest.mark.parametrize(("good_s", "begins_anew"), [(1, False), (61, True)])
def test_an_outage_ends_with_enough_good_data(good_s: float, begins_anew: bool) -> None:
    outage = Outage(draw=lambda: 1.0)
    outage.failed(0.0)
    outage.failed(200.0)
    outage.good(201.0)
    delay = outage.failed(201.0 + good_s)
    assert (delay == 0.5) == begins_anew


def test_after_a_short_outage_a_few_good_seconds_are_enough() -> None:
    outage = Outage(draw=lambda: 1.0)
    now, delays = 0.0, []
    for _ in range(50):  # down for 2 s, good for 10 s
        delays.append(outage.failed(now))
        outage.good(now + 2)
        now += 12
    assert set(delays) == {0.5}


def test_a_flickering_stream_is_asked_less_and_less() -> None:
    outage = Outage(draw=lambda: 1.0)
    now, delays = 0.0, []
    while now < 400:  # always good for a second
        delays.append(outage.failed(now))
        now += delays[-1]
        outage.good(now)
        now += 1
    assert delays[-1] == 30


# Time line


def test_source_time_begins_at_zero_and_goes_on_by_the_clock() -> None:
    clock = Clock()
    line = Timeline(clock)
    assert line.anchor(77.5) == 0
    assert line.place(78.0) == pytest.approx(0.5)
    clock.now += 20
    assert line.anchor(3.0) == pytest.approx(20)
    assert line.place(3.25) == pytest.approx(20.25)


def test_source_time_never_steps_back_over_what_was_handed_on() -> None:
    clock = Clock()
    line = Timeline(clock)
    line.anchor(0.0)
    line.place(9.0, 1.0)  # a camera whose clock is too fast
    clock.now += 5
    assert line.anchor(0.0) == pytest.approx(10)


# Which pictures


@given(
    st.lists(st.floats(0.005, 0.7), min_size=1, max_size=60),
    st.sampled_from([0.5, 2.0, 4.0]),
)
@example([0.5] * 8, 0.5)  # a slot every 2 s, which alone would look like jumps of the clock
def test_the_chunker_sees_no_difference_to_all_pictures(steps: list[float], fps: float) -> None:
    times = np.round(np.cumsum([0.0, *steps]), 4).tolist()
    settings = ChunkerSettings(kind=StreamKind.VIDEO, fps=fps)
    grid, every, some = GridPick(fps, 0.0), Chunker(settings), Chunker(settings)
    for number, at_s in enumerate(times):
        image = np.full((2, 2, 3), number, np.uint8)
        a = every.push(Frame(image, at_s))
        b = []
        for chosen in grid.push(picture(at_s)):
            shown = np.full((2, 2, 3), times.index(chosen.time_s), np.uint8)
            b += some.push(Frame(shown, chosen.time_s))
        assert [c.start_s for c in a] == [c.start_s for c in b]
        assert all(np.array_equal(x.frames, y.frames) for x, y in zip(a, b, strict=True))


def test_few_pictures_are_handed_on() -> None:
    grid = GridPick(2.0, 0.0)
    chosen = [len(grid.push(picture(n / 25))) for n in range(250)]
    assert sum(chosen) <= 40


def test_another_size_begins_a_new_grid() -> None:
    grid = GridPick(2.0, 0.0)
    assert len(grid.push(picture(0.0))) == 1
    assert grid.push(picture(0.1)) == []
    assert len(grid.push(picture(0.2, (32, 16)))) == 1
    assert grid.push(picture(0.6, (32, 16))) == []
    assert len(grid.push(picture(0.7, (32, 16)))) == 2


# Where a connection begins


def test_sound_before_the_first_picture_is_cut_off() -> None:
    items, _ = live()
    assert list(items.sound(sound(5.0))) == []
    assert list(items.sound(sound(5.1))) == []
    frame, run = items.picture(picture(5.15))
    assert frame.time_s == 0
    assert run.time_s == pytest.approx(0)
    assert len(run.pcm) == 800


def test_sound_that_came_early_but_belongs_later_is_kept() -> None:
    items, _ = live()
    assert list(items.sound(sound(5.2))) == []
    frame, run = items.picture(picture(5.0))
    assert (frame.time_s, run.time_s) == (0, pytest.approx(0.2))
    assert len(run.pcm) == 1600


def test_sound_begins_without_a_picture_that_does_not_come() -> None:
    items, _ = live()
    runs = [list(items.sound(sound(n / 10))) for n in range(round(FIRST_PICTURE_S * 10) + 2)]
    assert runs[:50] == [[]] * 50
    assert [len(run) for run in runs[50:]] == [51, 1]
    assert runs[50][0].time_s == 0
    (frame,) = items.picture(picture(7.0))
    assert frame.time_s == pytest.approx(7.0)


def test_a_stream_of_sound_alone_begins_at_once() -> None:
    items, _ = live(has_video=False)
    assert [run.time_s for run in items.sound(sound(3.0))] == [0]


# The socket breaker


@linux
def test_a_blocked_read_returns_when_its_socket_is_broken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        breaker = SocketBreaker(listener.getsockname()[1], ["127.0.0.1"])
        with socket.create_connection(listener.getsockname()) as blocked:
            got: list[bytes] = []
            thread = threading.Thread(target=lambda: got.append(blocked.recv(1)))
            thread.start()
            assert breaker.shut() == 1
            thread.join(2)
            assert got == [b""]


@linux
@pytest.mark.parametrize("which", ["before", "other port", "other address", "after"])
def test_other_peoples_sockets_are_left_alone(which: str) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as before,
    ):
        port = listener.getsockname()[1]
        address = "127.0.0.2" if which == "other address" else "127.0.0.1"
        breaker = SocketBreaker(port + 1 if which == "other port" else port, [address])
        if which == "after":
            breaker.settle()
        with socket.create_connection(listener.getsockname()) as after:
            assert breaker.shut() == (which == "before")
            before.sendall(b"x")
            if which != "before":
                after.sendall(b"x")


@linux
def test_the_ends_of_a_server_are_no_connections_to_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        breaker = SocketBreaker(listener.getsockname()[1])
        with socket.create_connection(listener.getsockname()):
            accepted, _ = listener.accept()
            with accepted:
                assert breaker.shut() == 1  # the client's, not the accepted one
                assert accepted.recv(1) == b""
                accepted.sendall(b"x")


@linux
@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6 here")
def test_a_connection_over_ipv6_is_found() -> None:
    try:
        listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("no IPv6 address here")
    with listener:
        breaker = SocketBreaker(listener.getsockname()[1], ["::1"])
        with socket.create_connection(listener.getsockname()[:2]):
            assert breaker.shut() == 1


@pytest.mark.parametrize(
    ("number", "code", "hopeless"),
    [(errno.EACCES, "unauthorized", True), (errno.EPERM, "ended", False)],
)
def test_a_bare_failure_of_ffmpeg_is_not_taken_for_a_refusal(
    number: int, code: str, hopeless: bool
) -> None:
    address = StreamAddress.parse("rtsp://camera/1", "", "")
    found = trouble_of(av.error.PermissionError(number, "x"), address, None)
    assert (found.code, found.hopeless) == (code, hopeless)
