"""Two clocks that should run alike and do not: how far apart they are, and sound that follows.

A camera's sound, or a microphone of its own, counts samples by one crystal and its pictures are
timed by another; 200 ppm between them are 1.4 s after two hours. `ClockEstimate` measures that from
readings which may come late but never early (a network only ever delays), `Interpolator` reads
sound at a slightly other rate, and `DriftResampler` puts both together. Nothing here reads a clock.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from omnidrop_stream.types import SAMPLE_RATE, Samples

WINDOW_S = 5.0
"""The least delayed reading of so long a window counts, the others were held up on their way."""
KEPT_WINDOWS = 120
"""Ten minutes: a clock's rate wanders with its temperature, so older windows are forgotten."""
_FOR_A_RATE = 6
"""Windows (30 s) before anything is believed."""
_FOR_A_LEVEL = 5  # odd: a step then shows as a whole or not at all
_REACH = 16
"""Samples to each side that make up an interpolated one."""
_PHASES = 256
_STEEPEST = 2e-3
"""The largest correction, 0.2 %: 3.5 cents, which nobody hears."""
_SETTLE_S = 30.0
"""A skew is taken back over about so long."""


class ClockEstimate:
    """How far one clock has run ahead of another since the first readings.

    A reading is a clock's own time and the monotonic time at which it arrived. Both clocks' windows
    are the same, so a delay that both suffer does not count. Without readings of a reference the
    arrival clock itself is the reference. Bounded: 120 windows.
    """

    def __init__(self, window_s: float = WINDOW_S) -> None:
        self._window_s = window_s
        self._ends_s: float | None = None
        self._now_s = 0.0
        self._own: float | None = None  # least delay within the open window
        self._reference: float | None = None
        self._has_reference = False
        self._zero: float | None = None  # what "not apart" is
        self._apart: deque[tuple[float, float]] = deque(maxlen=KEPT_WINDOWS)
        self._rate = self._skew_s = self._skew_at_s = 0.0
        self._carried_s = 0.0  # the skew when the reference began

    def own(self, time_s: float, arrived_s: float) -> None:
        """The clock under test shows ``time_s``; known since ``arrived_s``."""
        self._roll(arrived_s)
        delay_s = arrived_s - time_s
        self._own = delay_s if self._own is None else min(self._own, delay_s)

    def reference(self, time_s: float, arrived_s: float) -> None:
        """The same of the clock to follow."""
        if not self._has_reference:  # until now the arrival clock was it
            self._has_reference, self._zero = True, None
            self._carried_s = self._skew_s = self.skew_s
            self._rate = 0.0
            self._forget_windows()
        self._roll(arrived_s)
        delay_s = arrived_s - time_s
        self._reference = delay_s if self._reference is None else min(self._reference, delay_s)

    @property
    def windows(self) -> int:
        """How many windows the estimate rests on."""
        return len(self._apart)

    @property
    def skew_s(self) -> float:
        """So far the clock is ahead of its reference (below 0: behind); 0 until 30 s were seen.
        While one of them is silent it goes on at the last known rate.
        """
        return self._skew_s + self._rate * (self._now_s - self._skew_at_s)

    @property
    def ppm(self) -> float:
        """By how much the clock is too fast, in millionths; 0 until 30 s were seen."""
        return self._rate * 1e6

    def believe(self, ahead_s: float) -> None:
        """One of the clocks was set: forget the windows from before. ahead_s: so far the clock was
        put forward relative to its reference, and rightly so.
        """
        if self._zero is not None:
            self._zero += ahead_s
        self._forget_windows()

    def _forget_windows(self) -> None:
        self._apart.clear()
        self._own = self._reference = self._ends_s = None

    def _roll(self, arrived_s: float) -> None:
        self._now_s = max(self._now_s, arrived_s)
        if self._ends_s is None:
            self._ends_s = arrived_s + self._window_s
        elif arrived_s >= self._ends_s:
            self._close(self._ends_s)
            self._ends_s = arrived_s + self._window_s

    def _close(self, at_s: float) -> None:
        own, reference = self._own, self._reference
        self._own = self._reference = None
        if own is None or (reference is None and self._has_reference):
            return  # one of them was silent: nothing to compare
        self._apart.append((at_s, (reference or 0.0) - own))
        if len(self._apart) < _FOR_A_RATE:
            return
        at, apart = np.array(self._apart).T
        self._rate = _slope(at, apart)
        if self._zero is None:  # where the line through the first windows begins
            first = float(np.median(apart - self._rate * (at - at[0])))
            self._zero = first - self._carried_s
        last = slice(-_FOR_A_LEVEL, None)
        now = float(np.median(apart[last] + self._rate * (at_s - at[last])))
        self._skew_s, self._skew_at_s = now - self._zero, at_s


def _slope(at: np.ndarray, value: np.ndarray) -> float:
    """The median of the slopes of all pairs (Theil and Sen): a step or a bad window moves it
    little. No crystal is off by more than the steepest correction.
    """
    before, after = np.triu_indices(len(at), 1)
    slope = float(np.median((value[after] - value[before]) / (at[after] - at[before])))
    return min(max(slope, -_STEEPEST), _STEEPEST)


class Interpolator:
    """Sound read at ``step`` input samples for each output sample, with continuous phase.

    A windowed sinc over 32 samples (Kaiser, beta 9). Meant for steps within a hundredth of 1:
    nothing guards against aliasing. history: the samples before the first; of them 16 are used.
    """

    def __init__(self, history: np.ndarray | None = None) -> None:
        before = np.zeros(_REACH, np.float32) if history is None else history[-_REACH:]
        self._pcm = np.concatenate([np.zeros(_REACH - len(before), np.float32), before])
        self._at = float(_REACH)  # place in ``_pcm`` of the next output sample
        self._kernel = _kernel()

    def push(self, pcm: np.ndarray, step: float = 1.0) -> np.ndarray:
        """f32 [n] -> f32 [about n / step]; the last 16 samples stay inside until more comes."""
        pcm = np.concatenate([self._pcm, pcm.astype(np.float32, copy=False)])
        room = len(pcm) - _REACH - self._at  # an output sample needs 16 after the one it lies in
        count = max(int(np.ceil(room / step)), 0)
        at = self._at + step * np.arange(count)
        whole = at.astype(np.int64)
        phase = (at - whole) * _PHASES
        row = phase.astype(np.int64)
        between = (phase - row).astype(np.float32)[:, None]
        weights = self._kernel[row] * (1 - between) + self._kernel[row + 1] * between
        around = np.lib.stride_tricks.sliding_window_view(pcm, 2 * _REACH)[whole - _REACH + 1]
        out = np.einsum("nk,nk->n", around, weights) if count else np.zeros(0, np.float32)
        self._at += step * count
        drop = int(self._at) - _REACH
        self._pcm, self._at = pcm[drop:], self._at - drop
        return out

    def rest(self, step: float = 1.0) -> np.ndarray:
        """What is still inside; nothing follows it."""
        return self.push(np.zeros(_REACH, np.float32), step)


class DriftResampler:
    """Sound of one clock, counted in samples, held to another by reading it a little faster or
    slower: at most 0.2 %, so a tone's pitch stays, and there are no clicks.

    While both run alike (within ``engage_s``) every sample passes as it is, at once; from the first
    correction on the newest millisecond waits inside. Where the sound is further apart than
    ``step_s`` no drift explains it (lost sound, a wrong rate): its time then makes a step, which
    the chunker fills or trims, flags and counts, and ``steps`` counts it here.

    A camera with a microphone of its own: ``push`` each run of the microphone with the monotonic
    time at which its last sample was there, ``reference`` each picture in the same way; without any
    ``reference`` the monotonic clock itself is followed. All ``time_s`` are on one time line.
    """

    def __init__(
        self,
        estimate: ClockEstimate | None = None,
        engage_s: float = 0.015,
        step_s: float = 0.250,
        join_s: float = 0.010,
    ) -> None:
        """join_s: a run that begins within this of the last one's end continues it."""
        self.estimate = estimate or ClockEstimate()
        self._engage_s, self._step_s, self._join_s = engage_s, step_s, join_s
        self._lens: Interpolator | None = None
        self._history = np.zeros(0, np.float32)
        self._stamp_s = 0.0  # where the source's own times say that the next run begins
        self._count_s: float | None = None  # the same, counted in samples: the clock under test
        self._out_s = 0.0  # time of the next sample to go out
        self._applied_s = 0.0  # sound left out so far (below 0: put in), by resampling and steps
        self.steps = 0

    @property
    def engaged(self) -> bool:
        """Whether the sound is being resampled."""
        return self._lens is not None

    @property
    def skew_s(self) -> float:
        """How far what goes out is ahead of the reference, as far as is known."""
        return self.estimate.skew_s - self._applied_s

    def reference(self, time_s: float, arrived_s: float) -> None:
        """The reference clock (a picture's time) as it arrived; any order with `push`."""
        self.estimate.reference(time_s, arrived_s)

    def push(self, run: Samples, arrived_s: float) -> list[Samples]:
        """A run of sound -> the same on the reference's time line; gapless where the run is."""
        long_s = len(run.pcm) / SAMPLE_RATE
        gap_s = 0.0 if self._count_s is None else run.time_s - self._stamp_s
        out: list[Samples] = []
        if self._count_s is None:
            self._count_s, self._out_s = run.time_s, run.time_s - self._applied_s
        elif abs(gap_s) > self._join_s:
            out += self._shifted(gap_s)
            self._count_s += gap_s
        self._stamp_s = run.time_s + long_s
        self._count_s += long_s
        self.estimate.own(self._count_s, arrived_s)
        if abs(self.skew_s) > self._step_s:
            self.steps += 1
            moved_s = -self.skew_s
            out += self._shifted(moved_s)
            self._applied_s -= moved_s
            self.estimate.believe(0.0)
        elif self._lens is None and abs(self.skew_s) > self._engage_s:
            self._lens = Interpolator(self._history)
        return [*out, *self._out(self._read(run.pcm))]

    def rest(self) -> list[Samples]:
        """What is still inside; the next run begins anew."""
        out = self._shifted(0.0)
        self._count_s = None
        return out

    def _shifted(self, by_s: float) -> list[Samples]:
        """End the run that is going out; the next begins ``by_s`` after it."""
        out = self._out(self._lens.rest()) if self._lens is not None else []
        self._history = np.zeros(0, np.float32)
        if self._lens is not None:
            self._lens = Interpolator()
        self._out_s += by_s
        return out

    def _read(self, pcm: np.ndarray) -> np.ndarray:
        if self._lens is None:
            self._history = np.concatenate([self._history, pcm])[-_REACH:]
            return pcm
        drift = self.estimate.ppm * 1e-6 + self.skew_s / _SETTLE_S
        step = 1.0 + float(np.clip(drift, -_STEEPEST, _STEEPEST))
        pcm = self._lens.push(pcm, step)
        self._applied_s += len(pcm) * (step - 1.0) / SAMPLE_RATE
        return pcm

    def _out(self, pcm: np.ndarray) -> list[Samples]:
        if not len(pcm):
            return []
        run = Samples(pcm, self._out_s)
        self._out_s += len(pcm) / SAMPLE_RATE
        return [run]


def _kernel() -> np.ndarray:
    """f32 [257, 32]: weights of the 32 samples around a place, for each 256th between two."""
    phases = np.arange(_PHASES + 1)[:, None] / _PHASES
    distance = np.arange(2 * _REACH)[None, :] - (_REACH - 1) - phases
    window = np.i0(9.0 * np.sqrt(np.clip(1 - (distance / _REACH) ** 2, 0, 1))) / np.i0(9.0)
    weights = np.sinc(distance) * window
    kernel: np.ndarray = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return kernel
