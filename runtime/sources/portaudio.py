"""PortAudio through sounddevice: found when first needed, opened, and told about anew.

PortAudio is one for each process and takes one caller at a time. Its list of devices is a snapshot
of when it was initialised; so before a lost device is looked for again, it is initialised again,
unless somebody else in this process still uses it.
"""

from __future__ import annotations

import importlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from omnidrop_stream.errors import MissingDependency, SourceNotFound, SourceUnreadable
from omnidrop_stream.types import SAMPLE_RATE
from runtime.sources.device import LIST_THEM, DeviceTrouble, Lost
from runtime.sources.devices import chosen

MEND = (
    "microphones need the package sounddevice and the library PortAudio: pip install "
    "'omnidrop-stream[mic]' and, on Debian or Ubuntu, apt-get install libportaudio2"
)
_ONE_CALLER = threading.Lock()
_BLOCK_S, _BUFFER_S = 0.020, 0.100
_LONGEST_DELAY_S = 5.0
_USUAL_RATES = (48000, 44100, 32000, 8000)
_BAD_RATE, _BAD_DEVICE, _UNAVAILABLE, _BAD_CHANNELS = -9997, -9996, -9985, -9998


@dataclass(frozen=True, slots=True)
class Block:
    """What one call-back brought: ``pcm`` f32 [n, channels], the first sample at ``time_s`` of the
    monotonic clock, by the ADC. ``lost_before``: the sound system lost some before it.
    """

    pcm: np.ndarray
    rate_hz: int
    time_s: float
    lost_before: bool

    @property
    def long_s(self) -> float:
        """Its length."""
        return len(self.pcm) / self.rate_hz


def load_portaudio() -> Any:
    """The module sounddevice. Raises MissingDependency with the command that mends it."""
    try:
        with _ONE_CALLER:
            return importlib.import_module("sounddevice")
    except (ModuleNotFoundError, OSError):
        raise MissingDependency(MEND) from None


class Tap:
    """An open microphone that calls back. All but the call-back belongs to the one thread that
    made it. Raises Lost.
    """

    def __init__(
        self, sound: ModuleType | Any, wanted: str, heard: Callable[[Block], None], *, anew: bool
    ) -> None:
        """wanted: empty or ``default``, a number or a name; anew: look for devices again."""
        self._sound, self._heard = sound, heard
        with _ONE_CALLER:
            _initialise(sound, anew)
            try:
                self._begin_or_look_again(wanted, looked=anew)
            except BaseException:
                sound._terminate()
                raise

    def _begin_or_look_again(self, wanted: str, looked: bool) -> None:
        try:
            self._begin(wanted)
        except Lost as lost:
            if looked or lost.trouble.code != "not_found":
                raise
            self._sound._terminate()
            _initialise(self._sound, anew=True)  # it may have been plugged in since
            self._begin(wanted)

    def _begin(self, wanted: str) -> None:
        sound = self._sound
        try:
            number = _number(sound, wanted)
            about = sound.query_devices(number, "input")
            self.name = str(about["name"])
            self.rate_hz, channels = _shape(sound, number, about)
            stream = sound.InputStream(
                device=number,
                samplerate=self.rate_hz,
                channels=channels,
                dtype="float32",
                blocksize=round(_BLOCK_S * self.rate_hz),
                latency=_BUFFER_S,
                callback=self._called,
            )
        except sound.PortAudioError as error:
            raise Lost(trouble_of(error)) from None
        try:
            stream.start()
        except sound.PortAudioError as error:
            stream.close()
            raise Lost(trouble_of(error)) from None
        self._stream = stream

    def _called(self, pcm: np.ndarray, frames: int, times: Any, status: Any) -> None:
        """PortAudio's thread: copy, and nothing else."""
        now_s = time.monotonic()
        delay_s = times.currentTime - times.inputBufferAdcTime
        if not 0 <= delay_s <= _LONGEST_DELAY_S:  # some systems do not tell
            delay_s = frames / self.rate_hz
        lost = bool(status.input_overflow)
        self._heard(Block(pcm.copy(), self.rate_hz, now_s - delay_s, lost))

    @property
    def active(self) -> bool:
        """Whether it still calls back, as far as PortAudio knows."""
        return bool(self._stream.active)

    def close(self) -> None:
        """Give the microphone back; may block where the sound system hangs."""
        with _ONE_CALLER:
            try:
                self._stream.close(ignore_errors=True)
            finally:
                self._sound._terminate()


def _initialise(sound: Any, anew: bool) -> None:
    """Hold PortAudio once more. ``anew``: and read the list of devices, if nobody else holds it."""
    if anew and sound._initialized == 1:
        sound._terminate()
        sound._initialize()
    sound._initialize()


def listed(sound: Any) -> list[dict[str, Any]]:
    """All devices that PortAudio knows, looked for anew if nobody uses it; ``number`` and
    ``system`` (ALSA, Core Audio ...) are added to its own words.
    """
    with _ONE_CALLER:
        _initialise(sound, anew=True)
        try:
            systems = [str(api["name"]) for api in sound.query_hostapis()]
            return [
                {**one, "number": number, "system": systems[one["hostapi"]]}
                for number, one in enumerate(sound.query_devices())
            ]
        finally:
            sound._terminate()


def _number(sound: Any, wanted: str) -> int | None:
    """PortAudio's number of a device; None: its default."""
    if wanted in ("", "default"):
        return None
    devices = list(sound.query_devices())
    inputs = [i for i, one in enumerate(devices) if one["max_input_channels"] > 0]
    if wanted.isdecimal():
        if int(wanted) in inputs:
            return int(wanted)
        which = None
    else:
        which = chosen(wanted, [str(devices[i]["name"]) for i in inputs])
    if which is None:
        names = ", ".join(f"{i} ({devices[i]['name']})" for i in inputs)
        there = f"There are {names}." if names else "This machine shows no microphone at all."
        raise Lost(
            DeviceTrouble(
                "not_found", "there is no such microphone", f"{there} {LIST_THEM}", SourceNotFound
            )
        )
    return inputs[which]


def _shape(sound: Any, number: int | None, about: Any) -> tuple[int, int]:
    """Rate and channels to open with: 16 kHz mono, else what the device itself prefers. What it
    was said to prefer may be out of date, so the usual rates are tried, too.
    """
    own, most = round(about["default_samplerate"]), int(about["max_input_channels"])
    for rate_hz in (SAMPLE_RATE, own, *_USUAL_RATES):
        for channels in (1, 2)[:most]:
            try:
                sound.check_input_settings(number, channels, "float32", samplerate=rate_hz)
                return rate_hz, channels
            except sound.PortAudioError as error:
                if _code(error) not in (_BAD_RATE, _BAD_CHANNELS):
                    raise
    return own, 1  # opening it will say why not


def _code(error: Exception) -> int | None:
    return error.args[1] if len(error.args) > 1 and isinstance(error.args[1], int) else None


def trouble_of(error: Exception) -> DeviceTrouble:
    """What PortAudio's error means."""
    code, words = _code(error), str(error.args[0]) if error.args else type(error).__name__
    if code == _UNAVAILABLE or "busy" in words.lower():
        advice = "Close the program that listens, choose another one, or use --microphone none."
        return DeviceTrouble("busy", "the microphone is in use by another program", advice)
    if code == _BAD_DEVICE or "querying device" in words.lower():
        reason = "there is no such microphone"
        return DeviceTrouble("not_found", reason, LIST_THEM, SourceNotFound)
    if code == _BAD_RATE:
        reason = "the microphone denies 16 kHz and its own rate, too"
        return DeviceTrouble("unreadable", reason, f"Choose another one. {LIST_THEM}")
    return DeviceTrouble(
        "unreadable",
        f"the microphone cannot be opened ({' '.join(words.split())})",
        f"Check that the sound system runs. {LIST_THEM}",
        SourceUnreadable,
    )
