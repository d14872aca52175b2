"""What there is on this machine, what to type for it, and what is taken where nothing is named."""

from __future__ import annotations

import fcntl
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from omnidrop_stream.errors import MissingDependency, SourceNotFound
from runtime.sources import devices
from runtime.sources.devices import (
    CameraDevice,
    MicrophoneDevice,
    chosen,
    default_source,
    list_cameras,
)
from tests.runtime.sound_server import SoundServer, sound_server

__all__ = ["sound_server"]

CAMERA = CameraDevice(0, "Front", "/dev/video0")
MICROPHONE = MicrophoneDevice(3, "USB", 1, 48000.0, "ALSA", True)


def test_a_sound_servers_microphone_is_listed(sound_server: SoundServer) -> None:
    listed = devices.list_microphones()
    assert any(one.default for one in listed)
    assert all(one.type_this == f"mic:{one.number}" and one.system == "ALSA" for one in listed)
    assert {"default", "pulse"} <= {one.name for one in listed}


def test_cameras_are_listed_by_number_with_their_names(tmp_path: Path) -> None:
    for number, name in ((12, "Twelve"), (7, "Seven")):
        (tmp_path / f"video{number}").mkdir()
        (tmp_path / f"video{number}" / "name").write_text(name + "\n", "utf-8")
    (tmp_path / "v4l-subdev0").mkdir()
    found = list_cameras("linux", tmp_path)
    assert [(one.type_this, one.name, one.place) for one in found] == [
        ("camera:7", "Seven", "/dev/video7"),
        ("camera:12", "Twelve", "/dev/video12"),
    ]


@pytest.mark.parametrize(
    ("capabilities", "own", "captures"),
    [(0x85200001, 0x05200001, True), (0x85200001, 0x04A00000, False), (0x1, 0, True)],
)
def test_a_node_of_metadata_is_no_camera(
    monkeypatch: pytest.MonkeyPatch, capabilities: int, own: int, captures: bool
) -> None:
    def told(descriptor: int, request: int, answer: bytearray) -> int:
        assert (request, len(answer)) == (0x80685600, 104)
        struct.pack_into("=II", answer, 84, capabilities, own)
        return 0

    monkeypatch.setattr(fcntl, "ioctl", told)
    assert devices._captures(Path("/dev/null")) is captures


@pytest.mark.parametrize("platform", ["darwin", "win32", "plan9"])
def test_where_ffmpeg_cannot_list_cameras_there_are_none(platform: str) -> None:
    assert list_cameras(platform) == []


@pytest.mark.parametrize(
    ("wanted", "index"),
    [
        ("front", 0),
        ("FRONT", 0),
        ("back cam", 2),
        ("Back", 1),
        ("cam", 2),
        ("c", None),
        ("x", None),
    ],
)
def test_a_name_means_the_same_text_or_the_only_one_that_holds_it(
    wanted: str, index: int | None
) -> None:
    assert chosen(wanted, ["Front", "Back", "Back Cam"]) == index


Machine = Callable[..., None]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine with these cameras and microphones."""

    def has(cameras: list[CameraDevice], microphones: list[MicrophoneDevice] | Exception) -> None:
        def listed() -> list[MicrophoneDevice]:
            if isinstance(microphones, Exception):
                raise microphones
            return microphones

        monkeypatch.setattr(devices, "list_cameras", lambda: cameras)
        monkeypatch.setattr(devices, "list_microphones", listed)

    return has


def test_without_a_name_the_first_camera_and_the_default_microphone_are_taken(
    machine: Machine,
) -> None:
    machine([CAMERA], [MICROPHONE])
    assert default_source(None)[0] == "camera:0+mic:default"
    assert default_source("3")[0] == "camera:0+mic:3"
    assert default_source("none") == (
        "camera:0",
        "the camera Front (camera:0) without sound: as asked",
    )


def test_either_alone_is_taken_and_told(machine: Machine) -> None:
    machine([CAMERA], [])
    text, told = default_source(None)
    assert (text, "no microphone was found" in told) == ("camera:0", True)
    machine([], [MICROPHONE])
    text, told = default_source(None)
    assert (text, "no camera was found" in told) == ("mic:default", True)
    machine([CAMERA], MissingDependency("install PortAudio"))
    text, told = default_source(None)
    assert (text, "install PortAudio" in told) == ("camera:0", True)


def test_neither_is_one_sentence_with_what_helps(machine: Machine) -> None:
    machine([], [])
    with pytest.raises(SourceNotFound, match=r"omnidrop devices.*omnidrop live demo:"):
        default_source(None)
    machine([], [MICROPHONE])
    with pytest.raises(SourceNotFound):
        default_source("none")
