"""Pages with reference counts: which rows of a preallocated tensor are taken, and by whom.

It knows numbers only. Rows are handed out as contiguous extents: the next extent of a lane goes on
where its last one ended, so that a rolling window stays one or two stretches of rows. A page is
shared by neighbouring extents of one lane and free again when the last of them has gone.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import deque
from collections.abc import Sequence

PAGE_ROWS = 16
GROWTH = 1.25
"""How much larger a pool becomes when pinned rows leave no room in it."""


class Extent:
    """Rows ``start`` to ``stop`` of a pool. Whoever holds it pins its pages; when nobody does any
    more they are free.
    """

    __slots__ = ("__weakref__", "_returned", "lane", "start", "stop")

    def __init__(
        self, returned: deque[tuple[int, int, int]], lane: int, start: int, stop: int
    ) -> None:
        self._returned = returned
        self.lane = lane
        self.start = start
        self.stop = stop

    @property
    def count(self) -> int:
        """Rows."""
        return self.stop - self.start

    def __del__(self) -> None:
        # Only noted down here: a collector may run this on any thread, in the middle of anything.
        self._returned.append((self.lane, self.start, self.stop))


class _Lane:
    """Where one kind of row goes: its part of the pool, where it goes on, what it holds."""

    def __init__(self, home: tuple[float, float]) -> None:
        self.home = home
        self.tail: int | None = None
        self.stops: list[int] = []


class PagePool:
    """Rows in pages. ``take`` may grow it; an extent's rows never move."""

    def __init__(self, rows: int, homes: Sequence[tuple[float, float]] = ((0.0, 1.0),)) -> None:
        """``homes``: for each lane the part of the pool (from, to) that it fills first."""
        self._pins = [0] * max(1, -(-rows // PAGE_ROWS))
        self._lanes = [_Lane(home) for home in homes]
        self._returned: deque[tuple[int, int, int]] = deque()

    @property
    def rows(self) -> int:
        """Rows there are, taken or free."""
        return len(self._pins) * PAGE_ROWS

    @property
    def pinned_pages(self) -> int:
        """Pages that some extent lies on."""
        self._collect()
        return sum(pins > 0 for pins in self._pins)

    def take(self, rows: int, lane: int = 0) -> Extent:
        """An extent of ``rows`` rows that nobody else has."""
        self._collect()
        mine = self._lanes[lane]
        start = self._place(mine, rows)
        stop = start + rows
        for page in self._pages(start, stop):
            self._pins[page] += 1
        if rows:
            insort(mine.stops, stop)
            mine.tail = stop
        return Extent(self._returned, lane, start, stop)

    def _place(self, lane: _Lane, rows: int) -> int:
        if rows == 0:
            return 0
        if lane.tail is not None and self._goes_on(lane.tail, rows):
            return lane.tail
        need, count = -(-rows // PAGE_ROWS), len(self._pins)
        low, high = (int(share * count) for share in lane.home)
        for first, last in ((low, high), (0, count)):
            page = self._free_run(first, last, need)
            if page is not None:
                return page * PAGE_ROWS
        self._pins += [0] * max(need, int(count * (GROWTH - 1.0)))
        page = self._free_run(max(0, count - need), len(self._pins), need)
        if page is None:
            raise RuntimeError("a pool that has just grown has no room")
        return page * PAGE_ROWS

    def _goes_on(self, tail: int, rows: int) -> bool:
        """Whether ``rows`` rows fit right behind the lane's last extent."""
        first = -(-tail // PAGE_ROWS)  # the rest of a page that is begun is the lane's own
        pages = range(first, -(-(tail + rows) // PAGE_ROWS))
        return pages.stop <= len(self._pins) and not any(self._pins[p] for p in pages)

    def _free_run(self, first: int, last: int, need: int) -> int | None:
        run = 0
        for page in range(first, last):
            run = 0 if self._pins[page] else run + 1
            if run == need:
                return page - need + 1
        return None

    def _collect(self) -> None:
        """Take back what was let go."""
        while self._returned:
            number, start, stop = self._returned.popleft()
            if start == stop:
                continue
            for page in self._pages(start, stop):
                self._pins[page] -= 1
            lane = self._lanes[number]
            place = bisect_right(lane.stops, stop) - 1
            del lane.stops[place]
            if lane.tail == stop:  # the newest left: go on where the one before it ends
                lane.tail = lane.stops[place - 1] if place else None

    @staticmethod
    def _pages(start: int, stop: int) -> range:
        return range(start // PAGE_ROWS, -(-stop // PAGE_ROWS))
