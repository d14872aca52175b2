"""The flags of a source, the list of devices, and mistakes with either: one plain sentence each."""

from __future__ import annotations

from pathlib import Path

import pytest

from clients.options import PASSWORD_VARIABLE, SourceFlags, source_options
from omnidrop_stream.errors import ConfigError, MissingDependency, UsageError
from runtime.sources import devices, open_source
from runtime.sources.devices import CameraDevice, MicrophoneDevice
from runtime.sources.options import SourceOptions
from tests.clients.conftest import Omnidrop


def test_flags_that_are_not_given_leave_the_defaults() -> None:
    assert source_options(SourceFlags(), {}) == SourceOptions()


def test_each_flag_reaches_its_option(tmp_path: Path) -> None:
    authorities = tmp_path / "ca.pem"
    authorities.write_text("certificate", "utf-8")
    flags = SourceFlags(
        microphone="2",
        camera_backend="opencv",
        camera_size="640x360",
        camera_fps=15.0,
        user="me",
        transport="udp",
        tls_ca_file=authorities,
        tls_no_verify=True,
        video_stream=1,
        audio_stream=2,
        hwaccel="cuda",
        open_timeout=7.0,
        stall_timeout=8.0,
        wait=True,
    )
    assert source_options(flags, {}) == SourceOptions(
        microphone="2",
        camera_backend="opencv",
        camera_size="640x360",
        camera_fps=15.0,
        user="me",
        transport="udp",
        tls_ca_file=str(authorities),
        tls_verify=False,
        video_stream=1,
        audio_stream=2,
        hwaccel="cuda",
        open_timeout_s=7.0,
        stall_timeout_s=8.0,
        wait_for_first=True,
    )


def test_the_password_comes_from_a_file_or_the_environment_and_is_never_shown(
    tmp_path: Path,
) -> None:
    path = tmp_path / "secret"
    path.write_text("hunter2 @:/#\nsecond line\n", "utf-8")
    environment = {PASSWORD_VARIABLE: "other"}
    given = source_options(SourceFlags(password_file=path), environment)
    assert given.password.get_secret_value() == "hunter2 @:/#"
    assert "hunter2" not in repr(given)
    assert source_options(SourceFlags(), environment).password.get_secret_value() == "other"


@pytest.mark.parametrize(
    ("flag", "value", "words"),
    [
        ("--camera-size", "12", "1280x720"),
        ("--camera-fps", "0", "more than 0"),
        ("--camera-backend", "vlc", "auto, pyav or opencv"),
        ("--transport", "http", "tcp or udp"),
        ("--open-timeout", "0", "from 0.1 to 300"),
        ("--stall-timeout", "1000", "from 0.1 to 300"),
        ("--video-stream", "-1", "a number from 0 on"),
        ("--hwaccel", "CUDA!", "none, auto"),
        ("--hwaccel", "foo", "--hwaccel = 'foo' is not allowed: give none, auto, "),
        ("--password-file", "no/such/file", "cannot be read"),
        ("--tls-ca-file", "no/such/file", "cannot be read"),
    ],
)
def test_a_value_that_is_not_allowed_is_refused_by_name(
    omnidrop: Omnidrop, flag: str, value: str, words: str
) -> None:
    for command in (["ask", "camera:", "What?"], ["live", "camera:"]):
        ran = omnidrop(*command, flag, value)
        assert ran.code == 2
        (line,) = ran.err.splitlines()
        assert flag in line
        assert words in line


def test_an_empty_password_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("\n", "utf-8")
    with pytest.raises(UsageError, match=r"--password-file .* is empty"):
        source_options(SourceFlags(password_file=path), {})


def test_there_is_no_flag_for_a_password_itself(omnidrop: Omnidrop) -> None:
    ran = omnidrop("live", "rtsp://camera/1", "--password", "hunter2")
    assert ran.code == 2
    assert "hunter2" not in ran.err + ran.out


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("camera:97", "there is no such camera"),
        ("camera:no such name", "there is no such camera"),
        ("camera:/dev/video97", "there is no such camera"),
        ("camera:97+mic:default", "there is no such camera"),
        ("mic:97", "there is no such microphone"),
        ("mic:no such name", "there is no such microphone"),
    ],
)
def test_a_device_that_does_not_exist_is_one_sentence_with_the_command_that_helps(
    omnidrop: Omnidrop, source: str, words: str
) -> None:
    pytest.importorskip("sounddevice", reason="no sounddevice or no PortAudio here")
    ran = omnidrop("ask", source, "What?")
    assert ran.code == 3
    (line,) = ran.err.splitlines()
    assert words in line
    assert "omnidrop devices" in line


def test_a_microphone_beside_a_file_is_refused(omnidrop: Omnidrop) -> None:
    ran = omnidrop("ask", "demo:", "What?", "--microphone", "default")
    assert ran.code == 2
    assert "Leave --microphone out" in ran.err


CAMERA = CameraDevice(0, "Front \x1b[31m", "/dev/video0")
MICROPHONE = MicrophoneDevice(3, "USB", 1, 48000.0, "ALSA", True)


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "list_cameras", lambda: [CAMERA])
    monkeypatch.setattr(devices, "list_microphones", lambda: [MICROPHONE])


def test_devices_lists_both_with_what_to_type(omnidrop: Omnidrop, listed: None) -> None:
    ran = omnidrop("devices")
    assert ran.code == 0
    assert ran.out.splitlines() == [
        "cameras:",
        "  camera:0  Front \N{REPLACEMENT CHARACTER}[31m, /dev/video0",
        "microphones:",
        "  mic:3  USB (default), ALSA, 48000 Hz, 1 channel",
        "Use them: omnidrop live camera:0+mic:3, or only omnidrop live",
    ]


def test_devices_in_json_is_one_line(omnidrop: Omnidrop, listed: None) -> None:
    (message,) = omnidrop("devices", "--json").messages
    assert (message["v"], message["type"], message["note"]) == (1, "devices", "")
    assert [(one["kind"], one["type"]) for one in message["devices"]] == [
        ("camera", "camera:0"),
        ("microphone", "mic:3"),
    ]


def test_devices_without_any_or_without_portaudio_says_so(
    omnidrop: Omnidrop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> list[MicrophoneDevice]:
        raise MissingDependency("apt-get install libportaudio2")

    monkeypatch.setattr(devices, "list_cameras", list)
    monkeypatch.setattr(devices, "list_microphones", missing)
    ran = omnidrop("devices")
    assert ran.code == 0
    assert "cameras: none found" in ran.out
    assert "omnidrop live demo:" in ran.out
    assert "apt-get install libportaudio2" in ran.err


def test_live_without_a_source_or_a_device_is_one_sentence(
    omnidrop: Omnidrop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "list_cameras", list)
    monkeypatch.setattr(devices, "list_microphones", list)
    ran = omnidrop("live")
    assert ran.code == 3
    (line,) = ran.err.splitlines()
    assert "omnidrop devices" in line
    assert "omnidrop live demo:" in line


def test_a_device_that_is_none_is_refused_for_a_source_that_is_not_decoded_too() -> None:
    with pytest.raises(ConfigError, match="hwaccel = 'foo' is not allowed: give none, auto, "):
        open_source("demo:", options=SourceOptions(hwaccel="foo"))
