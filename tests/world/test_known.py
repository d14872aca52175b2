"""Which texts are questions of the world, and which comes nearest to another."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omnidrop_stream.world import ALL_KINDS, World, ask
from omnidrop_stream.world.known import is_known, nearest


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("kind", ALL_KINDS)
def test_every_question_that_is_asked_is_known(kind: str, split) -> None:
    rng, found = np.random.default_rng(0), []
    for seed in range(40):
        truths = World(seed).truths(0, 8)
        found.append(ask(truths, kind, rng, split))
    texts = {question.text for question in found if question}
    assert texts
    assert all(map(is_known, texts))


@pytest.mark.parametrize(
    ("asked", "near"),
    [
        ("What is shown?", "What is shown now?"),
        ("what is shown now", "What is shown now?"),
        ("What was said?", "What was said last?"),
        ("was the red square there?", "Was the red square shown?"),
        ("what did you hear after seven", "What was heard after seven?"),
        ("What colour is the circle?", "What colour was the circle?"),
    ],
)
def test_another_text_is_not_known_and_has_a_neighbour(asked: str, near: str) -> None:
    assert not is_known(asked)
    assert nearest(asked) == near


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=60))
def test_a_neighbour_is_always_known(text: str) -> None:
    assert is_known(nearest(text))
