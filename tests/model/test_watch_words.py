"""The words of a standing question: templates, spellings of yes and no, rows of the words."""

from __future__ import annotations

import json

import pytest

from omnidrop_stream.config import ModelConfig
from omnidrop_stream.errors import ModelMismatch
from omnidrop_stream.model.load import EMBEDDED, load_model
from omnidrop_stream.model.shapes import SHAPES, byte_tokenizer, write_checkpoint
from omnidrop_stream.model.watch_words import (
    PLACE,
    AnswerWords,
    WatchTemplates,
    rows_of,
    templates_of,
)


@pytest.fixture(scope="module")
def embedded():
    return load_model(ModelConfig(model="embedded", device="cpu"))


def test_the_embedded_model_knows_yes_and_no_as_tokens(embedded):
    words = AnswerWords.of(embedded.tokenizer)
    spelt = [embedded.tokenizer.decode([i]).strip().lower() for i in (*words.yes, *words.no)]
    assert set(spelt[: len(words.yes)]) == {"yes"}
    assert set(spelt[len(words.yes) :]) == {"no"}
    assert len(words.yes) > 1


def test_the_embedded_model_brings_its_own_templates(embedded):
    card = json.loads((EMBEDDED / "watch.json").read_text("utf-8"))
    assert embedded.spec.watch == WatchTemplates(**card)
    assert embedded.spec.watch != WatchTemplates()


def test_a_checkpoint_without_a_card_gets_the_templates_of_the_published_ones(tmp_path):
    write_checkpoint(tmp_path, SHAPES["tiny"])
    loaded = load_model(ModelConfig(model=str(tmp_path), device="cpu"))
    assert loaded.spec.watch == WatchTemplates()
    assert WatchTemplates().any.count(PLACE) == WatchTemplates().sound.count(PLACE) == 1


@pytest.mark.parametrize(
    "card", [{"any": "no place"}, {"any": 3}, {"sight": "x {watch}"}, {"sound": "{watch} {watch}"}]
)
def test_a_damaged_card_is_refused(card):
    with pytest.raises(ModelMismatch, match=r"watch\.json of the checkpoint is damaged"):
        templates_of(card)


def test_a_tokenizer_that_spells_yes_in_pieces_is_refused():
    with pytest.raises(ModelMismatch, match="no single token for 'yes'"):
        AnswerWords.of(byte_tokenizer())


@pytest.mark.parametrize("words", ["the bell", "a red circle", "l'été à Zürich", "x"])
def test_the_rows_of_words_are_those_that_hold_their_letters(embedded, words):
    tokenizer = embedded.tokenizer
    text = f"Is there {words} now?"
    ids = tokenizer.encode(text, add_special_tokens=False)
    rows = rows_of(tokenizer, ids, 9, 9 + len(words))
    assert tokenizer.decode([ids[row] for row in rows]).strip() == words
