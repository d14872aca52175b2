"""``prefill_depth auto``: how deep a stream's chunks go, moved a layer at a time.

Depth pays when a question comes, and costs at every chunk. So a stream that is often asked goes
deeper, up to half of the layers (design section 4: never beyond, where another method would begin),
one that nobody asks goes back to what costs a question nothing of its exactness, and when the model
has too much to do all go shallower, those that are asked last.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

RAISE_BELOW = 0.35
RAISE_BELOW_OFTEN = 0.5
LOWER_ABOVE = 0.7
LOWER_ABOVE_OFTEN = 0.85
"""Shares of the model's time that the chunks of all its streams may take before a depth moves."""
UNASKED_CHUNKS = 150
"""Nobody asks: no question for so many chunks, 5 minutes."""
OFTEN = 3
"""Questions in that time that make it often."""


@dataclass(frozen=True, slots=True)
class Use:
    """What a stream's depth is decided by, after a chunk."""

    depth: int
    exact: int
    """The depth of ``exact``: where it begins, and where an unasked stream goes back to."""
    deepest: int
    share: float
    """Of the model's time that chunks take, those of all streams."""
    asked: int
    """Questions within the last `UNASKED_CHUNKS` chunks."""
    unasked_chunks: int
    """Since the last question, or since the stream began."""


@dataclass(frozen=True, slots=True)
class Move:
    """The depth to serve next, and why; no reason where it stays."""

    depth: int
    reason: str = ""


def next_depth(use: Use) -> Move:
    """A layer deeper, a layer shallower, or as it is."""
    often = use.asked >= OFTEN
    lower = LOWER_ABOVE_OFTEN if often else LOWER_ABOVE
    if use.share > lower:
        reason = f"chunks take {use.share:.0%} of the model's time, more than {lower:.0%}"
        return _moved(use, max(0, use.depth - 1), reason)
    if use.unasked_chunks >= UNASKED_CHUNKS:
        reason = f"no question for {use.unasked_chunks} chunks"
        return _moved(use, use.depth - (use.depth > use.exact), reason)
    room = RAISE_BELOW_OFTEN if often else RAISE_BELOW
    if use.share < room and use.depth < use.deepest:
        lately = ", and it was asked lately" if use.asked else ""
        reason = f"chunks take {use.share:.0%} of the model's time{lately}"
        return Move(use.depth + 1, reason)
    return Move(use.depth)


def _moved(use: Use, depth: int, reason: str) -> Move:
    return Move(depth, reason) if depth != use.depth else Move(depth)


class AutoDepth:
    """One stream's questions and load, as far as its depth depends on them. Belongs to the
    stream.
    """

    def __init__(self, exact: int, n_layers: int) -> None:
        """exact: the depth of ``exact`` on this stream."""
        self._exact = exact
        self._deepest = max(n_layers // 2, exact)
        self._chunks = 0
        self._asked: deque[int] = deque(maxlen=OFTEN)
        self._all_share: float | None = None
        self.reason = ""
        """Why the depth moved last."""

    def asked(self) -> None:
        """A question came."""
        self._asked.append(self._chunks)

    def told(self, share: float) -> None:
        """The share of the model's time that the chunks of all streams take, from whoever knows."""
        self._all_share = share

    def after_chunk(self, depth: int, own_share: float, *, free: bool) -> int:
        """The depth to serve next. own_share: of real time that this chunk took, which counts until
        that of all streams is told. free: whether the depth may move now.
        """
        self._chunks += 1
        if not free:
            return depth
        last = self._asked[-1] if self._asked else 0
        recent = [at for at in self._asked if self._chunks - at < UNASKED_CHUNKS]
        share = own_share if self._all_share is None else self._all_share
        move = next_depth(
            Use(depth, self._exact, self._deepest, share, len(recent), self._chunks - last)
        )
        self.reason = move.reason or self.reason
        return move.depth
