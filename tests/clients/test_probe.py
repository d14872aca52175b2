"""``omnidrop probe``: a table for people, one JSON line for programs, and no password in either."""

from __future__ import annotations

from pathlib import Path

from runtime.media import write_mp4
from tests.clients.conftest import Omnidrop
from tests.runtime.conftest import grey_frames, tone
from tests.runtime.servers import refused_port

__all__ = ["refused_port"]


def film(folder: Path) -> Path:
    path = folder / "film.mp4"
    write_mp4(path, grey_frames([n / 25 for n in range(50)], 160, 90), tone(2.0), rate_fps=25)
    return path


def test_a_file_is_shown_as_a_table_with_one_line_of_advice(
    omnidrop: Omnidrop, tmp_path: Path
) -> None:
    ran = omnidrop("probe", str(film(tmp_path)), "--seconds", "1")
    lines = ran.out.splitlines()
    assert ran.code == 0
    assert lines[0].endswith("film.mp4")
    assert any(
        "h264" in line and "160x90, 25 fps told, 25.0 fps measured" in line for line in lines
    )
    assert any("aac" in line and "16000 Hz, mono" in line for line in lines)
    assert lines[-1].startswith("-> ")


def test_json_is_one_line_with_the_same_facts(omnidrop: Omnidrop, tmp_path: Path) -> None:
    (report,) = omnidrop("probe", str(film(tmp_path)), "--seconds", "1", "--json").messages
    assert (report["v"], report["type"], report["live"]) == (1, "probe", False)
    assert (report["video"]["codec"], report["fps"]) == ("h264", 25.0)
    assert report["audio_drift"] is None


def test_a_camera_that_is_not_there_ends_with_its_code_and_without_its_password(
    omnidrop: Omnidrop, refused_port: int
) -> None:
    ran = omnidrop("probe", f"http://me:se%20cret@127.0.0.1:{refused_port}/x", "--debug")
    assert ran.code == 3
    assert "nothing listens" in ran.err
    assert "cret" not in ran.out + ran.err


def test_a_bad_length_is_a_usage_error(omnidrop: Omnidrop) -> None:
    assert omnidrop("probe", "demo:", "--seconds", "0").code == 2
