"""Which letter an answer's text chooses: each benchmark's published rule.

Both rules take what comes first, so a model that reasons aloud is scored by its first word; that is
how the published figures were made. An answer without a letter is wrong, and counted apart.
"""

from __future__ import annotations

import re

from omnidrop_stream.lab.benchmarks.items import LETTERS

_PREFIXES = (
    "The best answer is",
    "The correct answer is",
    "The answer is",
    "The answer",
    "The best option isThe correct option is",
    "Best answer:Best option:",
)
"""Two pairs run together, as in the published script, where a comma is missing: "Best answer: C"
is therefore read as B there, and here.
"""


def leading_letter(text: str) -> str:
    """The option letter (A to F, in either case) that the text begins with, or "".

    WorldSense and AVUT: the rule of the scripts that OmniZip published for them (``eval/eval.py``,
    ``eval/eval_avut.py``), whose settings the paper follows (appendix A). "Don't know" begins with
    a D and so chooses D.
    """
    first = text.strip()[:1].upper()
    return first if first and first in LETTERS else ""


def first_capital(text: str) -> str:
    """The first of the capitals A to D after set phrases are taken out, or "".

    Video-MME: the rule of its authors' ``evaluation/eval_your_results.py``. "A" of an ordinary
    sentence counts as well.
    """
    rest = text.strip()
    for prefix in _PREFIXES:
        rest = rest.replace(prefix, "")
    found = re.search("[ABCD]", rest)
    return found[0] if found else ""
