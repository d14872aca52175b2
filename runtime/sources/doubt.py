"""Which signs of damage mean something: those that a stream does not show all the time. Pure."""

from __future__ import annotations

GROUPS = 3
"""So many groups of pictures with such a sign, one after the other, and it helps nobody: the stream
is one that FFmpeg always complains about, or its way is very bad."""


class Habit:
    """Whether a sign of damage is news. What a stream shows with its first picture is its own way
    for good; what it shows in several groups of pictures in a row, until a group comes without.
    """

    def __init__(self) -> None:
        self._always = self._seen = False
        self._row = 0  # groups with it

    def next_group(self) -> None:
        """A keyframe comes."""
        self._row = self._row + 1 if self._seen else 0
        self._seen = False

    def is_news(self, found: bool, *, at_first: bool) -> bool:
        """Of one packet; at_first: no sound picture came yet."""
        self._seen = self._seen or found
        self._always = self._always or (found and at_first)
        return found and not self._always and self._row < GROUPS
