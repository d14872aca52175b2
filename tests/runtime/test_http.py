"""Live streams over HTTP: what cameras send is read, and nothing else is opened."""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from omnidrop_stream.errors import ConfigError, SourceDenied, SourceError, SourceNotFound
from omnidrop_stream.types import Frame, Samples, StreamKind
from runtime.sources import Interruption, StreamSource, http
from runtime.sources.http_login import authorization
from tests.runtime.http_server import Answer, Handler, Server, asks_for, jpeg, live, media, mjpeg
from tests.runtime.servers import Watch

HOSTILE = 'p@ss:w/o#r?d%41 ü"\\'
Serve = Callable[..., Server]


@pytest.fixture(scope="module")
def mpegts() -> bytes:
    return media("mpegts", 6.0)


@pytest.fixture(scope="module")
def short() -> bytes:
    return media("mpegts", 1.0)


@pytest.fixture
def serve() -> Iterator[Serve]:
    with contextlib.ExitStack() as stack:

        def start(paths: dict[str, Answer], tls: ssl.SSLContext | None = None) -> Server:
            return stack.enter_context(Server(paths, tls))

        yield start


def refused(url: str, **settings: object) -> SourceError:
    with pytest.raises(SourceError) as caught, StreamSource(url, **settings):
        pass
    assert "\n" not in str(caught.value)
    assert str(caught.value).count(". ") >= 1
    return caught.value


def sends(status: int, kind: str, body: bytes) -> Answer:
    return lambda to: to.plain(status, kind, body)


def leads_to(where: str) -> Answer:
    return lambda to: to.head(302, Location=where, Content_Length="0")


def flows(watch: Watch) -> bool:
    return watch.count(Frame) >= 2 and watch.count(Samples) >= 3


# What cameras send


@pytest.mark.parametrize(("form", "kind"), [("mpegts", "video/mp2t"), ("flv", "video/x-flv")])
def test_pictures_and_sound_arrive(serve: Serve, form: str, kind: str) -> None:
    server = serve({"/live": live(media(form, 2.0), 2.0, kind)})
    with Watch(StreamSource(server.url("/live"))) as watch:
        watch.until(lambda: flows(watch))
        info = watch.source.info
    assert (info.kind, info.width, info.height, info.fps) == (StreamKind.AV, 160, 90, 25)
    assert info.live
    assert watch.error is None


def test_a_type_that_says_nothing_is_looked_at(serve: Serve, mpegts: bytes) -> None:
    server = serve({"/live": live(mpegts, 6.0, "application/octet-stream")})
    with Watch(StreamSource(server.url("/live"))) as watch:
        watch.until(lambda: flows(watch))


def test_motion_jpeg_is_timed_by_its_arrival(serve: Serve) -> None:
    server = serve({"/live": mjpeg(100, every_s=0.1)})
    with Watch(StreamSource(server.url("/live"), fps=None)) as watch:
        watch.until(lambda: watch.count(Frame) >= 8)
    times = [item.time_s for item in watch.items if isinstance(item, Frame)]
    assert times[0] == 0
    assert all(np.diff(times) > 0)
    assert np.mean(np.diff(times)) > 0.07  # FFmpeg itself would say 0.04
    assert watch.source.info.kind is StreamKind.VIDEO
    assert watch.source.stats.untimed == 0


def test_a_file_is_read_at_its_own_pace(serve: Serve) -> None:
    clip = media("flv", 12.0, (64, 48), sound=False)
    server = serve({"/clip.flv": sends(200, "video/x-flv", clip)})
    with Watch(StreamSource(server.url("/clip.flv"))) as watch:
        watch.until(lambda: watch.count(Frame) >= 3)
        watch.until_at_rest(quiet_s=0.2)
    assert max(item.time_s for item in watch.items if isinstance(item, Frame)) < 3


def test_the_end_of_a_stream_is_a_disconnect(serve: Serve, short: bytes) -> None:
    server = serve({"/live": live(short, 1.0, "video/mp2t", hold=False)})
    with Watch(StreamSource(server.url("/live"))) as watch:
        watch.until(lambda: watch.count(Interruption) == 1)
        watch.until(lambda: watch.source.state.name == "live")
        assert watch.source.reconnects == 1
    assert len(server.asked) == 2


def test_silence_is_noticed_within_the_time_out(serve: Serve, short: bytes) -> None:
    server = serve({"/live": live(short, 1.0, "video/mp2t")})
    with Watch(StreamSource(server.url("/live"), stall_timeout_s=0.8)) as watch:
        watch.until(lambda: flows(watch))
        watch.until(lambda: watch.source.state.name == "offline", limit_s=4.0)
        assert (watch.source.state.code, watch.source.state.reason) == (
            "timeout",
            "no answer within 0.8 s",
        )


# Logins


@pytest.mark.parametrize(
    ("scheme", "where"),
    [("Basic", "in the URL"), ("Digest", "beside it"), ("Digest SHA-256", "in the URL")],
)
def test_a_hostile_password_opens_the_stream(
    serve: Serve, mpegts: bytes, scheme: str, where: str
) -> None:
    name, _, algorithm = scheme.partition(" ")
    stream = live(mpegts, 6.0, "video/mp2t")
    server = serve({"/a": asks_for(name, "me", HOSTILE, stream, algorithm or "MD5")})
    if where == "in the URL":
        source = StreamSource(server.url("/a", login=f"me:{HOSTILE.replace('%', '%25')}"))
    else:
        source = StreamSource(server.url("/a"), user="me", password=HOSTILE)
    with Watch(source) as watch:
        watch.until(lambda: watch.count(Frame) >= 1)
    assert HOSTILE not in repr(server.asked)


@pytest.mark.parametrize("scheme", ["Basic", "Digest"])
def test_a_wrong_password_is_denied_after_two_requests(serve: Serve, scheme: str) -> None:
    server = serve({"/a": asks_for(scheme, "me", "right", sends(200, "x/y", b""))})
    error = refused(server.url("/a", login="me:wrong"))
    assert isinstance(error, SourceDenied)
    assert "wrong user name or password" in str(error)
    assert "wrong@" not in str(error)
    assert len(server.asked) == 2


def test_where_a_login_is_asked_for_the_address_is_shown_how(serve: Serve) -> None:
    server = serve({"/a": asks_for("Digest", "me", "right", sends(200, "x/y", b""))})
    error = refused(server.url("/a"))
    assert "http://USER:PASSWORD@HOST/PATH" in str(error)


def test_the_example_of_the_digest_standard_comes_out_right() -> None:
    asked = 'Digest realm="testrealm@host.com", nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093"'
    header = authorization([asked], ("Mufasa", "Circle Of Life"), "GET", "/dir/index.html")
    assert header is not None
    assert 'response="670fd8c2df070c60b045671b8b24ff02"' in header  # RFC 2069's own example


def test_digest_goes_before_basic_and_garbage_is_no_challenge() -> None:
    login = ("me", "word")
    both = ['Basic realm="x"', 'Digest realm="x", nonce="y"']
    assert (authorization(both, login, "GET", "/") or "").startswith("Digest ")
    assert authorization(['Digest nonce="y"', "Bearer", ""], login, "GET", "/") is None
    assert authorization(['Digest realm="x", nonce="y", algorithm=MD4'], login, "GET", "/") is None


def test_a_login_is_not_taken_along_to_another_host(serve: Serve, mpegts: bytes) -> None:
    other = serve({"/b": asks_for("Basic", "me", "word", live(mpegts, 6.0, "video/mp2t"))})
    where = other.url("/b").replace("127.0.0.1", "localhost")
    server = serve({"/a": leads_to(where)})
    error = refused(server.url("/a", login="me:word"))
    assert isinstance(error, SourceDenied)
    assert all("Authorization" not in headers for _, headers in other.asked)


# What is refused


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/vnd.apple.mpegurl", b"#EXTM3U\n#EXTINF:2,\nfile:///etc/hostname\n"),
        ("video/mp2t", b"#EXTM3U\n#EXTINF:2,\nfile:///etc/hostname\n"),
        ("application/octet-stream", b"#EXTM3U\n#EXTINF:2,\ndata:video/mp2t;base64,R0==\n"),
        ("text/plain", b"ffconcat version 1.0\nfile /etc/hostname\n"),
        ("application/dash+xml", b"<MPD/>"),
        ("application/sdp", b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\n"),
    ],
)
def test_a_playlist_is_refused_in_words(serve: Serve, kind: str, body: bytes) -> None:
    error = refused(serve({"/a": sends(200, kind, body)}).url("/a"))
    assert "playlist" in str(error)


@pytest.mark.parametrize("looked_at", [True, False])
def test_a_playlist_never_makes_anything_else_open(
    serve: Serve,
    tmp_path: Path,
    mpegts: bytes,
    monkeypatch: pytest.MonkeyPatch,
    looked_at: bool,
) -> None:
    if not looked_at:  # then the lists of formats and protocols alone must do
        monkeypatch.setattr(http, "_PLAYLISTS", (b"\0never",))
    hidden = tmp_path / "secret.ts"
    hidden.write_bytes(mpegts)
    bodies = [
        f"#EXTM3U\n#EXTINF:6,\nfile://{hidden}\n",
        f"#EXTM3U\n#EXTINF:6,\n{hidden}\n",
        f"\n#EXTM3U\n#EXTINF:6,\nconcat:{hidden}\n",
        f"ffconcat version 1.0\nfile {hidden}\n",
        f"// a comment\nffconcat version 1.0\nfile {hidden}\n",
    ]
    paths = {f"/{n}": sends(200, "x/y", body.encode()) for n, body in enumerate(bodies)}
    server = serve(paths)
    read_before = hidden.stat().st_atime_ns
    for path in paths:
        refused(server.url(path))
    assert hidden.stat().st_atime_ns == read_before
    assert len(server.asked) == len(bodies)


@pytest.mark.parametrize(
    "where",
    [
        "file:///etc/hostname",
        "concat:/etc/hostname",
        "data:video/mp2t,x",
        "ftp://h/x",
        "rtsp://h/x",
    ],
)
def test_a_redirect_to_another_kind_of_address_is_refused(serve: Serve, where: str) -> None:
    error = refused(serve({"/a": leads_to(where)}).url("/a"))
    assert "another kind of address, which is not followed" in str(error)


def test_a_redirect_to_nowhere_or_in_a_circle_is_refused(serve: Serve) -> None:
    server = serve({"/a": leads_to(""), "/b": leads_to("/b"), "/c": leads_to("http://")})
    assert all("not followed" in str(refused(server.url(path))) for path in ("/a", "/b", "/c"))


def test_a_redirect_to_http_is_followed(serve: Serve, mpegts: bytes) -> None:
    server = serve({"/a": leads_to("/b"), "/b": live(mpegts, 6.0, "video/mp2t")})
    with Watch(StreamSource(server.url("/a"))) as watch:
        watch.until(lambda: watch.count(Frame) >= 1)


@pytest.mark.parametrize(
    ("status", "kind", "body", "code", "told"),
    [
        (404, "text/html", b"", "not_found", "no such stream"),
        (403, "text/html", b"", "unauthorized", "forbidden"),
        (500, "text/html", b"", "server_error", "error of its own"),
        (418, "text/html", b"", "not_a_stream", "no live stream"),
        (200, "text/html", b"<html>hello</html>" * 50, "not_a_stream", "no live stream"),
        (200, "image/jpeg", b"", "not_a_stream", "one picture"),
        (200, "video/mp2t", b"", "not_a_stream", "no live stream"),
        (200, "video/mp2t", bytes(range(256)) * 200, "not_a_stream", "no live stream"),
        (200, "multipart/x-mixed-replace", b"x" * 5000, "not_a_stream", "no live stream"),
    ],
)
def test_what_is_no_stream_is_refused(
    serve: Serve, status: int, kind: str, body: bytes, code: str, told: str
) -> None:
    source = StreamSource(serve({"/a": sends(status, kind, body)}).url("/a"))
    with pytest.raises(SourceError, match=told), source:
        pass
    assert (source.state.name, source.state.code) == ("offline", code)


def test_one_picture_is_no_stream(serve: Serve) -> None:
    error = refused(serve({"/a": sends(200, "image/jpeg", jpeg(0))}).url("/a"))
    assert "one picture" in str(error)


def test_nothing_that_listens_is_not_found(refused_port: int) -> None:
    error = refused(f"http://127.0.0.1:{refused_port}/x")
    assert isinstance(error, SourceNotFound)
    assert "nothing listens" in str(error)


def test_a_port_that_says_nothing_is_told_after_the_time_out(silent_port: int) -> None:
    error = refused(f"http://127.0.0.1:{silent_port}/x", open_timeout_s=0.4)
    assert "no answer within 0.4 s" in str(error)


@pytest.mark.parametrize("answer", [b"RTSP/1.0 200 OK\r\n\r\n", b"", b"\xff" * 3000])
def test_what_speaks_no_http_is_refused(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def reply() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(answer)

        thread = threading.Thread(target=reply)
        thread.start()
        refused(f"http://127.0.0.1:{listener.getsockname()[1]}/x", open_timeout_s=2.0)
        thread.join(5)


@pytest.mark.parametrize("whole", [b"", b"HTTP/1.1 200 OK\r\nContent-Type: video/mp2t\r\n\r\n"])
def test_an_answer_that_drips_in_is_given_up_after_the_time_out(whole: bytes) -> None:
    hung_up = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def drip() -> None:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                connection.recv(4096)
                connection.sendall(whole)
                for byte in b"HTTP/1.1 200 OK\r\nX: " + bytes(100):
                    connection.sendall(bytes([byte]))
                    if hung_up.wait(0.05):
                        return

        thread = threading.Thread(target=drip)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/x"
        error = refused(url, open_timeout_s=0.4)
        assert thread.is_alive()  # it would have gone on
        hung_up.set()
        thread.join(5)
    assert "no answer within 0.4 s" in str(error)


# Encryption


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    make += " -keyout key.pem -out camera.pem -subj /CN=camera -addext subjectAltName=IP:127.0.0.1"
    subprocess.run(make.split(), check=True, capture_output=True, cwd=folder)
    return folder / "camera.pem"


def with_tls(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_name("key.pem"))
    return context


def test_an_unknown_authority_is_refused(serve: Serve, certificate: Path) -> None:
    server = serve({"/a": sends(200, "x/y", b"")}, with_tls(certificate))
    source = StreamSource(server.url("/a"))
    with pytest.raises(SourceError, match=r"unknown authority.*--tls-ca-file FILE"), source:
        pass
    assert source.state.code == "tls"
    assert server.asked == []


@pytest.mark.parametrize("how", ["authority", "no check"])
def test_a_known_authority_or_none_is_trusted(
    serve: Serve, certificate: Path, mpegts: bytes, how: str
) -> None:
    server = serve({"/a": live(mpegts, 6.0, "video/mp2t")}, with_tls(certificate))
    trust = {"tls_ca_file": str(certificate)} if how == "authority" else {"tls_verify": False}
    with Watch(StreamSource(server.url("/a"), **trust)) as watch:
        watch.until(lambda: flows(watch))


def test_a_plain_answer_to_an_encrypted_hello_is_told_apart_from_a_bad_certificate(
    serve: Serve,
) -> None:
    server = serve({})
    error = refused(server.url("/a").replace("http:", "https:"))
    assert "no encrypted connection: what answers there does not speak TLS" in str(error)
    assert "Use http:// there" in str(error)
    assert "certificate" not in str(error)


def test_from_encrypted_to_plain_is_not_followed(serve: Serve, certificate: Path) -> None:
    plain = serve({"/b": sends(200, "x/y", b"")})
    server = serve({"/a": leads_to(plain.url("/b"))}, with_tls(certificate))
    error = refused(server.url("/a"), tls_ca_file=str(certificate))
    assert "plain" in str(error)
    assert plain.asked == []


def test_a_file_of_authorities_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match=r"none\.pem"):
        StreamSource("https://camera/x", tls_ca_file="none.pem")


@pytest.mark.parametrize("scheme", ["https", "rtsps"])
def test_a_file_of_authorities_that_holds_none_is_named(scheme: str, tmp_path: Path) -> None:
    empty = tmp_path / "empty.pem"
    empty.write_text("no certificate")
    with pytest.raises(ConfigError, match=r"empty\.pem' holds no certificate.*as PEM"):
        StreamSource(f"{scheme}://camera/x", tls_ca_file=str(empty))


# Stopping


def test_stopping_ends_a_read_and_a_wait_for_the_first_word(
    serve: Serve, short: bytes, silent_port: int
) -> None:
    long = {"open_timeout_s": 60, "stall_timeout_s": 60}
    server = serve({"/live": live(short, 1.0, "video/mp2t")})
    with Watch(StreamSource(server.url("/live"), **long)) as watch:
        watch.until(lambda: flows(watch))
        watch.until_at_rest()
        watch.source.stop()
        assert watch.ended(2.0)
    with Watch(StreamSource(f"http://127.0.0.1:{silent_port}/x", **long)) as watch:
        assert not watch.ended(0.3)
        watch.source.stop()
        assert watch.ended(2.0)
    assert watch.error is None


def test_a_stuck_handler_does_not_keep_the_server(serve: Serve) -> None:
    def stuck(to: Handler) -> None:
        to.server.over.wait(60)

    server = serve({"/a": stuck})
    error = refused(server.url("/a"), open_timeout_s=0.4)
    assert "no answer" in str(error)
