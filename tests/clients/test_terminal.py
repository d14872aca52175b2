"""What is printed where: pipes get plain text, terminals get colour, nobody gets control codes."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest

from clients import terminal
from omnidrop_stream.types import Delta
from runtime.asking import Asked, Question, Status


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


Attach = Callable[[], Screen]


@pytest.fixture
def attach(monkeypatch: pytest.MonkeyPatch) -> Attach:
    """Make stdout and stderr one terminal; called in the test, since pytest captures anew there."""

    def run() -> Screen:
        made = Screen()
        monkeypatch.setenv("TERM", "xterm-256color")
        monkeypatch.delenv("NO_COLOR", raising=False)
        monkeypatch.setattr("sys.stdout", made)
        monkeypatch.setattr("sys.stderr", made)
        return made

    return run


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred", "\ufffd[31mred"),
        ("bell\x07 back\x08", "bell\ufffd back\ufffd"),
        ("\x9b31m", "\ufffd31m"),
        ("a\u202eb", "a\ufffdb"),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
        ("日本 é 👩\u200d👧", "日本 é 👩\u200d👧"),
    ],
)
def test_what_drives_a_terminal_is_taken_out_of_text(text: str, shown: str) -> None:
    assert terminal.clean(text) == shown


def test_a_sentence_is_one_line_without_passwords() -> None:
    assert terminal.sentence("rtsp://a:b@host/x\n is  down\r") == "rtsp://***@host/x is down"


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0, "00:00"), (61.9, "01:01"), (3599, "59:59"), (3661, "1:01:01")]
)
def test_stream_time_is_minutes_and_seconds(seconds: float, shown: str) -> None:
    assert terminal.clock(seconds) == shown


def test_the_printer_follows_where_stdout_goes(attach: Attach) -> None:
    attach()
    assert isinstance(terminal.make_printer(), terminal.TerminalPrinter)
    assert isinstance(terminal.make_printer(json=True), terminal.JsonPrinter)


@pytest.mark.parametrize("term", ["", "dumb", "unknown", "DUMB"])
def test_a_dumb_terminal_is_treated_like_a_pipe(
    attach: Attach, monkeypatch: pytest.MonkeyPatch, term: str
) -> None:
    attach()
    monkeypatch.setenv("TERM", term)
    assert type(terminal.make_printer()) is terminal.PlainPrinter


def test_windows_names_no_terminal_and_has_one(
    attach: Attach, monkeypatch: pytest.MonkeyPatch
) -> None:
    attach()
    monkeypatch.delenv("TERM", raising=False)
    monkeypatch.setattr("sys.platform", "win32")
    assert isinstance(terminal.make_printer(), terminal.TerminalPrinter)


def test_a_terminal_gets_weight_and_literal_brackets(attach: Attach) -> None:
    screen = attach()
    printer = terminal.make_printer()
    printer.show(Asked(Question("q1", "Is [bold]this[/] it?"), 3.0, ()))
    printer.show(Delta("q1", 0, "yes \x1b[2J"))
    printer.close()
    shown = screen.getvalue()
    assert "\x1b[1m[00:03] Is [bold]this[/] it?" in shown
    assert "\x1b[2J" not in shown
    assert shown.endswith("\n")


def test_progress_is_shown_on_a_terminal_and_removed_before_the_answer(attach: Attach) -> None:
    screen = attach()
    printer = terminal.make_printer()
    printer.show(Status("reading", "reading", 4.0, 8.0))
    printer.show(Asked(Question("q1", "What?"), 8.0, ()))
    printer.close()
    before, after = screen.getvalue().split("[00:08] What?")
    assert "reading" in before
    assert "\x1b[2K" in before
    assert "reading" not in after


def test_quiet_shows_no_progress(attach: Attach) -> None:
    screen = attach()
    printer = terminal.make_printer(quiet=True)
    printer.show(Status("reading", "reading", 4.0, 8.0))
    printer.show(Status("note", "by the way"))
    printer.close()
    assert screen.getvalue() == ""


def test_an_interrupted_answer_ends_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    printer = terminal.make_printer()
    printer.show(Delta("q1", 0, "half an ans"))
    printer.close()
    assert capsys.readouterr().out == "half an ans\n"


def test_a_reader_that_is_gone_is_told_apart_from_other_errors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr("sys.stdout", Closed())
    with pytest.raises(terminal.ReaderGone):
        terminal.write_out("anyone?")
