"""One epoch's media, placed on the epoch's own time (0 = its first moment): two shelves.

Pure bookkeeping: nothing here knows chunks' numbers, epochs or gaps between them.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from omnidrop_stream.types import SAMPLE_RATE, Frame, Samples

_JOINED = 3200  # samples: 0.2 s
_TIME_NOISE_S = 1e-6
"""Presentation times are doubles: a frame this little before a border counts as on it."""


@dataclass(slots=True)
class Placed:
    """What happened to an item when it was put on a shelf."""

    late_frames: int = 0
    late_samples: int = 0
    overlap_samples: int = 0


@dataclass(frozen=True, slots=True)
class VideoSpan:
    """``images`` u8 [n, H, W, 3], None where there is nothing to show; how many of them repeat the
    one before, and whether the decoder had to patch any.
    """

    images: np.ndarray | None
    repeated: int
    corrupt: bool


@dataclass(frozen=True, slots=True)
class AudioSpan:
    """``pcm`` f32 [n]; samples that never came or were not finite are zero, and counted."""

    pcm: np.ndarray
    missing_samples: int
    broken_samples: int


class VideoTrack:
    """Keeps, for each slot of the grid, the frame nearest to it (the earlier of two equally near).

    A slot takes frames from half a period before it (included) to half a period after (excluded).
    """

    def __init__(self, fps: float) -> None:
        self._fps = fps
        self._best: dict[int, tuple[float, Frame]] = {}
        self._last_shown: Frame | None = None
        self._first_open_slot = 0
        self._interval_s = 1 / fps
        self.end_s: float | None = None
        """Time of the newest frame; None before the first."""
        self.last_real_s: float | None = None
        """Time of the newest frame that reached a cut slot."""

    def add(self, frame: Frame, at_s: float) -> Placed:
        """Place a frame; one that is not newer than the newest, or whose slot is gone, is late."""
        if self.end_s is not None and at_s <= self.end_s:
            return Placed(late_frames=1)
        if self.end_s is not None:
            self._interval_s = min(at_s - self.end_s, 1 / self._fps)
        self.end_s = at_s
        slot = int(np.floor(at_s * self._fps + 0.5 + _TIME_NOISE_S))
        if slot < self._first_open_slot:
            return Placed(late_frames=1)
        distance = abs(at_s - slot / self._fps)
        if slot not in self._best or distance < self._best[slot][0] - _TIME_NOISE_S:
            self._best[slot] = (distance, frame)
        return Placed()

    def has_real(self, first: int, count: int) -> bool:
        """Whether any of the slots has a frame of its own."""
        return any(slot in self._best for slot in range(first, first + count))

    def forget_unreached(self) -> None:
        """The pictures end here: a frame just before a slot that they do not reach is not its."""
        reach_s = (self.end_s or 0.0) + self._interval_s / 2
        self._best = {slot: best for slot, best in self._best.items() if slot / self._fps < reach_s}

    def newest_slot(self) -> int | None:
        """The newest slot that has a frame of its own and was not cut yet."""
        return max(self._best, default=None)

    @property
    def held(self) -> int:
        """How many frames are kept."""
        return len(self._best) + (self._last_shown is not None)

    def look(self, first: int, count: int) -> VideoSpan:
        """The pictures of these slots. A slot without a frame repeats the one before; at an epoch's
        start, the first one after. Changes nothing.
        """
        shown = self._last_shown
        picks: list[Frame | None] = []
        for slot in range(first, first + count):
            shown = self._best[slot][1] if slot in self._best else shown
            picks.append(shown)
        later = next((pick for pick in picks if pick is not None), None)
        if later is None or not count:
            return VideoSpan(None, 0, False)
        repeated = sum(slot not in self._best for slot in range(first, first + count))
        shown_ones = [pick or later for pick in picks]
        images = np.stack([frame.image for frame in shown_ones])
        return VideoSpan(images, repeated, any(frame.corrupt for frame in shown_ones))

    def advance(self, first_open_slot: int) -> None:
        """Forget what lies before this slot, except the last picture shown."""
        for slot in sorted(slot for slot in self._best if slot < first_open_slot):
            _, self._last_shown = self._best.pop(slot)
            self.last_real_s = slot / self._fps
        self._first_open_slot = max(self._first_open_slot, first_open_slot)

    def forget_picture(self) -> None:
        """The last picture is too old to be repeated."""
        self._last_shown = None


class AudioTrack:
    """Sound by sample number. A run within ``jitter`` of where the last ended continues it."""

    def __init__(self, jitter_samples: int) -> None:
        self._jitter = jitter_samples
        self._runs: deque[tuple[int, np.ndarray]] = deque()
        self._first_open = 0
        self.end: int | None = None
        """Number of the sample after the newest; None before the first."""

    @property
    def held(self) -> int:
        """How many runs are kept."""
        return len(self._runs)

    @property
    def end_s(self) -> float | None:
        """``end`` in seconds."""
        return None if self.end is None else self.end / SAMPLE_RATE

    def add(self, samples: Samples, at_s: float) -> Placed:
        """Place a run (copied): overlap is trimmed; what lies before the open part is late."""
        pcm = np.array(samples.pcm, dtype=np.float32)
        position = round(at_s * SAMPLE_RATE)
        placed = Placed()
        if self.end is not None:
            if abs(position - self.end) <= self._jitter:
                position = self.end
            placed.overlap_samples = min(max(self.end - position, 0), len(pcm))
            pcm, position = pcm[placed.overlap_samples :], position + placed.overlap_samples
        placed.late_samples = min(max(self._first_open - position, 0), len(pcm))
        pcm, position = pcm[placed.late_samples :], position + placed.late_samples
        if len(pcm):
            self._keep(position, pcm)
        self.end = max(position + len(pcm), self.end or 0)
        return placed

    def _keep(self, position: int, pcm: np.ndarray) -> None:
        """Short runs are joined, and what was trimmed is not kept alive by the rest."""
        if self._runs:
            before, run = self._runs[-1]
            if before + len(run) == position and len(run) + len(pcm) <= _JOINED:
                self._runs[-1] = before, np.concatenate([run, pcm])
                return
        self._runs.append((position, pcm if pcm.base is None else pcm.copy()))

    def look(self, first: int, stop: int) -> AudioSpan:
        """Samples ``first`` to ``stop``, zeros where there are none; changes nothing."""
        pcm = np.zeros(max(stop - first, 0), dtype=np.float32)
        there = 0
        for position, run in self._runs:
            low, high = max(position, first), min(position + len(run), stop)
            if low < high:
                pcm[low - first : high - first] = run[low - position : high - position]
                there += high - low
        finite = np.isfinite(pcm)
        broken = int(pcm.size - np.count_nonzero(finite))
        if broken:
            pcm[~finite] = 0.0
        return AudioSpan(pcm, pcm.size - there, broken)

    def advance(self, first_open: int, keep: int) -> None:
        """Forget what lies before ``first_open``, except the last ``keep`` samples (context)."""
        self._first_open = max(self._first_open, first_open)
        while self._runs and self._runs[0][0] + len(self._runs[0][1]) <= first_open - keep:
            self._runs.popleft()

    def split(self, at: int) -> list[tuple[int, np.ndarray]]:
        """Take away and return all from sample ``at`` on: ``(number of the first, pcm)`` each."""
        tail: list[tuple[int, np.ndarray]] = []
        kept: deque[tuple[int, np.ndarray]] = deque()
        for position, run in self._runs:
            if position < at:
                kept.append((position, run[: at - position]))
            if position + len(run) > at:
                low = max(at - position, 0)
                tail.append((position + low, run[low:]))
        self._runs = kept
        self.end = None if self.end is None else min(self.end, at)
        return tail
