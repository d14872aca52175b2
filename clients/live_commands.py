"""What a line typed into ``omnidrop live`` means: a question, or a command with its value. Pure."""

from __future__ import annotations

import difflib
import math
import re
from dataclasses import dataclass

from clients.live_watch import parse_watch
from omnidrop_stream.errors import UsageError

HELP = {
    "status": ("/status", "everything that is counted, held, late or dropped"),
    "evidence": ("/evidence", "what the last answer rests on"),
    "forget": ("/forget [5m|30s]", "remove the last minutes or seconds; without a time, all"),
    "pause": ("/pause", "stop watching; what is held stays"),
    "resume": ("/resume", "watch again"),
    "mute": ("/mute", "throw sound away"),
    "unmute": ("/unmute", "listen again"),
    "retention": ("/retention 20", "share of tokens that later answers keep, in percent"),
    "depth": ("/depth exact", "layers a chunk passes on arrival: exact, half, L or a number"),
    "watch": ("/watch a bell rings", "tell me when (sound: a bell; /watch list, /watch remove 1)"),
    "retry": ("/retry", "try a lost camera or stream again at once"),
    "help": ("/help", "this list"),
    "quit": ("/quit", "end (also Ctrl-D, or Ctrl-C twice)"),
}
DEPTHS = {"exact": "exact", "half": "half", "l": "read_side", "read_side": "read_side"}
TWICE_S = 1.5
"""Two Ctrl-C within this quit also while an answer runs."""
_DURATION = re.compile(
    r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?", re.ASCII
)
_NUMBER = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*(%?)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Command:
    """A command by name. ``value``: forget's seconds, retention's share, depth's name or number,
    what stands behind /watch."""

    name: str
    value: float | int | str | None = None


@dataclass(frozen=True, slots=True)
class Question:
    """Everything that is no command; empty where nothing was typed."""

    text: str


def parse_command(text: str) -> Command | Question:
    """What ``text`` means; ``//`` in front asks a question that begins with a slash.

    Raises UsageError: an unknown command (the nearest one is named), a value that is not allowed.
    """
    line = text.strip()
    if line.startswith("//"):
        return Question(line[1:])
    if not line.startswith("/"):
        return Question(line)
    word, _, rest = line[1:].partition(" ")
    name, rest = word.lower(), rest.strip()
    if name not in HELP:
        raise UsageError(f"there is no command /{word}; {_near(name)}")
    if name == "forget":
        return Command(name, _seconds(rest) if rest else None)
    if name == "retention":
        return Command(name, _share(rest))
    if name == "depth":
        return Command(name, _depth(rest))
    if name == "watch":
        parse_watch(rest)
        return Command(name, rest)
    if rest:
        raise UsageError(f"/{name} takes no value, but {rest!r} was given; type /{name} alone")
    return Command(name)


def _near(name: str) -> str:
    found = difflib.get_close_matches(name, HELP, n=1, cutoff=0.5)
    found = found or [known for known in HELP if name and known.startswith(name[0])][:1]
    if found:
        return f"did you mean /{found[0]}? See /help"
    return f"known are {', '.join('/' + known for known in HELP)}"


def _seconds(text: str) -> float:
    found = _DURATION.fullmatch(text.lower().replace(" ", ""))
    if found is not None and any(found.groups()):
        hours, minutes, seconds = (float(part or 0) for part in found.groups())
        total = 3600 * hours + 60 * minutes + seconds
        if total > 0 and math.isfinite(total):
            return total
    raise UsageError(
        f"/forget {text}: give a length of time such as 30s, 5m or 1h; nothing for everything"
    )


def _share(text: str) -> float:
    found = _NUMBER.fullmatch(text)
    if found is not None:
        percent = float(found[1])
        if 1 <= percent <= 100:
            return percent / 100
    raise UsageError(f"/retention {text}: give percent from 1 to 100, for example /retention 20")


def _depth(text: str) -> int | str:
    if text.lower() in DEPTHS:
        return DEPTHS[text.lower()]
    if text.isascii() and text.isdigit() and len(text) < 5:
        return int(text)
    raise UsageError(
        f"/depth {text}: give exact, half, L (every layer) or a number of layers from 0 on"
    )


class Interrupts:
    """What a Ctrl-C means: the first cancels what runs or warns, the second one quits."""

    def __init__(self) -> None:
        self._last_s: float | None = None
        self._warned = False

    def press(self, now_s: float, running: bool) -> str:
        """``cancel``, ``warn`` (nothing ran; once more quits) or ``quit``."""
        last_s, self._last_s = self._last_s, now_s
        warned, self._warned = self._warned, not running
        if (last_s is not None and now_s - last_s <= TWICE_S) or (warned and not running):
            return "quit"
        return "cancel" if running else "warn"

    def forget(self) -> None:
        """Something else was typed: the next Ctrl-C is a first one."""
        self._last_s, self._warned = None, False
