"""A question and its answer as lines on a terminal. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from prompt_toolkit.utils import get_cwidth

from clients.spans import moment

INDENT = "   "
Line = tuple[str, str]
"""A style class and a line of text."""


@dataclass(slots=True)
class Block:
    """A question and as much of its answer as there is."""

    id: str
    question: str
    at_s: float | None = None
    waits: str = "waits for its turn"
    text: str = ""

    def lines(self, width: int) -> list[Line]:
        """As shown: the question, then the answer's text."""
        at = f"[{moment(self.at_s)}] " if self.at_s is not None else ""
        shown = [("question", line) for line in wrapped(f"{self.id} {at}{self.question}", width)]
        body = wrapped(self.text.strip(), width - len(INDENT)) if self.text.strip() else []
        if not body and self.waits:
            return [*shown, ("dim", f"{INDENT}({self.waits})")]
        return shown + [("answer", INDENT + line) for line in body]


def wrapped(text: str, width: int) -> list[str]:
    """``text`` in lines of at most ``width`` cells, broken between words where that is possible; a
    line's indent is kept.
    """
    lines = []
    for paragraph in text.split("\n"):
        body = paragraph.lstrip(" ")
        indent = paragraph[: len(paragraph) - len(body)][: width // 2]
        lines += [indent + line for line in _broken(body, max(2, width - len(indent)))]
    return lines


def _broken(text: str, width: int) -> list[str]:
    lines, line = [], ""
    for number, word in enumerate(text.split(" ")):
        if line and get_cwidth(line) + 1 + get_cwidth(word) > width:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}" if number else word
        while get_cwidth(line) > width:
            cut = next(
                n for n in range(len(line), 0, -1) if n == 1 or get_cwidth(line[:n]) <= width
            )
            lines.append(line[:cut])
            line = line[cut:]
    return [*lines, line]
