"""``omnidrop live`` for scripts, in this process: plain lines, JSON lines, exit codes."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest

from clients import contract
from runtime.redact import redact
from tests.clients.conftest import Omnidrop, Ran
from tests.runtime.servers import refused_port, silent_port

__all__ = ["refused_port", "silent_port"]

Live = Callable[..., Ran]
SHORT = "demo:?seconds=5"
PICTURE = "picture:?seconds=3"


@pytest.fixture
def live(omnidrop: Omnidrop) -> Live:
    """``omnidrop live --fast`` with the tiny model and short answers."""
    common = ("--model", "tiny", "--max-tokens", "4", "--fast")
    return lambda *rest: omnidrop("live", *rest, *common)


@pytest.fixture
def typed(live: Live, monkeypatch: pytest.MonkeyPatch) -> Live:
    """The same, with lines on stdin."""

    def run(lines: str, *rest: str) -> Ran:
        monkeypatch.setattr("sys.stdin", io.StringIO(lines))
        return live(SHORT, "--ask", "-", *rest)

    return run


def test_a_question_is_answered_and_the_run_ends(live: Live) -> None:
    ran = live(SHORT, "--ask", "What is it?")
    assert ran.code == 0
    assert "] What is it?\n" in ran.out
    assert "evidence " in ran.out


def test_every_json_line_is_of_the_contract(live: Live) -> None:
    ran = live(SHORT, "--ask", "One?", "--ask", "Two?", "--json")
    validator = jsonschema.Draft202012Validator(contract.schema())
    for message in ran.messages:
        validator.validate(message)
    assert sorted(final["id"] for final in ran.of("final")) == ["q1", "q2"]


def test_changes_of_state_are_status_lines(live: Live) -> None:
    states = [m["state"] for m in live(SHORT, "--json").of("status")]
    assert states[0] == "note"
    assert states[-1] == "ended"


def test_changes_of_state_carry_what_the_session_says_of_itself(live: Live) -> None:
    told = live(SHORT, "--json").of("status")
    sessions = [message for message in told if "code" in message]
    assert [message["state"] for message in sessions][-1] == "ended"
    assert all(message["step_name"] == "normal" for message in sessions)
    assert all("code" in message for message in told if message["state"] != "note")


def test_retry_of_a_source_that_cannot_be_lost_is_refused(typed: Live) -> None:
    ran = typed("/retry\nWhat?\n")
    assert "this source cannot be lost" in ran.err
    assert ran.code == 2


def test_questions_and_moments_are_paired_in_order(live: Live) -> None:
    ran = live(SHORT, "--json", "--ask", "Late?", "--at", "4", "--ask", "Early?", "--at", "1")
    asked = {final["question"]: final["asked_at_s"] for final in ran.of("final")}
    assert asked["Early?"] >= 1
    assert asked["Late?"] >= 4


def test_a_moment_after_the_end_is_asked_at_the_end_and_said_so(live: Live) -> None:
    ran = live(PICTURE, "--ask", "Late?", "--at", "50")
    assert ran.code == 0
    assert "is to be asked at 50 s but the stream ended at" in ran.err


def test_without_a_question_it_watches_to_the_end(live: Live) -> None:
    ran = live(PICTURE)
    assert (ran.code, ran.out) == (0, "")
    assert "no --ask is given" in ran.err
    assert "the source has ended at 3.0 s" in ran.err


def test_a_pipe_gets_no_control_character(live: Live) -> None:
    ran = live(SHORT, "--ask", "What?", "--ask", "And?")
    for text in (ran.out, ran.err):
        assert text.replace("\n", "").isprintable()


def test_quiet_says_nothing_but_answers(live: Live) -> None:
    assert live(PICTURE, "--ask", "What?", "-q").err == ""


def test_for_ends_a_stream_that_does_not_end(live: Live) -> None:
    assert live("picture:", "--for", "0.5").code == 0


def test_a_question_that_for_left_unasked_is_an_error_that_says_so(live: Live) -> None:
    ran = live("demo:?seconds=9000", "--ask", "What?", "--at", "8000", "--for", "0.2", "--json")
    assert ran.code == 5
    (error,) = ran.of("error")
    assert (error["id"], error["code"]) == ("q1", "cancelled")
    assert "--for 0.2 s ended before it was answered" in error["message"]


def test_questions_come_from_stdin_one_after_the_other(typed: Live) -> None:
    ran = typed("What?\n\nAnd then?\n")
    assert ran.code == 0
    first, second = ran.out.index("What?"), ran.out.index("And then?")
    assert "evidence" in ran.out[first:second]


def test_a_question_after_forgetting_everything_gets_a_plain_sentence(typed: Live) -> None:
    ran = typed("What?\n/forget\nAnd now?\n")
    assert "forgot everything" in ran.out
    assert "omnidrop: question q2: nothing of this stream is held" in ran.err
    assert ran.code == 5


def test_the_run_goes_on_after_a_mistake_on_stdin(typed: Live) -> None:
    ran = typed("/stat\nWhat?\n")
    assert "did you mean /status?" in ran.err
    assert "What?" in ran.out
    assert ran.code == 2


def test_status_and_evidence_are_told_on_stdout(typed: Live) -> None:
    ran = typed("What?\n/evidence\n/status\n")
    assert "could see 00:00-" in ran.out
    assert "answer.ttft" in ran.out


def test_commands_change_what_later_answers_do(typed: Live) -> None:
    ran = typed("/retention 60\n/depth 0\nWhat?\n", "--json")
    (final,) = ran.of("final")
    assert final["prefill_depth"] == 0
    assert ran.code == 0


def test_an_unreachable_retention_is_refused_with_what_is_reachable(typed: Live) -> None:
    ran = typed("What?\n/retention 1\n")
    assert "cannot be reached; allowed here" in ran.err
    assert ran.code == 2


def test_pause_mute_and_their_opposites_are_answered(typed: Live) -> None:
    ran = typed("/pause\n/resume\n/mute\n/unmute\n/help\n/quit\nWhat?\n")
    assert "paused: nothing is kept\nwatching again\nmuted" in ran.out
    assert "What?" not in ran.out


def test_a_follow_up_sees_the_question_before(typed: Live) -> None:
    ran = typed("What?\nAnd then?\n", "--json")
    assert {final["session"] for final in ran.of("final")} == {"live"}


def test_the_trace_holds_the_hand_overs(live: Live, tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    live(SHORT, "--ask", "What?", "--trace", str(path))
    names = {event["name"] for event in json.loads(path.read_text())["traceEvents"]}
    assert {"chunk", "q1 prefill", "q1 decode"} <= names


def test_the_statistics_are_json_on_stderr(live: Live) -> None:
    ran = live(PICTURE, "--ask", "What?", "--stats", "-q")
    snapshot = json.loads(ran.err)
    assert snapshot["counters"]["chunk.committed"] >= 1
    assert snapshot["gauges"]["output.waiting"] == 0
    assert snapshot["gauges"]["session.state"] == "ended"
    assert {"overload.step", "chunk.age_s", "session.code"} <= set(snapshot["gauges"])


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("nosuch.mp4",), 3, "there is no such file"),
        (("gopher://x",), 2, "no kind of source called 'gopher'"),
        (("demo:?seconds=-1",), 2, "seconds = -1 is not allowed"),
        ((PICTURE, "--ask", ""), 2, "the question is empty"),
        ((PICTURE, "--ask", "a", "--ask", "b", "--ask", "c", "--at", "1", "--at", "2"), 2, "3 que"),
        ((PICTURE, "--for", "0"), 2, "--for = 0 is not allowed"),
        ((PICTURE, "--for", "nan"), 2, "--for = nan is not allowed"),
        ((PICTURE, "--trace", "no/such/folder/x"), 2, "--trace = no/such/folder/x cannot be"),
        ((PICTURE, "--retention", "200"), 2, "--retention = 200 is not allowed"),
        ((PICTURE, "--model", "no/such/folder/x"), 4, "no/such/folder/x"),
    ],
)
def test_a_mistake_is_a_sentence_and_an_exit_code(
    omnidrop: Omnidrop, arguments: tuple[str, ...], code: int, says: str
) -> None:
    ran = omnidrop("live", *arguments, "-q")
    assert ran.code == code
    assert ran.out == ""
    assert ran.err.startswith("omnidrop: ")
    assert says in ran.err
    assert ran.err.count("\n") == 1


def test_a_model_error_ends_a_queued_question_with_one_sentence(omnidrop: Omnidrop) -> None:
    ran = omnidrop("live", PICTURE, "--ask", "What?", "--model", "no/such/x", "--json", "-q")
    (error,) = ran.of("error")
    assert (ran.code, error["id"], error["code"]) == (4, None, "model_not_ready")


def test_an_unreachable_camera_is_a_sentence_without_the_password(
    omnidrop: Omnidrop, refused_port: int
) -> None:
    url = f"rtsp://user:geheim@127.0.0.1:{refused_port}/live"
    ran = omnidrop("live", url, "--model", "tiny", "--json")
    assert ran.code == 3
    assert "connection refused" in ran.err
    assert "geheim" not in ran.out + ran.err


def test_a_question_that_the_embedded_model_does_not_know_is_told_with_its_nearest(
    omnidrop: Omnidrop,
) -> None:
    flags = ("--fast", "--model", "embedded", "--max-tokens", "4")
    ran = omnidrop("live", "demo:?seconds=5", *flags, "--ask", "what was said?")
    assert ran.code == 0
    assert "the nearest: What was said last?" in ran.err


def test_control_tokens_in_a_question_are_told(live: Live) -> None:
    ran = live(PICTURE, "--ask", "What is <|im_end|> here?")
    assert "spells control tokens" in ran.err


@pytest.mark.parametrize("place", ["rtsp://cam", "rtsp://cam:554"])
def test_a_reason_after_an_address_without_a_path_is_shown(place: str) -> None:
    assert redact(f"{place}: connection refused") == f"{place}: connection refused"


def test_the_heap_is_settled_for_a_run(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    settled: list[bool] = []
    monkeypatch.setattr("clients.live.settle_heap", lambda: settled.append(True))
    assert live("no-such-file.mp4", "--ask", "What?").code == 3
    assert settled == [True]
