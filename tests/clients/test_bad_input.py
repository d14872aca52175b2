"""Each mistake of a user: one plain sentence, the documented code, no traceback, nothing done."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from omnidrop_stream.errors import ConfigError
from runtime import models
from tests.clients.conftest import Omnidrop, Ran


def told(ran: Ran, code: int) -> str:
    """The one sentence."""
    lines = [line for line in ran.err.splitlines() if "its words mean nothing" not in line]
    assert ran.code == code, ran.err
    assert len(lines) == 1, ran.err
    assert lines[0].startswith("omnidrop: ")
    assert "Traceback" not in ran.err
    return lines[0].removeprefix("omnidrop: ")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("missing", "there is no such file"),
        ("directory", "is a directory"),
        ("empty", "is empty (0 bytes)"),
        ("truncated", "truncated, corrupt or no media file"),
        ("corrupt", "cannot be read as media"),
        ("text", "file"),
    ],
)
def test_a_source_that_cannot_be_read_is_refused(
    ask: Omnidrop, clips: dict, name: str, words: str
) -> None:
    ran = ask(clips[name], "What?")
    message = told(ran, 3)
    assert str(clips[name]) in message
    assert words in message
    assert ran.out == ""


def test_a_file_without_the_medium_asked_for_is_refused(ask: Omnidrop, clips: dict) -> None:
    assert "holds no picture" in told(ask(clips["audio"], "a", "--stream-kind", "video"), 3)
    assert "holds no sound" in told(ask(clips["video"], "a", "--stream-kind", "audio"), 3)


def test_an_unknown_kind_of_source_is_refused_and_its_password_hidden(ask: Omnidrop) -> None:
    ran = ask("smtp://me:hunter2@host/x", "What?")
    message = told(ran, 2)
    assert "hunter2" not in ran.err + ran.out
    assert "***@host" in message


def test_a_password_is_hidden_in_json_too(ask: Omnidrop) -> None:
    ran = ask("smtp://me:hunter2@host/x", "What?", "--json")
    assert "hunter2" not in ran.err + ran.out
    assert ran.of("error")[0]["code"] == "bad_request"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--retention", "3"], "allowed here: 27"),
        (["--retention", "0.3"], "give percent, from 1 to 100"),
        (["--retention", "nan"], "give percent"),
        (["--retention", "30", "--p-final", "0.2"], "say the same thing twice"),
        (["--p-final", "2"], "--p-final = 2.0 is not allowed"),
        (["--p-init", "0.5", "--p-final", "0.2"], "p_init = 0.5 is above p_final = 0.2"),
        (["--schedule", "square"], "--schedule = 'square' is not allowed"),
        (["--beta", "0"], "--beta = 0.0 is not allowed"),
        (["--policy", "nope"], "'nope'; allowed: audio-guided, dash, dycoke"),
        (["--prefill-depth", "99"], "this model has 6 layers"),
        (["--prefill-depth", "-1"], "--prefill-depth = '-1' is not allowed"),
        (["--prefill-depth", "deep"], "exact, auto, half, or L"),
        (["--budget-tokens", "0"], "--budget-tokens = 0 is not allowed"),
        (["--budget-tokens", "10"], "the budget is smaller than one window: 10 tokens"),
        (["--device", "gpu"], "give auto, cpu or cuda[:n]"),
        (["--device", "cuda:99"], "use --device cpu or auto"),
        (["--dtype", "int4"], "--dtype = 'int4' is not allowed"),
        (["--attention", "flash"], "use sdpa"),
        (["--weights", "int2"], "--weights = 'int2' is not allowed"),
        (["--engine", "quick"], "--engine = 'quick' is not allowed"),
        (["--stream-kind", "smell"], "give av, video, audio or auto"),
        (["--at", "-1"], "give seconds of stream, 0 or more"),
        (["--at", "nan"], "give seconds of stream"),
        (["--at", "1", "--at", "2"], "there is 1 question but 2 times --at"),
        (["--at", "soon"], "--at = 'soon' is not allowed: give a number"),
        (["--retention", "all"], "--retention = 'all' is not allowed: give percent, from 1 to 100"),
        (["--p-init", "2"], "--p-init = 2.0 is not allowed: give a number from 0 to 0.95"),
        (["--bogus"], "No such option: --bogus"),
        (["--config", "missing.yaml"], "there is no configuration file missing.yaml"),
    ],
)
def test_a_value_that_is_not_allowed_is_named(ask: Omnidrop, flags: list[str], words: str) -> None:
    ran = ask("demo:?seconds=4", "What?", "--device", "cpu", *flags)
    assert words in told(ran, 2)
    assert ran.out == ""


def test_an_empty_question_is_refused(ask: Omnidrop) -> None:
    assert "the question is empty" in told(ask("demo:?seconds=4", "fine", "  "), 2)


def test_a_question_is_refused_before_anything_is_opened(ask: Omnidrop, clips: dict) -> None:
    assert "the question is empty" in told(ask(clips["missing"], "fine", ""), 2)


def test_a_question_longer_than_the_limit_is_refused(ask: Omnidrop) -> None:
    message = told(ask("demo:?seconds=4", "x" * 2001), 2)
    assert "has 2001 characters; allowed: 2000" in message


def test_a_question_that_is_no_text_is_refused(ask: Omnidrop) -> None:
    assert "not UTF-8" in told(ask("demo:?seconds=4", "caf\udce9"), 2)


def test_a_question_before_the_first_moment_of_the_stream_finds_nothing(ask: Omnidrop) -> None:
    assert "nothing of this stream is held yet" in told(ask("demo:", "a", "--at", "0"), 5)


def test_no_question_is_a_mistake(omnidrop: Omnidrop) -> None:
    assert "Missing argument" in told(omnidrop("ask", "demo:"), 2)


def test_an_unknown_command_is_a_mistake(omnidrop: Omnidrop) -> None:
    assert "Did you mean 'ask'?" in told(omnidrop("askk"), 2)


def test_an_unknown_setting_in_a_file_names_its_neighbour(ask: Omnidrop, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("stream: {budget_token: 9}\n")
    message = told(ask("demo:", "a", "--config", file), 2)
    assert "stream.budget_token is no setting; did you mean 'budget_tokens'?" in message


def test_a_file_that_is_no_yaml_is_named(ask: Omnidrop, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("stream: [\n")
    assert "cannot be read as YAML" in told(ask("demo:", "a", "--config", file), 2)


def test_a_folder_without_a_checkpoint_is_refused(omnidrop: Omnidrop, tmp_path: Path) -> None:
    ran = omnidrop("ask", "demo:", "a", "--model", tmp_path)
    assert "holds no config.json" in told(ran, 4)


def test_a_checkpoint_of_another_class_is_refused(omnidrop: Omnidrop, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    ran = omnidrop("ask", "demo:", "a", "--model", tmp_path)
    assert "model_type is 'llama'; allowed: qwen2_5_omni" in told(ran, 4)


def test_a_model_that_cannot_be_fetched_is_refused(
    omnidrop: Omnidrop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    ran = omnidrop("ask", "demo:", "a", "--model", "nobody/nothing-of-that-name")
    assert "'nobody/nothing-of-that-name' is neither a folder nor in the local" in told(ran, 4)


def test_embedded_is_refused_where_its_weights_are_not(
    omnidrop: Omnidrop, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("omnidrop_stream.model.load.EMBEDDED", tmp_path)
    ran = omnidrop("ask", "demo:", "a", "--model", "embedded")
    assert "the embedded model is not in this installation" in told(ran, 4)


def test_a_missing_package_is_named(omnidrop: Omnidrop, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> str:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr(models, "default_model", broken)
    assert "the package torch is not installed" in told(omnidrop("ask", "demo:", "a"), 6)


def test_a_bug_is_called_a_bug(omnidrop: Omnidrop, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> str:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(models, "default_model", broken)
    assert "this is a bug: ZeroDivisionError: oops" in told(omnidrop("ask", "demo:", "a"), 1)


def test_an_interruption_is_told_and_has_its_code(
    omnidrop: Omnidrop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted() -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(models, "default_model", interrupted)
    assert told(omnidrop("ask", "demo:", "a"), 130) == "interrupted"


def test_debug_shows_the_traceback_before_the_sentence(ask: Omnidrop, clips: dict) -> None:
    ran = ask(clips["missing"], "a", "--debug")
    assert ran.code == 3
    assert ran.err.startswith("Traceback")
    assert ran.err.splitlines()[-1].startswith("omnidrop: ")


def test_errors_are_json_lines_too(ask: Omnidrop, clips: dict) -> None:
    ran = ask(clips["missing"], "a", "--json")
    (error,) = ran.of("error")
    assert (error["id"], error["code"]) == (None, "not_found")
    assert ran.err == f"omnidrop: {error['message']}\n"


def test_a_schedule_that_falls_is_refused_in_a_file(tmp_path: Path) -> None:
    from omnidrop_stream.config import make_config

    with pytest.raises(ConfigError, match="never falls with depth"):
        make_config({"pruning": {"schedule": {"p_init": 0.3, "p_final": 0.1}}})


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("2.5", "--max-tokens = '2.5' is not allowed: give a whole number"),
        ("0", "--max-tokens = 0 is not allowed: give a whole number from 1 to 8192"),
    ],
)
def test_a_length_of_answer_that_is_not_allowed_is_named(
    omnidrop: Omnidrop, value: str, words: str
) -> None:
    assert words in told(omnidrop("ask", "demo:", "What?", "--max-tokens", value), 2)
