"""Everything that is printed: for a terminal, for a pipe, and as JSON lines.

Answers go to stdout, everything else to stderr. In a pipe there is no colour and no control
character; an answer's own control characters never reach anybody's terminal.
"""

from __future__ import annotations

import os
import sys
import traceback
import unicodedata
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol, TextIO

from clients import contract
from clients.spans import clock, moment, stretch, unseen
from omnidrop_stream.errors import OmniDropError
from omnidrop_stream.types import Answer, Delta, Evidence
from runtime.redact import redact

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from runtime.asking import Asked, Event, Status

_SHOWN_AS_TEXT = "\n\t"
_HIDDEN_KINDS = ("Cc", "Cf", "Cs", "Zl", "Zp")
_JOINERS = "\u200c\u200d"


def clean(text: str) -> str:
    """``text`` without what drives a terminal or turns its direction; joiners of scripts stay."""
    return "".join(
        letter
        if letter in _SHOWN_AS_TEXT
        or letter in _JOINERS
        or unicodedata.category(letter) not in _HIDDEN_KINDS
        else "\N{REPLACEMENT CHARACTER}"
        for letter in text
    )


def sentence(text: object) -> str:
    """A message as one clean line without passwords."""
    return clean(" ".join(redact(text).split()))


def grounds(answer: Answer) -> str:
    """What an answer rests on, what it cost and what it could not see, in a line."""
    share = answer.tokens.mean_entering
    missing = unseen(answer.coverage, answer.staleness_s)
    return grounds_line(
        answer.evidence, answer.ttft_ms, share, answer.label, answer.finish, missing
    )


def grounds_line(
    evidence: Sequence[Evidence],
    ttft_ms: float,
    share: float,
    label: str,
    finish: str,
    missing: Sequence[str] = (),
) -> str:
    """The same from its parts; ``share``: mean share of tokens that entered a layer; ``missing``:
    of `unseen`.
    """
    spans = [
        f"{stretch(span.from_s, span.to_s)} {span.modality} {span.weight:.2f}" for span in evidence
    ]
    parts = [
        f"evidence {', '.join(spans) or 'none'}",
        f"first token {ttft_ms:.0f} ms",
        f"retention {share:.1%}",
        label,
        *missing,
    ]
    if finish != "stop":
        parts.append({"length": "cut at the token limit"}.get(finish, finish))
    return " | ".join(parts)


def is_terminal(stream: TextIO) -> bool:
    """Whether a person looks at it through something that understands more than lines."""
    term = os.environ.get("TERM", "xterm" if sys.platform == "win32" else "").lower()
    return stream.isatty() and term not in ("", "dumb", "unknown")


class ReaderGone(Exception):
    """Whoever read our output has closed it (``| head -1``): nothing is left to do."""


class OutputLost(OmniDropError):
    """stdout is there, and what we write does not get there."""

    def __init__(self, error: OSError) -> None:
        super().__init__(
            f"standard output cannot be written ({error.strerror}); send it to a place with free "
            "space"
        )


def write_out(text: str, end: str = "\n") -> None:
    """A text on stdout as it is. Raises ReaderGone, or OmniDropError where it cannot be written."""
    try:
        _write(text, end, sys.stdout)
    except OSError as error:
        raise OutputLost(error) from None


def write_err(text: str) -> None:
    """A text on stderr as it is, with a line feed."""
    with suppress(OSError):  # nobody is left to tell
        _write(text, "\n", sys.stderr)


def complain(text: object) -> None:
    """One sentence on stderr: what was wrong, the value, what is allowed, what to do."""
    write_err(f"omnidrop: {sentence(text)}")


def _write(text: str, end: str, stream: TextIO) -> None:
    try:
        print(text, end=end, file=stream, flush=True)
    except BrokenPipeError:
        raise ReaderGone from None


def report(error: OmniDropError, as_json: bool = False, id: str | None = None) -> None:
    """An error for people, and before that as a JSON line where JSON is wanted; where that line
    cannot be written either, both are told. Raises ReaderGone.
    """
    told = str(error) if id is None else f"question {id}: {error}"
    if as_json:
        try:
            write_out(contract.line(contract.error(error, sentence(error), id)))
        except OutputLost as lost:
            if not isinstance(error, OutputLost):
                told = f"{told.rstrip('.')}; besides, {lost}"
    complain(told)


def show_traceback() -> None:
    """The current exception in full, for ``--debug``."""
    write_err(redact(traceback.format_exc()).rstrip())


class Printer(Protocol):
    """What a command tells the user through."""

    def show(self, event: Event) -> None:
        """One event of a stream that is asked."""

    def close(self) -> None:
        """Leave the screen tidy; nothing is shown after it."""


class Notes:
    """stderr: notes, progress on a terminal, and with ``verbose`` what goes on."""

    def __init__(self, quiet: bool, verbose: bool) -> None:
        self._quiet, self._verbose = quiet, verbose
        self._bar = Bar() if is_terminal(sys.stderr) and not quiet and not verbose else None

    def status(self, status: Status) -> None:
        """A note is a sentence; all else moves the bar, or is told only when asked for."""
        if status.state == "note":
            self.note(status.text)
        elif self._bar is not None:
            self._bar.move(status)
        elif self._verbose and not self._quiet and status.state != "reading":
            complain(status.text)

    def asked(self, asked: Asked) -> None:
        """Say what about the question needs saying, and stop the bar: the answer comes."""
        self.clear()
        if asked.control_tokens:
            names = ", ".join(asked.control_tokens)
            self.note(
                f"question {asked.question.id} spells control tokens of the model ({names}); they "
                "are read as plain characters"
            )

    def note(self, text: str) -> None:
        """One sentence for people."""
        self.clear()
        if not self._quiet:
            complain(text)

    def clear(self) -> None:
        """Take the bar off the screen."""
        if self._bar is not None:
            self._bar.stop()


class Bar:
    """Progress of model load and reading, on a terminal only; gone when it stops."""

    def __init__(self) -> None:
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    def move(self, status: Status) -> None:
        """Show the newest status."""
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

        if self._progress is None or self._task is None:
            self._progress = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=30),
                TextColumn("{task.fields[clock]}", markup=False),
                console=Console(stderr=True),
                transient=True,
            )
            self._task = self._progress.add_task("", clock="")
            self._progress.start()
        self._progress.update(
            self._task,
            description=sentence(status.text),
            completed=status.done_s or 0.0,
            total=status.total_s if status.done_s is not None else None,
            clock=clock(status.done_s) if status.done_s is not None else "",
        )

    def stop(self) -> None:
        """Remove it; the next status starts it again."""
        if self._progress is not None:
            self._progress.stop()
        self._progress = self._task = None


class PlainPrinter:
    """For a pipe: questions, answers and their grounds as plain lines."""

    def __init__(self, quiet: bool = False, verbose: bool = False) -> None:
        self._notes = Notes(quiet, verbose)
        self._open_line = False

    def show(self, event: Event) -> None:
        """One event."""
        from runtime.asking import Answered, Asked, Failed
        from runtime.watch_types import Happened

        if isinstance(event, Asked):
            self._notes.asked(event)
            self.heading(moment(event.at_s), event.question.text)
        elif isinstance(event, Delta):
            self.piece(event.text)
        elif isinstance(event, Answered):
            self.rests_on(grounds(event.answer))
        elif isinstance(event, Happened):
            from clients.live_watch import happened

            self.close()
            self._write("".join(f"{line}\n" for line in happened(event.event)), "bold")
        elif isinstance(event, Failed):
            self.close()
            report(event.error, id=event.id)
        else:
            self._notes.status(event)

    def heading(self, mark: str, question: str) -> None:
        """The question, after when or whom it is asked."""
        self.close()
        self._write(f"[{clean(mark)}] {sentence(question)}\n", "bold")

    def piece(self, text: str) -> None:
        """More of an answer."""
        self._write(clean(text))
        self._open_line = True

    def rests_on(self, line: str) -> None:
        """What an answer rests on, below it."""
        self._end_line()
        self._write(f"  {clean(line)}\n", "dim")

    def close(self) -> None:
        """End an unfinished line."""
        self._notes.clear()
        self._end_line()

    def _end_line(self) -> None:
        if self._open_line:
            self._open_line = False
            self._write("\n")

    def _write(self, text: str, style: str = "") -> None:
        write_out(text, end="")


class TerminalPrinter(PlainPrinter):
    """The same lines, with weight and colour."""

    def __init__(self, quiet: bool = False, verbose: bool = False) -> None:
        from rich.console import Console

        super().__init__(quiet, verbose)
        self._console = Console(highlight=False, emoji=False)

    def _write(self, text: str, style: str = "") -> None:
        self._console.print(text, style=style, markup=False, end="", soft_wrap=True)


class JsonPrinter:
    """One JSON object a line on stdout, as ``clients/contract.py`` says."""

    def __init__(self, quiet: bool = False, verbose: bool = False) -> None:
        self._notes = Notes(quiet, verbose)
        self._state = ""

    def show(self, event: Event) -> None:
        """One event as a line; of the many steps of reading only the first."""
        from runtime.asking import Answered, Asked, Failed
        from runtime.watch_types import Happened

        if isinstance(event, Asked):
            self._notes.asked(event)
            self._state = "asking"
            text = f"asking question {event.question.id}"
            self._line(contract.status("asking", text, event.at_s))
        elif isinstance(event, Delta):
            self._line(contract.delta(event))
        elif isinstance(event, Answered):
            self._line(contract.final(event.answer, event.source, event.asked_wall_s))
        elif isinstance(event, Happened):
            self._line(contract.event(event.event, event.source))
        elif isinstance(event, Failed):
            self._notes.clear()
            report(event.error, as_json=True, id=event.id)
        else:
            self._notes.status(event)
            if event.state != "reading" or self._state != "reading":
                text, done_s, total_s = sentence(event.text), event.done_s, event.total_s
                self._line(contract.status(event.state, text, done_s, total_s, event.session))
            self._state = event.state

    def close(self) -> None:
        """Nothing is left open between lines."""
        self._notes.clear()

    def _line(self, message: contract.Message) -> None:
        if message["type"] != "status":
            self._notes.clear()
        write_out(contract.line(message))


def make_printer(json: bool = False, quiet: bool = False, verbose: bool = False) -> Printer:
    """The printer for where stdout goes."""
    if json:
        return JsonPrinter(quiet, verbose)
    if is_terminal(sys.stdout):
        return TerminalPrinter(quiet, verbose)
    return PlainPrinter(quiet, verbose)
