"""Settings are validated, and each mistake names key, value and what is allowed."""

from __future__ import annotations

import pytest

from omnidrop_stream.config import (
    Config,
    DecodeConfig,
    load_config,
    make_config,
    merged,
    read_yaml,
)
from omnidrop_stream.errors import ConfigError, QuestionError


def refusal(values) -> str:
    with pytest.raises(ConfigError) as error:
        make_config(values)
    text = str(error.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    ("values", "key", "near"),
    [
        ({"prunning": {}}, "prunning", "pruning"),
        ({"stream": {"budget_token": 5}}, "stream.budget_token", "budget_tokens"),
        ({"pruning": {"schedule": {"p_finale": 0.2}}}, "pruning.schedule.p_finale", "p_final"),
        ({"decode": {"temprature": 1}}, "decode.temprature", "temperature"),
    ],
)
def test_an_unknown_key_names_the_nearest(values, key, near):
    text = refusal(values)
    assert f"{key} is no setting; did you mean '{near}'?" in text


def test_a_key_like_no_other_lists_the_known_ones():
    text = refusal({"intra": {"zzz": 1}})
    assert "intra.zzz is no setting; known here: enabled, audio_keep, video_keep." in text


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            {"stream": {"frame_tokens": 0}},
            "frame_tokens = 0 .*give a whole number from 1 to 4096",
        ),
        ({"stream": {"fps": 3}}, "stream.fps = 3 .*use 1, 2, 4 or 8"),
        ({"stream": {"kind": "x"}}, "stream.kind = 'x' .*'av', 'video' or 'audio'"),
        ({"pruning": {"retention": 0}}, "pruning.retention = 0 .*give a share above 0, at most 1"),
        ({"pruning": {"retention": 30}}, "pruning.retention = 30 .*give a share: 0.3 for 30 %"),
        ({"pruning": {"retention": float("nan")}}, "pruning.retention = nan"),
        ({"pruning": {"schedule": {"p_final": 0.96}}}, "pruning.schedule.p_final = 0.96 .*0.95"),
        ({"model": {"device": "gpu"}}, "model.device = 'gpu' .*cuda"),
        ({"model": {"dtype": "fp8"}}, "model.dtype = 'fp8' .*'auto', 'bf16' or 'fp32'"),
        ({"decode": {"top_p": 0}}, "decode.top_p = 0 .*give a share above 0, at most 1"),
        ({"decode": {"max_tokens": 4, "min_tokens": 5}}, "min_tokens = 5 is above max_tokens = 4"),
        ({"decode": {"max_tokens": "many"}}, "= 'many' .*: give a whole number from 1 to 8192"),
        ({"stream": {"fps": "fast"}}, "stream.fps = 'fast' .*: give a number from 1 to 8"),
        ({"stream": {"budget_tokens": None}}, "= None .*: give a whole number from 1 on"),
        ({"intra": {"enabled": "perhaps"}}, "= 'perhaps' .*: give true or false"),
        ({"model": {"model": 7}}, "= 7 .*: give a text; one that looks like a number"),
        ({"stream": {"watches": {"questions": [{"text": ""}]}}}, "0.text = '' .*: it is empty"),
        ({"stream": {"watches": {"questions": [{}]}}}, "questions.0.text is missing"),
        ({"stream": {"watches": {"questions": 5}}}, "= 5 .*: give a list"),
        ({"stream": 7}, "stream = 7 is not allowed: give a mapping"),
        ({1: 2}, "1 = 1 is not allowed: a key must be a text: put it in quotes"),
    ],
)
def test_a_value_that_is_not_allowed_names_key_value_and_range(values, said):
    with pytest.raises(ConfigError, match=said):
        make_config(values)


@pytest.mark.parametrize("value", ["deep", -1, 2.5, None, [1]])
def test_a_depth_that_is_not_allowed_is_said_once(value):
    text = refusal({"stream": {"prefill_depth": value}})
    assert text.count("stream.prefill_depth = ") == 1
    assert "literal[" not in text
    assert "'exact', 'auto', 'half' or 'read_side'" in text


@pytest.mark.parametrize("value", [0, 7, "exact", "auto", "half", "read_side"])
def test_every_depth_is_understood(value):
    assert make_config({"stream": {"prefill_depth": value}}).stream.prefill_depth == value


def test_several_mistakes_are_all_named():
    text = refusal({"stream": {"fps": 3, "bogus": 1}, "decode": {"max_tokens": 0}})
    assert "stream.fps" in text
    assert "stream.bogus" in text
    assert "decode.max_tokens" in text


def test_a_falling_schedule_is_refused():
    with pytest.raises(ConfigError, match=r"p_init = 0.5 is above p_final = 0.2"):
        make_config({"pruning": {"schedule": {"p_init": 0.5, "p_final": 0.2}}})


def test_retention_and_schedule_together_are_refused():
    with pytest.raises(ConfigError, match="give either retention or schedule, not both"):
        make_config({"pruning": {"retention": 0.3, "schedule": {}}})


def test_a_schedule_alone_needs_no_word_about_retention():
    assert make_config({"pruning": {"schedule": {"p_final": 0.5}}}).pruning.schedule is not None


def test_merging_changes_the_named_keys_and_validates_again():
    config = make_config({"stream": {"fps": 4, "budget_tokens": 500}})
    changed = merged(config, {"stream": {"fps": 1}, "decode": {"max_tokens": 3}})
    assert (changed.stream.fps, changed.stream.budget_tokens) == (1.0, 500)
    assert changed.decode.max_tokens == 3
    assert config.stream.fps == 4.0
    with pytest.raises(ConfigError, match=r"stream\.fps = 3"):
        merged(config, {"stream": {"fps": 3}})


def test_settings_cannot_be_changed_in_place():
    with pytest.raises(ValueError, match="frozen"):
        Config().stream.fps = 4.0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "cannot be read as YAML"),
        ("a: b: c", "cannot be read as YAML"),
        ("- 1", "holds a list; a mapping"),
        ("7", "holds a int; a mapping"),
        ("\x00", "cannot be read as YAML"),
        ("!!python/object/apply:os.getcwd []", "cannot be read as YAML"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(tmp_path, text, said):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said) as error:
        load_config(path)
    assert "bad.yaml" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("cameras:\n  door: demo:\n", "line 2 .* put the source in quotes: door: 'demo:'"),
        ("cameras:\n  door: {source: mic:, kind: av}\n", "line 2 .* quotes: source: 'mic:'"),
        ("\n\ndoor: camera: # mine\n", "line 3 .* put the source in quotes: door: 'camera:'"),
        ("password: a: b\n", "line 1 .* a value that holds a colon needs quotes"),
        ("cameras: [", "line 1 cannot be read as YAML"),
    ],
)
def test_a_mistake_in_yaml_names_its_line_and_what_to_do_and_shows_no_value(tmp_path, text, told):
    path = tmp_path / "node.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=rf"node\.yaml, {told}") as error:
        read_yaml(path)
    assert "a: b" not in str(error.value)
    assert "unicode string" not in str(error.value)


def test_a_key_that_stands_twice_is_refused_with_both_lines(tmp_path):
    path = tmp_path / "node.yaml"
    path.write_text("cameras:\n  door: a.mp4\n  yard: b.mp4\n  'door': c.mp4\n")
    with pytest.raises(ConfigError, match=r"line 4: the key 'door' .* second time, after line 2"):
        read_yaml(path)


def test_keys_of_several_mappings_and_of_merged_ones_may_be_the_same(tmp_path):
    path = tmp_path / "node.yaml"
    path.write_text("a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}\nc: {<<: [*a], y: 4}\n")
    assert read_yaml(path)["b"] == {"x": 3, "y": 2}


def test_bytes_that_are_no_text_are_refused(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_bytes(b"\xff\xfe\x00\xd8")
    with pytest.raises(ConfigError, match="cannot be read as YAML"):
        read_yaml(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="there is no configuration file"):
        load_config(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="is a directory; give a YAML file"):
        load_config(tmp_path)


def test_an_empty_file_is_the_defaults(tmp_path):
    path = tmp_path / "empty.yaml"
    path.write_text("# nothing\n")
    assert load_config(path) == Config()


def test_a_mistake_in_a_file_names_the_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("stream: {fps: 5}")
    with pytest.raises(ConfigError, match=r"mine\.yaml: stream\.fps = 5"):
        load_config(path)


@pytest.mark.parametrize("text", ["", " ", "\n\t", "\u3000"])
def test_an_empty_question_is_refused(text):
    with pytest.raises(QuestionError, match="empty"):
        DecodeConfig().check_question(text)


def test_a_question_may_have_exactly_the_limit():
    decode = DecodeConfig(question_chars=5)
    decode.check_question("12345")
    with pytest.raises(QuestionError, match="6 characters; allowed: 5"):
        decode.check_question("123456")


def test_a_question_with_half_a_character_is_refused():
    with pytest.raises(QuestionError, match="not UTF-8"):
        DecodeConfig().check_question("what\udcff?")


def test_an_empty_section_is_told_as_one():
    assert refusal({"pruning": None}).startswith("settings: pruning is empty: give its settings")


def test_settings_that_contradict_each_other_are_told_without_their_mapping():
    told = refusal({"pruning": {"schedule": {"p_init": 0.5}}})
    assert told.startswith("settings: pruning.schedule: p_init = 0.5 is above p_final = 0.2; ")
    assert "{" not in told


@pytest.mark.parametrize("text", ["cameras: {door: 'demo:'}\n", "mqtt: broker\n"])
def test_a_nodes_file_is_told_as_one(tmp_path, text):
    path = tmp_path / "node.yaml"
    path.write_text(text, "utf-8")
    with pytest.raises(ConfigError, match=r"is a node's file \(it has \w+\), for omnidrop serve"):
        load_config(path)
