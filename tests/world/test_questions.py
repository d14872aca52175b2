"""Questions: right by construction, fair, worded differently in the two splits."""

import re

import numpy as np
import pytest

from omnidrop_stream.world import ALL_KINDS, QUESTION_KINDS, ChunkTruth, Event, World, ask
from omnidrop_stream.world.items import COLOUR_NAMES, KINDS, NOTHING, SOUNDS
from omnidrop_stream.world.wording import forms, wordings


def chunk(at: int, thing: str | None = None, sound: str | None = None) -> ChunkTruth:
    seen = Event(thing, "video", 2.0 * at, 2.0 * at + 2) if thing else None
    heard = Event(sound, "audio", 2.0 * at + 0.5, 2.0 * at + 1) if sound else None
    colour, kind = thing.split() if thing else (None, None)
    return ChunkTruth(
        COLOUR_NAMES.index(colour) if colour else None,
        KINDS.index(kind) if kind else None,
        SOUNDS.index(sound) if sound else None,
        seen,
        heard,
    )


STREAM = [
    chunk(0, "red circle", "seven"),
    chunk(1, None, "cat"),
    chunk(2, "blue 3", None),
    chunk(3, "red star", "bell"),
    chunk(4, None, None),
    chunk(5, "green ring", "dog"),
]

EXPECTED = {
    "first_seen": {"red circle"},
    "last_seen": {"green ring"},
    "seen_now": {"green ring"},
    "first_heard": {"seven"},
    "last_heard": {"dog"},
    "heard_now": {"dog"},
    "heard_when": {"seven", "dog"},
    "seen_when": {"red circle", "red star", "green ring"},
    "nothing_heard": {NOTHING},
    "nothing_seen": {NOTHING},
    "is_heard_now": {"yes"},
}


@pytest.mark.parametrize(("kind", "answers"), EXPECTED.items())
def test_answers_are_what_the_stream_holds(kind: str, answers: set[str]) -> None:
    rng = np.random.default_rng(0)
    got = {q.answer for q in (ask(STREAM, kind, rng) for _ in range(60)) if q is not None}
    assert got == answers


@pytest.mark.parametrize(
    ("kind", "cue", "answer"),
    [
        ("heard_after", "seven", "cat"),
        ("heard_after", "bell", "dog"),
        ("heard_after", "cat", "dog"),
        ("heard_before", "dog", "cat"),
        ("heard_before", "bell", "cat"),
        ("seen_after", "red circle", "blue 3"),
        ("seen_before", "green ring", "red star"),
        ("colour_of", "circle", "red"),
        ("kind_of", "blue", "3"),
        ("count_colour", "red", "two"),
        ("count_colour", "green", "one"),
        ("was_seen", "blue 3", "yes"),
        ("was_heard", "cat", "yes"),
        ("is_seen_now", "red circle", "no"),
        ("is_seen_now", "green ring", "yes"),
    ],
)
def test_a_cue_decides_the_answer(kind: str, cue: str, answer: str) -> None:
    rng = np.random.default_rng(1)
    asked = [q for q in (ask(STREAM, kind, rng) for _ in range(400)) if q is not None]
    about = [q for q in asked if re.search(rf"\b{cue}\b", q.text)]
    assert about
    assert {q.answer for q in about} == {answer}


def test_yes_and_no_agree_with_the_stream() -> None:
    rng = np.random.default_rng(2)
    things = {t.thing for t in STREAM}
    for _ in range(100):
        q = ask(STREAM, "was_seen", rng)
        assert q is not None
        named = any(t is not None and t in q.text for t in things)
        assert (q.answer == "yes") == named


def test_a_cue_that_occurs_twice_is_never_asked_about() -> None:
    stream = [chunk(0, "red ring", "cat"), chunk(1, "red ring", "cat"), chunk(2, "cyan 2", "dog")]
    rng = np.random.default_rng(3)
    for kind in ("heard_when", "seen_when", "heard_after", "seen_before"):
        for q in (ask(stream, kind, rng) for _ in range(50)):
            assert q is None or not re.search(r"red ring|\bcat\b", q.text)


def test_evidence_lies_in_the_chunks_asked_about() -> None:
    truths = World(9).truths(0, 12)
    rng = np.random.default_rng(4)
    for kind in ALL_KINDS:
        q = ask(truths, kind, rng)
        if q is not None:
            held = {e for t in truths for e in (t.seen, t.heard)}
            assert set(q.evidence) <= held
            assert all(0 <= e.from_s < e.to_s <= 24 for e in q.evidence)


def test_the_same_generator_asks_the_same_questions() -> None:
    truths = World(9).truths(0, 12)
    first, second = (
        [ask(truths, kind, np.random.default_rng(5)) for kind in ALL_KINDS] for _ in range(2)
    )
    assert first == second


def test_every_kind_belongs_to_one_group() -> None:
    assert len(ALL_KINDS) == len(set(ALL_KINDS))
    assert set(QUESTION_KINDS) == {"visual", "audio", "binding", "order", "absence", "yes/no"}


def test_the_splits_share_no_wording() -> None:
    for wording in wordings():
        train, test = forms(wording, "train"), forms(wording, "test")
        assert train
        assert test
        assert not set(train) & set(test)


def test_a_test_wording_uses_only_words_that_training_has_seen() -> None:
    words = [
        {w for name in wordings() for f in forms(name, split) for w in re.findall(r"[\w<>]+", f)}
        for split in ("train", "test")
    ]
    assert not words[1] - words[0]
