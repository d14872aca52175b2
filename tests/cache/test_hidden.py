"""The arena of states that enter the first layer not run on arrival."""

from __future__ import annotations

import torch

from omnidrop_stream.cache import PAGE_ROWS, HiddenArena, joined


def filled(counts=(5, 3, 7), rows=64):
    arena = HiddenArena(torch.zeros(0, 4), rows)
    made = [torch.randn(n, 4) for n in counts]
    return arena, made, [arena.put(states) for states in made]


def test_chunks_that_lie_together_are_read_where_they_lie():
    arena, made, rows = filled()
    whole = joined(rows, torch.arange(15))
    assert torch.equal(whole, torch.cat(made))
    assert whole.data_ptr() == arena.tensor.data_ptr()


def test_where_some_tokens_are_seen_only_those_are_copied():
    _, made, rows = filled()
    visible = torch.tensor([0, 4, 5, 14])
    assert torch.equal(joined(rows, visible), torch.cat(made)[visible])


def test_an_open_chunk_lies_apart_and_is_read_behind_the_others():
    arena, made, rows = filled()
    newest = torch.randn(2, 4)
    apart = arena.put(newest, provisional=True)
    assert apart.extent.start > rows[-1].extent.stop
    whole = torch.cat([*made, newest])
    for visible in (torch.arange(17), torch.tensor([1, 15, 16])):
        assert torch.equal(joined([*rows, apart], visible), whole[visible])
    after = arena.put(newest)
    assert after.extent.start == rows[-1].extent.stop


def test_rows_that_nobody_holds_are_used_again():
    arena = HiddenArena(torch.zeros(0, 4), 4 * PAGE_ROWS)
    held = []
    for _ in range(40):
        held = [*held[-1:], arena.put(torch.randn(PAGE_ROWS, 4))]
    assert arena.tensor.shape[0] == 4 * PAGE_ROWS


def test_an_arena_that_grows_keeps_what_is_held():
    arena, made, rows = filled()
    before = [one.states for one in rows]
    arena.put(torch.randn(400, 4))
    assert arena.tensor.shape[0] > 400
    for states, old, one in zip(made, before, rows, strict=True):
        assert torch.equal(states, one.states)
        assert torch.equal(states, old)  # who reads the tensor of then keeps reading it
    assert torch.equal(joined(rows, torch.arange(15)), torch.cat(made))


def test_chunks_of_two_arenas_are_not_joined():
    assert joined([*filled()[2], *filled()[2]], torch.arange(30)) is None
