"""The microphone: what PortAudio says and does, and what comes of it; with a real sound server."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
import wave
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from omnidrop_stream.errors import MissingDependency, SourceError, SourceNotFound
from omnidrop_stream.types import SAMPLE_RATE, Samples
from runtime.sources import Interruption, MicrophoneSource, Source
from runtime.sources.device import Patience
from runtime.sources.microphone import Ring
from runtime.sources.portaudio import Block
from tests.runtime.conftest import tone
from tests.runtime.fake_portaudio import FakeSound, PortAudioError
from tests.runtime.sound_server import SoundServer, sound_server

__all__ = ["sound_server"]

SOON_S = 10.0


class Listener:
    """Reads a source in a thread of its own and keeps what came."""

    def __init__(self, source: Source) -> None:
        self.source, self.items = source, []
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Listener:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.source.stop()
        self._thread.join(SOON_S)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        try:
            with self.source as source:
                for item in source:
                    self.items.append(item)
        except BaseException as error:
            self.error = error

    def until(self, there: Callable[[], object]) -> None:
        for _ in range(round(SOON_S / 0.01)):
            if there():
                return
            assert self.error is None, repr(self.error)
            threading.Event().wait(0.01)
        raise AssertionError(f"not in time: {self.source.state}, {len(self.items)} items")

    def sound(self) -> list[Samples]:
        return [item for item in list(self.items) if isinstance(item, Samples)]

    def count(self, kind: type) -> int:
        return sum(isinstance(item, kind) for item in list(self.items))


@pytest.fixture
def sound() -> FakeSound:
    return FakeSound(time.monotonic)


def microphone(sound: FakeSound, wanted: str = "", **patience: object) -> MicrophoneSource:
    limits = Patience(**{"open_s": 5.0, "stall_s": 5.0, **patience})
    return MicrophoneSource(wanted, patience=limits, load=lambda: sound, draw=lambda: 0.0)


@contextlib.contextmanager
def heard(sound: FakeSound, source: MicrophoneSource) -> Iterator[Listener]:
    with Listener(source) as listener:
        assert sound.started.wait(SOON_S)
        yield listener


# -- with a device that the test drives


def test_it_asks_for_16_khz_mono_and_the_adc_clock_is_the_time(sound: FakeSound) -> None:
    with heard(sound, microphone(sound)) as listener:
        sound.streams[0].speak(10)
        listener.until(lambda: listener.count(Samples) == 10)
        assert listener.source.origin_s == pytest.approx(sound.streams[0].at_s - 0.2, abs=2e-3)
    settings = sound.streams[0].settings
    assert (settings["samplerate"], settings["channels"], settings["blocksize"]) == (16000, 1, 320)
    assert [run.time_s for run in listener.sound()] == pytest.approx(np.arange(10) * 0.02)
    assert not sound.streams[0].active


def test_a_device_that_denies_the_rate_is_taken_at_its_own_and_resampled(sound: FakeSound) -> None:
    sound.denied_rates = {16000}
    with heard(sound, microphone(sound)) as listener:
        sound.streams[0].speak(50)
        listener.until(lambda: sum(len(run.pcm) for run in listener.sound()) > 0.95 * SAMPLE_RATE)
    assert sound.streams[0].settings["samplerate"] == 48000
    runs = listener.sound()
    ends = [run.time_s + len(run.pcm) / SAMPLE_RATE for run in runs]
    assert [run.time_s for run in runs[1:]] == pytest.approx(ends[:-1], abs=1e-6)
    assert np.concatenate([run.pcm for run in runs])[500:-500] == pytest.approx(0.25, abs=0.01)


def test_a_device_that_denies_its_own_rate_too_gets_a_usual_one(sound: FakeSound) -> None:
    sound.denied_rates = {16000, 48000}
    with heard(sound, microphone(sound)):
        assert sound.streams[0].settings["samplerate"] == 44100


def test_sound_that_the_system_lost_is_counted_and_leaves_a_hole(sound: FakeSound) -> None:
    with heard(sound, microphone(sound)) as listener:
        sound.streams[0].speak(5)
        sound.streams[0].speak(5, late_s=0.08, overflow=True)
        listener.until(lambda: listener.count(Samples) == 10)
        assert listener.source.stats.overflows == 1
    times = [run.time_s for run in listener.sound()]
    assert times[5] - times[4] == pytest.approx(0.10, abs=2e-3)
    assert times[6] - times[5] == pytest.approx(0.02, abs=1e-6)


def test_a_reader_that_is_late_loses_the_oldest_and_it_is_counted() -> None:
    ring = Ring(most_s=0.1)
    for number in range(8):
        ring.put(Block(np.full((320, 1), number, np.float32), 16000, number * 0.02, False))
    assert [round(float(block.pcm[0, 0])) for block in ring.take(0.0)] == [3, 4, 5, 6, 7]
    assert ring.dropped_s == pytest.approx(0.06)
    assert ring.take(0.0) == []


def test_a_lost_microphone_is_looked_for_anew_and_opened_again(sound: FakeSound) -> None:
    with heard(sound, microphone(sound, "usb")) as listener:
        sound.streams[0].speak(3)
        listener.until(lambda: listener.count(Samples) == 3)
        sound.names = ["built-in"]
        sound.streams[0].active = False
        listener.until(lambda: listener.source.state.code == "not_found")
        sound.names = ["other", "USB camera sound", "built-in"]
        listener.source.retry_now()
        listener.until(lambda: len(sound.streams) == 2)
        sound.streams[1].speak(3)
        listener.until(lambda: listener.count(Samples) == 6)
        state = listener.source.state
    assert sound.looked >= 2
    assert listener.count(Interruption) == 1
    assert (state.name, state.reconnects, state.audio, state.video) == ("live", 1, True, None)
    assert sound._initialized == 1  # as it was


def test_a_microphone_that_gives_nothing_is_opened_again(sound: FakeSound) -> None:
    with heard(sound, microphone(sound, stall_s=0.2)) as listener:
        sound.streams[0].speak(1)
        listener.until(lambda: len(sound.streams) == 2)
        sound.streams[1].speak(1)
        listener.until(lambda: listener.count(Interruption) == 1)
    told = next(item for item in listener.items if isinstance(item, Interruption))
    assert "no sound for 0.2 s" in told.reason


def test_while_others_use_portaudio_it_is_not_taken_from_them(sound: FakeSound) -> None:
    sound._initialized = 2
    with pytest.raises(SourceNotFound, match=r"There are 0 .built-in., 1 .USB camera sound.\."):
        microphone(sound, "headset").__enter__()
    assert (sound.looked, sound._initialized) == (0, 2)


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (PortAudioError("Device unavailable", -9985), "busy", "in use by another program"),
        (PortAudioError("Invalid device", -9996), "not_found", "no such microphone"),
        (PortAudioError("Invalid sample rate", -9997), "unreadable", "denies 16 kHz"),
        (PortAudioError("Unanticipated host error", -9999), "unreadable", "Unanticipated host"),
    ],
)
def test_each_refusal_has_its_code_and_its_sentence(
    sound: FakeSound, error: Exception, code: str, words: str
) -> None:
    sound.opening = error
    source = microphone(sound)
    with pytest.raises(SourceError, match=words):
        source.__enter__()
    assert source.state.code == code


def test_a_sound_system_that_hangs_is_told_and_left_behind(sound: FakeSound) -> None:
    sound.block = threading.Event()
    source = microphone(sound, open_s=0.2)
    with pytest.raises(SourceError, match="does not answer"):
        source.__enter__()
    source.stop()
    with Listener(microphone(sound, open_s=60.0)) as hanging:
        hanging.source.stop()
    sound.block.set()


def test_without_the_package_a_sentence_says_what_to_install() -> None:
    code = "import sys; sys.modules['sounddevice'] = None\n"
    code += "import runtime.sources\n"
    code += "source = runtime.sources.open_source('mic:')\n"
    code += (
        "try:\n    source.__enter__()\nexcept Exception as error:\n    print(type(error), error)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "MissingDependency" in ran.stdout, ran.stderr
    assert "apt-get install libportaudio2" in ran.stdout


def test_a_missing_package_is_not_waited_for(sound: FakeSound) -> None:
    def missing() -> None:
        raise MissingDependency("install it")

    source = MicrophoneSource(patience=Patience(wait_for_first=True), load=missing)
    with pytest.raises(MissingDependency):
        source.__enter__()


# -- with a real sound server


def test_what_is_played_in_the_room_is_heard(sound_server: SoundServer, tmp_path: Path) -> None:
    path = tmp_path / "tone.wav"
    _write_wav(path, np.concatenate([run.pcm for run in tone(1.5, hz=440.0)]))
    with Listener(MicrophoneSource(patience=Patience(stall_s=8))) as listener:
        listener.until(lambda: listener.count(Samples))
        sound_server.play(path)
        overflows = listener.source.stats.overflows
    pcm = np.concatenate([run.pcm for run in listener.sound()])
    loud = np.flatnonzero(np.abs(pcm) > 0.2)
    beep = pcm[loud[0] : loud[-1]]
    assert len(beep) / SAMPLE_RATE == pytest.approx(1.5, abs=0.1)
    spectrum = np.abs(np.fft.rfft(beep * np.hanning(len(beep))))
    assert spectrum.argmax() * SAMPLE_RATE / len(beep) == pytest.approx(440, abs=2)
    assert overflows == 0


def test_a_killed_sound_server_is_seen_and_after_its_restart_sound_comes_again(
    sound_server: SoundServer,
) -> None:
    with Listener(MicrophoneSource(patience=Patience(stall_s=5))) as listener:
        listener.until(lambda: listener.count(Samples) > 10)
        sound_server.kill()
        listener.until(lambda: listener.source.state.name == "offline")
        assert listener.source.state.audio is False
        sound_server.start()
        listener.source.retry_now()
        listener.until(lambda: listener.source.state.name == "live")
        assert listener.source.state.reconnects == 1
    (told,) = [item for item in listener.items if isinstance(item, Interruption)]
    after = listener.items[listener.items.index(told) + 1]
    assert told.at_s == after.time_s


def test_a_source_that_the_server_stops_is_a_stall_and_comes_again(
    sound_server: SoundServer,
) -> None:
    with Listener(MicrophoneSource(patience=Patience(stall_s=1))) as listener:
        listener.until(lambda: listener.count(Samples) > 10)
        sound_server.suspend(True)
        try:
            listener.until(lambda: listener.source.state.name == "offline")
            assert listener.source.state.code in ("timeout", "device_lost")
        finally:
            sound_server.suspend(False)
        listener.source.retry_now()
        listener.until(lambda: listener.source.state.name == "live")


def test_a_frozen_sound_server_delays_nobody_who_stops(sound_server: SoundServer) -> None:
    with Listener(MicrophoneSource(patience=Patience(stall_s=8))) as listener:
        listener.until(lambda: listener.count(Samples) > 10)
        sound_server.freeze()
        began_s = time.monotonic()
        listener.source.stop()
        listener._thread.join(2.0)
        try:
            assert not listener._thread.is_alive()
            assert time.monotonic() - began_s < 2.0
        finally:
            sound_server.thaw()


def _write_wav(path: Path, pcm: np.ndarray) -> None:
    with wave.open(str(path), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(SAMPLE_RATE)
        out.writeframes((pcm * 32767).astype("<i2").tobytes())
