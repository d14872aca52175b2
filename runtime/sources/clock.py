"""What the times of one live connection are worth, and what to do where they are worth nothing.

Every picture and run of sound comes with the stream's own time (its *stamp*) and the monotonic time
at which it arrived. Stamps are believed as long as they go on as time does. Otherwise:

- a stamp more than a second from where it should be, confirmed by the next one, is a clock that was
  set (``reset``, ``jump_forward``, ``jump_backward``): the medium goes on where it was, or later by
  what the arrival clock says; if the other medium makes the same jump the two stay as the stamps
  say. A single strange stamp is an ``outlier``, and its item is left out;
- a smaller step back is believed;
- stamps that run at a ``wrong_rate`` (`RateGuard`; sound by its own count of samples at once),
  that make no sense (8 strange ones in a row, or four jumps in 10 s), or that are ``missing`` for a
  second are not used any more on this connection: sound is then timed by its count of samples,
  pictures by their arrival, which jitters as the network does. Sound whose very count of samples is
  at a wrong rate goes by arrival too.

Every one of them is counted by name; all but outliers and single missing stamps begin an epoch.
"""

from __future__ import annotations

import math
import weakref
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from runtime.sources.rate import RateGuard

T = TypeVar("T")

JUMP_S = 1.0
"""A step of at least this much is a clock that was set."""
JOIN_S = 0.010
"""Sound that begins within this of where the last run ended continues it."""
_BACK_S = 0.040
_CERTAIN = 8  # strange items, or items without a time, in a row
_TOGETHER_S = 10.0
_ALIKE_S = 0.5
_STRAY_S = 0.25  # sound by arrival keeps within this of it
_NOISE_S = 1e-4
_SHORTEST_S = 1e-3
_LONGEST_WALK = 64
_TOO_MANY = 4  # settings of a clock in 10 s
_RUNAWAY_S = 3.0
_GLANCE_S = 0.5


@dataclass(frozen=True, slots=True)
class Fault:
    """Why an epoch begins. ``kind``: the counter's name without ``clock.``."""

    kind: str
    reason: str


@dataclass(frozen=True, slots=True)
class Reading(Generic[T]):
    """An item as it came. ``stamp_s`` is not a number where it came without a time."""

    item: T
    stamp_s: float
    long_s: float
    arrived_s: float


@dataclass(frozen=True, slots=True)
class Timed(Generic[T]):
    """An item and its time; ``fault``: with it a new epoch begins. ``believed_s``: the step that
    the stream's clock made and that was followed.
    """

    item: T
    time_s: float
    arrived_s: float
    fault: Fault | None = None
    believed_s: float = 0.0


@dataclass(frozen=True, slots=True)
class _Jump:
    by_s: float
    arrived_s: float
    offset_s: float


class _LeastDelay:
    """The least of the last 15 to 30 s."""

    def __init__(self) -> None:
        self._old = self._new = math.inf
        self._since_s = -math.inf

    def push(self, delay_s: float, now_s: float) -> None:
        if now_s - self._since_s > 15.0:
            self._old, self._new, self._since_s = self._new, math.inf, now_s
        self._new = min(self._new, delay_s)

    @property
    def value(self) -> float:
        return min(self._old, self._new)


class MediumClock(Generic[T]):
    """The clock of a connection's pictures, or of its sound. Holds at most 8 items back."""

    def __init__(self, faults: Counter[str], *, sound: bool) -> None:
        """faults: where to count; it outlives the connection."""
        self._faults, self._sound = faults, sound
        # Weak, for each would keep the other, and both their newest picture and sound, until a full
        # collection of garbage: with a model's many objects around, days.
        self._beside: Callable[[], MediumClock[Any] | None] = _nobody
        self._stamps_good, self._count_good = True, sound
        self._last: Reading[T] | None = None  # the newest with a stamp that is believed
        self._time_s = -math.inf  # time of the newest item
        self._end_s = 0.0  # time at which the next one is expected
        self._delay = _LeastDelay()
        self._guard = RateGuard()
        self._stamp_guard = RateGuard()  # of sound's stamps; its samples are counted beside them
        self._held_up_s = 0.0  # delay of what is timed by its arrival
        self._strange: list[Reading[T]] = []
        self._sets: deque[float] = deque(maxlen=_TOO_MANY)  # when the clock was set
        self._untimed = 0
        self._untimed_since_s = 0.0
        self._walk: list[Reading[T]] = []  # runs that all begin equally far from where they should
        self._walk_s = 0.0  # time of the first of them
        self._jump: _Jump | None = None

    def link(self, other: MediumClock[Any]) -> None:
        """The connection's other medium."""
        self._beside, other._beside = weakref.ref(other), weakref.ref(self)

    def push(self, reading: Reading[T]) -> list[Timed[T]]:
        """What can be placed now, in order."""
        if not self._stamps_good:
            return [self._unstamped(reading)]
        if math.isnan(reading.stamp_s):
            return self._without_stamp(reading)
        self._untimed = 0
        if self._last is None:
            return [self._begin(reading)]
        if self._follows(self._last, reading) and not self._has_stepped(self._last, reading):
            self._forget_strange()
            return [self._believe(self._last, reading)]
        self._strange.append(reading)
        if len(self._strange) > 1 and self._alike(*self._strange[-2:]):
            self._sets.append(reading.arrived_s)
            if reading.arrived_s - self._sets[0] > _TOGETHER_S or len(self._sets) < _TOO_MANY:
                return self._confirmed(self._last)
        elif len(self._strange) < _CERTAIN:
            return []
        strange, self._strange = self._strange, []
        self._stamps_good, self._held_up_s = False, self._delay.value
        fault = self._told("wrong_rate", "the stream's times make no sense and are not used")
        first = self._unstamped(strange[0])
        return [replace(first, fault=fault), *map(self._unstamped, strange[1:])]

    def rest(self) -> None:
        """The connection is over: what is held back was never confirmed, and is left out."""
        self._forget_strange()

    # -- with stamps

    def _begin(self, reading: Reading[T]) -> Timed[T]:
        """The connection's first stamp is its time, unless the other medium's is far from it."""
        other, time_s = self._begun_beside(), reading.stamp_s
        if other is not None and other._last is not None:
            time_s += other._time_s - other._last.stamp_s
            apart_s = reading.arrived_s - self._at(reading, time_s) - other._delay.value
            if abs(apart_s) > _TOGETHER_S:
                time_s += apart_s
                self._count("apart")
        self._guard.push(self._at(reading, time_s), reading.arrived_s)
        return self._place(reading, time_s)

    def _follows(self, last: Reading[T], reading: Reading[T]) -> bool:
        """Whether the stamp goes on where the last one was, or later by a true hole."""
        if self._steps_back(last, reading):
            return False
        time_s = self._time_s + reading.stamp_s - last.stamp_s
        early_s = self._delay.value - (reading.arrived_s - self._at(reading, time_s))
        return reading.stamp_s - last.stamp_s - last.long_s < JUMP_S or early_s < JUMP_S

    def _has_stepped(self, last: Reading[T], reading: Reading[T]) -> bool:
        """Whether the strange picture before this one was no outlier but a step back so small that
        this one is past it: then too little time has gone by for so many pictures.
        """
        if self._sound or not self._strange or not self._alike(self._strange[-1], reading):
            return False
        usual_s = (len(self._strange) + 1) * last.long_s
        return reading.stamp_s - last.stamp_s < 0.5 * usual_s

    def _alike(self, a: Reading[T], b: Reading[T]) -> bool:
        """Whether two strange items agree with each other."""
        hole_s = b.stamp_s - a.stamp_s - a.long_s
        return not self._steps_back(a, b) and hole_s < JUMP_S + b.arrived_s - a.arrived_s

    def _steps_back(self, a: Reading[T], b: Reading[T]) -> bool:
        if self._sound:
            return b.stamp_s < a.stamp_s + a.long_s - _BACK_S
        return b.stamp_s < a.stamp_s - _NOISE_S

    def _believe(self, last: Reading[T], reading: Reading[T]) -> Timed[T]:
        time_s = self._time_s + reading.stamp_s - last.stamp_s
        if self._sound:
            gap_s = reading.stamp_s - last.stamp_s - last.long_s
            if self._walks(last, reading, gap_s):
                return self._count_only(reading)
            time_s = self._end_s + (gap_s if abs(gap_s) > JOIN_S else 0.0)
            stamped = self._stamp_guard.push(reading.stamp_s + reading.long_s, reading.arrived_s)
            counted = self._guard.rate(2.0)
            if stamped is not None and counted is not None and not _near(stamped, counted):
                return self._by_arrival(reading, stamped, count_good=True)
        rate = self._wrong_rate(reading, time_s)
        return self._place(reading, time_s) if rate is None else self._by_arrival(reading, rate)

    def _confirmed(self, last: Reading[T]) -> list[Timed[T]]:
        """The clock was set: two stamps in a row say so."""
        *outliers, first, second = self._strange
        self._strange = []
        self._count("outlier", len(outliers))
        by_s = first.stamp_s - last.stamp_s - last.long_s
        other = self._beside()
        jump = None if other is None else other._jump
        if jump is not None and first.arrived_s - jump.arrived_s > _TOGETHER_S:
            jump = None
        fault: Fault | None = None
        if -JUMP_S < by_s < 0:
            time_s = self._end_s + by_s if self._sound else first.stamp_s + self._offset_s(last)
            told = jump is not None and abs(jump.by_s - by_s) < _BACK_S * 2
            believed_s = by_s
        else:
            waited_s = first.arrived_s - last.arrived_s
            expected_s = self._end_s + (waited_s - last.long_s if waited_s > JUMP_S else 0.0)
            told = jump is not None and abs(first.stamp_s + jump.offset_s - expected_s) < _ALIKE_S
            time_s = first.stamp_s + jump.offset_s if told and jump is not None else expected_s
            believed_s = 0.0
        if not told:
            fault = self._told(*_named(by_s, first.stamp_s))
        self._jump = _Jump(by_s, first.arrived_s, time_s - first.stamp_s)
        placed = self._place(first, time_s)
        return [replace(placed, fault=fault, believed_s=believed_s), *self.push(second)]

    def _walks(self, last: Reading[T], reading: Reading[T], gap_s: float) -> bool:
        """Whether sound's stamps, run by run, go on at another rate than its samples."""
        ratio = (reading.stamp_s - last.stamp_s) / max(last.long_s, 1e-6)
        if abs(gap_s) <= JOIN_S:
            self._walk.clear()
            return False
        if self._walk:
            first, second = self._walk[:2]
            usual = (second.stamp_s - first.stamp_s) / max(first.long_s, 1e-6)
            if not usual / 1.5 <= ratio <= usual * 1.5 or len(self._walk) > _LONGEST_WALK:
                self._walk.clear()
        if not self._walk:
            self._walk, self._walk_s = [last], self._time_s
        self._walk.append(reading)
        if len(self._walk) <= _CERTAIN:
            return False
        counted_s = sum(run.long_s for run in self._walk[:-1])
        stamped_s = reading.stamp_s - self._walk[0].stamp_s
        waited_s = reading.arrived_s - self._walk[0].arrived_s
        return abs(waited_s - counted_s) < 0.5 * abs(waited_s - stamped_s)

    def _count_only(self, reading: Reading[T]) -> Timed[T]:
        """Sound's samples tell the time from where its stamps began to go wrong, as seen here; if
        that was long after they did, the arrival clock knows better.
        """
        counted_s = sum(run.long_s for run in self._walk[:-1])
        stamped_s = reading.stamp_s - self._walk[0].stamp_s
        time_s = self._walk_s + counted_s
        self._walk.clear()
        timed = self._by_arrival(reading, stamped_s / counted_s, count_good=True)
        if abs(timed.time_s - time_s) < _STRAY_S / 2:
            timed = replace(self._place(reading, time_s), fault=timed.fault)
        self._guard.restart()
        return timed

    # -- without

    def _without_stamp(self, reading: Reading[T]) -> list[Timed[T]]:
        """Sound goes on where it was, a picture is left out; after a second that is how it stays"""
        self._count("missing")
        if not self._untimed:
            self._untimed_since_s = reading.arrived_s
        self._untimed += 1
        if self._untimed >= _CERTAIN and reading.arrived_s - self._untimed_since_s >= 1.0:
            return [self._never_stamped(reading)]
        if not self._sound or self._last is None:
            return []
        guessed = replace(reading, stamp_s=self._last.stamp_s + self._last.long_s)
        return [self._place(guessed, self._end_s)]

    def _never_stamped(self, reading: Reading[T]) -> Timed[T]:
        self._forget_strange()
        self._stamps_good = False
        other = self._begun_beside()
        if self._last is not None:
            self._held_up_s = self._delay.value
        else:
            self._held_up_s = other._delay.value if other is not None else 0.0
            self._end_s = reading.arrived_s - self._held_up_s - reading.long_s
        fault = Fault("missing", "the stream has no times any more")
        return replace(self._unstamped(reading), fault=fault)

    def _unstamped(self, reading: Reading[T]) -> Timed[T]:
        by_arrival_s = reading.arrived_s - self._held_up_s
        if not self._sound:
            return self._place(reading, max(by_arrival_s, self._time_s + _SHORTEST_S))
        if not self._count_good:
            by_arrival_s -= reading.long_s
            near = abs(by_arrival_s - self._end_s) <= _STRAY_S
            return self._place(reading, self._end_s if near else by_arrival_s)
        rate = self._wrong_rate(reading, self._end_s)
        return (
            self._place(reading, self._end_s) if rate is None else self._by_arrival(reading, rate)
        )

    def _by_arrival(
        self, reading: Reading[T], rate: float, *, count_good: bool = False
    ) -> Timed[T]:
        arrived_s, at_s = self._guard.began or (reading.arrived_s, self._time_s)
        self._stamps_good, self._count_good = False, count_good
        self._held_up_s = arrived_s - at_s
        time_s = reading.arrived_s - self._held_up_s - (reading.long_s if self._sound else 0.0)
        placed = self._place(reading, time_s)
        return replace(placed, fault=self._told("wrong_rate", _rated(rate)))

    # -- both

    def _place(self, reading: Reading[T], time_s: float) -> Timed[T]:
        self._last, self._time_s = reading, time_s
        self._end_s = time_s + (reading.long_s if self._sound else min(reading.long_s, JUMP_S))
        self._delay.push(reading.arrived_s - self._at(reading, time_s), reading.arrived_s)
        return Timed(reading.item, time_s, reading.arrived_s)

    def _wrong_rate(self, reading: Reading[T], time_s: float) -> float | None:
        """A rate that the other medium has too is the network's: a burst, or a slow line. Pictures
        that run away from sound which keeps its pace need no longer look.
        """
        rate = self._guard.push(self._at(reading, time_s), reading.arrived_s)
        other = self._begun_beside()
        if other is None:
            return rate
        others = (other._guard.rate(span_s) for span_s in (5.0, 2.0, 1.0, _GLANCE_S))
        beside = next((found for found in others if found is not None), None)
        if rate is not None:
            return None if beside is not None and _near(rate, beside) else rate
        if self._sound or time_s - other._end_s < _RUNAWAY_S:
            return None
        paced = other._guard.rate(_GLANCE_S)
        return self._guard.fast(_GLANCE_S) if paced is not None and 0.5 < paced < 1.5 else None

    def _at(self, reading: Reading[T], time_s: float) -> float:
        """The moment that arrives: a picture's own, sound's end."""
        return time_s + (reading.long_s if self._sound else 0.0)

    def _offset_s(self, last: Reading[T]) -> float:
        return self._time_s - last.stamp_s

    def _begun_beside(self) -> MediumClock[Any] | None:
        other = self._beside()
        return other if other is not None and other._time_s > -math.inf else None

    def _forget_strange(self) -> None:
        self._count("outlier", len(self._strange))
        self._strange.clear()

    def _told(self, kind: str, reason: str) -> Fault:
        self._count(kind)
        return Fault(kind, reason)

    def _count(self, kind: str, by: int = 1) -> None:
        if by:
            self._faults[f"clock.{kind}"] += by


def _nobody() -> None:
    """A medium that is alone."""


def _named(by_s: float, stamp_s: float) -> tuple[str, str]:
    if by_s > 0:
        return "jump_forward", f"the stream's clock jumped forward by {by_s:.4g} s"
    if abs(stamp_s) < JUMP_S:
        return "reset", "the stream's clock began again at 0"
    return "jump_backward", f"the stream's clock jumped back by {-by_s:.4g} s"


def _near(rate: float, other: float) -> bool:
    """Whether two rates are wrong in the same way."""
    return abs(other - rate) < 0.25 * abs(rate - 1)


def _rated(rate: float) -> str:
    how = f"{rate:.3g} times too fast" if rate > 1 else f"at {rate:.3g} of the true rate"
    return f"the stream's clock runs {how}; its times are not used"
