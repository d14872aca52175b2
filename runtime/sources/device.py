"""What cameras and microphones share: a device that is opened again for ever.

One thread opens, reads and closes; ``stop`` and ``retry_now`` may come from any thread. An item's
time is that of the monotonic clock, counted from the first item ever. Each reopening that goes on
after something was handed on begins with an `Interruption`.
"""

from __future__ import annotations

import random
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

from omnidrop_stream.errors import ConfigError, OmniDropError, SourceUnreadable
from omnidrop_stream.types import SAMPLE_RATE, Frame, Samples, StreamKind
from runtime.backoff import Outage
from runtime.sources.base import Interruption, SourceInfo, SourceState, SourceStats

LIST_THEM = "omnidrop devices lists what there is."
_LOOK_EVERY_S = 0.1


@dataclass(frozen=True, slots=True)
class DeviceTrouble:
    """Why a device cannot be had. ``hopeless``: waiting alone mends nothing."""

    code: str
    """A key of `REASON_CODES`."""
    reason: str
    """A few words, for a status line and the ledger."""
    advice: str
    kind: type[OmniDropError] = SourceUnreadable
    hopeless: bool = False

    def error(self, shown: str) -> OmniDropError:
        """As an exception with a whole sentence."""
        return self.kind(f"{shown}: {self.reason}. {self.advice}")


class Lost(Exception):
    """The device cannot be had, or no longer."""

    def __init__(self, trouble: DeviceTrouble) -> None:
        super().__init__(trouble.reason)
        self.trouble = trouble


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait for what. ``wait_for_first``: a device that cannot be had at first is waited
    for, instead of raising.
    """

    open_s: float = 5.0
    stall_s: float = 5.0
    wait_for_first: bool = False

    def __post_init__(self) -> None:
        for key, value in (("open_timeout_s", self.open_s), ("stall_timeout_s", self.stall_s)):
            if not 0.1 <= value <= 300:
                raise ConfigError(f"{key} = {value}: must lie between 0.1 and 300.")


class DeviceSource(ABC):
    """A device as a source that never dies. Open it with ``with``; iterate in the same thread.

    clock: monotonic seconds; draw: a random number in [0, 1).
    """

    def __init__(
        self,
        shown: str,
        kind: StreamKind,
        patience: Patience,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.shown, self._kind, self._patience, self._clock = shown, kind, patience, clock
        self._info: SourceInfo | None = None
        self.stats = SourceStats()
        self._state = SourceState("connecting", code="connecting", since_s=clock())
        self._outage = Outage(draw)
        self._zero_s: float | None = None
        self._end_s = 0.0  # monotonic time up to which items were handed on
        self._lost = ""  # why the device was lost, until it is there again
        self._is_open = False
        self._stopped, self._woken = threading.Event(), threading.Event()

    # -- what a kind of device does

    @abstractmethod
    def _open(self) -> SourceInfo:
        """Open the device within ``open_s``. Raises Lost."""

    @abstractmethod
    def _read(self, limit_s: float) -> Sequence[Frame | Samples]:
        """What came within ``limit_s``, in monotonic time; empty: nothing. Raises Lost."""

    @abstractmethod
    def _close(self) -> None:
        """Close what is open, also half of it; never raises, never blocks for long."""

    @abstractmethod
    def _silent(self) -> DeviceTrouble:
        """What it means that nothing came for ``stall_s``."""

    # -- the source

    @property
    def info(self) -> SourceInfo:
        """Known inside the ``with`` block; that of the newest opening."""
        if self._info is None:
            raise RuntimeError("a source's info is known only inside its with block")
        return self._info

    @property
    def state(self) -> SourceState:
        """How it is doing; safe from any thread."""
        return self._state

    @property
    def origin_s(self) -> float | None:
        """Monotonic time of the source's time 0; None before the first item."""
        return self._zero_s

    def __enter__(self) -> Self:
        self._info = SourceInfo(self.shown, self._kind, None, None, None, None, live=True)
        while not self._stopped.is_set():
            try:
                self._begin()
                return self
            except Lost as lost:
                trouble = lost.trouble
            self._end()
            if not self._may_come(trouble) and not self._stopped.is_set():
                self._tell("offline", trouble.code, trouble.reason)
                raise trouble.error(self.shown)
            self._wait_after(trouble)
        return self

    def _may_come(self, trouble: DeviceTrouble) -> bool:
        """Whether waiting is wished for and can help: a package does not install itself."""
        return self._patience.wait_for_first and trouble.kind.code != "missing_dependency"

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopped.set()
        self._end()
        self._tell("offline", "closed", "closed")

    def __iter__(self) -> Iterator[Frame | Samples | Interruption]:
        """Items as they arrive, in order of time; ends only when stopped."""
        while not self._stopped.is_set():
            try:
                if not self._is_open:
                    self._begin()
                yield from self._items()
                return  # stopped
            except Lost as lost:
                trouble = lost.trouble
            self._end()
            self._wait_after(trouble)

    def stop(self) -> None:
        """Ask the iterator to end, also while it opens, reads or waits; safe from any thread."""
        self._stopped.set()
        self._woken.set()

    def retry_now(self) -> None:
        """Try again at once instead of waiting; safe from any thread."""
        self._woken.set()

    def _begin(self) -> None:
        self._info = self._open()
        self._is_open = True

    def _end(self) -> None:
        self._is_open = False
        self._close()

    def _items(self) -> Iterator[Frame | Samples | Interruption]:
        heard_s = self._clock()
        while not self._stopped.is_set():
            came = self._read(min(_LOOK_EVERY_S, self._patience.stall_s))
            now_s = self._clock()
            if came:
                heard_s = now_s
            elif now_s - heard_s >= self._patience.stall_s:
                raise Lost(self._silent())
            for item in came:
                if self._stopped.is_set():
                    return
                yield from self._placed(item)

    def _placed(self, item: Frame | Samples) -> Iterator[Frame | Samples | Interruption]:
        """In source time, behind what was handed on before; after an outage told as one."""
        self._outage.good(self._clock())
        placed = _after(item, self._end_s) if self._zero_s is not None else item
        if placed is None:
            return
        if self._zero_s is None:
            self._zero_s = placed.time_s
        if self._lost:
            lost, self._lost = self._lost, ""
            self._tell("live", "", "", self._state.reconnects + 1)
            yield Interruption(lost, placed.time_s - self._zero_s)
        elif self._state.name != "live":
            self._tell("live", "", "")
        at_s = placed.time_s - self._zero_s
        self._end_s = placed.time_s
        if isinstance(placed, Frame):
            self.stats.frames += 1
            self.stats.ended_at_s = at_s
            yield replace(placed, time_s=at_s)
        else:
            long_s = len(placed.pcm) / SAMPLE_RATE
            self.stats.samples += len(placed.pcm)
            self.stats.ended_at_s, self._end_s = at_s + long_s, placed.time_s + long_s
            yield Samples(placed.pcm, at_s)

    def _wait_after(self, trouble: DeviceTrouble) -> None:
        if self._stopped.is_set():
            return
        delay_s = self._outage.failed(self._clock(), hopeless=trouble.hopeless)
        if self._zero_s is not None and not self._lost:
            self._lost = trouble.reason
        self._woken.clear()
        self._tell("offline", trouble.code, trouble.reason)
        if not self._stopped.is_set():
            self._woken.wait(delay_s)

    def _tell(self, name: str, code: str, reason: str, reconnects: int | None = None) -> None:
        old = self._state
        since_s = old.since_s if (old.name, old.code) == (name, code) else self._clock()
        comes = {"live": True, "offline": False}.get(name)
        sees, hears = self._kind is not StreamKind.AUDIO, self._kind is not StreamKind.VIDEO
        self._state = SourceState(
            name,
            reason,
            old.reconnects if reconnects is None else reconnects,
            code,
            since_s,
            comes if sees else None,
            comes if hears else None,
        )


def _after(item: Frame | Samples, end_s: float) -> Frame | Samples | None:
    """What of the item lies behind ``end_s``; a picture a little early is shown then."""
    if isinstance(item, Frame):
        return replace(item, time_s=max(item.time_s, end_s))
    cut = round((end_s - item.time_s) * SAMPLE_RATE)
    if cut <= 0:
        return item
    return Samples(item.pcm[cut:], end_s) if cut < len(item.pcm) else None
