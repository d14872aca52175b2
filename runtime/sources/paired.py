"""Pictures of one live source and sound of a microphone as one source on one clock.

Each of the two is read by a thread of its own into a bounded hand-over that drops the oldest. Both
are placed on the monotonic clock. When one of them is lost the other goes on, and the state says
``degraded``; what is missing is missing in the chunks, too.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

from omnidrop_stream.errors import UsageError
from omnidrop_stream.types import SAMPLE_RATE, Frame, Samples, StreamKind
from runtime.sources.arrival import ArrivalClock
from runtime.sources.base import (
    Interruption,
    LiveSource,
    Source,
    SourceInfo,
    SourceState,
    SourceStats,
)
from runtime.sources.live import FIRST_PICTURE_S

HELD_FRAMES, HELD_S = 16, 4.0
"""Pictures and seconds of sound that wait for a reader; then the oldest go."""
_LOOK_EVERY_S = 0.1
_COMES_S = 2.0
"""A medium that was heard of within this is there."""
_JOIN_S = 1.5


@runtime_checkable
class Clocked(Protocol):
    """A source that knows when, on the monotonic clock, its time 0 was."""

    @property
    def origin_s(self) -> float | None:
        """Monotonic seconds; None before its first item."""
        ...


class _Reader:
    """Reads one inner source in a thread of its own and hands over one medium of it."""

    def __init__(
        self, source: Source, medium: type, news: threading.Condition, clock: Callable[[], float]
    ) -> None:
        self._source, self._medium, self._news, self._clock = source, medium, news, clock
        self._held: deque[Frame | Samples | Interruption] = deque()
        self._times = ArrivalClock(clock)
        self.opened = self.over = False
        self.error: BaseException | None = None
        self.dropped_frames = self.dropped_samples = 0
        self.heard_s = float("-inf")
        """Monotonic time of the newest item."""
        name = f"omnidrop-{'picture' if medium is Frame else 'sound'}"
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._source.stop()

    def join(self, limit_s: float) -> bool:
        self._thread.join(limit_s)
        return not self._thread.is_alive()

    def take(self) -> list[Frame | Samples | Interruption]:
        """All that waits, in monotonic time; the condition is held."""
        items = list(self._held)
        self._held.clear()
        return items

    @property
    def waits(self) -> bool:
        """Whether something waits; the condition is held."""
        return bool(self._held)

    @property
    def info(self) -> SourceInfo:
        return self._source.info

    @property
    def stats(self) -> SourceStats:
        return self._source.stats

    @property
    def state(self) -> SourceState:
        """What the inner source says."""
        if isinstance(self._source, LiveSource):
            return self._source.state
        return SourceState("offline" if self.over else "live")

    def _run(self) -> None:
        try:
            with self._source as source:
                self._tell(opened=True)
                for item in source:
                    self._take_in(item)
        except BaseException as error:  # raised where the pair is opened or read
            self.error = error
        self._tell(over=True)

    def _tell(self, opened: bool = False, over: bool = False) -> None:
        with self._news:
            self.opened, self.over = self.opened or opened, self.over or over
            self._news.notify_all()

    def _take_in(self, item: Frame | Samples | Interruption) -> None:
        if isinstance(item, Interruption):
            self._times = ArrivalClock(self._clock)
        elif not isinstance(item, self._medium):
            return  # the feed's own sound, in whose place the microphone was wished for
        else:
            item = self._placed(item)
            self.heard_s = self._clock()
        with self._news:
            self._held.append(item)
            self._make_room()
            self._news.notify_all()

    def _placed(self, item: Frame | Samples) -> Frame | Samples:
        origin_s = self._source.origin_s if isinstance(self._source, Clocked) else None
        if origin_s is not None:
            time_s = item.time_s + origin_s
        elif isinstance(item, Samples):
            long_s = len(item.pcm) / SAMPLE_RATE
            time_s = self._times.place(item.time_s + long_s) - long_s
        else:
            time_s = self._times.place(item.time_s)
        return replace(item, time_s=time_s)

    def _make_room(self) -> None:
        frames = [item for item in self._held if isinstance(item, Frame)]
        sound = sum(len(item.pcm) for item in self._held if isinstance(item, Samples))
        if len(frames) <= HELD_FRAMES and sound <= HELD_S * SAMPLE_RATE:
            return
        oldest = next(item for item in self._held if not isinstance(item, Interruption))
        self._held.remove(oldest)
        if isinstance(oldest, Samples):
            self.dropped_samples += len(oldest.pcm)
        else:
            self.dropped_frames += 1


class PairedSource:
    """Pictures of ``eye``, sound of ``ear``. Open it with ``with``; iterate in the same thread.

    wait_for_first: either may be absent at first; else what cannot be opened raises. clock:
    monotonic seconds.
    """

    def __init__(
        self,
        eye: Source,
        ear: Source,
        name: str,
        *,
        wait_for_first: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not isinstance(eye, LiveSource):
            raise UsageError(
                f"{name}: a microphone goes with live pictures only; a file has its own sound. "
                "Leave --microphone out."
            )
        self._news = threading.Condition()
        self._eye = _Reader(eye, Frame, self._news, clock)
        self._ear = _Reader(ear, Samples, self._news, clock)
        self._inner: tuple[Source, Source] = (eye, ear)
        self._name, self._wait_for_first, self._clock = name, wait_for_first, clock
        self._state = SourceState("connecting", code="connecting", since_s=clock())
        self._stopped = threading.Event()
        self._zero_s: float | None = None
        self._sound_first: deque[Samples] = deque()  # sound before the first picture
        self._begun = False
        self._given = SourceStats()

    # -- what it is

    @property
    def info(self) -> SourceInfo:
        """Size and rate are the pictures'; None until there were any."""
        name, av = self._name, StreamKind.AV
        if not self._eye.opened:
            return SourceInfo(name, av, None, None, None, None, live=True)
        eye = self._eye.info
        return SourceInfo(name, av, eye.width, eye.height, eye.fps, None, True, eye.decoder)

    @property
    def stats(self) -> SourceStats:
        """The sums of both, and what was dropped between."""
        eye, ear, given = self._eye.stats, self._ear.stats, self._given
        return SourceStats(
            frames=given.frames,
            samples=given.samples,
            decoded_frames=eye.decoded_frames,
            corrupt_frames=eye.corrupt_frames,
            decode_errors=eye.decode_errors,
            skipped_frames=eye.skipped_frames,
            hardware_refused=eye.hardware_refused,
            untimed=eye.untimed + ear.untimed,
            overflows=ear.overflows,
            dropped_frames=eye.dropped_frames + self._eye.dropped_frames,
            dropped_samples=ear.dropped_samples + self._ear.dropped_samples,
            ended_at_s=given.ended_at_s,
        )

    @property
    def state(self) -> SourceState:
        """Both in one; safe from any thread."""
        return self._state

    def retry_now(self) -> None:
        """Whatever is lost is tried again at once; safe from any thread."""
        for source in self._inner:
            if isinstance(source, LiveSource):
                source.retry_now()

    # -- life

    def __enter__(self) -> Self:
        self._eye.start()
        self._ear.start()
        with self._news:
            while not self._stopped.is_set() and not self._ready():
                self._news.wait(_LOOK_EVERY_S)
        error = self._eye.error or self._ear.error
        if error is not None and not self._stopped.is_set():
            self._end()
            raise error
        return self

    def _ready(self) -> bool:
        readers = (self._eye, self._ear)
        if any(reader.error for reader in readers):
            return True
        if self._wait_for_first:
            return any(reader.opened for reader in readers)
        return all(reader.opened for reader in readers)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()
        reconnects, now_s = self._state.reconnects, self._clock()
        self._state = SourceState("offline", "closed", reconnects, "closed", now_s, False, False)

    def _end(self) -> None:
        self.stop()
        for reader in (self._eye, self._ear):
            reader.join(_JOIN_S)

    def stop(self) -> None:
        """Ask the iterator to end; safe from any thread."""
        self._stopped.set()
        self._eye.stop()
        self._ear.stop()
        with self._news:
            self._news.notify_all()

    def __iter__(self) -> Iterator[Frame | Samples | Interruption]:
        """Items as they arrive, in order of time within each medium; ends only when stopped."""
        while not self._stopped.is_set():
            with self._news:
                if not (self._eye.waits or self._ear.waits):
                    self._news.wait(_LOOK_EVERY_S)
                seen, heard = self._eye.take(), self._ear.take()
            self._look()
            self._raise_what_ended()
            for item in [*self._merged(seen, self._ear), *self._merged(heard, self._eye)]:
                if self._stopped.is_set():
                    return
                yield item

    def _raise_what_ended(self) -> None:
        for reader in (self._eye, self._ear):
            if reader.error is not None and not self._stopped.is_set():
                raise reader.error

    # -- one time line

    def _merged(
        self, items: list[Frame | Samples | Interruption], other: _Reader
    ) -> Iterator[Frame | Samples | Interruption]:
        """In the pair's time. While the other medium comes, an interruption of this one is no more
        than a hole in it, which the chunker sees and names.
        """
        interrupted: Interruption | None = None
        for item in items:
            if isinstance(item, Interruption):
                other_comes = self._clock() - other.heard_s < _COMES_S
                interrupted = None if other_comes or not self._begun else item
                continue
            for placed in self._begins(item):
                at_s = placed.time_s
                if interrupted is not None:
                    yield Interruption(interrupted.reason, at_s)
                    interrupted = None
                self._count(placed)
                yield placed

    def _begins(self, item: Frame | Samples) -> list[Frame | Samples]:
        """The first picture is the beginning; sound waits for it, for a while."""
        if self._begun:
            rest = _cut(item, self._zero_s or 0.0) if isinstance(item, Samples) else item
            return [] if rest is None else [self._placed(rest)]
        if isinstance(item, Samples):
            self._sound_first.append(item)
            held_s = item.time_s - self._sound_first[0].time_s
            if held_s < FIRST_PICTURE_S:
                return []
            self._zero_s = self._sound_first[0].time_s
        else:
            self._zero_s = item.time_s
        self._begun = True
        held = [_cut(run, self._zero_s) for run in self._sound_first]
        self._sound_first.clear()
        sound = [self._placed(run) for run in held if run is not None]
        return sound if isinstance(item, Samples) else [self._placed(item), *sound]

    def _placed(self, item: Frame | Samples) -> Frame | Samples:
        at_s = max(item.time_s - (self._zero_s or 0.0), 0.0)
        return replace(item, time_s=at_s)

    def _count(self, item: Frame | Samples) -> None:
        given = self._given
        if isinstance(item, Frame):
            given.frames += 1
            given.ended_at_s = max(given.ended_at_s, item.time_s)
        else:
            given.samples += len(item.pcm)
            given.ended_at_s = max(given.ended_at_s, item.time_s + len(item.pcm) / SAMPLE_RATE)

    # -- one state

    def _look(self) -> None:
        eye, ear = self._eye.state, self._ear.state
        name, code, reason = _together(eye, ear)
        old = self._state
        since_s = old.since_s if (old.name, old.code) == (name, code) else self._clock()
        reconnects = eye.reconnects + ear.reconnects
        comes = (_comes(eye, eye.video), _comes(ear, ear.audio))
        if (name, code, reason, reconnects, *comes) != (
            *(old.name, old.code, old.reason, old.reconnects),
            *(old.video, old.audio),
        ):
            self._state = SourceState(name, reason, reconnects, code, since_s, *comes)


def _comes(state: SourceState, medium: bool | None) -> bool:
    return state.name in ("live", "degraded") and medium is not False


def _together(eye: SourceState, ear: SourceState) -> tuple[str, str, str]:
    """Name, code and reason of the pair."""
    sees, hears = _comes(eye, eye.video), _comes(ear, ear.audio)
    if sees and hears:
        return "live", "", ""
    if sees:
        return "degraded", "no_audio", f"no sound: {ear.reason or ear.name}"
    if hears:
        return "degraded", "no_video", f"no pictures: {eye.reason or eye.name}"
    if "connecting" in (eye.name, ear.name):
        return "connecting", "connecting", ""
    return "offline", eye.code, eye.reason


def _cut(run: Samples, from_s: float) -> Samples | None:
    """What of the run lies behind ``from_s``; None: nothing."""
    cut = round((from_s - run.time_s) * SAMPLE_RATE)
    if cut <= 0:
        return run
    return Samples(run.pcm[cut:], from_s) if cut < len(run.pcm) else None
