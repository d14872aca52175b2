"""The rolling store under random streams of windows: its budgets, its order, its counters."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from omnidrop_stream.cache import (
    Budget,
    Segment,
    TokenCache,
    expected_bytes,
    largest_id,
    oldest_window,
    slots_of,
)
from omnidrop_stream.errors import ConfigError
from omnidrop_stream.types import ChunkFlags, ChunkTokens

WIDTH = 8


def segment(chunk: int, window: int, tokens: int, depth: int = 2, layers: int = 3) -> Segment:
    made = ChunkTokens(
        embeds=torch.zeros(tokens, WIDTH),
        modality=torch.zeros(tokens, dtype=torch.uint8),
        offsets=torch.zeros(3, tokens, dtype=torch.long),
        n_unpruned=tokens,
        n_unpruned_video=tokens,
        last_id=(49, -1),
    )
    hidden = made.embeds if depth == 0 else torch.zeros(tokens, WIDTH)
    keys = torch.zeros(depth, 2, tokens, 4)
    return Segment(
        chunk=chunk,
        epoch=0,
        window=window,
        start_s=2.0 * chunk,
        end_s=2.0 * chunk + 2.0,
        wall_time_s=None,
        flags=ChunkFlags(),
        tokens=made,
        keys=keys,
        values=keys.clone(),
        hidden=None if depth == layers else hidden,
        seen_from=chunk,
    )


def push(cache: TokenCache, new: Segment) -> list[Segment]:
    left = cache.make_room(new.count, new.nbytes, 2, new.window)
    cache.append(new)
    return left


windows = st.lists(st.lists(st.integers(0, 12), min_size=1, max_size=4), min_size=1, max_size=12)


@given(windows, st.integers(48, 90), st.integers(8, 12), st.booleans())
def test_no_budget_is_ever_passed_and_windows_leave_whole_and_in_order(
    stream, tokens, slots, in_bytes
):
    room = segment(0, 0, 60).nbytes if in_bytes else None
    budget = Budget(tokens, room, slots)
    cache = TokenCache(budget)
    pushed, gone, index = [], [], 0
    for window, sizes in enumerate(stream):
        for size in sizes:
            new = segment(index, window, size)
            gone += push(cache, new)
            pushed.append(new)
            index += 1
            held = cache.snapshot()
            assert cache.tokens <= tokens
            assert room is None or cache.nbytes <= room
            assert slots_of(held)[-1] + 1 <= slots
            assert [*gone, *held] == pushed  # order kept, nothing lost, nothing twice
            assert not {s.window for s in gone} & {s.window for s in held}
    assert cache.evicted_chunks == len(gone)
    assert cache.evicted_tokens == sum(s.count for s in gone)
    assert cache.tokens == sum(s.count for s in cache.snapshot())


@given(windows)
def test_a_snapshot_never_changes(stream):
    cache = TokenCache(Budget(60))
    taken, index = [], 0
    for window, sizes in enumerate(stream):
        for size in sizes:
            push(cache, segment(index, window, size))
            snapshot = cache.snapshot()
            taken.append((snapshot, [s.chunk for s in snapshot]))
            index += 1
    assert all([s.chunk for s in snapshot] == chunks for snapshot, chunks in taken)


def test_a_roomy_budget_evicts_nothing():
    cache = TokenCache(Budget(1000))
    assert [push(cache, segment(i, i // 2, 10)) for i in range(8)] == [[]] * 8


@pytest.mark.parametrize(
    "budget",
    [Budget(15), Budget(1000, bytes=segment(0, 0, 15).nbytes), Budget(1000, max_slots=2)],
)
def test_a_budget_smaller_than_one_window_is_refused_and_its_chunks_stay(budget):
    cache = TokenCache(budget)
    cache.append(segment(0, 0, 10))
    with pytest.raises(ConfigError, match="smaller than one window"):
        push(cache, segment(1, 0, 10))
    assert [s.chunk for s in cache.snapshot()] == [0]
    assert cache.evicted_chunks == 0


def test_one_chunk_larger_than_the_budget_is_refused():
    with pytest.raises(ConfigError, match="5 tokens"):
        push(TokenCache(Budget(5)), segment(0, 0, 6))


def test_another_policy_can_choose_which_windows_leave():
    def second_window(held, slots_short):
        later = [s.window for s in held if s.window != held[0].window]
        return tuple(s for s in held if s.window != (later or [held[0].window])[0])

    cache = TokenCache(Budget(40), second_window)
    for i in range(6):
        push(cache, segment(i, i // 2, 10))
    assert [s.window for s in cache.snapshot()] == [0, 0, 2, 2]


def test_a_policy_that_gives_nothing_up_is_an_error():
    cache = TokenCache(Budget(15), lambda held, slots_short: held)
    push(cache, segment(0, 0, 10))
    with pytest.raises(RuntimeError, match="gave nothing up"):
        push(cache, segment(1, 1, 10))


def test_the_oldest_window_is_all_segments_of_the_first_one():
    held = tuple(segment(i, (i + 1) // 2, 1) for i in range(4))
    assert [s.chunk for s in oldest_window(held)] == [1, 2, 3]
    assert [s.chunk for s in oldest_window(held[1:])] == [3]


@given(st.integers(0, 9), st.integers(0, 3))
def test_a_segments_bytes_are_known_before_its_states_exist(tokens, depth):
    made = segment(0, 0, tokens, depth)
    assert expected_bytes(made.tokens, depth, 3, 2 * 4) == made.nbytes


def test_a_bare_segment_holds_its_embeddings_and_nothing_of_others():
    deep = segment(4, 2, 6, depth=2)
    bare = deep.bare()
    assert bare.depth == 0
    assert bare.hidden is bare.tokens.embeds is deep.tokens.embeds
    assert bare.nbytes == expected_bytes(deep.tokens, 0, 3, 8) < deep.nbytes
    assert bare.seen_from == 4


def test_the_largest_id_belongs_to_the_last_piece():
    held = (segment(0, 0, 3), segment(1, 0, 3))
    assert largest_id(held, [0, 1], 100, 50) == 100 + 50 + 49
    assert largest_id((), [], 100, 50) == 99
