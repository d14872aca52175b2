"""``prefill_depth auto``: by load and by questions."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from omnidrop_stream.auto_depth import OFTEN, UNASKED_CHUNKS, AutoDepth, Move, Use, next_depth

QUIET = Use(depth=3, exact=2, deepest=6, share=0.1, asked=0, unasked_chunks=5)
uses = st.builds(
    lambda exact, more, deeper, share, asked, unasked: Use(
        min(exact + more, exact + deeper), exact, exact + deeper, share, asked, unasked
    ),
    st.integers(0, 8),
    st.integers(0, 8),
    st.integers(0, 8),
    st.floats(0, 3),
    st.integers(0, OFTEN),
    st.integers(0, 400),
)


def test_with_room_a_stream_goes_a_layer_deeper_and_says_why():
    assert next_depth(QUIET) == Move(4, "chunks take 10% of the model's time")
    asked = next_depth(replace(QUIET, asked=2))
    assert asked == Move(4, "chunks take 10% of the model's time, and it was asked lately")


def test_never_beyond_the_deepest():
    assert next_depth(replace(QUIET, depth=6)) == Move(6)


def test_between_the_bounds_it_stays():
    assert next_depth(replace(QUIET, share=0.6)) == Move(3)


def test_where_the_model_is_too_busy_it_goes_shallower_and_says_why():
    reason = "chunks take 80% of the model's time, more than 70%"
    assert next_depth(replace(QUIET, share=0.8)) == Move(2, reason)
    assert next_depth(replace(QUIET, share=0.8, depth=0)) == Move(0)


def test_an_often_asked_stream_goes_deeper_under_load_and_gives_way_last():
    often = replace(QUIET, asked=OFTEN, unasked_chunks=0)
    assert next_depth(replace(often, share=0.45)).depth == 4
    assert next_depth(replace(QUIET, share=0.45)).depth == 3
    assert next_depth(replace(often, share=0.8)).depth == 3
    assert next_depth(replace(QUIET, share=0.8)).depth == 2
    assert next_depth(replace(often, share=0.9)).depth == 2


def test_a_stream_that_nobody_asks_goes_back_to_the_exact_depth_and_no_further():
    unasked = replace(QUIET, unasked_chunks=UNASKED_CHUNKS)
    assert next_depth(unasked) == Move(2, f"no question for {UNASKED_CHUNKS} chunks")
    assert next_depth(replace(unasked, depth=2)) == Move(2)
    assert next_depth(replace(unasked, depth=1)) == Move(1)


@given(uses)
def test_a_depth_moves_by_one_layer_within_its_bounds_and_never_without_a_reason(use):
    move = next_depth(use)
    assert abs(move.depth - use.depth) <= 1
    assert 0 <= move.depth <= use.deepest
    assert (move.depth != use.depth) == bool(move.reason)


@given(uses, st.floats(0, 3))
def test_more_load_never_makes_it_deeper(use, more):
    assert next_depth(replace(use, share=use.share + more)).depth <= next_depth(use).depth


@given(uses)
def test_being_asked_never_makes_it_shallower(use):
    asked = replace(use, asked=OFTEN, unasked_chunks=0)
    assert next_depth(asked).depth >= next_depth(use).depth


def after(auto, chunks, depth, share=0.1, free=True):
    for _ in range(chunks):
        depth = auto.after_chunk(depth, share, free=free)
    return depth


def test_a_stream_sinks_when_it_is_forgotten_and_rises_when_it_is_asked_again():
    auto = AutoDepth(exact=1, n_layers=8)
    assert after(auto, 10, 1) == 4
    assert after(auto, UNASKED_CHUNKS, 4) == 1
    auto.asked()
    assert after(auto, 3, 1) == 4
    assert auto.reason.endswith("asked lately")


def test_chunks_count_while_the_depth_may_not_move():
    auto = AutoDepth(exact=1, n_layers=8)
    assert after(auto, UNASKED_CHUNKS, 3, free=False) == 3
    assert after(auto, 1, 3) == 2


def test_what_all_streams_take_counts_instead_of_the_streams_own_share():
    auto = AutoDepth(exact=2, n_layers=8)
    auto.told(0.9)
    assert after(auto, 1, 3, share=0.05) == 2
    auto.told(0.05)
    assert after(auto, 1, 2, share=0.9) == 3
