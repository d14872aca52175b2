"""What a typed line means, and what Ctrl-C means."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clients.live_commands import HELP, Command, Interrupts, Question, parse_command
from omnidrop_stream.errors import UsageError

PLAIN = ("status", "evidence", "pause", "resume", "mute", "unmute", "retry", "help", "quit")


@given(st.text())
def test_a_line_without_a_slash_is_a_question_as_it_stands(text: str) -> None:
    line = text.strip()
    if not line.startswith("/"):
        assert parse_command(text) == Question(line)


@given(st.text())
def test_every_line_is_a_question_a_command_or_a_usage_error(text: str) -> None:
    meant: Command | Question | None = None
    with contextlib.suppress(UsageError):
        meant = parse_command(f"/{text}")
    assert not isinstance(meant, Command) or meant.name in HELP


def test_two_slashes_ask_a_question_that_begins_with_one() -> None:
    assert parse_command("//etc what?") == Question("/etc what?")


@pytest.mark.parametrize("name", PLAIN)
def test_a_command_is_known_in_any_case_and_with_spaces_around(name: str) -> None:
    assert parse_command(f"  /{name.upper()} ") == Command(name)


@pytest.mark.parametrize("name", PLAIN)
def test_a_command_without_a_value_refuses_one(name: str) -> None:
    with pytest.raises(UsageError, match=f"type /{name} alone"):
        parse_command(f"/{name} 5")


@pytest.mark.parametrize(
    ("typed", "near"),
    [("/stat", "/status"), ("/forgot", "/forget"), ("/q", "/quit"), ("/EVIDENC", "/evidence")],
)
def test_an_unknown_command_names_the_nearest(typed: str, near: str) -> None:
    with pytest.raises(UsageError, match=rf"did you mean {near}\?"):
        parse_command(typed)


def test_a_command_like_no_other_names_all() -> None:
    with pytest.raises(UsageError, match="known are /status, /evidence"):
        parse_command("/zzz")


@pytest.mark.parametrize(
    ("typed", "seconds"),
    [("5m", 300), ("30s", 30), ("90", 90), ("1h", 3600), ("1m30s", 90), ("1.5 m", 90), ("2M", 120)],
)
def test_forget_takes_a_length_of_time(typed: str, seconds: float) -> None:
    assert parse_command(f"/forget {typed}") == Command("forget", seconds)


@given(st.integers(0, 99), st.integers(0, 59), st.integers(1, 59))
def test_forget_adds_hours_minutes_and_seconds(hours: int, minutes: int, seconds: int) -> None:
    meant = parse_command(f"/forget {hours}h{minutes}m{seconds}s")
    assert meant == Command("forget", 3600 * hours + 60 * minutes + seconds)


def test_forget_without_a_time_means_everything() -> None:
    assert parse_command("/forget") == Command("forget", None)


@pytest.mark.parametrize("typed", ["0", "0s", "-5", "five", "5x", "1e3", "nan", "m", "9" * 400])
def test_forget_refuses_what_is_no_length_of_time(typed: str) -> None:
    with pytest.raises(UsageError, match="30s, 5m or 1h"):
        parse_command(f"/forget {typed}")


@given(st.integers(1, 100))
def test_retention_is_percent(percent: int) -> None:
    for typed in (f"{percent}", f"{percent}%", f"{percent}.0 %"):
        assert parse_command(f"/retention {typed}") == Command("retention", percent / 100)


@pytest.mark.parametrize("typed", ["", "0", "0.2", "101", "half", "-20", "nan"])
def test_retention_refuses_what_is_no_percentage(typed: str) -> None:
    with pytest.raises(UsageError, match="percent from 1 to 100"):
        parse_command(f"/retention {typed}")


@pytest.mark.parametrize(
    ("typed", "depth"), [("exact", "exact"), ("0", 0), ("half", "half"), ("L", "read_side")]
)
def test_depth_is_a_name_or_a_number(typed: str, depth: int | str) -> None:
    assert parse_command(f"/depth {typed}") == Command("depth", depth)


@pytest.mark.parametrize("typed", ["", "-1", "deep", "1.5", "²"])
def test_depth_refuses_anything_else(typed: str) -> None:
    with pytest.raises(UsageError, match="exact, half, L"):
        parse_command(f"/depth {typed}")


def test_the_first_ctrl_c_cancels_what_runs() -> None:
    assert Interrupts().press(10.0, running=True) == "cancel"


def test_a_second_ctrl_c_soon_after_quits_although_something_still_runs() -> None:
    keys = Interrupts()
    keys.press(10.0, running=True)
    assert keys.press(11.4, running=True) == "quit"


def test_a_later_ctrl_c_cancels_the_next_answer() -> None:
    keys = Interrupts()
    keys.press(10.0, running=True)
    assert keys.press(12.0, running=True) == "cancel"


def test_long_after_a_cancelled_answer_a_ctrl_c_only_warns() -> None:
    keys = Interrupts()
    keys.press(10.0, running=True)
    assert keys.press(20.0, running=False) == "warn"


def test_after_a_warning_a_ctrl_c_quits_whenever_it_comes() -> None:
    keys = Interrupts()
    keys.press(10.0, running=False)
    assert keys.press(60.0, running=False) == "quit"


def test_typing_takes_a_warning_back() -> None:
    keys = Interrupts()
    keys.press(10.0, running=False)
    keys.forget()
    assert keys.press(10.5, running=False) == "warn"
