"""Whose turn it is on the model thread."""

from hypothesis import given
from hypothesis import strategies as st

from runtime.turns import Candidate, Kind, choose, choose_together, is_late

PERIOD = 2.0


def at(kind, due=10.0, last=None):
    return Candidate(kind, due, due if last is None else last, PERIOD)


def test_a_questions_prefill_goes_before_a_chunk_that_is_not_late():
    assert choose([at(Kind.CHUNK, 9.0), at(Kind.PREFILL, 10.0)], now=10.5) == 1


def test_a_chunk_that_waited_a_whole_period_goes_before_a_prefill():
    assert choose([at(Kind.PREFILL, 9.0), at(Kind.CHUNK, 8.0)], now=10.0) == 1


def test_a_prefill_that_waited_a_whole_period_takes_turns_with_late_chunks():
    assert choose([at(Kind.CHUNK, 1.0, 9.9), at(Kind.PREFILL, 7.0, 9.8)], now=10.0) == 1


def test_a_chunk_goes_before_decoding():
    assert choose([at(Kind.DECODE, 1.0, 9.9), at(Kind.CHUNK, 9.5)], now=10.0) == 1


def test_answers_decode_in_turn():
    assert choose([at(Kind.DECODE, 1.0, 9.9), at(Kind.DECODE, 2.0, 9.8)], now=10.0) == 1


def test_decoding_that_waited_a_whole_period_gets_a_turn_between_late_chunks():
    assert choose([at(Kind.CHUNK, 1.0, 9.9), at(Kind.DECODE, 0.0, 8.0)], now=10.0) == 1


def test_background_work_goes_last():
    work = [at(Kind.BACKGROUND, 0.0), at(Kind.DECODE, 1.0, 9.9)]
    assert choose(work, now=10.0) == 1
    assert choose([at(Kind.BACKGROUND, 0.0), at(Kind.WATCH, 1.0, 9.9)], now=10.0) == 1


def test_judgements_wait_for_prefills_and_chunks():
    assert choose([at(Kind.WATCH, 1.0, 9.0), at(Kind.CHUNK, 9.9)], now=10.0) == 1
    assert choose([at(Kind.WATCH, 1.0, 9.0), at(Kind.PREFILL, 9.9)], now=10.0) == 1


def test_judgements_and_answers_take_turns():
    assert choose([at(Kind.DECODE, 1.0, 9.9), at(Kind.WATCH, 2.0, 9.8)], now=10.0) == 1
    assert choose([at(Kind.DECODE, 9.0, 9.8), at(Kind.WATCH, 2.0, 9.9)], now=10.0) == 0


def test_a_judgement_that_waited_a_whole_period_gets_a_turn_between_late_chunks():
    assert choose([at(Kind.CHUNK, 1.0, 9.9), at(Kind.WATCH, 0.0, 8.0)], now=10.0) == 1


@given(st.lists(st.sampled_from([Kind.DECODE, Kind.WATCH]), min_size=2, max_size=6))
def test_of_judgements_and_answers_none_waits_for_more_than_a_turn_of_each_other(kinds):
    last = [float(n) / 100 for n in range(len(kinds))]
    order = []
    for turn in range(3 * len(kinds)):
        now = 1.0 + turn / 100
        chosen = choose([at(k, 0.0, seen) for k, seen in zip(kinds, last, strict=True)], now)
        last[chosen] = now
        order.append(chosen)
    assert order == list(range(len(kinds))) * 3


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


def needing(needs_s, due, **values):
    return Candidate(Kind.CHUNK, due, due, PERIOD, needs_s=needs_s, **values)


def test_a_chunk_goes_before_a_prefill_when_those_due_before_it_would_make_it_late():
    chunks = [needing(0.25, 8.5), needing(0.25, 8.6), needing(0.25, 8.7)]
    assert choose([*chunks[:2], at(Kind.PREFILL, 9.9)], now=10.0) == 2
    assert choose([*chunks, at(Kind.PREFILL, 9.9)], now=10.0) == 0


def test_a_chunk_goes_before_a_prefill_whose_next_turn_would_make_it_late():
    question = Candidate(Kind.PREFILL, 9.9, 9.9, PERIOD, turn_s=0.3)
    assert choose([needing(0.1, 8.3), question], now=9.85) == 1
    assert choose([needing(0.1, 8.3), question], now=9.95) == 0
    assert choose([needing(0.1, 8.3), at(Kind.PREFILL, 9.9)], now=9.95) == 1


def test_the_first_half_of_a_period_belongs_to_a_question_however_much_waits():
    chunks = [needing(0.5, 9.1)] * 8
    assert choose([*chunks, at(Kind.PREFILL, 9.9)], now=10.0) == 8
    assert choose([*chunks, at(Kind.PREFILL, 9.9)], now=10.2) == 0


def test_late_chunks_are_finished_one_after_the_other():
    begun = Candidate(Kind.CHUNK, 7.0, 9.9, PERIOD)
    assert choose([at(Kind.CHUNK, 7.5), begun], now=10.0) == 1


def test_work_of_one_phase_goes_together_the_first_due_first():
    work = [
        needing(0.01, 9.6, group="begin"),
        needing(0.01, 9.5, group="begin"),
        needing(0.01, 9.4, group=1),
        needing(0.01, 9.3, group="begin"),
    ]
    assert choose_together(work, now=10.0) == (3, 1, 0)


def test_all_answers_decode_together_whoever_waited_longest_first():
    work = [Candidate(Kind.DECODE, 1.0, last, PERIOD, group="decode") for last in (9.9, 9.7, 9.8)]
    judging = at(Kind.WATCH, 1.0, 9.95)
    assert choose_together([*work, judging], now=10.0) == (1, 2, 0)


def test_what_has_no_group_goes_alone():
    assert choose_together([at(Kind.CHUNK, 9.0), at(Kind.CHUNK, 9.1)], now=10.0) == (0,)


def test_together_they_take_no_longer_than_a_question_would_notice():
    work = [needing(0.08, 9.0 + n / 100, group="begin") for n in range(5)]
    assert choose_together(work, now=10.0) == (0, 1)
    slow = [needing(0.4, 9.0 + n / 100, group="begin") for n in range(5)]
    assert choose_together(slow, now=10.0) == (0,)
    unknown = [needing(0.0, 9.0 + n / 100, group="begin") for n in range(20)]
    assert len(choose_together(unknown, now=10.0)) == 16


@given(
    st.lists(
        st.builds(
            lambda kind, due, wait, group, needs_s: Candidate(
                kind, due, due + wait, PERIOD, group, needs_s
            ),
            st.sampled_from(list(Kind)),
            st.floats(0, 100),
            st.floats(0, 10),
            st.sampled_from([None, "a", "b"]),
            st.floats(0, 0.2),
        ),
        min_size=1,
        max_size=8,
    ),
    st.floats(0, 200),
)
def test_what_goes_together_begins_with_whose_turn_it_is_and_is_of_its_kind(work, now):
    chosen = choose_together(work, now)
    assert chosen[0] == choose(work, now)
    assert len(set(chosen)) == len(chosen)
    assert len({(work[n].kind, work[n].group) for n in chosen}) == 1
