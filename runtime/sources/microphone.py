"""A microphone of this machine as a source that never dies: 16 kHz mono, timed by its ADC.

PortAudio's call-back copies into a bounded ring and does nothing else. The source counts samples
and holds their times to the monotonic clock; where sound was lost the times have a hole.
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import av
import numpy as np

from omnidrop_stream.errors import MissingDependency
from omnidrop_stream.types import SAMPLE_RATE, Samples, StreamKind
from runtime.sources.base import SourceInfo
from runtime.sources.bounded import BoundedCalls, Stuck
from runtime.sources.device import DeviceSource, DeviceTrouble, Lost, Patience
from runtime.sources.drift import DriftResampler
from runtime.sources.portaudio import Block, Tap, load_portaudio

RING_S = 4.0
"""So much sound is kept for a reader that is late; then the oldest goes, and is counted."""
_CLOSE_S = 1.0
_JITTER_S = 0.25
_LOST_S = 0.02


class Ring:
    """Blocks on their way from PortAudio's thread to the source's; full, it drops the oldest."""

    def __init__(self, most_s: float = RING_S) -> None:
        self._blocks: deque[Block] = deque()
        self._held_s, self._most_s = 0.0, most_s
        self._news = threading.Condition()
        self.dropped_s = 0.0
        """Sound that nobody fetched in time."""

    def put(self, block: Block) -> None:
        """Never waits for a reader."""
        with self._news:
            self._blocks.append(block)
            self._held_s += block.long_s
            while self._held_s > self._most_s and len(self._blocks) > 1:
                oldest = self._blocks.popleft()
                self._held_s -= oldest.long_s
                self.dropped_s += oldest.long_s
            self._news.notify()

    def take(self, limit_s: float) -> list[Block]:
        """All there is; waits for something up to ``limit_s``."""
        with self._news:
            self._news.wait_for(lambda: bool(self._blocks), limit_s)
            blocks = list(self._blocks)
            self._blocks.clear()
            self._held_s = 0.0
        return blocks


class MicrophoneSource(DeviceSource):
    """Sound of a microphone: ``wanted`` is empty or ``default``, a number of PortAudio or a name.

    load: where the module sounddevice comes from.
    """

    def __init__(
        self,
        wanted: str = "",
        *,
        patience: Patience | None = None,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
        load: Callable[[], Any] = load_portaudio,
    ) -> None:
        wanted = wanted.strip()
        shown = f"mic:{wanted or 'default'}"
        super().__init__(shown, StreamKind.AUDIO, patience or Patience(), clock, draw)
        self._wanted, self._load = wanted, load
        self._calls = BoundedCalls("omnidrop-microphone")
        self._tap: Tap | None = None
        self._opened_before = False
        self._ring = Ring()
        self._mono = _Mono()
        self._dropped = 0  # samples, before this opening

    def _open(self) -> SourceInfo:
        ring = self._ring = Ring()
        self._dropped = self.stats.dropped_samples
        anew, self._opened_before = self._opened_before, True

        def tap() -> Tap:
            # Also where nobody waits any more: what is open gets closed.
            self._tap = Tap(self._load(), self._wanted, ring.put, anew=anew)
            return self._tap

        try:
            self._calls.call(tap, self._patience.open_s, self._stopped)
        except Stuck:
            raise Lost(_HUNG) from None
        except MissingDependency as error:
            trouble = DeviceTrouble("not_found", str(error), "", MissingDependency)
            raise Lost(trouble) from None
        self._mono = _Mono()
        return SourceInfo(self.shown, StreamKind.AUDIO, None, None, None, None, live=True)

    def _read(self, limit_s: float) -> list[Samples]:
        blocks = self._ring.take(limit_s)
        if not blocks and self._tap is not None and not self._tap.active:
            raise Lost(_GONE)
        self.stats.dropped_samples = self._dropped + round(self._ring.dropped_s * SAMPLE_RATE)
        found = []
        for block in blocks:
            self.stats.overflows += block.lost_before
            found += self._mono.push(block)
        return found

    def _close(self) -> None:
        self._calls.post(self._close_tap)
        if self._stopped.is_set():
            self._calls.close(_CLOSE_S)

    def _close_tap(self) -> None:
        tap, self._tap = self._tap, None
        if tap is not None:
            tap.close()

    def _silent(self) -> DeviceTrouble:
        return DeviceTrouble(
            "timeout",
            f"the microphone has given no sound for {self._patience.stall_s:g} s",
            "Check that it is plugged in, and the sound system (pactl list sources).",
        )


class _Mono:
    """Blocks in, 16 kHz mono on the monotonic clock out.

    Samples are counted, since the stamps of single blocks jitter; over many of them the stamps
    tell how fast the device's clock really is, and the sound is held to the monotonic clock. A
    stamp that no jitter explains is a hole, or the end of one.
    """

    def __init__(self) -> None:
        self._rate_hz = 0
        self._resampler: av.AudioResampler | None = None
        self._drift = DriftResampler()
        self._begin_s = 0.0  # of the run that goes on
        self._count = 0  # its samples, at the device's rate

    def push(self, block: Block) -> list[Samples]:
        """What the block adds."""
        away_s = block.time_s - (self._begin_s + self._count / max(self._rate_hz, 1))
        hole = abs(away_s) > _JITTER_S or (block.lost_before and away_s > _LOST_S)
        if hole or block.rate_hz != self._rate_hz:
            self._rate_hz, self._begin_s, self._count = block.rate_hz, block.time_s, 0
            self._resampler = None
            if block.rate_hz != SAMPLE_RATE:
                self._resampler = av.AudioResampler("fltp", "mono", SAMPLE_RATE)
        end_s = block.time_s + block.long_s
        found: list[Samples] = []
        for run in self._at_16_khz(block.pcm.mean(axis=1, dtype=np.float32)):
            found += self._drift.push(run, end_s)
        return found

    def _at_16_khz(self, pcm: np.ndarray) -> list[Samples]:
        count, self._count = self._count, self._count + len(pcm)
        if self._resampler is None:
            return [Samples(pcm, self._begin_s + count / SAMPLE_RATE)]
        frame = av.AudioFrame.from_ndarray(pcm[None], format="fltp", layout="mono")
        frame.sample_rate, frame.time_base = self._rate_hz, Fraction(1, self._rate_hz)
        frame.pts = count
        return [
            Samples(out.to_ndarray()[0].copy(), self._begin_s + (out.time or 0.0))
            for out in self._resampler.resample(frame)
            if out.samples
        ]


_HUNG = DeviceTrouble(
    "timeout",
    "the sound system does not answer",
    "Restart it (systemctl --user restart pulseaudio).",
)
_GONE = DeviceTrouble(
    "device_lost", "the microphone was unplugged, or its sound system ended", "Plug it in again."
)
