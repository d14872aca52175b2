"""The words of a standing question: what asks, and which tokens say yes or no."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from omnidrop_stream.errors import ModelMismatch
from omnidrop_stream.model.template import Tokenizer

PLACE = "{watch}"
"""Where a template takes the watcher's words."""
YES = ("yes", "Yes", " yes", " Yes", "YES", " YES")
NO = ("no", "No", " no", " No", "NO", " NO")


def valid_template(text: str) -> str:
    """``text`` where it has one place for the watcher's words; raises ValueError."""
    if text.count(PLACE) != 1:
        raise ValueError(f"a template names the place of the watcher's words, {PLACE}, once")
    return text


@dataclass(frozen=True, slots=True)
class WatchTemplates:
    """What asks whether something is happening now, with ``{watch}`` for the watcher's words.

    The defaults are for the published checkpoints; another brings its own in its ``watch.json``.
    """

    any: str = (
        'Look and listen to these last seconds. Is this happening right now: "{watch}"? '
        "Answer yes or no."
    )
    sound: str = (
        'Listen to these last seconds of sound. Can this be heard right now: "{watch}"? '
        "Answer yes or no."
    )


def templates_of(card: Mapping[str, Any]) -> WatchTemplates:
    """A checkpoint's ``watch.json``: ``any`` and ``sound``. Raises ModelMismatch where damaged."""
    given = {name: card[name] for name in ("any", "sound") if name in card}
    try:
        if set(card) - set(given) or not all(isinstance(text, str) for text in given.values()):
            raise ValueError('it may hold "any" and "sound", both texts')
        return WatchTemplates(**{name: valid_template(text) for name, text in given.items()})
    except ValueError as error:
        raise ModelMismatch(
            f"watch.json of the checkpoint is damaged ({error}); fetch the checkpoint again"
        ) from None


@dataclass(frozen=True, slots=True)
class AnswerWords:
    """Ids of the single tokens that spell yes, and no."""

    yes: tuple[int, ...]
    no: tuple[int, ...]

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> AnswerWords:
        """The spellings that are one token here. Raises ModelMismatch where there are none."""
        return cls(_single(tokenizer, YES), _single(tokenizer, NO))


def _single(tokenizer: Tokenizer, spellings: tuple[str, ...]) -> tuple[int, ...]:
    encoded = [tokenizer.encode(word, add_special_tokens=False) for word in spellings]
    found = tuple(dict.fromkeys(ids[0] for ids in encoded if len(ids) == 1))
    if not found:
        raise ModelMismatch(
            f"this checkpoint's tokenizer has no single token for {spellings[0]!r} in any "
            "spelling, so standing questions cannot be judged by it; use another --model"
        )
    return found


def rows_of(tokenizer: Tokenizer, ids: list[int], start: int, stop: int) -> range:
    """Tokens of ``ids`` that hold the characters start..stop-1 of their text."""
    lengths = [len(tokenizer.decode(ids[:n])) for n in range(len(ids) + 1)]
    first = max((n for n in range(len(ids)) if lengths[n] <= start), default=0)
    last = next((n for n in range(1, len(ids) + 1) if lengths[n] >= stop), len(ids))
    return range(first, max(last, first + 1))
