"""What a stream goes through: killed, frozen, not there, refusing; and stopping in the middle."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from omnidrop_stream.errors import (
    ConfigError,
    SourceDenied,
    SourceError,
    SourceNotFound,
    SourceUnreadable,
)
from omnidrop_stream.types import Frame, Samples
from runtime.backoff import Outage
from runtime.sources import Interruption, RtspSource
from runtime.sources.rtsp import PROTOCOLS, RtspLink
from tests.runtime.servers import RtspServer, Watch

StartServer = Callable[..., RtspServer]
STOP_S = 2.0
TABLE = Path("/proc/self/net/tcp")
ESTABLISHED, CONNECTING = "01", "02"

linux = pytest.mark.skipif(
    not TABLE.exists(), reason="only on Linux can a blocked socket be found and shut down"
)


def refused(url: str, **settings: object) -> SourceError:
    with pytest.raises(SourceError) as caught, RtspSource(url, **settings):
        pass
    message = str(caught.value)
    assert message.startswith("rtsp://127.0.0.1:")
    assert message.endswith((".", "/PATH"))
    assert "\n" not in message
    return caught.value


def flows(watch: Watch) -> bool:
    return watch.count(Frame) >= 1 and watch.count(Samples) >= 3


def sockets_to(port: int, state: str) -> int:
    lines = [line.split() for line in TABLE.read_text().splitlines()[1:]]
    return sum(line[2].endswith(f":{port:04X}") and line[3] == state for line in lines)


# Recovery


def test_after_a_kill_and_a_restart_the_stream_goes_on(rtsp_server: StartServer) -> None:
    server = rtsp_server()
    with Watch(RtspSource(server.url())) as watch:
        watch.until(lambda: flows(watch))
        server.kill()
        watch.until(lambda: watch.source.state.name == "offline")
        server.start()
        watch.until(lambda: watch.count(Interruption) == 1)
        watch.until(lambda: sum(isinstance(i, Samples) for i in watch.after_interruption()) > 3)
        assert watch.source.state.name == "live"
    assert watch.source.reconnects == 1
    interruption, first, *_ = watch.after_interruption()
    assert isinstance(interruption, Interruption)
    assert "closed the connection" in interruption.reason
    assert interruption.at_s == first.time_s


def test_source_time_goes_on_by_the_clock_over_an_interruption(rtsp_server: StartServer) -> None:
    server = rtsp_server()
    with Watch(RtspSource(server.url())) as watch:
        watch.until(lambda: flows(watch))
        server.kill()
        watch.until(lambda: watch.source.state.name == "offline")
        ended_s = watch.source.stats.ended_at_s
        server.start()
        watch.until(lambda: watch.count(Interruption) == 1)
    at_s = next(item.at_s for item in watch.items if isinstance(item, Interruption))
    assert ended_s < at_s < ended_s + 8


def test_threads_and_open_files_return_to_the_baseline(rtsp_server: StartServer) -> None:
    folder = Path("/proc/self/fd")
    if not folder.is_dir():
        pytest.skip("no /proc here: open files cannot be counted")
    server = rtsp_server()
    server.kill()
    baseline = threading.active_count(), len(os.listdir(folder))
    server.start()
    with Watch(RtspSource(server.url(), draw=lambda: 0.0)) as watch:
        for number in range(3):
            watch.until(lambda: watch.source.state.name == "live")
            server.kill()
            watch.until(lambda: watch.source.state.name == "offline")
            server.start()
            watch.until(lambda n=number: watch.source.reconnects == n + 1)
    server.kill()
    assert watch.count(Interruption) == 3
    assert (threading.active_count(), len(os.listdir(folder))) == baseline


def test_a_frozen_server_is_noticed_within_the_time_out_and_found_again(
    rtsp_server: StartServer,
) -> None:
    server = rtsp_server()
    with Watch(RtspSource(server.url(), stall_timeout_s=1.0)) as watch:
        watch.until(lambda: flows(watch))
        server.freeze()
        watch.until(lambda: watch.source.state.name == "offline", limit_s=2.0)
        assert watch.source.state.reason == "no answer within 1 s"
        server.thaw()
        watch.until(lambda: watch.count(Interruption) == 1)


def test_a_server_that_is_not_there_yet_is_waited_for(rtsp_server: StartServer) -> None:
    server = rtsp_server()
    server.kill()
    with Watch(RtspSource(server.url(), wait_for_first=True)) as watch:
        watch.until(lambda: watch.source.state.name == "offline")
        assert "refused" in watch.source.state.reason
        server.start()
        watch.until(lambda: flows(watch))
    assert watch.count(Interruption) == 0


def test_retry_now_ends_a_long_wait(rtsp_server: StartServer, tmp_path: Path) -> None:
    server = rtsp_server()
    source = RtspSource(server.url("/none"), wait_for_first=True, draw=lambda: 0.999)
    with Watch(source) as watch:
        watch.until(lambda: source.state.name == "offline")
        server.kill()
        watch.until(lambda: source.retry_now() or "refused" in source.state.reason)


# At first


def test_a_refused_connection_is_told_at_once(refused_port: int) -> None:
    error = refused(f"rtsp://127.0.0.1:{refused_port}/x")
    assert isinstance(error, SourceNotFound)
    assert "nothing listens" in str(error)


def test_a_port_that_says_nothing_is_told_after_the_time_out(silent_port: int) -> None:
    error = refused(f"rtsp://127.0.0.1:{silent_port}/x", open_timeout_s=0.5)
    assert isinstance(error, SourceUnreadable)
    assert "no answer within 0.5 s" in str(error)


def test_a_host_that_drops_everything_is_told_after_the_time_out(deaf_port: int) -> None:
    error = refused(f"rtsp://127.0.0.1:{deaf_port}/x", open_timeout_s=0.5)
    assert "no answer within 0.5 s" in str(error)


def test_an_unknown_path_is_not_found(rtsp_server: StartServer) -> None:
    error = refused(rtsp_server().url("/none"))
    assert isinstance(error, SourceNotFound)
    assert "no such stream" in str(error)


def test_a_wrong_password_is_denied(rtsp_server: StartServer) -> None:
    error = refused(rtsp_server(user="me", password="right").url(login="me:wrong"))
    assert isinstance(error, SourceDenied)
    assert "wrong user name or password" in str(error)


def test_where_a_password_is_asked_for_the_address_is_shown_how(rtsp_server: StartServer) -> None:
    error = refused(rtsp_server(user="me", password="right").url())
    assert isinstance(error, SourceDenied)
    assert "rtsp://USER:PASSWORD@HOST/PATH" in str(error)


def test_a_name_that_nobody_knows_is_not_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(SourceNotFound, match="no host of that name"), RtspSource("rtsp://cam/x"):
        pass


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\n\r\nhello",
        b"",
        bytes(range(256)) * 20,
        b"RTSP/1.0 302 Moved\r\nCSeq: 1\r\nLocation: file:///etc/hostname\r\n\r\n",
        b"RTSP/1.0 302 Moved\r\nCSeq: 1\r\nLocation: concat:/etc/hostname\r\n\r\n",
        b"RTSP/1.0 503 Service Unavailable\r\nCSeq: 1\r\n\r\n",
    ],
)
def test_what_is_no_rtsp_stream_is_refused(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        url = f"rtsp://127.0.0.1:{listener.getsockname()[1]}/x"
        assert isinstance(refused(url, open_timeout_s=2.0), SourceUnreadable)
        thread.join(5)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({}, "unknown authority"),
        ({"tls_ca_file": "camera.pem"}, "no such stream"),
        ({"tls_verify": False}, "no such stream"),
    ],
)
def test_a_certificate_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, object], told: str
) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is missing. Mend it with: sh tests/tools/apt-packages")
    monkeypatch.chdir(tmp_path)
    make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    make += " -keyout key.pem -out camera.pem -subj /CN=camera -addext subjectAltName=IP:127.0.0.1"
    subprocess.run(make.split(), check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain("camera.pem", "key.pem")
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            plain, _ = listener.accept()
            with plain, contextlib.suppress(OSError):
                connection = context.wrap_socket(plain, server_side=True)
                with connection:
                    connection.recv(4096)
                    connection.sendall(b"RTSP/1.0 404 Not Found\r\nCSeq: 1\r\n\r\n")

        thread = threading.Thread(target=serve)
        thread.start()
        url = f"rtsps://127.0.0.1:{listener.getsockname()[1]}/x"
        with pytest.raises(SourceError, match=told), RtspSource(url, **settings):
            pass
        thread.join(5)


def test_ffmpeg_may_open_no_file_whatever_the_other_end_says() -> None:
    assert set(PROTOCOLS.split(",")) == {"rtp", "srtp", "udp", "tcp", "tls"}


@pytest.mark.parametrize(
    "settings", [{"transport": "http"}, {"open_timeout_s": 0}, {"stall_timeout_s": 1e9}]
)
def test_a_setting_out_of_range_is_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        RtspSource("rtsp://127.0.0.1/x", **settings)


def test_the_time_for_which_an_attempt_hung_is_not_waited_again(
    silent_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[float] = []

    class Told(Outage):
        def failed(self, now_s: float, *, hopeless: bool = False, tried_s: float = 0.0) -> float:
            told.append(tried_s)
            return super().failed(now_s, hopeless=hopeless, tried_s=tried_s)

    monkeypatch.setattr("runtime.sources.stream.Outage", Told)
    url = f"rtsp://127.0.0.1:{silent_port}/x"
    with Watch(RtspSource(url, open_timeout_s=0.3, wait_for_first=True)) as watch:
        watch.until(lambda: len(told) > 0)
        watch.source.stop()
    assert told[0] > 0.25


# Stopping; the time-outs are far longer than the limit


@linux
def test_stopping_ends_a_read_from_a_frozen_server(rtsp_server: StartServer) -> None:
    server = rtsp_server()
    with Watch(RtspSource(server.url(), open_timeout_s=60, stall_timeout_s=60)) as watch:
        watch.until(lambda: flows(watch))
        server.freeze()
        watch.until_at_rest()
        watch.source.stop()
        assert watch.ended(STOP_S)
        server.thaw()


@linux
def test_stopping_ends_the_wait_for_a_first_word(silent_port: int) -> None:
    url = f"rtsp://127.0.0.1:{silent_port}/x"
    with Watch(RtspSource(url, open_timeout_s=60, stall_timeout_s=60)) as watch:
        watch.until(lambda: sockets_to(silent_port, ESTABLISHED) == 1)
        watch.source.stop()
        assert watch.ended(STOP_S)
    assert watch.error is None


@linux
def test_stopping_ends_a_connect_that_gets_no_answer(deaf_port: int) -> None:
    url = f"rtsp://127.0.0.1:{deaf_port}/x"
    others = sockets_to(deaf_port, CONNECTING)
    with Watch(RtspSource(url, open_timeout_s=60, stall_timeout_s=60)) as watch:
        watch.until(lambda: sockets_to(deaf_port, CONNECTING) > others)
        watch.source.stop()
        assert watch.ended(STOP_S)


def test_stopping_ends_a_long_wait_before_the_next_attempt(rtsp_server: StartServer) -> None:
    source = RtspSource(rtsp_server().url("/none"), wait_for_first=True, draw=lambda: 0.999)
    with Watch(source) as watch:
        watch.until(lambda: source.state.name == "offline")
        source.stop()
        assert watch.ended(STOP_S)
    assert watch.error is None


def test_stopping_ends_the_question_to_a_name_server(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, answer = threading.Event(), threading.Event()

    def ask(*_: object, **__: object) -> list[object]:
        asked.set()
        answer.wait(20)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", ask)
    with Watch(RtspSource("rtsp://cam/x", open_timeout_s=60)) as watch:
        assert asked.wait(5)
        watch.source.stop()
        assert watch.ended(STOP_S)
        answer.set()


@linux
def test_stopping_one_stream_leaves_another_of_the_same_server_alone(
    rtsp_server: StartServer,
) -> None:
    server = rtsp_server()
    with Watch(RtspSource(server.url())) as one:
        one.until(lambda: flows(one))
        with Watch(RtspSource(server.url())) as other:
            other.until(lambda: flows(other))
            one.source.stop()
            assert one.ended(STOP_S)
            so_far = len(other.items)
            other.until(lambda: len(other.items) > so_far + 50)
    assert other.count(Interruption) == 0


@linux
def test_stopping_just_before_the_socket_is_made_ends_the_connect(
    silent_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    opening, stopped, really_open = threading.Event(), threading.Event(), RtspLink._opened

    def open_late(*arguments: object) -> object:
        opening.set()
        assert stopped.wait(5)
        return really_open(*arguments)

    monkeypatch.setattr(RtspLink, "_opened", open_late)
    url = f"rtsp://127.0.0.1:{silent_port}/x"
    with Watch(RtspSource(url, open_timeout_s=60, stall_timeout_s=60)) as watch:
        assert opening.wait(5)
        watch.source.stop()
        stopped.set()
        assert watch.ended(STOP_S)


@linux
def test_stopping_at_any_moment_of_a_connect_ends_it(silent_port: int) -> None:
    url = f"rtsp://127.0.0.1:{silent_port}/x"
    for _ in range(30):
        with Watch(RtspSource(url, open_timeout_s=60, stall_timeout_s=60)) as watch:
            watch.source.stop()
            assert watch.ended(STOP_S)


def test_a_source_stopped_before_it_was_opened_yields_nothing(refused_port: int) -> None:
    source = RtspSource(f"rtsp://127.0.0.1:{refused_port}/x")
    source.stop()
    with source:
        assert list(source) == []


@linux
def test_opening_may_take_longer_than_a_stall(rtsp_server: StartServer) -> None:
    server = rtsp_server()
    server.freeze()
    with Watch(RtspSource(server.url(), open_timeout_s=30, stall_timeout_s=0.5)) as watch:
        watch.until(lambda: sockets_to(server.port, ESTABLISHED) == 1)
        assert not watch.ended(1.0)
        server.thaw()
        watch.until(lambda: flows(watch))
