"""How questions are worded: alternatives in braces are multiplied out; a quarter of the forms is
kept for the test.
"""

from __future__ import annotations

import itertools
import re
import zlib
from collections.abc import Mapping
from functools import cache

from omnidrop_stream.world.items import Split

_FORMS: dict[str, tuple[str, ...]] = {
    "heard_when": (
        "{What|Which word} was {said|spoken|heard} {when|while} the <thing> was {shown|visible}?",
        "What did you hear {when|while} the <thing> was {shown|visible}?",
    ),
    "seen_when": (
        'What was {shown|visible} {when|while} {<word>|"<word>"} was {said|spoken|heard}?',
        'What did you see {when|while} {<word>|"<word>"} was {said|spoken|heard}?',
    ),
    "seen_when_bell": (
        "What was {shown|visible} {when|while} the bell {rang|was heard}?",
        "What did you see {when|while} the bell {rang|was heard}?",
    ),
    "first_heard": (
        "What was {said|spoken} first?",
        "Which word was {said|spoken|heard} first?",
        "What was the first word {said|spoken|heard}?",
        "Which word was the first?",
    ),
    "last_heard": (
        "What was {said|spoken} last?",
        "Which word was {said|spoken|heard} last?",
        "What was the last word {said|spoken|heard}?",
        "Which word was the last?",
    ),
    "first_seen": (
        "What was {shown|visible} first?",
        "Which thing was {shown|visible} first?",
        "What was the first thing {shown|visible}?",
        "What did you see first?",
    ),
    "last_seen": (
        "What was {shown|visible} last?",
        "Which thing was {shown|visible} last?",
        "What was the last thing {shown|visible}?",
        "What did you see last?",
    ),
    "seen_now": (
        "What is {shown|visible} {now|right now}?",
        "What do you see {now|right now}?",
        "Which thing is {shown|visible} {now|right now}?",
    ),
    "heard_now": (
        "What was {said|spoken} just now?",
        "Which word was {said|spoken|heard} just now?",
        "What did you hear just now?",
    ),
    "colour_of": (
        "{What|Which} {color|colour} was the <kind>?",
        "{What|Which} {color|colour} did the <kind> have?",
    ),
    "kind_of": (
        "What was <colour>?",
        "{What|Which} thing was <colour>?",
        "What was the <colour> thing?",
        "Which was the <colour> thing?",
    ),
    "count_colour": (
        "How many <colour> things were {shown|visible}?",
        "How many <colour> things did you see?",
        "How many things were <colour>?",
    ),
    "heard_after": (
        '{What|Which word} was {said|spoken|heard} after {<word>|"<word>"}?',
        'Which word came after {<word>|"<word>"}?',
    ),
    "heard_after_bell": (
        "{What|Which word} was {said|spoken|heard} after the bell?",
        "Which word came after the bell?",
    ),
    "heard_before": (
        '{What|Which word} was {said|spoken|heard} before {<word>|"<word>"}?',
        'Which word came before {<word>|"<word>"}?',
    ),
    "heard_before_bell": (
        "{What|Which word} was {said|spoken|heard} before the bell?",
        "Which word came before the bell?",
    ),
    "seen_after": (
        "{What|Which thing} was {shown|visible} after the <thing>?",
        "{What|Which thing} came after the <thing>?",
    ),
    "seen_before": (
        "{What|Which thing} was {shown|visible} before the <thing>?",
        "{What|Which thing} came before the <thing>?",
    ),
    "was_seen": (
        "Was {the|<a>} <thing> {shown|visible}?",
        "Did you see {the|<a>} <thing>?",
        "Has {the|<a>} <thing> been {shown|visible}?",
    ),
    "was_heard": (
        'Was {<word>|"<word>"} {said|spoken|heard}?',
        'Did you hear {<word>|"<word>"}?',
        'Has {<word>|"<word>"} been {said|spoken|heard}?',
    ),
    "was_heard_bell": (
        "Did you hear {the|a} bell?",
        "Was {the|a} bell heard?",
        "Has {the|a} bell been heard?",
    ),
    "is_seen_now": (
        "Is {the|<a>} <thing> {shown|visible} {now|right now}?",
        "Is there <a> <thing> {now|right now}?",
        "Do you see {the|<a>} <thing> {now|right now}?",
    ),
    "is_heard_now": (
        "Is {someone|anyone} {speaking|talking} {now|right now}?",
        "Do you hear {someone|anyone} {speaking|talking} {now|right now}?",
        "Was a word {said|spoken|heard} just now?",
    ),
}


@cache
def forms(wording: str, split: Split) -> tuple[str, ...]:
    """The wordings of one split, placeholders in angle brackets; splits share no wording."""
    whole = [text for pattern in _FORMS[wording] for text in _expand(pattern)]
    order = sorted(whole, key=lambda text: zlib.crc32(text.encode()))
    cut = max(1, len(order) // 4)
    return tuple(order[:cut] if split == "test" else order[cut:])


def wordings() -> tuple[str, ...]:
    """The names of all wordings."""
    return tuple(_FORMS)


def fill(form: str, words: Mapping[str, str]) -> str:
    """Put the words in the place of `<name>`."""
    return re.sub(r"<(\w+)>", lambda m: words[m.group(1)], form)


def _expand(pattern: str) -> list[str]:
    parts = re.split(r"\{([^}]*)\}", pattern)
    options = [part.split("|") if i % 2 else [part] for i, part in enumerate(parts)]
    return ["".join(choice) for choice in itertools.product(*options)]
