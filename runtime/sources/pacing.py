"""A file in real time: items come out when a camera would have delivered them."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

from omnidrop_stream.errors import UsageError
from omnidrop_stream.types import SAMPLE_RATE, Frame, Samples
from runtime.sources.base import Interruption, Source, SourceInfo, SourceStats

FASTEST = 1000.0
LONGEST_PAUSE_S = 30.0
"""A longer pause is a jump of the file's clock, and not waited for."""
_BACK_S = 0.25


class Paced:
    """Wraps a source whose items would come at once; times and items stay exactly as they are.

    A picture comes at its own time, sound at its end. Time counts from the first item asked for,
    and anew from where the file's own time jumps back, or forward by more than 30 s. Whoever is
    late gets the next items at once until it has caught up. wait: sleeps for so many
    seconds; True if the source was stopped meanwhile.
    """

    def __init__(
        self,
        source: Source,
        speed: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], bool] | None = None,
    ) -> None:
        if not (math.isfinite(speed) and 0 < speed <= FASTEST):
            raise UsageError(
                f"speed = {speed} is not allowed: give a number above 0, at most {FASTEST:g}; "
                "1 is real time."
            )
        self._source, self._speed, self._clock = source, speed, clock
        self._stopped = threading.Event()
        self._wait = wait or self._stopped.wait

    @property
    def info(self) -> SourceInfo:
        """The wrapped source's."""
        return self._source.info

    @property
    def stats(self) -> SourceStats:
        """The wrapped source's."""
        return self._source.stats

    def __enter__(self) -> Self:
        self._source.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._source.__exit__(kind, error, trace)

    def __iter__(self) -> Iterator[Frame | Samples | Interruption]:
        """The source's items, each when it is due."""
        began_s: float | None = None
        newest_s = 0.0
        for item in self._source:
            now_s = self._clock()
            if not isinstance(item, Interruption):
                step_s = item.time_s - newest_s
                if began_s is None:
                    began_s, newest_s = now_s - item.time_s / self._speed, item.time_s
                elif not -_BACK_S <= step_s <= LONGEST_PAUSE_S:
                    began_s, newest_s = now_s - _due_s(item) / self._speed, item.time_s
                newest_s = max(newest_s, item.time_s)
                early_s = began_s + _due_s(item) / self._speed - now_s
                if early_s > 0 and self._wait(early_s):
                    return
            if self._stopped.is_set():
                return
            yield item

    def stop(self) -> None:
        """Ask the iterator to end, also while it waits; safe from any thread."""
        self._stopped.set()
        self._source.stop()


def _due_s(item: Frame | Samples) -> float:
    if isinstance(item, Frame):
        return item.time_s
    return item.time_s + len(item.pcm) / SAMPLE_RATE
