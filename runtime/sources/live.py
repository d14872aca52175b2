"""From the decoded pieces of one live connection to items on the source's own time line.

Nothing here waits or reads: the connection pushes, items come out.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator

from omnidrop_stream.types import SAMPLE_RATE, Frame, Samples
from runtime.sources.decode import LONGEST_HOLD_S, Picture, ToRgb

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
        self._zero_s: float | None = None
        self._offset_s = 0.0
        self._end_s = 0.0

    @property
    def begun(self) -> bool:
        """Whether anything was placed yet."""
        return self._zero_s is not None

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
    beginning: sound before it is cut off.
    """

    def __init__(
        self, timeline: Timeline, fps: float | None, *, has_video: bool, to_rgb: ToRgb
    ) -> None:
        self._timeline, self._fps, self._to_rgb = timeline, fps, to_rgb
        self._waits_for_picture = has_video
        self._held: deque[Samples] = deque()
        self._begin_s: float | None = None
        self._grid = GridPick(fps, 0.0)

    def picture(self, picture: Picture) -> Iterator[Frame | Samples]:
        """A decoded frame, the first of which is a keyframe or follows one."""
        begins = self._begin_s is None
        if begins:
            self._begin(picture.time_s)
        for chosen in self._grid.push(picture):
            yield Frame(self._to_rgb(chosen), self._timeline.place(chosen.time_s))
        if begins:
            yield from self._release()

    def sound(self, run: Samples) -> Iterator[Frame | Samples]:
        """Sound with the connection's own time."""
        self._held.append(run)
        if self._begin_s is None:
            held_s = run.time_s - self._held[0].time_s
            if self._waits_for_picture and 0 <= held_s < FIRST_PICTURE_S:
                return
            self._begin(self._held[0].time_s)
        yield from self._release()

    def _begin(self, at_s: float) -> None:
        self._begin_s = at_s
        self._timeline.anchor(at_s)
        self._grid = GridPick(self._fps, at_s)

    def _release(self) -> Iterator[Samples]:
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
            yield Samples(run.pcm, self._timeline.place(run.time_s, len(run.pcm) / SAMPLE_RATE))
