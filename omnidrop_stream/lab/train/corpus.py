"""All the text of the world, for the tokenizer: every wording with every filling, answers, the
prompt.
"""

from __future__ import annotations

from omnidrop_stream.world.items import COLOUR_NAMES, KINDS, NOTHING, WORDS
from omnidrop_stream.world.questions import COUNTS
from omnidrop_stream.world.wording import fill, forms, wordings

SYSTEM = "You are a helpful assistant."


def text_corpus() -> list[str]:
    """Enough text that each word of it becomes one entry, with and without a leading space."""
    corpus = [SYSTEM, "system\n", "user\n", "assistant\n", "\n"]
    names = [*COLOUR_NAMES, *KINDS, *WORDS, *COUNTS, NOTHING, "bell", "yes", "no", "an", "a", "the"]
    for name in names:
        corpus += [name, f" {name}", name.capitalize(), f" {name.capitalize()}"]
    for wording in wordings():
        for form in (*forms(wording, "train"), *forms(wording, "test")):
            words = {
                "thing": "red circle",
                "a": "a",
                "word": "seven",
                "colour": "red",
                "kind": "circle",
            }
            corpus.append(fill(form, words))
    return corpus
