"""Whose turn it is on the model thread."""

from hypothesis import given
from hypothesis import strategies as st

from runtime.turns import Candidate, Kind, choose, is_late

PERIOD = 2.0


def at(kind, due=10.0, last=None):
    return Candidate(kind, due, due if last is None else last, PERIOD)


def test_a_questions_prefill_goes_before_a_chunk_that_is_not_late():
    assert choose([at(Kind.CHUNK, 9.0), at(Kind.PREFILL, 10.0)], now=10.5) == 1


def test_a_chunk_that_waited_a_whole_period_goes_before_a_prefill():
    assert choose([at(Kind.PREFILL, 9.0), at(Kind.CHUNK, 8.0)], now=10.0) == 1


def test_a_chunk_goes_before_decoding():
    assert choose([at(Kind.DECODE, 1.0, 9.9), at(Kind.CHUNK, 9.5)], now=10.0) == 1


def test_answers_decode_in_turn():
    assert choose([at(Kind.DECODE, 1.0, 9.9), at(Kind.DECODE, 2.0, 9.8)], now=10.0) == 1


def test_decoding_that_waited_a_whole_period_gets_a_turn_between_late_chunks():
    assert choose([at(Kind.CHUNK, 1.0, 9.9), at(Kind.DECODE, 0.0, 8.0)], now=10.0) == 1


def test_background_work_goes_last():
    work = [at(Kind.BACKGROUND, 0.0), at(Kind.DECODE, 1.0, 9.9)]
    assert choose(work, now=10.0) == 1


def test_the_chunk_that_was_due_first_goes_first():
    assert choose([at(Kind.CHUNK, 9.9), at(Kind.CHUNK, 9.5)], now=10.0) == 1


candidates = st.lists(
    st.builds(
        lambda kind, due, wait: Candidate(kind, due, due + wait, PERIOD),
        st.sampled_from(list(Kind)),
        st.floats(0, 100),
        st.floats(0, 10),
    ),
    min_size=1,
    max_size=8,
)


@given(candidates, st.floats(0, 200))
def test_late_work_is_never_passed_over_for_work_that_is_not_late(work, now):
    chosen = work[choose(work, now)]
    if any(is_late(c, now) for c in work):
        assert is_late(chosen, now)


@given(candidates, st.floats(0, 200))
def test_without_late_work_no_lower_kind_is_chosen(work, now):
    chosen = work[choose(work, now)]
    if not any(is_late(c, now) for c in work):
        assert chosen.kind == min(c.kind for c in work)
