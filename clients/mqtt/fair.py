"""Who is next: one queue for each client, served in turn. Pure.

However many questions one client has waiting, another's first question is next but one at most.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Container
from typing import Generic, TypeVar

T = TypeVar("T")


class FairQueue(Generic[T]):
    """Items of owners; at most ``at_once`` of one owner and ``together`` of all are taken out."""

    def __init__(self, at_once: int, together: int) -> None:
        self._at_once = at_once
        self._together = together
        self._waiting: OrderedDict[str, deque[T]] = OrderedDict()
        self._taken: dict[str, int] = {}

    def put(self, owner: str, item: T) -> None:
        """Add an item behind its owner's others."""
        self._waiting.setdefault(owner, deque()).append(item)

    def take(self, pressing: Container[str] = (), calm: bool = True) -> T | None:
        """The next item, None where none waits or may run; `done` must follow.

        pressing: owners that ask more than they may. They are served one at a time, while nobody
        else has anything, and only where it is ``calm``.
        """
        if sum(self._taken.values()) >= self._together:
            return None
        # The owner with the fewest answers in progress; among those, who was served longest ago.
        ready = [
            o for o in self._waiting if self._taken.get(o, 0) < self._at_once and o not in pressing
        ]
        if not ready and not self._taken and calm:
            ready = list(self._waiting)
        if not ready:
            return None
        owner = min(ready, key=lambda o: self._taken.get(o, 0))
        items = self._waiting[owner]
        item = items.popleft()
        self._waiting.move_to_end(owner)
        if not items:
            del self._waiting[owner]
        self._taken[owner] = self._taken.get(owner, 0) + 1
        return item

    def done(self, owner: str) -> None:
        """One that was taken has ended."""
        self._taken[owner] -= 1
        if not self._taken[owner]:
            del self._taken[owner]

    def remove(self, owner: str, item: T) -> bool:
        """Take an item out that still waits; False where it does not."""
        items = self._waiting.get(owner)
        if items is None or item not in items:
            return False
        items.remove(item)
        if not items:
            del self._waiting[owner]
        return True

    def held(self, owner: str) -> int:
        """How many of an owner's items wait or were taken and are not done."""
        return len(self._waiting.get(owner, ())) + self._taken.get(owner, 0)

    def __len__(self) -> int:
        """How many wait altogether."""
        return sum(map(len, self._waiting.values()))
