"""``look_back_s``: a question about the last so many seconds sees only their chunks."""

from __future__ import annotations

import math

from omnidrop_stream.cache import Segment
from omnidrop_stream.errors import NothingHeld, QuestionError
from omnidrop_stream.types import Query

LONGEST_S = 86_400.0
_EPSILON_S = 1e-6


def check_look_back(look_back_s: float | None) -> None:
    """Raise QuestionError for what is no length of time to look back."""
    if look_back_s is None or (math.isfinite(look_back_s) and 0 < look_back_s <= LONGEST_S):
        return
    raise QuestionError(
        f"look_back_s = {look_back_s:g} is not allowed: give seconds, more than 0 and at most "
        f"{LONGEST_S:g}, or nothing for all that is held"
    )


def within(segments: tuple[Segment, ...], query: Query) -> tuple[Segment, ...]:
    """The segments that reach into the query's last seconds; all of them where it names none.

    Their states stay what they are: made with the older chunks in sight, as after an eviction, and
    they take the slots that they would have then. The second chunk of a merging window may come
    without the first. Raises NothingHeld where nothing of those seconds is held.
    """
    if query.look_back_s is None or not segments:
        return segments
    end_s = segments[-1].end_s
    asked_s = end_s if query.asked_at_s is None else max(query.asked_at_s, end_s)
    since_s = asked_s - query.look_back_s
    kept = tuple(s for s in segments if s.end_s > since_s + _EPSILON_S)
    if not kept:
        raise NothingHeld(
            f"nothing of the last {query.look_back_s:g} s is held: the newest material is "
            f"{asked_s - end_s:.1f} s old; look further back, or ask without look_back_s"
        )
    return kept
