"""What was asked before: bounded by tokens and sessions, and forgotten with the stream."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from omnidrop_stream.conversations import Conversations
from omnidrop_stream.model.template import Turn


def length(turn: Turn) -> int:
    return len(turn.question) + len(turn.answer)


def turn(text: str, asked_at_s: float = 0.0) -> Turn:
    return Turn(text, "", asked_at_s)


def test_a_session_sees_its_own_turns_in_order():
    held = Conversations(length, 100, 4)
    for text in ("one", "two"):
        held.remember("a", turn(text))
    held.remember("b", turn("other"))
    assert [t.question for t in held.of("a")] == ["one", "two"]
    assert [t.question for t in held.of("b")] == ["other"]


def test_the_empty_session_has_no_memory():
    held = Conversations(length, 100, 4)
    held.remember("", turn("one"))
    assert held.of("") == ()


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 40)), max_size=40))
def test_neither_tokens_nor_sessions_pass_their_bounds(asked):
    held = Conversations(length, 50, 2)
    for session, size in asked:
        held.remember(session, turn("x" * size))
        lengths = {name: sum(map(length, held.of(name))) for name in "abcd"}
        assert max(lengths.values()) <= 50
        assert sum(bool(held.of(name)) for name in "abcd") <= 2


def test_the_oldest_turns_leave_first():
    held = Conversations(length, 10, 4)
    for text in ("aaaa", "bbbb", "cccc"):
        held.remember("a", turn(text))
    assert [t.question for t in held.of("a")] == ["bbbb", "cccc"]


def test_a_turn_larger_than_the_bound_is_not_kept():
    held = Conversations(length, 10, 4)
    held.remember("a", turn("short"))
    held.remember("a", turn("x" * 11))
    assert held.of("a") == ()


def test_the_session_used_longest_ago_leaves_first():
    held = Conversations(length, 100, 2)
    held.remember("a", turn("1"))
    held.remember("b", turn("2"))
    held.remember("a", turn("3"))
    held.remember("c", turn("4"))
    assert [bool(held.of(name)) for name in "abc"] == [True, False, True]


def test_turns_asked_after_a_moment_are_forgotten():
    held = Conversations(length, 100, 4)
    for at in (1.0, 5.0, 5.1, 9.0):
        held.remember("a", turn(str(at), at))
    held.remember("b", turn("late", 9.0))
    held.forget(5.0)
    assert [t.asked_at_s for t in held.of("a")] == [1.0, 5.0]
    assert held.of("b") == ()
