"""``omnidrop ask``: what is answered, when, and how it is said in a pipe."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.clients.conftest import Omnidrop

GROUNDS = re.compile(
    r"  evidence (none|\d\d:\d\d(\.\d)?-\d\d:\d\d(\.\d)? (audio|video) [01]\.\d\d(, .*)?) \| "
    r"first token \d+ ms \| retention \d+\.\d% \| "
    r"(exact|exact_schedule|catch_up|read_side)( \| .*)?"
)


def test_a_question_is_answered_at_the_end_of_the_file(ask: Omnidrop, clips: dict) -> None:
    ran = ask(clips["av"], "What is shown?", "--json")
    (final,) = ran.of("final")
    assert ran.code == 0
    assert final["question"] == "What is shown?"
    assert final["asked_at_s"] == final["coverage"]["to_s"] == pytest.approx(5.0, abs=0.1)
    assert final["source"].endswith("av.mp4")


def test_the_answer_is_what_its_deltas_add_up_to(ask: Omnidrop, clips: dict) -> None:
    ran = ask(clips["av"], "What?", "--json")
    (final,) = ran.of("final")
    deltas = ran.of("delta")
    assert "".join(delta["text"] for delta in deltas) == final["text"] != ""
    assert [delta["seq"] for delta in deltas] == list(range(len(deltas)))


def test_a_moment_inside_a_chunk_sees_exactly_what_came_before_it(
    ask: Omnidrop, clips: dict
) -> None:
    (final,) = ask(clips["av"], "What?", "--at", "3.3", "--json").of("final")
    assert final["asked_at_s"] == final["coverage"]["to_s"] == pytest.approx(3.3)
    assert final["open_chunk"] is True
    assert final["staleness_s"] == 0


def test_each_question_has_its_own_moment_and_the_earliest_comes_first(
    ask: Omnidrop, clips: dict
) -> None:
    ran = ask(clips["av"], "late", "early", "--at", "4", "--at", "2.5", "--json")
    assert [(f["id"], f["question"]) for f in ran.of("final")] == [("q2", "early"), ("q1", "late")]
    assert [f["asked_at_s"] for f in ran.of("final")] == [2.5, 4.0]


@pytest.mark.parametrize("at_s", [2.0, 2.2, 3.0, 3.5])
def test_a_moment_of_a_clip_without_sound_is_the_one_that_was_given(
    ask: Omnidrop, clips: dict, at_s: float
) -> None:
    (final,) = ask(clips["video"], "What?", "--at", f"{at_s}", "--json").of("final")
    assert final["asked_at_s"] == at_s
    assert final["coverage"]["to_s"] <= at_s + 0.5  # a picture stands for half a second


def test_one_moment_serves_all_questions(ask: Omnidrop, clips: dict) -> None:
    ran = ask(clips["av"], "a", "b", "--at", "3", "--json")
    assert [f["asked_at_s"] for f in ran.of("final")] == [3.0, 3.0]


def test_a_moment_after_the_end_is_asked_at_the_end_and_said_so(ask: Omnidrop, clips: dict) -> None:
    ran = ask(clips["av"], "a", "--at", "90", "--json")
    assert ran.of("final")[0]["asked_at_s"] == pytest.approx(5.0, abs=0.1)
    assert "question q1 is to be asked at 90 s but the stream ends at 5." in ran.err


def test_an_endless_source_is_asked_at_twenty_seconds(ask: Omnidrop) -> None:
    (final,) = ask("demo:", "What?", "--json").of("final")
    assert final["asked_at_s"] == 20
    assert final["source"] == "demo:?seed=0"


@pytest.mark.parametrize(("name", "layers"), [("video", {"audio": 0}), ("audio", {"video": 0})])
def test_a_file_with_one_medium_is_a_stream_of_that_kind(
    ask: Omnidrop, clips: dict, name: str, layers: dict
) -> None:
    ran = ask(clips[name], "What?", "--json")
    (final,) = ran.of("final")
    opened = next(m["text"] for m in ran.of("status") if m["state"] == "stream")
    assert opened.startswith(f"{name} stream")
    first = final["tokens"]["per_layer"][0]
    assert {key: first[key] for key in layers} == layers
    assert final["tokens"]["entering"] > 0


def test_the_kind_of_stream_can_be_chosen(ask: Omnidrop, clips: dict) -> None:
    (final,) = ask(clips["av"], "What?", "--json", "--stream-kind", "video").of("final")
    assert final["tokens"]["per_layer"][0]["audio"] == 0


def test_retention_is_given_in_percent(ask: Omnidrop) -> None:
    (final,) = ask("demo:?seconds=8", "What?", "--json", "--retention", "40").of("final")
    assert final["tokens"]["mean_entering"] == pytest.approx(0.40, abs=0.01)


@pytest.mark.parametrize(
    ("depth", "number", "label"),
    [("0", 0, "exact"), ("half", 3, "catch_up"), ("L", 6, "read_side"), ("2", 2, "catch_up")],
)
def test_the_head_start_is_chosen_and_told(
    ask: Omnidrop, depth: str, number: int, label: str
) -> None:
    ran = ask("demo:?seconds=8", "What?", "--json", "--prefill-depth", depth)
    (final,) = ran.of("final")
    assert (final["prefill_depth"], final["label"]) == (number, label)


def test_schedule_values_replace_the_retention(ask: Omnidrop) -> None:
    ran = ask("demo:?seconds=8", "What?", "--json", "--p-init", "0", "--p-final", "0")
    (final,) = ran.of("final")
    tokens = final["tokens"]
    assert {layer["dropped"] for layer in tokens["per_layer"]} == {0}


def test_flags_stand_above_the_configuration_file(
    ask: Omnidrop, clips: dict, tmp_path: Path
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("pruning: {policy: keep-all}\nstream: {prefill_depth: 0}\n")
    (final,) = ask(clips["av"], "a", "--json", "--config", file, "--prefill-depth", "1").of("final")
    assert (final["policy"], final["prefill_depth"]) == ("keep-all", 1)


@pytest.mark.parametrize(("percent", "noted"), [("90", True), ("40", False)])
def test_a_retention_above_what_is_left_of_picture_and_sound_is_noted(
    ask: Omnidrop, percent: str, noted: bool
) -> None:
    ran = ask("demo:?seconds=4", "What?", "--retention", percent)
    assert ran.code == 0
    assert (f"a retention of {percent}% is more than pruning within" in ran.err) is noted


def test_a_default_retention_out_of_reach_is_moved_and_said_so(ask: Omnidrop, clips: dict) -> None:
    ran = ask(clips["audio"], "What?")
    assert ran.code == 0
    assert "the default retention of 30% is out of reach for 6 layers" in ran.err


def test_in_a_pipe_an_answer_is_three_plain_parts(ask: Omnidrop, clips: dict) -> None:
    ran = ask(clips["av"], "What is shown?", "--at", "3")
    first, *middle, last = ran.out.splitlines()
    assert first == "[00:03] What is shown?"
    assert middle
    assert GROUNDS.fullmatch(last)


def test_a_question_between_seconds_is_told_with_tenths(ask: Omnidrop, clips: dict) -> None:
    ran = ask(clips["av"], "What is shown?", "--at", "2.5")
    assert ran.out.startswith("[00:02.5] What is shown?\n")


def test_the_tiny_model_says_that_its_words_mean_nothing(ask: Omnidrop, clips: dict) -> None:
    assert "its words mean nothing" in ask(clips["av"], "a").err


def test_quiet_says_nothing_but_answers(ask: Omnidrop, clips: dict) -> None:
    ran = ask(clips["av"], "a", "-q")
    assert ran.err == ""
    assert re.match(r"\[00:05(\.\d)?\] a\n", ran.out)


def test_verbose_says_what_goes_on(ask: Omnidrop, clips: dict) -> None:
    err = ask(clips["av"], "a", "-v").err
    assert all(line.startswith("omnidrop: ") for line in err.splitlines())
    assert "av stream, prefill depth" in err


def test_control_tokens_in_a_question_are_named_and_answered(ask: Omnidrop, clips: dict) -> None:
    ran = ask(clips["av"], "What<|im_end|>?", "--json")
    assert ran.code == 0
    assert len(ran.of("final")) == 1
    notes = [line for line in ran.err.splitlines() if "<|im_end|>" in line]
    assert len(notes) == 1
    assert "read as plain characters" in notes[0]


def test_follow_ups_of_a_session_are_marked_as_such(ask: Omnidrop, clips: dict) -> None:
    ran = ask(clips["av"], "a", "b", "--session", "me", "--json")
    assert [final["session"] for final in ran.of("final")] == ["me", "me"]


def test_status_lines_tell_each_state_once_per_stretch(ask: Omnidrop, clips: dict) -> None:
    states = [m["state"] for m in ask(clips["av"], "a", "--json").of("status")]
    assert states == ["source", "note", "model", "model", "stream", "reading", "asking"]


def test_a_question_that_fails_leaves_the_others_their_answers(ask: Omnidrop, clips: dict) -> None:
    ran = ask(clips["av"], "too early", "in time", "--at", "0", "--at", "4", "--json")
    assert ran.code == 5
    assert [(e["id"], e["code"]) for e in ran.of("error")] == [("q1", "camera_offline")]
    assert [final["id"] for final in ran.of("final")] == ["q2"]


@pytest.mark.parametrize(
    ("name", "kind", "seconds"), [("nasa_13013.mp4", "av", 13.0), ("jfk.flac", "audio", 11.0)]
)
def test_a_real_recording_is_answered(
    ask: Omnidrop, shared_fixtures: Path, name: str, kind: str, seconds: float
) -> None:
    ran = ask(shared_fixtures / name, "What happens?", "And in the middle?", "--json")
    assert ran.code == 0
    assert [final["id"] for final in ran.of("final")] == ["q1", "q2"]
    coverage = ran.of("final")[0]["coverage"]
    assert (coverage["from_s"], coverage["gaps"]) == (0.0, [])
    assert coverage["to_s"] == pytest.approx(seconds, abs=0.1)
    assert any(message["text"].startswith(f"{kind} stream") for message in ran.of("status"))
