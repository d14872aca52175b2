"""Addresses with passwords: every spelling is understood, and no password comes out anywhere."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Iterator

import av.logging
import pytest

from omnidrop_stream.errors import SourceError, UsageError
from omnidrop_stream.types import Frame
from runtime.sources import RtspSource, open_source
from runtime.sources.address import StreamAddress
from tests.runtime.servers import RtspServer, Watch

StartServer = Callable[..., RtspServer]
HOSTILE = "p@ss:w/o#r?d%41 ü"
ENCODED = "p%40ss%3Aw%2Fo%23r%3Fd%2541%20%C3%BC"


@pytest.fixture
def everything_logged(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """FFmpeg as loud as it can be, and Python's logging listening to all of it."""
    loggers = [logging.getLogger(name) for name in ("", "libav", "runtime")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(1)
    av.logging.set_level(av.logging.TRACE)
    with caplog.at_level(1):
        yield caplog
    av.logging.set_level(None)
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


def all_told(error: BaseException, logged: pytest.LogCaptureFixture) -> str:
    """All that a log, a report or a debugger's view of our own frames would show."""
    shown = [repr(error), str(error), repr(error.args), logged.text]
    seen: BaseException | None = error
    while seen is not None:
        shown.append(repr(seen) + "".join(traceback.format_exception(seen)))
        frames = traceback.walk_tb(seen.__traceback__)
        shown += [repr(f.f_locals) for f, _ in frames if "tests" not in f.f_code.co_filename]
        seen = seen.__cause__ or seen.__context__
    shown += [record.getMessage() for record in logged.records]
    return "\n".join(shown)


def host_of(host: str) -> str:
    return f"[{host}]" if ":" in host else host


@pytest.mark.parametrize(
    ("text", "user", "password", "host", "port"),
    [
        ("rtsp://camera/1", "", "", "camera", 554),
        ("rtsp://camera:8554/1?channel=2", "", "", "camera", 8554),
        ("rtsps://camera", "", "", "camera", 322),
        ("RTSP://me:secret@camera", "me", "secret", "camera", 554),
        ("rtsp://me@camera/1", "me", "", "camera", 554),
        (f"rtsp://me:{ENCODED}@camera/1", "me", HOSTILE, "camera", 554),
        ("rtsp://me:p@ss:w/o#r?d ü@camera:90/1", "me", "p@ss:w/o#r?d ü", "camera", 90),
        ("rtsp://me:se/secret@[::1]:8554/1", "me", "se/secret", "::1", 8554),
        ("rtsp://me:secret@camera/1?mail=a@b", "me", "secret", "camera", 554),
        ("rtsp://camera/1@2", "", "", "camera", 554),
        ("rtsp://me:100%@camera/1", "me", "100%", "camera", 554),
        ("rtsp://me:p@ss/word@10.0.0.7:554/1", "me", "p@ss/word", "10.0.0.7", 554),
        ("rtsp://me:p@ss/word@camera.local/1", "me", "p@ss/word", "camera.local", 554),
    ],
)
def test_every_spelling_of_a_login_is_understood(
    text: str, user: str, password: str, host: str, port: int
) -> None:
    address = StreamAddress.parse(text)
    assert (address.host, address.port) == (host, port)
    assert address.has_login == bool(user)
    if user:
        end = text[text.rindex(f"@{host_of(host)}") + 1 :]
        assert StreamAddress.parse(f"rtsp://{end}", user, password) == address
    if password:
        assert password not in repr(address) + address.shown


@pytest.mark.parametrize(
    "text",
    [
        "rtsp://",
        "rtsp:///1",
        "rtsp://me:secret@",
        "rtsp://me:secret@camera:99999/1",
        "rtsp://me:secret@camera:0/1",
        "rtsp://me:secret@camera/1\r\nX: y",
        "rtsp:me:secret@camera",
        "rtsp://me:secret@cam era/1",
        f"rtsp://me:{'secret' * 30}@camera/1",
    ],
)
def test_a_malformed_address_is_refused_without_its_password(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        open_source(text)
    assert "secret" not in str(caught.value)
    assert str(caught.value).endswith((".", "/PATH"))


def test_a_password_in_the_path_is_not_shown() -> None:
    address = StreamAddress.parse("rtsp://camera/user=me_channel=1_password=secret_stream=0.sdp")
    assert "secret" not in address.shown


@pytest.mark.parametrize("how", ["in the URL", "percent-encoded", "beside the URL"])
def test_a_hostile_password_opens_the_stream(rtsp_server: StartServer, how: str) -> None:
    server = rtsp_server(user="me", password=HOSTILE)
    if how == "beside the URL":
        source = RtspSource(server.url(), user="me", password=HOSTILE)
    else:  # what is written in a URL and looks percent-encoded is
        password = HOSTILE.replace("%", "%25") if how == "in the URL" else ENCODED
        source = RtspSource(server.url(login=f"me:{password}"))
    with Watch(source) as watch:
        watch.until(lambda: watch.count(Frame) >= 1)


@pytest.mark.parametrize("fault", ["wrong", "path", "refused", "silent"])
def test_no_failure_shows_the_password(
    rtsp_server: StartServer,
    refused_port: int,
    silent_port: int,
    everything_logged: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    fault: str,
) -> None:
    right = HOSTILE if fault == "path" else "another"
    server = rtsp_server(user="me", password=right)
    port = {"refused": refused_port, "silent": silent_port}.get(fault, server.port)
    url = f"rtsp://me:{ENCODED}@127.0.0.1:{port}/{'none' if fault == 'path' else 'live'}"
    with pytest.raises(SourceError) as caught, RtspSource(url, open_timeout_s=0.5):
        pass
    told = all_told(caught.value, everything_logged) + "".join(capfd.readouterr())
    assert "127.0.0.1" in told
    assert not [word for word in (HOSTILE, ENCODED, "p@ss", "p%40ss") if word in told]
    assert "uthorization:" not in told


def test_a_working_stream_logs_no_password(
    rtsp_server: StartServer,
    everything_logged: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    server = rtsp_server(user="me", password=HOSTILE)
    source = RtspSource(server.url(), user="me", password=HOSTILE)
    with Watch(source) as watch:
        watch.until(lambda: watch.count(Frame) >= 1)
        shown = repr(vars(source))
        server.kill()
        watch.until(lambda: source.state.name == "offline")
    shown += everything_logged.text + "".join(capfd.readouterr())
    shown += repr(source) + repr(source.info) + repr(source.state) + repr(vars(source))
    assert everything_logged.records  # FFmpeg did log, through us
    assert not [word for word in (HOSTILE, ENCODED, "p@ss", "p%40ss") if word in shown]
    assert "uthorization:" not in shown
