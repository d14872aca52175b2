"""The page allocator under random traffic: no row twice, no page lost."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from omnidrop_stream.cache import PAGE_ROWS, Extent, PagePool

HOMES = [(0.0, 0.6), (0.6, 0.9), (0.9, 1.0)]
steps = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 3 * PAGE_ROWS), st.integers(0, 99)), max_size=60
)


def overlapping(extents: list[Extent]) -> bool:
    ordered = sorted((e for e in extents if e.count), key=lambda e: e.start)
    return any(a.stop > b.start for a, b in itertools.pairwise(ordered))


def pages_of(extents: list[Extent]) -> set[int]:
    pages: set[int] = set()
    for e in extents:
        if e.count:
            pages |= set(range(e.start // PAGE_ROWS, -(-e.stop // PAGE_ROWS)))
    return pages


@given(steps)
def test_no_row_has_two_owners_and_no_page_is_lost(traffic):
    pool, held = PagePool(10 * PAGE_ROWS, HOMES), []
    for lane, rows, leaving in traffic:
        extent = pool.take(rows, lane)
        held.append(extent)
        del extent
        assert held[-1].count == rows
        assert held[-1].stop <= pool.rows
        assert not overlapping(held)
        if leaving < 60:  # any of them leaves, in any order
            del held[leaving % len(held)]
        assert pool.pinned_pages == len(pages_of(held))
    held.clear()
    assert pool.pinned_pages == 0


@given(st.lists(st.integers(1, 40), min_size=1, max_size=80))
def test_a_rolling_window_is_at_most_three_stretches_and_never_grows_the_pool(sizes):
    window, budget = [], 400
    pool = PagePool(int(budget * 1.1) + 8 * PAGE_ROWS)
    rows = pool.rows
    for size in sizes * 4:
        while sum(e.count for e in window) + size > budget:
            del window[0]
        window.append(pool.take(size))
        cuts = sum(a.stop != b.start for a, b in itertools.pairwise(window))
        assert cuts <= 2
    assert pool.rows == rows


def test_what_comes_next_goes_on_where_the_last_one_ended():
    pool = PagePool(100)
    first, second = pool.take(7), pool.take(30)
    assert (first.start, second.start) == (0, 7)
    del second
    assert pool.take(5).start == 7


def test_a_page_is_free_only_when_the_last_of_its_neighbours_has_left():
    pool = PagePool(4 * PAGE_ROWS)
    first, second = pool.take(PAGE_ROWS // 2), pool.take(PAGE_ROWS // 2)
    del first
    assert pool.pinned_pages == 1
    del second
    assert pool.pinned_pages == 0


def test_a_pool_without_room_grows_and_moves_nobody():
    pool = PagePool(2 * PAGE_ROWS)
    held = pool.take(2 * PAGE_ROWS)
    more = pool.take(5 * PAGE_ROWS)
    assert (held.start, more.start) == (0, 2 * PAGE_ROWS)
    assert pool.rows >= 7 * PAGE_ROWS
