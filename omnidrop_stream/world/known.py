"""Whether a text is one of the world's questions, and which of them comes nearest."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from functools import cache

from omnidrop_stream.world.items import COLOUR_NAMES, KINDS, WORDS
from omnidrop_stream.world.wording import fill, forms, wordings

_NAMES: dict[str, tuple[str, ...]] = {
    "colour": tuple(COLOUR_NAMES),
    "kind": tuple(KINDS),
    "word": tuple(WORDS),
    "thing": tuple(f"{colour} {kind}" for colour in COLOUR_NAMES for kind in KINDS),
    "a": ("a", "an"),
}


def is_known(text: str) -> bool:
    """Whether it is worded, to the letter, as the world's questions are."""
    return _pattern().fullmatch(text) is not None


def nearest(text: str) -> str:
    """The world's question that is most like it, about the things and words that it names."""
    lower = text.lower()
    found = {what: _named(lower, names) for what, names in _NAMES.items() if what != "a"}
    colour, kind = found["colour"] or COLOUR_NAMES[0], found["kind"] or KINDS[0]
    names = {
        "colour": colour,
        "kind": kind,
        "thing": f"{colour} {kind}",
        "word": found["word"] or WORDS[0],
        "a": "an" if colour[0] in "aeiou" else "a",
    }
    # A question that names nothing is not compared with those that do.
    usable = {what for what, name in found.items() if name} | {"a"}
    if {"colour", "kind"} <= usable:
        usable.add("thing")
    asked = [form for form in _all_forms() if set(re.findall(r"<(\w+)>", form)) <= usable]
    texts = {fill(form, names).lower(): fill(form, names) for form in asked}
    return texts[difflib.get_close_matches(lower, texts, n=1, cutoff=0.0)[0]]


def _named(text: str, names: tuple[str, ...]) -> str:
    return next((n for n in names if re.search(rf"\b{re.escape(n)}\b", text)), "")


def _all_forms() -> tuple[str, ...]:
    return tuple(
        form for name in wordings() for split in ("train", "test") for form in forms(name, split)
    )


@cache
def _pattern() -> re.Pattern[str]:
    options: Mapping[str, str] = {
        name: "|".join(map(re.escape, names)) for name, names in _NAMES.items()
    }
    return re.compile("|".join(_escaped(form, options) for form in _all_forms()))


def _escaped(form: str, options: Mapping[str, str]) -> str:
    parts = re.split(r"<(\w+)>", form)
    return "".join(f"(?:{options[p]})" if i % 2 else re.escape(p) for i, p in enumerate(parts))
