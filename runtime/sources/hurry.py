"""When decoding falls behind what arrives: leave out pictures that nothing else needs, then all but
keyframes, and go back slowly. Pure arithmetic; the caller brings the time.
"""

from __future__ import annotations

LEVELS = ("DEFAULT", "NONREF", "NONKEY")
"""FFmpeg's names for what its decoder leaves out: nothing of use, pictures that no other refers to,
all but keyframes."""
WINDOW_S = 1.0
BEHIND_SHARE, EASY_SHARE = 0.02, 0.30
"""Less than this share of a window spent waiting for data: behind. More than that: at ease."""
EASY_WINDOWS = 2
LONGEST_EASY_WINDOWS = 64
_CALM_WINDOWS = 60


class Hurry:
    """Whoever never waits for data has more of it than time. Going back takes windows at ease in a
    row: 2 at first, twice as many each time it was too early.
    """

    def __init__(self, now_s: float) -> None:
        self._window_from_s = now_s
        self._waited_s = 0.0
        self._wanted = self._applied = 0
        self._easy, self._needed = 0, EASY_WINDOWS
        self._calm = 0

    def read(self, waited_s: float, now_s: float) -> None:
        """A read took ``waited_s``, nearly all of it waiting for the other end."""
        self._waited_s += waited_s
        long_s = now_s - self._window_from_s
        if long_s < WINDOW_S:
            return
        share, self._waited_s, self._window_from_s = self._waited_s / long_s, 0.0, now_s
        self._easy = self._easy + 1 if share > EASY_SHARE else 0
        self._calm = self._calm + 1 if share >= BEHIND_SHARE else 0
        if share < BEHIND_SHARE and self._wanted < len(LEVELS) - 1:
            self._wanted += 1
        elif self._wanted and self._easy >= self._needed:
            self._wanted, self._easy = self._wanted - 1, 0
            self._needed = min(2 * self._needed, LONGEST_EASY_WINDOWS)
        if self._calm >= _CALM_WINDOWS and not self._wanted:
            self._needed = EASY_WINDOWS

    def level(self, *, keyframe: bool) -> str:
        """What to leave out from this packet on, one of `LEVELS`. After a stretch of keyframes
        only, other pictures can be decoded again from the next keyframe on.
        """
        if LEVELS[self._applied] != "NONKEY" or keyframe:
            self._applied = self._wanted
        return LEVELS[self._applied]
