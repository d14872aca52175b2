"""``look_back_s``: a question sees only the chunks of the last so many seconds."""

from __future__ import annotations

import pytest

from omnidrop_stream.errors import NothingHeld, QuestionError
from omnidrop_stream.types import Query
from tests.helpers import ENGINES, make_chunks, small_model
from tests.test_stream import QUESTION, answered, fingerprint, opened


@pytest.fixture(scope="module", params=ENGINES)
def model(request):
    return small_model(layers=8, seed=1, engine=request.param)


@pytest.fixture(scope="module")
def chunks():
    return make_chunks(8, seed=2)


def asked(stream, seconds, **options):
    last = list(stream.ask(Query(QUESTION, look_back_s=seconds, **options)))[-1]
    return last


@pytest.mark.parametrize("depth", [0, "exact", "half", "read_side"])
def test_the_answer_is_that_of_a_stream_that_holds_only_those_chunks(model, chunks, depth):
    stream, short = opened(model, depth, chunks), opened(model, depth)
    short._cache.replace(stream.snapshot()[-3:])
    looked, plain = asked(stream, 6.0), answered(short)
    assert (looked.text, looked.tokens, looked.evidence, looked.label) == (
        plain.text,
        plain.tokens,
        plain.evidence,
        plain.label,
    )
    assert looked.coverage == plain.coverage
    assert (looked.coverage.from_s, looked.coverage.to_s) == (10.0, 16.0)


def test_evidence_lies_within_the_seconds_looked_back(model, chunks):
    answer = asked(opened(model, "exact", chunks), 4.0)
    assert answer.evidence
    assert all(12.0 <= span.from_s < span.to_s <= 16.0 for span in answer.evidence)


def test_states_made_with_older_chunks_in_sight_are_labelled(model, chunks):
    assert asked(opened(model, 2, chunks), 6.0).label == "exact_schedule"
    assert asked(opened(model, 2, chunks), None).label == "exact"


def test_a_chunk_that_is_only_partly_within_is_seen(model, chunks):
    assert asked(opened(model, 0, chunks), 4.5).coverage.from_s == 10.0
    assert asked(opened(model, 0, chunks), 0.1).coverage.from_s == 14.0


def test_more_than_is_held_is_all_that_is_held(model, chunks):
    stream = opened(model, 0, chunks)
    assert asked(stream, 3600.0).text == answered(stream).text
    assert asked(stream, 3600.0).coverage.from_s == 0.0


def test_the_trunk_is_not_touched(model, chunks):
    stream = opened(model, "exact", chunks)
    before = fingerprint(stream.snapshot())
    asked(stream, 4.0)
    assert fingerprint(stream.snapshot()) == before


def test_seconds_are_counted_back_from_the_moment_of_the_question(model, chunks):
    stream = opened(model, 0, chunks)
    assert asked(stream, 5.0, asked_at_s=18.0).coverage.from_s == 12.0
    with pytest.raises(NothingHeld, match=r"newest material is 44\.0 s old"):
        asked(stream, 30.0, asked_at_s=60.0)


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf"), 86_401.0])
def test_what_is_no_length_of_time_is_refused(model, chunks, seconds):
    with pytest.raises(QuestionError, match=r"look_back_s = .* is not allowed: give seconds"):
        asked(opened(model, 0, chunks[:1]), seconds)
