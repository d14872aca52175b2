"""A media file as a source: real clips, own clips of every shape and rate, and what is no media."""

from __future__ import annotations

import itertools
import os
import socket
import wave
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import av
import av.error
import numpy as np
import pytest

from omnidrop_stream.chunker import Chunker, ChunkerSettings
from omnidrop_stream.errors import SourceDenied, SourceError, SourceNotFound, SourceUnreadable
from omnidrop_stream.types import Chunk, Frame, Samples, StreamKind
from runtime.chunks import chunks_of
from runtime.sources import (
    FileSource,
    Source,
    SourceInfo,
    SourceOptions,
    SourceStats,
    open_source,
)
from tests.streams import all_same

Clip = Callable[..., Path]


def chunked(path: Path, fps: float | None = 2.0) -> tuple[list[Chunk], SourceInfo, SourceStats]:
    with FileSource(path, fps=fps) as source:
        settings = ChunkerSettings(kind=source.info.kind)
        return list(chunks_of(source, Chunker(settings))), source.info, source.stats


def greys(chunk: Chunk) -> list[int]:
    assert chunk.frames is not None
    return [int(frame.mean()) for frame in chunk.frames]


def refused(path: Path | str) -> SourceError:
    with pytest.raises(SourceError) as caught, FileSource(path) as source:
        list(source)
    message = str(caught.value)
    assert Path(path).name in message
    assert message.endswith(".")
    assert "\n" not in message
    return caught.value


def remuxed(target: Path, *sources: Path) -> Path:
    """All streams of the sources, undecoded, in one file."""
    given = [av.open(str(path)) for path in sources]
    with av.open(str(target), "w") as out:
        made = [{s.index: out.add_stream_from_template(s) for s in one.streams} for one in given]
        for one, streams in zip(given, made, strict=True):
            for packet in one.demux():
                if packet.dts is not None:
                    packet.stream = streams[packet.stream.index]
                    out.mux(packet)
            one.close()
    return target


# Own clips


def test_a_clip_with_sound_becomes_whole_chunks(clip: Clip) -> None:
    chunks, info, stats = chunked(clip(6.0))
    assert info.kind is StreamKind.AV
    assert (info.width, info.height, info.fps, info.live) == (160, 90, 25, False)
    assert info.duration_s == pytest.approx(6, abs=0.1)
    assert [len(c.frames) for c in chunks] == [4, 4, 4]
    assert [len(c.audio) for c in chunks] == [32000] * 3
    assert not any(c.flags.repeated_frames or c.flags.silence_filled_samples for c in chunks)
    assert (stats.decode_errors, stats.corrupt_frames) == (0, 0)
    assert not stats.truncated(info)


def test_pictures_come_at_their_own_times(clip: Clip) -> None:
    chunks, _, _ = chunked(clip(6.0))
    assert [value for c in chunks for value in greys(c)] == pytest.approx(
        [20 + 10 * n for n in range(12)], abs=2
    )


def test_sound_arrives_at_its_own_time_and_level(clip: Clip) -> None:
    chunks, _, _ = chunked(clip(6.0))
    pcm = np.concatenate([c.audio for c in chunks])[4000:92000]
    expected = 0.4 * np.sin(2 * np.pi * 440 * np.arange(4000, 92000) / 16000)
    assert np.corrcoef(pcm, expected)[0, 1] > 0.999
    assert np.abs(pcm).max() == pytest.approx(0.4, abs=0.03)


def test_a_clip_without_sound_is_a_stream_of_pictures(clip: Clip) -> None:
    chunks, info, _ = chunked(clip(5.0, audio=False))
    assert info.kind is StreamKind.VIDEO
    assert all(c.audio is None and not c.flags.audio_absent for c in chunks)
    assert [len(c.frames) for c in chunks] == [4, 4, 2]


def test_a_clip_without_pictures_is_a_stream_of_sound(clip: Clip) -> None:
    chunks, info, _ = chunked(clip(5.0, video=False))
    assert info.kind is StreamKind.AUDIO
    assert (info.width, info.height, info.fps) == (None, None, None)
    assert all(c.frames is None for c in chunks)
    assert sum(len(c.audio) for c in chunks) == pytest.approx(80000, abs=1100)


@pytest.mark.parametrize("size", [(120, 90), (90, 160), (97, 55), (162, 91)])
def test_every_shape_of_picture_keeps_its_size(clip: Clip, size: tuple[int, int]) -> None:
    chunks, info, _ = chunked(clip(2.0, size=size, audio=False))
    assert (info.width, info.height) == size
    assert chunks[0].frames.shape == (4, size[1], size[0], 3)


@pytest.mark.parametrize("fps", [24000 / 1001, 30.0, 60.0])
def test_every_frame_rate_gives_the_frames_nearest_to_the_slots(clip: Clip, fps: float) -> None:
    chunks, _, stats = chunked(clip(4.0, fps=fps, audio=False))
    assert [value for c in chunks for value in greys(c)] == pytest.approx(
        [20 + 10 * n for n in range(8)], abs=2
    )
    assert stats.frames == 8
    assert stats.decoded_frames == round(4 * fps)


@pytest.mark.parametrize(
    "shape",
    [
        {"fps": 24000 / 1001},
        {"fps": 30.0},
        {"fps": 7.0},
        {"fps": 25.0, "audio": False, "seconds": 3.3},
        {"times": (0, 0.1, 0.13, 0.4, 0.61, 0.9, 1.24, 1.26, 1.7, 2.05, 2.3, 2.49, 2.76, 3.1)},
    ],
)
def test_thinning_early_changes_no_chunk(clip: Clip, shape: dict[str, object]) -> None:
    path = clip(**{"seconds": 4.0, **shape})
    assert all_same(chunked(path, fps=2.0)[0], chunked(path, fps=None)[0])


def test_with_a_variable_frame_rate_a_picture_stays_until_the_next(clip: Clip) -> None:
    chunks, _, _ = chunked(clip(6.0, times=(0.0, 0.3, 3.4, 5.9)))
    assert [value for c in chunks for value in greys(c)] == pytest.approx(
        [20, 26, 26, 26, 26, 26, 26, 88, 88, 88, 88, 88], abs=2
    )
    assert not any(c.flags.repeated_frames for c in chunks)


def test_reading_twice_gives_the_same_bits(clip: Clip) -> None:
    path = clip(5.0)
    assert all_same(chunked(path)[0], chunked(path)[0])


def test_items_come_in_order_of_time(clip: Clip) -> None:
    with FileSource(clip(5.0)) as source:
        times = [item.time_s for item in source]
    assert times == sorted(times)
    assert times[0] == 0


def test_a_clip_turned_by_a_quarter_is_shown_upright(clip: Clip, tmp_path: Path) -> None:
    data = bytearray(clip(2.0, size=(160, 90), audio=False).read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40
    turned = [0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30]  # 90 degrees clockwise
    data[matrix : matrix + 36] = b"".join(v.to_bytes(4, "big", signed=True) for v in turned)
    path = tmp_path / "turned.mp4"
    path.write_bytes(data)
    chunks, info, _ = chunked(path)
    assert (info.width, info.height) == (90, 160)
    assert chunks[0].frames.shape == (4, 160, 90, 3)


def test_a_turned_picture_is_turned_the_right_way(tmp_path: Path) -> None:
    from runtime.media import write_mp4

    image = np.zeros((64, 96, 3), np.uint8)
    image[:16, :16] = 255  # a white corner, top left
    path = tmp_path / "corner.mp4"
    write_mp4(path, [Frame(image, n / 10) for n in range(10)])
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40
    turned = [0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30]  # x' = -y, y' = x: clockwise
    data[matrix : matrix + 36] = b"".join(v.to_bytes(4, "big", signed=True) for v in turned)
    path.write_bytes(data)
    shown = chunked(path)[0][0].frames[0]
    assert shown[:12, -12:].mean() > 230
    assert shown[:12, :12].mean() < 25


def test_sound_of_several_channels_and_another_rate_becomes_their_mean(tmp_path: Path) -> None:
    path = tmp_path / "stereo.wav"
    left = (0.8 * 32767 * np.sin(2 * np.pi * 300 * np.arange(44100) / 44100)).astype(np.int16)
    with wave.open(str(path), "wb") as out:
        out.setparams((2, 2, 44100, 0, "NONE", ""))
        out.writeframes(np.stack([left, np.zeros_like(left)], axis=1).tobytes())
    chunks, info, _ = chunked(path)
    assert info.kind is StreamKind.AUDIO
    assert len(chunks[0].audio) == 16000
    assert np.abs(chunks[0].audio).max() == pytest.approx(0.4, abs=0.01)


def test_a_stopped_source_ends_after_the_item_at_hand(clip: Clip) -> None:
    with FileSource(clip(5.0)) as source:
        for _ in source:
            source.stop()
        assert source.stats.frames + (source.stats.samples > 0) == 1


def test_leaving_the_block_early_closes_the_file(clip: Clip) -> None:
    open_files = Path("/proc/self/fd")
    if not open_files.is_dir():
        pytest.skip("no /proc here: open files cannot be counted")
    path = clip(5.0)
    with FileSource(path) as source:
        next(iter(source))
    links = [os.readlink(link) for link in open_files.iterdir() if link.is_symlink()]
    assert str(path) not in links


def test_info_is_not_to_be_had_before_opening(clip: Clip) -> None:
    with pytest.raises(RuntimeError, match="with block"):
        _ = FileSource(clip(5.0)).info


def test_of_several_streams_the_largest_picture_is_read(clip: Clip, tmp_path: Path) -> None:
    small, large = clip(2.0, size=(64, 36), audio=False), clip(2.0, audio=False)
    both = remuxed(tmp_path / "three.mp4", small, large, small)
    _, info, _ = chunked(both)
    assert (info.width, info.height) == (160, 90)


@pytest.fixture
def three(clip: Clip, tmp_path: Path) -> Path:
    sources = clip(2.0, size=(64, 36)), clip(3.0, audio=False), clip(2.0, video=False)
    return remuxed(tmp_path / "three.mp4", *sources)


def test_of_several_streams_the_ones_asked_for_are_read(three: Path) -> None:
    assert sizes(open_source(str(three))) == {(90, 160, 3)}
    options = SourceOptions(video_stream=0, audio_stream=1)
    for name in (str(three), f"file:{three}"):
        assert sizes(open_source(name, options=options)) == {(36, 64, 3)}
    with pytest.raises(SourceNotFound), open_source(name, options=SourceOptions(audio_stream=7)):
        pass


def sizes(source: Source) -> set[tuple[int, ...]]:
    with source:
        return {item.image.shape for item in source if isinstance(item, Frame)}


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        ({"video_stream": 2}, ["three.mp4: it has no video stream 2", "0: h264 64x36", "1: h264"]),
        ({"audio_stream": 7}, ["three.mp4: it has no audio stream 7", "0: aac 16000 Hz"]),
    ],
)
def test_a_stream_that_a_file_has_not_is_answered_with_those_it_has(
    three: Path, wanted: dict[str, int], told: list[str]
) -> None:
    with pytest.raises(SourceNotFound) as caught, FileSource(three, **wanted):
        pass
    assert all(part in str(caught.value) for part in told)


# Real clips


def test_of_several_streams_the_largest_picture_and_the_best_sound_are_read(
    shared_fixtures: Path,
) -> None:
    chunks, info, stats = chunked(shared_fixtures / "nasa_13013.mp4")
    assert (info.kind, info.width, info.height) == (StreamKind.AV, 480, 270)
    assert info.fps == pytest.approx(29.97, abs=0.01)
    assert [c.start_s for c in chunks] == [0, 2, 4, 6, 8, 10, 12]
    assert sum(len(c.audio) for c in chunks) == pytest.approx(13.056 * 16000, abs=700)
    assert not any(c.flags.repeated_frames for c in chunks)
    assert stats.decode_errors == 0


def test_real_speech_is_resampled_without_losing_a_sample(shared_fixtures: Path) -> None:
    chunks, info, _ = chunked(shared_fixtures / "jfk.flac")
    assert info.kind is StreamKind.AUDIO
    assert sum(len(c.audio) for c in chunks) == 176000
    assert {c.epoch for c in chunks} == {0}
    assert not any(c.flags.silence_filled_samples for c in chunks)


# Bad input


def test_a_missing_file_is_not_found() -> None:
    assert isinstance(refused("nowhere/at-all.mp4"), SourceNotFound)


def test_a_link_to_nothing_is_not_found(tmp_path: Path) -> None:
    (tmp_path / "link.mp4").symlink_to(tmp_path / "gone.mp4")
    assert isinstance(refused(tmp_path / "link.mp4"), SourceNotFound)


def test_a_directory_is_refused_by_name(tmp_path: Path) -> None:
    error = refused(tmp_path)
    assert isinstance(error, SourceUnreadable)
    assert "directory" in str(error)


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    assert "empty" in str(refused(tmp_path / "empty.mp4"))


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    assert "no ordinary file" in str(refused(tmp_path / "pipe.mp4"))


def test_a_file_without_permission_is_denied(clip: Clip, monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(*_: object, **__: object) -> NoReturn:
        raise av.error.PermissionError(13, "Permission denied")

    monkeypatch.setattr(av, "open", deny)  # root may read everything, so the kernel cannot be asked
    assert isinstance(refused(clip(5.0)), SourceDenied)


@pytest.mark.parametrize("name", ["noise.mp4", "noise.mkv", "noise.mp3", "noise"])
def test_noise_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(np.random.default_rng(1).bytes(20000))
    assert isinstance(refused(tmp_path / name), SourceUnreadable)


@pytest.mark.parametrize("name", ["text.txt", "text.mp4", "text.bin"])
def test_a_text_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("This is no film.\n" * 500)
    assert isinstance(refused(tmp_path / name), SourceUnreadable)


def test_a_file_cut_before_its_index_is_refused(clip: Clip, tmp_path: Path) -> None:
    data = clip(5.0).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) // 2])
    assert isinstance(refused(tmp_path / "cut.mp4"), SourceUnreadable)


def test_a_file_with_subtitles_only_is_refused(tmp_path: Path) -> None:
    (tmp_path / "words.srt").write_text("1\n00:00:00,000 --> 00:00:02,000\nhello\n")
    assert "neither pictures nor sound" in str(refused(tmp_path / "words.srt"))


def test_of_a_cut_file_that_can_be_read_what_is_there_is_used(clip: Clip, tmp_path: Path) -> None:
    path = remuxed(tmp_path / "whole.mkv", clip(6.0))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    chunks, info, stats = chunked(path)
    assert 1 <= len(chunks) <= 2
    assert stats.truncated(info)


def test_of_a_file_that_is_corrupt_in_the_middle_the_rest_is_used(
    clip: Clip, tmp_path: Path
) -> None:
    data = bytearray(clip(6.0).read_bytes())
    start = data.index(b"mdat")
    index = data.index(b"moov")
    middle = start + (index - start) // 2
    noise = np.random.default_rng(0).bytes((index - start) // 10)
    data[middle : middle + len(noise)] = noise
    path = tmp_path / "scratched.mp4"
    path.write_bytes(data)
    chunks, _, stats = chunked(path)
    assert stats.decode_errors + stats.corrupt_frames > 0
    assert chunks[-1].end_s == pytest.approx(6, abs=0.2)
    assert greys(chunks[0]) == pytest.approx([20, 30, 40, 50], abs=2)


def test_no_error_names_a_password(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFound) as caught, FileSource("rtsp://me:secret@camera/1"):
        pass
    assert "secret" not in str(caught.value)


def test_a_file_name_cannot_make_the_decoder_open_anything_else() -> None:
    for name in ("concat:a.mp4|b.mp4", "http://127.0.0.1:9/x.mp4", "pipe:0"):
        with pytest.raises(SourceNotFound), FileSource(name):
            pass


def test_a_playlist_cannot_reach_for_the_network(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        port = server.getsockname()[1]
        listed = f"#EXTM3U\n#EXTINF:2,\nhttp://127.0.0.1:{port}/x.ts\n#EXT-X-ENDLIST\n"
        (tmp_path / "list.m3u8").write_text(listed)
        assert isinstance(refused(tmp_path / "list.m3u8"), SourceUnreadable)
        with pytest.raises(BlockingIOError):  # nobody has knocked
            server.accept()


def test_samples_stay_within_one(clip: Clip) -> None:
    with FileSource(clip(5.0)) as source:
        runs = [item.pcm for item in itertools.islice(source, 50) if isinstance(item, Samples)]
    assert np.abs(np.concatenate(runs)).max() <= 1
