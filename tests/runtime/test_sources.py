"""A text names a source; the picture made on the spot; passwords never show."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from omnidrop_stream.chunker import Chunker
from omnidrop_stream.errors import UsageError
from omnidrop_stream.types import Frame, Samples
from runtime.chunks import chunks_of
from runtime.media import write_mp4
from runtime.redact import redact
from runtime.sources import SCHEMES, FileSource, PictureSource, open_source
from tests.streams import all_same

Clip = Callable[..., Path]


def test_a_plain_path_is_a_file(clip: Clip) -> None:
    assert isinstance(open_source(str(clip(5.0))), FileSource)


@pytest.mark.parametrize("form", ["file:{}", "file://{}", "file://localhost{}"])
def test_a_file_may_be_named_as_a_url(clip: Clip, form: str) -> None:
    with open_source(form.format(clip(5.0))) as source:
        assert source.info.width == 160


def test_a_file_with_a_colon_in_its_name_is_a_file(clip: Clip, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "demo:film.mp4").write_bytes(clip(5.0).read_bytes())
    monkeypatch.chdir(tmp_path)
    assert isinstance(open_source("demo:film.mp4"), FileSource)


def test_an_unknown_scheme_is_refused_and_the_known_ones_are_listed() -> None:
    with pytest.raises(UsageError) as caught:
        open_source("gopher://me:secret@camera/1")
    assert all(f"{name}:" in str(caught.value) for name in SCHEMES)
    assert "secret" not in str(caught.value)


def test_an_empty_source_is_told_as_one() -> None:
    with pytest.raises(UsageError, match="the source is empty: give a media file"):
        open_source("")


def test_the_moving_picture_is_the_same_for_the_same_seed() -> None:
    def made(text: str) -> list:
        with open_source(text) as source:
            return list(chunks_of(source, Chunker()))

    one, again, other = (made(f"picture:?seconds=5&seed={seed}") for seed in (3, 3, 4))
    assert all_same(one, again)
    assert not all_same(one, other)
    assert [len(c.frames) for c in one] == [4, 4, 2]
    assert sum(len(c.audio) for c in one) == 80000


def test_the_moving_picture_moves_and_beeps() -> None:
    source = PictureSource(seed=1)
    assert np.any(source.image(0.0) != source.image(1.0))
    pcm = source.sound(0, 32000)
    assert np.abs(pcm[:4000]).max() > 0.25
    assert np.abs(pcm[8000:]).max() < 0.05


def test_without_a_length_the_moving_picture_is_endless_until_stopped() -> None:
    with open_source("picture:") as source:
        assert source.info.duration_s is None
        assert len(list(itertools.islice(source, 100))) == 100
        source.stop()
        assert list(source) == []


@pytest.mark.parametrize(
    "text", ["?seconds=0", "?seconds=-1", "?seed=x", "?size=3", "film", "?seed=-1"]
)
def test_a_value_of_it_that_is_not_allowed_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="picture:"):
        open_source("picture:" + text)


def test_writing_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="frames, samples or both"):
        write_mp4(tmp_path / "x.mp4")


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    items = list(PictureSource(seconds=4, seed=2))
    frames = [item for item in items if isinstance(item, Frame)]
    write_mp4(tmp_path / "x.mp4", frames, [i for i in items if isinstance(i, Samples)])
    with FileSource(tmp_path / "x.mp4") as source:
        back = [item for item in source if isinstance(item, Frame)]
    assert [frame.time_s for frame in back] == pytest.approx([frame.time_s for frame in frames])
    error = np.abs(back[3].image.astype(int) - frames[3].image.astype(int)).mean()
    assert error < 12


@pytest.mark.parametrize(
    "text",
    [
        "rtsp://user:secret@camera:554/stream",
        "cannot open rtsp://user:secret@10.0.0.7/1: refused",
        "rtsp://user:se/secret@camera/1",
        "rtsp://user:se@cret@secret@camera/1",
        "rtsp://user:my secret@camera/1",
        "rtsp://user:secret%40camera/1",
        "rtsp://user:secret",
        "rtsp:/user:secret@camera",
        "user:secret@camera/1",
        "http://camera/snap.cgi?user=admin&password=secret&x=1",
        "http://camera/snap?token=secret",
        "'rtsp://a:secret@h1/1' then 'rtsps://b:secret@h2/2'",
        r"{\"url\": \"rtsp:\/\/user:secret@camera\"}",
        Path("rtsp://user:secret@camera/1"),
        OSError(5, "rtsp://user:secret@camera/1"),
    ],
)
def test_no_password_survives(text: object) -> None:
    assert "secret" not in redact(text)


@pytest.mark.parametrize(
    "name",
    [
        *("pw", "pwd", "pass", "passwd", "password", "userPassword", "secret", "client_secret"),
        *("token", "access_token", "accessToken", "auth", "key", "apikey", "api_key", "X-Api-Key"),
        *("sig", "signature", "X-Amz-Signature", "X-Amz-Credential", "credentials"),
        *("session", "sessionid", "session_id", "sid", "jwt", "user", "username"),
    ],
)
def test_what_names_a_secret_hides_it_in_a_query(name: str) -> None:
    told = f"cannot open rtsp://bob:hunter@10.0.0.7:9/x?{name}=hunter&x=1: refused"
    assert redact(told) == f"cannot open rtsp://***@10.0.0.7:9/x?{name}=***&x=1: refused"


@pytest.mark.parametrize("end", ["", "&x=1", ": refused", ", then more", "' is it", '"}', "#a"])
def test_a_secret_with_punctuation_is_hidden_to_its_end(end: str) -> None:
    shown = redact(f"http://h/x?token=Apfel,Birn'e;Kirsche{end}")
    assert not re.search("Apfel|Birn|Kirsche", shown)


@pytest.mark.parametrize("end", [":", ".", ",", ")", "'", "',", '"}', "):"])
def test_what_ends_the_word_of_a_secret_is_no_part_of_it(end: str) -> None:
    shown = redact(f"http://h/x?password=secret{end} refused")
    assert shown == f"http://h/x?password=***{end} refused"


@pytest.mark.parametrize(
    "text",
    [
        "rtsp://camera:554/stream",
        "demo:?seconds=8&seed=4",
        "http://h/x?channel=1&stream=0&design=2&author=me&tokens=5&monkey=1&sessions=2",
        "mqtt.user = 'a b' is not allowed",
        "cannot open rtsp://10.0.0.7/1: refused",
        "a film at 12:30 in /videos/cat.mp4",
        "http://[::1]:8000/x",
        "rtsp://camera:8554",
    ],
)
def test_a_text_without_a_password_stays_as_it_is(text: str) -> None:
    assert redact(text) == text


def test_two_urls_in_a_line_keep_their_hosts() -> None:
    assert redact("rtsp://a:b@h1/1 rtsp://c:d@h2/2") == "rtsp://***@h1/1 rtsp://***@h2/2"


def test_what_cannot_be_shown_is_hidden() -> None:
    class Broken:
        def __str__(self) -> str:
            raise OSError

    assert redact(Broken()) == "(hidden)"
