"""What the microphone needs of the module sounddevice, with a device that the test drives."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np


class PortAudioError(Exception):
    pass


class FakeStream:
    """An open microphone; ``speak`` is PortAudio's thread calling back."""

    def __init__(self, sound: FakeSound, settings: dict[str, Any]) -> None:
        self._sound, self.settings = sound, settings
        self.active = False
        self.at_s = sound.now_s - 4.0  # so that the test may speak faster than time goes

    def start(self) -> None:
        self.active = True
        self._sound.streams.append(self)
        self._sound.started.set()

    def close(self, ignore_errors: bool = True) -> None:
        self.active = False

    def speak(self, blocks: int = 1, *, late_s: float = 0.0, overflow: bool = False) -> None:
        """So many blocks; ``late_s``: sound that was lost before them."""
        count, rate = self.settings["blocksize"], self.settings["samplerate"]
        self.at_s += late_s
        for _ in range(blocks):
            pcm = np.full((count, self.settings["channels"]), 0.25, np.float32)
            self.at_s += count / rate
            times = SimpleNamespace(inputBufferAdcTime=self.at_s - count / rate, currentTime=0.0)
            times.currentTime = self._sound.now_s + self._sound.offset_s
            times.inputBufferAdcTime += self._sound.offset_s
            flags = SimpleNamespace(input_overflow=overflow)
            self.settings["callback"](pcm, count, times, flags)
            overflow = False


class FakeSound:
    """The module: its devices and its moods."""

    PortAudioError = PortAudioError
    offset_s = 1e6
    """PortAudio's clock is not the monotonic one."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.names = ["built-in", "USB camera sound"]
        self.denied_rates: set[int] = set()
        self.channels = 2
        self.opening: Exception | None = None
        self.block: threading.Event | None = None
        self.streams: list[FakeStream] = []
        self.started = threading.Event()
        self.default = SimpleNamespace(device=[0, 0])
        self._initialized = 1
        self._snapshot = list(self.names)
        self.looked = 0

    @property
    def now_s(self) -> float:
        return self._clock()

    def _initialize(self) -> None:
        if self._initialized == 0:
            self._snapshot = list(self.names)
            self.looked += 1
        self._initialized += 1

    def _terminate(self) -> None:
        self._initialized -= 1

    def query_hostapis(self) -> list[dict[str, Any]]:
        return [{"name": "ALSA"}]

    def _device(self, name: str) -> dict[str, Any]:
        about = {"name": name, "max_input_channels": self.channels, "hostapi": 0}
        return {**about, "default_samplerate": 48000.0}

    def query_devices(self, number: int | None = None, kind: str | None = None) -> Any:
        listed = [self._device(name) for name in self._snapshot]
        if kind is None:
            return listed
        if not listed:
            raise PortAudioError("Error querying device -1")
        return listed[number or 0]

    def check_input_settings(
        self, device: int | None, channels: int, dtype: str, samplerate: float
    ) -> None:
        if samplerate in self.denied_rates:
            raise PortAudioError("Invalid sample rate", -9997)

    def InputStream(self, **settings: Any) -> FakeStream:
        if self.block is not None:
            self.block.wait(10)
        if self.opening is not None:
            raise self.opening
        return FakeStream(self, settings)
