"""From the decoded pieces of one live connection to items on the source's own time line.

Nothing here waits or reads: the connection pushes, items come out. What the stream's own times are
worth is judged in ``clock.py``, what two clocks that drift apart need is in ``drift.py``; here both
are put to use. Where a clock was set or is wrong, an `Interruption` goes out first, and the other
medium gets a second to finish what came before it.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import replace

from omnidrop_stream.types import SAMPLE_RATE, Frame, Samples
from runtime.sources.base import Interruption
from runtime.sources.clock import JUMP_S, MediumClock, Reading, Timed
from runtime.sources.decode import LONGEST_HOLD_S, Picture, ToRgb
from runtime.sources.drift import DriftResampler

FIRST_PICTURE_S = 5.0
"""So much sound is held for the first picture; then the sound begins without it."""
_NOISE_S = 1e-6
_BACK_S = 0.25
_LONGEST_STEP_S = 0.5


class Timeline:
    """The source's time: 0 is the first item ever, each connection is anchored to the clock, and
    within a connection only its own presentation times count. Never steps back over what was
    placed before.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.faults: Counter[str] = Counter()
        """Faults of the stream's clocks so far, by name: ``clock.reset`` and others of
        ``clock.py``, ``clock.sound_steps`` of ``drift.py``. Only the source's thread writes it.
        """
        self.skew_s: float | None = None
        """How far sound is ahead of the pictures after what was taken back; None: not known."""
        self._zero_s: float | None = None
        self._offset_s = 0.0
        self._end_s = 0.0

    @property
    def begun(self) -> bool:
        """Whether anything was placed yet."""
        return self._zero_s is not None

    def now(self) -> float:
        """Monotonic seconds."""
        return self._clock()

    def anchor(self, at_s: float) -> float:
        """A connection begins now, with its own time ``at_s``; returns that in source time."""
        now_s = self._clock()
        if self._zero_s is None:
            self._zero_s = now_s
        self._offset_s = max(now_s - self._zero_s, self._end_s) - at_s
        return at_s + self._offset_s

    def place(self, at_s: float, long_s: float = 0.0) -> float:
        """Source time of what has the connection's time ``at_s`` and lasts ``long_s``."""
        time_s = at_s + self._offset_s
        self._end_s = max(self._end_s, time_s + long_s)
        return time_s


class GridPick:
    """Of all pictures the last before each slot of the model's grid and the first in or after it:
    the nearest is one of them, and none waits for a later one. At least one each half second, so
    that a slow grid does not look like a jump of the clock. fps None: all.
    """

    def __init__(self, fps: float | None, origin_s: float) -> None:
        self._fps, self._origin_s = fps, origin_s
        self._slot = -1
        self._newest: Picture | None = None
        self._given_s = origin_s
        self._skipped = False

    def push(self, picture: Picture) -> list[Picture]:
        """The pictures to hand on, now that this one came."""
        before, skipped = self._newest, self._skipped
        self._newest, self._skipped = picture, False
        if self._fps is None:
            return [picture]
        if before is not None and self._begins_anew(before, picture):
            self._origin_s, self._slot, self._given_s = picture.time_s, 0, picture.time_s
            return [picture]
        slot = math.floor((picture.time_s - self._origin_s) * self._fps + _NOISE_S)
        if slot > self._slot or picture.time_s - self._given_s >= _LONGEST_STEP_S:
            self._slot, self._given_s = slot, picture.time_s
            return [before, picture] if skipped and before is not None else [picture]
        self._skipped = True
        return []

    @staticmethod
    def _begins_anew(before: Picture, picture: Picture) -> bool:
        """Where the chunker begins an epoch: another size, or a jump of the stream's clock."""
        step_s = picture.time_s - before.time_s
        return picture.size != before.size or not -_BACK_S <= step_s <= LONGEST_HOLD_S


class LiveItems:
    """One connection's pictures and sounds -> items. Where it has pictures, the first one is the
    beginning: sound before it is cut off. A time that is not a number is a missing one.
    """

    def __init__(
        self, timeline: Timeline, fps: float | None, *, has_video: bool, to_rgb: ToRgb
    ) -> None:
        self._timeline, self._fps, self._to_rgb = timeline, fps, to_rgb
        self._has_video = self._waits_for_picture = has_video
        self._pictures: MediumClock[Picture] = MediumClock(timeline.faults, sound=False)
        self._sounds: MediumClock[Samples] = MediumClock(timeline.faults, sound=True)
        self._pictures.link(self._sounds)
        self._sync = DriftResampler()
        self._steps = 0
        self._held: deque[Samples] = deque()  # sound before the first picture
        self._begin_s: float | None = None
        self._grid = GridPick(fps, 0.0)
        self._turn: _Turn | None = None

    def picture(self, picture: Picture) -> Iterator[Frame | Samples | Interruption]:
        """A decoded frame, the first of which is a keyframe or follows one."""
        now_s = self._timeline.now()
        reading = Reading(picture, picture.time_s, picture.duration_s, now_s)
        for timed in self._pictures.push(reading):
            yield from self._faulty(timed, sound=False)
            self._sync.reference(timed.time_s, timed.arrived_s)
            begins = self._begin_s is None
            if begins:
                self._begin(timed.time_s)
            for chosen in self._grid.push(replace(timed.item, time_s=timed.time_s)):
                frame = Frame(self._to_rgb(chosen), chosen.time_s, chosen.corrupt)
                yield from self._out(frame, timed.arrived_s)
            if begins:
                yield from self._release(timed.arrived_s)

    def sound(self, run: Samples) -> Iterator[Frame | Samples | Interruption]:
        """Sound with the connection's own time."""
        now_s = self._timeline.now()
        reading = Reading(run, run.time_s, len(run.pcm) / SAMPLE_RATE, now_s)
        for timed in self._sounds.push(reading):
            yield from self._faulty(timed, sound=True)
            placed = Samples(timed.item.pcm, timed.time_s)
            yield from self._heard(self._sync.push(placed, timed.arrived_s), now_s)
            self._timeline.skew_s = self._sync.skew_s
            if self._sync.steps > self._steps:
                self._timeline.faults["clock.sound_steps"] += self._sync.steps - self._steps
                self._steps = self._sync.steps

    def rest(self) -> Iterator[Frame | Samples | Interruption]:
        """The connection is over: what was held back for the other medium, or for a next sample."""
        self._pictures.rest()
        self._sounds.rest()
        now_s = self._timeline.now()
        yield from self._heard(self._sync.rest(), now_s)
        yield from self._turned()

    def _heard(self, runs: list[Samples], now_s: float) -> Iterator[Frame | Samples | Interruption]:
        for run in runs:
            self._held.append(run)
            if self._begin_s is None:
                held_s = run.time_s - self._held[0].time_s
                if self._waits_for_picture and 0 <= held_s < FIRST_PICTURE_S - _NOISE_S:
                    continue
                self._begin(self._held[0].time_s)
            yield from self._release(now_s)

    def _begin(self, at_s: float) -> None:
        self._begin_s = at_s
        self._timeline.anchor(at_s)
        self._grid = GridPick(self._fps, at_s)

    def _release(self, now_s: float) -> Iterator[Frame | Samples | Interruption]:
        while self._held:
            run = self._held.popleft()
            begin_s = self._begin_s or 0.0
            cut = round((begin_s - run.time_s) * SAMPLE_RATE)
            if self._waits_for_picture and cut > 0:
                if cut >= len(run.pcm):
                    continue
                run = Samples(run.pcm[cut:], begin_s)  # exact to half a sample
            else:
                self._waits_for_picture = False  # from here on nothing is cut
            yield from self._out(run, now_s)

    # -- where a clock was set or is wrong

    def _faulty(
        self, timed: Timed[Picture] | Timed[Samples], *, sound: bool
    ) -> Iterator[Frame | Samples | Interruption]:
        """What the fault of an item's clock, if any, asks for before the item."""
        if timed.fault is not None or timed.believed_s:
            self._sync.estimate.believe(timed.believed_s if sound else -timed.believed_s)
        if timed.fault is None or self._begin_s is None:
            return
        if sound:
            yield from self._heard(self._sync.rest(), timed.arrived_s)
        yield from self._turned()
        self._grid = GridPick(self._fps, timed.time_s)
        self._turn = _Turn(timed.fault.reason, timed.time_s, timed.arrived_s, sound=sound)

    def _out(self, item: Frame | Samples, now_s: float) -> Iterator[Frame | Samples | Interruption]:
        """Hand on; after a fault what belongs behind it waits for what belongs before it."""
        turn = self._turn
        if turn is None:
            yield self._placed(item)
            return
        before = turn.take(item)
        if before is not None:
            yield self._placed(before)
        if not self._has_video or turn.is_over(now_s):
            yield from self._turned()

    def _turned(self) -> Iterator[Frame | Samples | Interruption]:
        turn, self._turn = self._turn, None
        if turn is None:
            return
        yield Interruption(turn.reason, self._timeline.place(turn.at_s))
        for item in turn.after:
            yield self._placed(item)

    def _placed(self, item: Frame | Samples) -> Frame | Samples:
        long_s = len(item.pcm) / SAMPLE_RATE if isinstance(item, Samples) else 0.0
        return replace(item, time_s=self._timeline.place(item.time_s, long_s))


class _Turn:
    """From one epoch to the next: what belongs to the next waits for the other medium."""

    def __init__(self, reason: str, at_s: float, since_s: float, *, sound: bool) -> None:
        self.reason, self.at_s = reason, at_s
        self.after: list[Frame | Samples] = []
        self._since_s, self._sound, self._both = since_s, sound, False

    def take(self, item: Frame | Samples) -> Frame | Samples | None:
        """Keep what belongs behind the turn; returns what belongs before it."""
        if isinstance(item, Samples) is self._sound:
            self.after.append(item)
            return None
        if isinstance(item, Frame):
            if item.time_s < self.at_s:
                return item
            self.after.append(item)
            self._both = True
            return None
        cut = min(max(round((self.at_s - item.time_s) * SAMPLE_RATE), 0), len(item.pcm))
        if cut < len(item.pcm):
            self.after.append(Samples(item.pcm[cut:], item.time_s + cut / SAMPLE_RATE))
            self._both = True
        return Samples(item.pcm[:cut], item.time_s) if cut else None

    def is_over(self, now_s: float) -> bool:
        """Whether both media are behind it, or a second has passed."""
        return self._both or now_s - self._since_s >= JUMP_S
