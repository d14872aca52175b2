"""Two hundred addresses whose user names and passwords are as nasty as people make them."""

from __future__ import annotations

import itertools
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import av.logging
import pytest
from pydantic import SecretStr

from omnidrop_stream.errors import OmniDropError
from runtime.sources import SourceOptions, open_source
from runtime.sources.address import StreamAddress
from runtime.sources.network import guarded
from tests.runtime.http_server import Answer, Server, asks_for
from tests.runtime.test_rtsp_secrets import all_told

# Every password holds a word that nothing else prints, before and after the nasty part.
NASTY = ["@", ":", "/", "#", "?", "%", " ", "%41", "%zz", "ü", "密", "🔑", "\\", '"', "'", "&x=1"]
NASTY += ["=", "+", ";", ",", "[", "]", "{", "}", "|", "^", "`", "<", ">", "$", "!", "*", "()"]
NASTY += [
    "@host",
    "@10.0.0.7",
    "://",
    "rtsp://a:b@c",
    "@@",
    "::",
    "//",
    "..",
    "@cam.local/x",
    "%40",
]
NASTY += ["%2F", "%3A@", "#@", "?@", "/@", ":554", "@[::1]", "%25", "~", "-", "password=", "@a:1/"]
USERS = ["me", "me.you", "me@example.org", "dömäin\\me"]
WORDS = ("Zwiebel", "Kirsche")
CASES = [(user, WORDS[0] + nasty + WORDS[1]) for nasty in NASTY for user in USERS]


def test_there_are_at_least_two_hundred_cases() -> None:
    assert len(CASES) >= 200
    assert len(set(CASES)) == len(CASES)


@pytest.fixture(scope="module")
def loud() -> Iterator[None]:
    """FFmpeg as loud as it can be, and Python's logging listening to all of it."""
    loggers = [logging.getLogger(name) for name in ("", "libav", "runtime")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(1)
    av.logging.set_level(av.logging.TRACE)
    yield
    av.logging.set_level(None)
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """Refuses every login, crashes, is not there, or leads to nowhere."""
    paths: dict[str, Answer] = {
        "/basic": asks_for("Basic", "x", "y", lambda to: to.plain(200, "x/y", b"")),
        "/digest": asks_for("Digest", "x", "y", lambda to: to.plain(200, "x/y", b"")),
        "/broken": lambda to: to.plain(500, "x/y", b""),
        "/elsewhere": lambda to: to.head(302, Location="file:///etc/hostname", Content_Length="0"),
        "/garbage": lambda to: to.plain(200, "video/mp2t", bytes(range(256)) * 20),
    }
    with Server(paths) as started:
        yield started


def hidden(told: str) -> bool:
    return not any(word in told for word in WORDS)


def spellings(user: str, password: str, end: str, scheme: str) -> list[str]:
    encoded = f"{quote(user, safe='')}:{quote(password, safe='')}"
    return [f"{scheme}://{encoded}@{end}", f"{scheme}://{user}:{password}@{end}"]


@pytest.mark.parametrize("every", [9, pytest.param(1, marks=pytest.mark.slow)], ids=["some", "all"])
def test_no_failure_of_any_address_shows_a_secret(
    loud: None,
    server: Server,
    refused_port: int,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    every: int,
) -> None:
    http = ["/basic", "/digest", "/broken", "/elsewhere", "/garbage", "/none"]
    ends = [("http", f"127.0.0.1:{server.server_port}{path}") for path in http]
    ends += [("rtsp", f"127.0.0.1:{refused_port}/x"), ("rtsp", f"127.0.0.1:{server.server_port}/x")]
    ends += [("https", f"127.0.0.1:{server.server_port}/x")]
    leaks: list[tuple[str, str]] = []
    quick = SourceOptions(open_timeout_s=2.0)
    for (user, password), (scheme, end) in zip(CASES[::every], itertools.cycle(ends), strict=False):
        beside = quick.model_copy(update={"user": user, "password": SecretStr(password)})
        attempts = [(text, quick) for text in spellings(user, password, end, scheme)]
        for text, options in [*attempts, (f"{scheme}://{end}", beside)]:
            caplog.clear()
            told = told_by(text, options, caplog)
            leaks += [] if hidden(told) else [(text, told[:2000])]
    assert leaks == []
    assert hidden("".join(capfd.readouterr()))


def told_by(text: str, options: SourceOptions, logged: pytest.LogCaptureFixture) -> str:
    with pytest.raises(OmniDropError) as caught, open_source(text, options=options):
        pass
    return all_told(caught.value, logged)


@pytest.mark.parametrize("scheme", ["rtsp", "rtsps", "http", "https"])
def test_percent_encoded_or_beside_the_address_every_login_arrives_whole(scheme: str) -> None:
    for user, password in CASES:
        encoded, _ = spellings(user, password, "cam/1", scheme)
        address = StreamAddress.parse(encoded)
        assert address.secret_login() == (user, password)
        assert (address.host, address.path, address.place) == ("cam", "/1", "cam")
        assert StreamAddress.parse(f"{scheme}://cam/1", user, password) == address
        assert StreamAddress.parse(address.secret_url()) == address
        assert hidden(repr(address) + address.shown + address.scrub(address.secret_url()))


def test_written_plainly_no_login_is_shown_and_the_host_is_never_part_of_it() -> None:
    for user, password in CASES:
        _, plain = spellings(user, password, "cam.local:554/1", "rtsp")
        told = shown_of(plain)
        assert hidden(told), told


def test_what_ffmpeg_logs_goes_on_without_the_login(
    loud: None, caplog: pytest.LogCaptureFixture
) -> None:
    for user, password in CASES[::5]:
        address = StreamAddress.parse("rtsp://cam/1", user, password)
        line = f"opening {address.secret_url()} for {user}:{password}"
        guarded(address, 1.0, lambda line=line: av.logging.log(av.logging.ERROR, "rtsp", line))
    assert caplog.text.count("opening") == len(CASES[::5])
    assert hidden(caplog.text)


def shown_of(text: str) -> str:
    try:
        address = StreamAddress.parse(text)
    except OmniDropError as error:
        return str(error)
    return repr(address) + address.shown


def test_a_process_that_fails_leaves_no_secret_in_its_output_arguments_or_files(
    tmp_path: Path, server: Server
) -> None:
    password = f"{WORDS[0]}p@s/s:?#%{WORDS[1]}"
    environment = {**os.environ, "OMNIDROP_PASSWORD": password, "HOME": str(tmp_path)}
    command = [sys.executable, "-m", "clients.cli", "probe", server.url("/digest")]
    root = Path(__file__).parents[2]
    ran = subprocess.run(
        [*command, "--user", "me", "--debug"],
        env={**environment, "PYTHONPATH": str(root)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 3
    assert "wrong user name or password" in ran.stderr
    assert hidden(ran.stdout + ran.stderr)
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(word.encode() in body for body in written for word in WORDS)
    listed = [read(path / "cmdline") for path in Path("/proc").iterdir() if path.name.isdigit()]
    assert not any(word.encode() in line for line in listed for word in WORDS)


def read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""  # it has ended meanwhile
