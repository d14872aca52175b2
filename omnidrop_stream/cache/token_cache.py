"""The trunk's rolling store: a budget in tokens, bytes and slots, and room made for what comes."""

from __future__ import annotations

from dataclasses import dataclass

from omnidrop_stream.cache.eviction import Eviction, oldest_window
from omnidrop_stream.cache.segment import Segment, slots_of
from omnidrop_stream.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Budget:
    """What a stream may hold. ``max_slots`` keeps position ids within the model's trained range."""

    tokens: int
    bytes: int | None = None
    max_slots: int | None = None

    def __str__(self) -> str:
        size = "" if self.bytes is None else f" in {self.bytes} bytes"
        return f"{self.tokens} tokens{size}"


class TokenCache:
    """Segments of one stream, oldest first. Counted before appending, so the budget is never
    passed.
    """

    def __init__(self, budget: Budget, evict: Eviction = oldest_window) -> None:
        self._budget = budget
        self._evict = evict
        self._segments: tuple[Segment, ...] = ()
        self.evicted_chunks = 0
        self.evicted_tokens = 0

    @property
    def budget(self) -> Budget:
        """The limits in force."""
        return self._budget

    @property
    def tokens(self) -> int:
        """Tokens held."""
        return sum(s.count for s in self._segments)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(s.nbytes for s in self._segments)

    def snapshot(self) -> tuple[Segment, ...]:
        """The segments held now. Stays valid and unchanged whatever happens to the cache; copies
        nothing.
        """
        return self._segments

    def replace(self, segments: tuple[Segment, ...]) -> None:
        """Put other states of the same stream in place (another depth, or what is left after
        forgetting).
        """
        self._segments = segments

    def make_room(self, tokens: int, nbytes: int, slots: int, window: int) -> list[Segment]:
        """Evict until a chunk of that size fits; returns the segments that left whole. Mutates;
        call before computing the chunk's states.

        Raises ConfigError if the newest window alone is larger than the budget.
        """
        left: list[Segment] = []
        while not self._fits(tokens, nbytes, slots):
            older = tuple(s for s in self._segments if s.window != window)
            if not older:
                raise ConfigError(
                    f"the budget is smaller than one window: {self._budget} cannot hold a window "
                    f"of two chunks with {self.tokens + tokens} tokens so far; raise budget_tokens "
                    "(--budget-tokens) or budget_bytes, or lower frame_tokens"
                )
            stays = self._evict(older, self._slots_over(slots))
            if {id(s) for s in stays} == {id(s) for s in older}:
                raise RuntimeError("the eviction policy gave nothing up")
            self.evicted_tokens += sum(s.count for s in older) - sum(s.count for s in stays)
            held = {s.chunk for s in stays}
            left.extend(s for s in older if s.chunk not in held)
            self._segments = (*stays, *self._segments[len(older) :])
        self.evicted_chunks += len(left)
        return left

    def append(self, segment: Segment) -> None:
        """Add the newest segment; room must have been made. Older snapshots do not see it."""
        self._segments = (*self._segments, segment)

    def _fits(self, tokens: int, nbytes: int, slots: int) -> bool:
        limit = self._budget
        if self.tokens + tokens > limit.tokens:
            return False
        if limit.bytes is not None and self.nbytes + nbytes > limit.bytes:
            return False
        return not self._slots_over(slots)

    def _slots_over(self, slots: int) -> bool:
        used = slots_of(self._segments)[-1] + 1 if self._segments else 0
        limit = self._budget.max_slots
        return limit is not None and used + slots > limit
