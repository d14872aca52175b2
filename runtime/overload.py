"""The overload ladder: which cheaper way of taking chunks in is used now. Pure; its time is counted
in chunks.

It looks at what each chunk cost. Too late several times in a row: one step up. A step down is taken
when the chunks would fit at the easier step (their present cost times what that step saved when it
was taken) for a while that grows each time the ladder flaps. Should that estimate be wrong for good
(what made the model slow may have gone in the very moment), a much longer calm tries it anyway.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from omnidrop_stream.types import StreamKind

ENGAGE_AT = 4
"""Late chunks in a row that engage a step; one beside which others were lost counts twice."""
ROOM = 0.7
"""Share of a chunk's period that the easier step may be expected to take."""
DWELL = 4
"""Chunks that must have fitted before a step is undone; doubled each time that was too early."""
LONGEST_DWELL = 64
TRY_ANYWAY = 8
"""After so many times the dwell without a late chunk, the easier step is tried regardless."""
MOST_SAVED = 8.0
LEAST_FPS = 2.0
"""Below this a chunk's pictures are too few to halve: a temporal patch takes two."""


class Step(enum.IntEnum):
    """Ways to take chunks in, each cheaper than the one before, and all of them together."""

    NORMAL = 0
    FEWER_FRAMES = 1
    SMALLER_FRAMES = 2
    STRONGER_MERGING = 3
    AUDIO_ONLY = 4
    SKIP = 5

    @property
    def title(self) -> str:
        """For people: ``lower frame rate``."""
        return TITLES[self]


TITLES = {
    Step.NORMAL: "normal",
    Step.FEWER_FRAMES: "lower frame rate",
    Step.SMALLER_FRAMES: "smaller frames",
    Step.STRONGER_MERGING: "stronger merging",
    Step.AUDIO_ONLY: "audio only",
    Step.SKIP: "skipping chunks",
}


def steps_for(kind: StreamKind, fps: float, *, merging: bool) -> tuple[Step, ...]:
    """The steps that save anything on such a stream, cheapest last. merging: whether pruning within
    each modality is on.
    """
    applies = {
        Step.FEWER_FRAMES: kind is not StreamKind.AUDIO and fps >= LEAST_FPS,
        Step.SMALLER_FRAMES: kind is not StreamKind.AUDIO,
        Step.STRONGER_MERGING: kind is not StreamKind.AUDIO and merging,
        Step.AUDIO_ONLY: kind is StreamKind.AV,
    }
    return tuple(step for step in Step if applies.get(step, True))


@dataclass(frozen=True, slots=True)
class Change:
    """The ladder moved."""

    before: Step
    after: Step

    @property
    def engaged(self) -> bool:
        """Whether it went up, to a cheaper step."""
        return self.after > self.before


class Ladder:
    """One stream's place on the ladder; belongs to one thread."""

    def __init__(self, steps: tuple[Step, ...] = (Step.NORMAL,)) -> None:
        """steps: those that may be used, ascending, the first of them ``NORMAL``."""
        self._steps = steps
        self._place = 0
        self._late = 0
        self._calm = 0
        self._fits = 0
        self._dwell = DWELL
        self._since_eased: int | None = None
        self._share: float | None = None
        self._share_before: float | None = None
        self._saved = [1.0] * len(steps)

    @property
    def step(self) -> Step:
        """What is used now."""
        return self._steps[self._place]

    @property
    def dwell(self) -> int:
        """Chunks that must fit before a step is undone, as it stands."""
        return self._dwell

    def observe(
        self, waited_s: float, cost_s: float, period_s: float, lost: int = 0
    ) -> Change | None:
        """A chunk waited and took so long; ``lost``: chunks dropped for overload since the last
        one, not counting those that ``SKIP`` leaves out.
        """
        share = cost_s / period_s
        self._share = share if self._share is None else (self._share + share) / 2
        self._learn()
        if self._since_eased is not None:
            self._since_eased += 1
            if self._since_eased > 4 * self._dwell:
                self._dwell, self._since_eased = DWELL, None
        if lost or waited_s + cost_s > period_s:
            self._late += 2 if lost else 1
            self._calm = self._fits = 0
        else:
            self._late = max(0, self._late - 1)
            self._calm += 1
            expected = self._share * self._saved[self._place]
            self._fits = self._fits + 1 if expected <= ROOM else 0
        if self._late >= ENGAGE_AT and self._place + 1 < len(self._steps):
            return self._engage()
        if self._place and (self._fits >= self._dwell or self._calm >= TRY_ANYWAY * self._dwell):
            return self._ease()
        return None

    def _learn(self) -> None:
        """The second chunk at a step tells what it saved: the first may have begun before it."""
        before, share = self._share_before, self._share
        if before is None or share is None:
            return
        if self._calm + self._late >= 1:
            self._saved[self._place] = min(max(before / max(share, 1e-9), 1.0), MOST_SAVED)
            self._share_before = None

    def _engage(self) -> Change:
        if self._since_eased is not None and self._since_eased <= 2 * self._dwell:
            self._dwell = min(2 * self._dwell, LONGEST_DWELL)
        self._since_eased = None
        # What skipping leaves out does not make a chunk cheaper.
        skips = self._steps[self._place + 1] is Step.SKIP
        return self._move(1, None if skips else self._share)

    def _ease(self) -> Change:
        self._since_eased = 0
        return self._move(-1, None)

    def _move(self, by: int, share_before: float | None) -> Change:
        before = self.step
        self._place += by
        self._late = self._calm = self._fits = 0
        self._share, self._share_before = None, share_before
        return Change(before, self.step)
