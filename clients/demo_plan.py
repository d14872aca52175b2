"""What the demo asks, and when: questions whose answers are known, because the world is.

A pure function of the world: no clock, no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from omnidrop_stream.types import CHUNK_SECONDS
from omnidrop_stream.world import ChunkTruth, Question, World, ask

INTO_CHUNK_S = 0.9
"""Questions fall into the middle of a chunk: by then the one before it is held."""
KINDS = (
    ("seeing", ("colour_of", "first_seen", "last_seen")),
    ("hearing", ("first_heard", "last_heard")),
    ("both", ("heard_when", "seen_when")),
    ("order", ("seen_after", "heard_after", "seen_before", "heard_before")),
    ("yes or no", ("was_seen", "was_heard")),
    ("both", ("seen_when", "heard_when")),
)
_TRIES = 24


@dataclass(frozen=True, slots=True)
class Planned:
    """A question, its moment in stream time and what it is a question of."""

    number: int
    """Which of the moments, from 0: it tells what the question is of."""
    at_s: float
    question: Question

    @property
    def about(self) -> str:
        """What it is a question of."""
        return KINDS[self.number][0]


def moments(seconds: float) -> list[float]:
    """Up to six moments, evenly spread over what there is to see."""
    count = int(np.clip((seconds - 6) // 4, 1, len(KINDS)))
    first, last = 3.0, seconds / CHUNK_SECONDS - 1.0
    chunks = np.linspace(first if count > 1 else last, last, count)
    return [float(int(n) * CHUNK_SECONDS + INTO_CHUNK_S) for n in chunks]


def plan(world: World, seconds: float) -> list[Planned]:
    """A fair question for each moment; a moment that gives none is left out."""
    found: list[Planned] = []
    for number, at_s in enumerate(moments(seconds)):
        item = _planned(world, number, at_s, {p.question.text for p in found})
        if item is not None:
            found.append(item)
    return found


def at_present(world: World, item: Planned, now_s: float, told: set[str]) -> Planned | None:
    """What to ask where stream time is ``now_s`` already: the same within its chunk, else a
    question of its kind about what is over by now; None where there is none. told: asked before.
    """
    if now_s // CHUNK_SECONDS <= item.at_s // CHUNK_SECONDS:
        return item
    return _planned(world, item.number, now_s, told)


def _planned(world: World, number: int, at_s: float, told: set[str]) -> Planned | None:
    whole = int(at_s // CHUNK_SECONDS)
    rng = np.random.default_rng([world.seed, 3, number])
    held, now = world.truths(0, whole), world.truth(whole)
    question = _fair(held, now, KINDS[number][1], rng, told)
    return None if question is None else Planned(number, at_s, question)


def _fair(
    held: Sequence[ChunkTruth],
    open_chunk: ChunkTruth,
    kinds: Sequence[str],
    rng: np.random.Generator,
    told: set[str],
) -> Question | None:
    """A question with grounds whose answer does not turn on the chunk that is open."""
    for kind in kinds:
        for _ in range(_TRIES):
            question = ask(held, kind, rng, "test")
            if question is None or not question.evidence or question.text in told:
                continue
            if _stable(question, [*held, open_chunk], rng):
                return question
    return None


def _stable(question: Question, truths: Sequence[ChunkTruth], rng: np.random.Generator) -> bool:
    """Whether the same question can be asked of these chunks too, with the same answer."""
    for _ in range(2 * _TRIES):
        again = ask(truths, question.kind, rng, "test")
        if again is not None and (again.answer, again.evidence) == (
            question.answer,
            question.evidence,
        ):
            return True
    return False
