"""Questions about a stretch of stream, with answer and evidence known by construction.

A question kind is a function from the chunks' truth to a question, or None where that stretch
gives no fair question of the kind (a cue that occurs twice, say). Wordings are in `wording.py`; a
quarter are kept for the test.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from omnidrop_stream.world.items import (
    BELL,
    COLOUR_NAMES,
    KINDS,
    NOTHING,
    SOUNDS,
    WORDS,
    ChunkTruth,
    Event,
    Split,
)
from omnidrop_stream.world.wording import fill, forms

COUNTS = ("zero", "one", "two", "three")


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, the right answer, and the events that the answer rests on (none for an
    absence).
    """

    kind: str
    text: str
    answer: str
    evidence: tuple[Event, ...]


Truths = Sequence[ChunkTruth]
_Found = tuple[str, dict[str, str], str, tuple[Event | None, ...]]
"""Wording, what to fill in, answer, evidence."""


def ask(
    truths: Truths, kind: str, rng: np.random.Generator, split: Split = "train"
) -> Question | None:
    """A question of this kind about the chunks, or None where they give no fair one.

    Raises KeyError for an unknown kind; `QUESTION_KINDS` lists them by group.
    """
    found = _MAKERS[kind](truths, rng)
    if found is None:
        return None
    wording, words, answer, evidence = found
    choices = forms(wording, split)
    text = fill(choices[int(rng.integers(len(choices)))], words)
    return Question(kind, text, answer, tuple(e for e in evidence if e is not None))


def _pick(rng: np.random.Generator, options: Sequence[int]) -> int | None:
    return options[int(rng.integers(len(options)))] if options else None


def _unique(names: Sequence[str | int | None]) -> list[int]:
    """Indices whose name occurs exactly once."""
    return [i for i, n in enumerate(names) if n is not None and names.count(n) == 1]


def _word_at(truth: ChunkTruth) -> str | None:
    return None if truth.word == BELL else truth.word


def _thing_words(name: str) -> dict[str, str]:
    return {"thing": name, "a": "an" if name[0] in "aeiou" else "a"}


def _sound_cue(wording: str, sound: str) -> tuple[str, dict[str, str]]:
    return (wording + "_bell", {}) if sound == BELL else (wording, {"word": sound})


def _heard_when(truths: Truths, rng: np.random.Generator) -> _Found | None:
    i = _pick(
        rng, [i for i in _unique([t.thing for t in truths]) if _word_at(truths[i]) is not None]
    )
    if i is None:
        return None
    name, word = truths[i].thing, truths[i].word
    assert name is not None
    assert word is not None
    return "heard_when", _thing_words(name), word, (truths[i].seen, truths[i].heard)


def _seen_when(truths: Truths, rng: np.random.Generator) -> _Found | None:
    i = _pick(rng, [i for i in _unique([t.word for t in truths]) if truths[i].thing is not None])
    if i is None:
        return None
    name, word = truths[i].thing, truths[i].word
    assert name is not None
    assert word is not None
    return *_sound_cue("seen_when", word), name, (truths[i].seen, truths[i].heard)


def _nothing_heard_when(truths: Truths, rng: np.random.Generator) -> _Found | None:
    """Silence while the thing was shown, or a thing that was never shown."""
    names = [t.thing for t in truths]
    silent = [i for i in _unique(names) if truths[i].word is None]
    i = _pick(rng, silent)
    if i is None or rng.random() < 0.3:
        name = _absent_thing(names, rng)
        return "heard_when", _thing_words(name), NOTHING, ()
    name = names[i] or ""
    return "heard_when", _thing_words(name), NOTHING, (truths[i].seen,)


def _nothing_seen_when(truths: Truths, rng: np.random.Generator) -> _Found | None:
    """A blank picture while the word was said, or a word that was never said."""
    sounds = [t.word for t in truths]
    i = _pick(rng, [i for i in _unique(sounds) if truths[i].thing is None])
    if i is None or rng.random() < 0.3:
        sound = _absent_sound(sounds, rng)
        return None if sound is None else (*_sound_cue("seen_when", sound), NOTHING, ())
    return *_sound_cue("seen_when", sounds[i] or ""), NOTHING, (truths[i].heard,)


def _absent_thing(names: Sequence[str | None], rng: np.random.Generator) -> str:
    while True:
        name = f"{COLOUR_NAMES[rng.integers(len(COLOUR_NAMES))]} {KINDS[rng.integers(len(KINDS))]}"
        if name not in names:
            return name


def _absent_sound(sounds: Sequence[str | None], rng: np.random.Generator) -> str | None:
    free = [s for s in SOUNDS if s not in sounds]
    return free[int(rng.integers(len(free)))] if free else None


def _end_of(
    wording: str, last: bool, heard: bool
) -> Callable[[Truths, np.random.Generator], _Found]:
    def make(truths: Truths, rng: np.random.Generator) -> _Found:
        for truth in reversed(truths) if last else truths:
            what = _word_at(truth) if heard else truth.thing
            if what is not None:
                return wording, {}, what, (truth.heard if heard else truth.seen,)
        return wording, {}, NOTHING, ()

    return make


def _now(wording: str, heard: bool) -> Callable[[Truths, np.random.Generator], _Found | None]:
    def make(truths: Truths, rng: np.random.Generator) -> _Found | None:
        what = _word_at(truths[-1]) if heard else truths[-1].thing
        if what is None and rng.random() < 0.5:
            return None
        event = truths[-1].heard if heard else truths[-1].seen
        return wording, {}, what or NOTHING, (event,) if what else ()

    return make


def _colour_of(truths: Truths, rng: np.random.Generator) -> _Found | None:
    i = _pick(rng, _unique([t.kind for t in truths]))
    if i is None:
        return None
    colour, kind = truths[i].colour, truths[i].kind
    assert colour is not None
    assert kind is not None
    return "colour_of", {"kind": KINDS[kind]}, COLOUR_NAMES[colour], (truths[i].seen,)


def _kind_of(truths: Truths, rng: np.random.Generator) -> _Found | None:
    i = _pick(rng, _unique([t.colour for t in truths]))
    if i is None:
        return None
    colour, kind = truths[i].colour, truths[i].kind
    assert colour is not None
    assert kind is not None
    return "kind_of", {"colour": COLOUR_NAMES[colour]}, KINDS[kind], (truths[i].seen,)


def _count_colour(truths: Truths, rng: np.random.Generator) -> _Found | None:
    colour = int(rng.integers(len(COLOUR_NAMES)))
    if rng.random() < 0.75:
        present = [t.colour for t in truths if t.colour is not None]
        colour = present[int(rng.integers(len(present)))] if present else colour
    hits = [t for t in truths if t.colour == colour]
    if len(hits) >= len(COUNTS):
        return None
    words = {"colour": COLOUR_NAMES[colour]}
    return "count_colour", words, COUNTS[len(hits)], tuple(t.seen for t in hits)


def _next_to(
    wording: str, step: int, cue_heard: bool, heard: bool
) -> Callable[[Truths, np.random.Generator], _Found | None]:
    """What came right before (step -1) or after (+1) the cue in the same sense, blanks skipped."""

    def make(truths: Truths, rng: np.random.Generator) -> _Found | None:
        cues = [t.word if cue_heard else t.thing for t in truths]
        i = _pick(rng, _unique(cues))
        if i is None:
            return None
        cue, cue_event = cues[i] or "", truths[i].heard if cue_heard else truths[i].seen
        j = i + step
        while 0 <= j < len(truths):
            what = _word_at(truths[j]) if heard else truths[j].thing
            if what is not None:
                break
            j += step
        found = 0 <= j < len(truths)
        if not found and rng.random() < 0.5:
            return None
        answer = (_word_at(truths[j]) if heard else truths[j].thing) if found else NOTHING
        event = (truths[j].heard if heard else truths[j].seen) if found else None
        named, words = _sound_cue(wording, cue) if cue_heard else (wording, _thing_words(cue))
        return named, words, answer or NOTHING, (cue_event, event)

    return make


def _was_seen(truths: Truths, rng: np.random.Generator) -> _Found | None:
    names = [t.thing for t in truths]
    i = _pick(rng, [i for i, n in enumerate(names) if n is not None])
    if i is None or rng.random() < 0.5:
        name = _absent_thing(names, rng)
        return "was_seen", _thing_words(name), "no", ()
    name = names[i] or ""
    return "was_seen", _thing_words(name), "yes", (truths[i].seen,)


def _was_heard(truths: Truths, rng: np.random.Generator) -> _Found | None:
    sounds = [t.word for t in truths]
    i = _pick(rng, [i for i, n in enumerate(sounds) if n is not None])
    if i is None or rng.random() < 0.5:
        sound = _absent_sound(sounds, rng)
        return None if sound is None else (*_sound_cue("was_heard", sound), "no", ())
    return *_sound_cue("was_heard", sounds[i] or ""), "yes", (truths[i].heard,)


def _is_seen_now(truths: Truths, rng: np.random.Generator) -> _Found | None:
    now = truths[-1].thing
    if now is not None and rng.random() < 0.5:
        return "is_seen_now", _thing_words(now), "yes", (truths[-1].seen,)
    past = [n for n in (t.thing for t in truths[:-1]) if n is not None and n != now]
    name = past[int(rng.integers(len(past)))] if past and rng.random() < 0.6 else None
    if name is None:
        name = _absent_thing([t.thing for t in truths], rng)
    return "is_seen_now", _thing_words(name), "no", ()


def _is_heard_now(truths: Truths, rng: np.random.Generator) -> _Found | None:
    spoken = _word_at(truths[-1]) is not None
    if truths[-1].word == BELL:
        return None
    return "is_heard_now", {}, "yes" if spoken else "no", (truths[-1].heard,)


_MAKERS: dict[str, Callable[[Truths, np.random.Generator], _Found | None]] = {
    "first_seen": _end_of("first_seen", last=False, heard=False),
    "last_seen": _end_of("last_seen", last=True, heard=False),
    "seen_now": _now("seen_now", heard=False),
    "colour_of": _colour_of,
    "kind_of": _kind_of,
    "count_colour": _count_colour,
    "first_heard": _end_of("first_heard", last=False, heard=True),
    "last_heard": _end_of("last_heard", last=True, heard=True),
    "heard_now": _now("heard_now", heard=True),
    "heard_when": _heard_when,
    "seen_when": _seen_when,
    "heard_after": _next_to("heard_after", 1, cue_heard=True, heard=True),
    "heard_before": _next_to("heard_before", -1, cue_heard=True, heard=True),
    "seen_after": _next_to("seen_after", 1, cue_heard=False, heard=False),
    "seen_before": _next_to("seen_before", -1, cue_heard=False, heard=False),
    "nothing_heard": _nothing_heard_when,
    "nothing_seen": _nothing_seen_when,
    "was_seen": _was_seen,
    "was_heard": _was_heard,
    "is_seen_now": _is_seen_now,
    "is_heard_now": _is_heard_now,
}

QUESTION_KINDS: dict[str, tuple[str, ...]] = {
    "visual": ("first_seen", "last_seen", "seen_now", "colour_of", "kind_of", "count_colour"),
    "audio": ("first_heard", "last_heard", "heard_now"),
    "binding": ("heard_when", "seen_when"),
    "order": ("heard_after", "heard_before", "seen_after", "seen_before"),
    "absence": ("nothing_heard", "nothing_seen"),
    "yes/no": ("was_seen", "was_heard", "is_seen_now", "is_heard_now"),
}
"""Question kinds by group."""

ALL_KINDS = tuple(kind for kinds in QUESTION_KINDS.values() for kind in kinds)
ANSWER_WORDS = (*WORDS, NOTHING, "yes", "no", *COLOUR_NAMES, *KINDS)
