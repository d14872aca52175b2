"""The file of a node: what it may say, what wins, and what it never shows."""

from __future__ import annotations

import json

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from clients.cli import main
from clients.node.config import load_node_config
from clients.node.config_commands import app, file_schema, shown
from clients.node.reload import changes
from omnidrop_stream.allowed import PATTERNS
from omnidrop_stream.errors import ConfigError, NodeError
from omnidrop_stream.types import StreamKind

SECRET = "s3cret-ü"


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write a node's file; no setting of this environment is seen."""
    for name in ("OMNIDROP_PASSWORD", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def written(text):
        path = tmp_path / "node.yaml"
        path.write_text(text if isinstance(text, str) else yaml.safe_dump(text), "utf-8")
        return path

    return written


def test_three_lines_are_enough(write):
    config = load_node_config(write("cameras:\n  door: rtsp://cam/1\nmqtt: broker.local\n"))
    assert config.cameras["door"].source == "rtsp://cam/1"
    assert config.cameras["door"].wait_for_first
    assert config.mqtt.endpoint == ("broker.local", 8883)


def test_shorthands_come_to_the_same_as_the_long_forms(write):
    short = load_node_config(
        write(
            {
                "model": "tiny",
                "mqtt": "localhost:1884",
                "cameras": {"a": {"source": "demo:", "watches": {"bell": "a bell rings"}}},
            }
        )
    )
    long = load_node_config(
        write(
            {
                "model": {"model": "tiny"},
                "mqtt": {"host": "localhost", "port": 1884},
                "cameras": {
                    "a": {"source": "demo:", "watches": {"bell": {"text": "a bell rings"}}}
                },
            }
        )
    )
    assert short == long


def test_flags_win_over_environment_over_file_over_defaults(write, monkeypatch):
    path = write({"mqtt": {"host": "file", "port": 1, "user": "file"}, "name": "file"})
    monkeypatch.setenv("OMNIDROP_MQTT__PORT", "2")
    monkeypatch.setenv("OMNIDROP_NAME", "environment")
    config = load_node_config(path, {"name": "flag"})
    assert (config.name, config.mqtt.port, config.mqtt.user) == ("flag", 2, "file")
    assert config.mqtt.keepalive_s == 15


def test_a_camera_gets_its_password_from_the_environment(write, monkeypatch):
    monkeypatch.setenv("OMNIDROP_CAMERAS__DOOR__PASSWORD", SECRET)
    config = load_node_config(write("cameras:\n  door: rtsp://cam/1\n"))
    assert config.cameras["door"].source == "rtsp://cam/1"
    assert config.cameras["door"].options.password.get_secret_value() == SECRET


def test_a_secret_may_stand_in_a_file_of_its_own(write, tmp_path, monkeypatch):
    (tmp_path / "pw").write_text(SECRET + "\n", "utf-8")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    named = "${CREDENTIALS_DIRECTORY}/pw"
    config = load_node_config(
        write(
            {
                "cameras": {"a": {"source": "rtsp://c/1", "password_file": named}},
                "http": {"bind": "0.0.0.0", "token_file": named},
            }
        )
    )
    assert config.cameras["a"].password.get_secret_value() == SECRET
    assert config.http.token.get_secret_value() == SECRET


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"camera": {}}, "camera is no setting; did you mean 'cameras'?"),
        ({"cameras": {"a": {"source": "x", "pasword": SECRET}}}, "did you mean 'password'?"),
        ({"cameras": {"a": {}}}, "cameras.a.source is missing"),
        ({"cameras": {"A b": "x"}}, "cameras.A b = 'A b' is not allowed: give a name of small"),
        ({"cameras": ["a"]}, "cameras = ['a'] is not allowed: give a mapping"),
        ({"cameras": {"node": "demo:"}}, "the topics use that name"),
        (
            {"cameras": {"a": {"source": "x", "retention": 30}}},
            "= 30 is not allowed: give a share: 0.3",
        ),
        ({"mqtt": {"host": "h", "port": 0}}, "mqtt.port = 0"),
        ({"mqtt": {"hots": "h"}}, "did you mean 'host'?"),
        ({"http": {"bind": "0.0.0.0"}}, "set http.token_file, or bind 127.0.0.1"),
        ({"log": {"level": "loud"}}, "log.level = 'loud'"),
        ({"http": {"token_file": "${NOPE}/x"}}, "${NOPE}/x names the variable NOPE, which is not"),
        ({"state_dir": "$NOPE/x"}, "$NOPE/x names the variable NOPE, which is not set"),
        ({"http": {"token_file": "/no/such"}}, "token_file = /no/such cannot be read"),
        ({"cameras": {"a": {"source": "x", "watches": {"w": {"text": ""}}}}}, "watches.w.text"),
        (
            {"cameras": {"a": {"source": "x", "watches": {"w": {"text": "x", "treshold": 1}}}}},
            "watches.w.treshold is no setting; did you mean 'threshold'?",
        ),
        ("cameras: [", "cannot be read as YAML"),
        ("- a\n", "holds a list"),
    ],
)
def test_a_mistake_is_named_with_its_key_and_what_helps(write, values, words):
    with pytest.raises(ConfigError) as caught:
        load_node_config(write(values))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "errors.pydantic" not in str(caught.value)


@pytest.mark.parametrize(
    "values",
    [
        {"cameras": {"a": {"source": "x", "password": SECRET, "transport": "pigeon"}}},
        {"cameras": {"a": {"source": "x", "password": [SECRET]}}},
        {"http": {"token": SECRET, "token_file": "/no/such"}},
        {"http": {"token": {"value": SECRET}}},
        {"mqtt": {"password": SECRET, "password_file": "x"}},
        {"mqtt": {"password": {"a": SECRET}, "x": 1}},
        {"cameras": {"a": {"source": f"rtsp://me:{SECRET}@cam/1", "transport": "pigeon"}}},
        {"cameras": {"a": {"password": SECRET}}},
        {"cameras": {"a": {"source": [f"rtsp://me:{SECRET}@cam/1"]}}},
    ],
)
def test_no_mistake_shows_a_secret(write, values):
    with pytest.raises(ConfigError) as caught:
        load_node_config(write(values))
    assert SECRET not in str(caught.value)
    assert SECRET not in repr(caught.value.__cause__)


@pytest.mark.parametrize(
    "broker", ["mqtt://bob:{}@b", "bob:{}@b", "bob:{}@b:1884", "bob:{}", "b/{}"]
)
@pytest.mark.parametrize("form", [str, lambda host: {"host": host}], ids=["short", "long"])
def test_a_login_in_the_brokers_host_is_refused_without_being_shown(write, broker, form):
    with pytest.raises(ConfigError, match=r"mqtt.host = .* is not allowed: .*host alone") as caught:
        load_node_config(write({"mqtt": form(broker.format(SECRET))}))
    assert SECRET not in str(caught.value)
    assert ("mqtt.user and mqtt.password_file" in str(caught.value)) == ("@" in broker)


@pytest.mark.parametrize("host", ["mqtt://b", "mqtts://b:8883", "b/x", {"host": "b:1883"}])
def test_a_brokers_host_is_a_host_alone(write, host):
    with pytest.raises(ConfigError, match=r"give the host alone, as broker\.local; its port is"):
        load_node_config(write({"mqtt": host}))


@pytest.mark.parametrize(
    ("broker", "endpoint"),
    [
        ("b_1.local:1884", ("b_1.local", 1884)),
        ("::1", ("::1", 1883)),
        ("[::1]:1884", ("::1", 1884)),
        ("fe80::1%eth0", ("fe80::1%eth0", 8883)),
    ],
)
def test_every_kind_of_host_is_taken(write, broker, endpoint):
    assert load_node_config(write({"mqtt": broker})).mqtt.endpoint == endpoint


def test_check_refuses_a_login_in_the_brokers_host(write):
    path = write({"mqtt": f"bob:{SECRET}@b"})
    done = CliRunner().invoke(app, ["check", str(path)])
    assert isinstance(done.exception, ConfigError)
    assert SECRET not in str(done.exception) + done.output


def test_what_is_shown_holds_no_secret(write):
    config = load_node_config(
        write(
            {
                "cameras": {"a": {"source": f"rtsp://me:{SECRET}@cam/1", "password": SECRET}},
                "mqtt": {"host": "h", "password": SECRET},
                "http": {"token": SECRET},
            }
        )
    )
    text = json.dumps(shown(config), ensure_ascii=False)
    assert SECRET not in text
    assert SECRET not in repr(config)
    assert shown(config)["cameras"]["a"]["source"] == "rtsp://***@cam/1"


def test_what_is_shown_can_be_read_again(write):
    path = write("cameras:\n  a: {source: 'demo:', kind: video}\nmqtt: localhost\n")
    config = load_node_config(path)
    assert load_node_config(write(yaml.safe_dump(shown(config)))) == config


def test_a_camera_runs_with_the_nodes_settings_and_its_own_over_them(write):
    config = load_node_config(
        write(
            {
                "stream": {"budget_tokens": 500, "fps": 4.0},
                "pruning": {"schedule": {"p_final": 0.3}},
                "cameras": {
                    "plain": "demo:",
                    "own": {
                        "source": "demo:",
                        "kind": "video",
                        "budget_tokens": 99,
                        "retention": 0.5,
                    },
                },
            }
        )
    )
    plain, own = config.of_camera("plain"), config.of_camera("own")
    assert (plain.stream.budget_tokens, plain.stream.fps) == (500, 4.0)
    assert "kind" not in plain.stream.model_fields_set
    assert (own.stream.budget_tokens, own.stream.kind) == (99, StreamKind.VIDEO)
    assert (plain.pruning.schedule.p_final, plain.pruning.retention) == (0.3, 0.30)
    assert (own.pruning.retention, own.pruning.schedule) == (0.5, None)


def test_a_reload_touches_only_what_changed(write):
    old = load_node_config(
        write({"cameras": {"a": "demo:", "b": "demo:", "c": "demo:"}, "name": "x"})
    )
    new = load_node_config(
        write(
            {
                "cameras": {"a": "demo:", "b": {"source": "demo:", "muted": True}, "d": "demo:"},
                "name": "y",
                "log": {"level": "debug"},
            }
        )
    )
    found = changes(old, new)
    assert (found.added, found.removed, found.changed) == (("d",), ("c",), ("b",))
    assert found.restart == ("name",)
    assert str(changes(old, old)) == "nothing changed"


def test_other_standing_questions_leave_the_camera_as_it_is(write):
    camera = {"source": "demo:", "watches": {"bell": "a bell rings"}}
    old = load_node_config(write({"cameras": {"a": camera, "b": camera}}))
    other = {**camera, "watches": {"bell": "sound: a bell rings"}}
    new = load_node_config(write({"cameras": {"a": other, "b": {**other, "muted": True}}}))
    assert new.cameras["a"].watches["bell"].sound_only
    assert (changes(old, new).changed, changes(old, new).watches) == (("b",), ("a",))


def test_settings_of_all_cameras_change_those_that_use_them(write):
    cameras = {"a": "demo:", "own": {"source": "demo:", "retention": 0.5}}
    old = load_node_config(write({"cameras": cameras}))
    new = load_node_config(write({"cameras": cameras, "pruning": {"retention": 0.2}}))
    assert changes(old, new).changed == ("a",)
    assert changes(old, new).restart == ()


@pytest.mark.parametrize(
    "values",
    [
        {"cameras": {"a": "demo:"}, "mqtt": "localhost", "model": "tiny"},
        {"cameras": {"a": {"source": "demo:", "watches": {"w": "a bell rings"}}}},
        {"mqtt": {"host": "x", "tls": False}, "http": {"port": 0}},
    ],
)
def test_the_schema_takes_what_the_program_takes(write, values):
    load_node_config(write(values))
    jsonschema.Draft202012Validator.check_schema(file_schema())
    if "tls" not in str(values):
        jsonschema.validate(values, file_schema())


@given(st.dictionaries(st.text(max_size=8), st.recursive(st.none() | st.text(), st.lists)))
def test_no_mapping_makes_it_raise_anything_else(tmp_path_factory, values):
    path = tmp_path_factory.mktemp("c") / "node.yaml"
    path.write_text(yaml.safe_dump(values), "utf-8")
    try:
        load_node_config(path)
    except ConfigError:
        return


def test_check_says_that_a_file_is_right_and_what_is_probably_not_meant(write):
    path = write({"cameras": {"a": f"rtsp://me:{SECRET}@cam/1"}})
    done = CliRunner().invoke(app, ["check", str(path)])
    assert done.exit_code == 0
    assert "right. 1 camera, no broker." in done.stdout
    assert "camera a: its address holds a login" in done.stderr
    assert SECRET not in done.output


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ("# cameras:\n", "node.yaml holds no setting"),
        ({"mqtt": {"password_file": "${NOPE}/x"}}, "names the variable NOPE, which is not set"),
        ({"mqtt": {"password_file": "/no/such"}}, "mqtt.password_file = /no/such cannot be read"),
        ({"mqtt": {"host": "b", "tls": {"ca": "/no/such"}}}, "/no/such cannot be used"),
        ({"cameras": {"a": "rtps://cam/1"}}, "cameras.a.source: rtps://cam/1: there is no kind"),
        ({"cameras": {"a": "demo:?sed=1"}}, "cameras.a.source: demo:?sed=1 is not understood"),
        ({"cameras": {"a": f"rtsp://me:{SECRET}@cam:99999/1"}}, "names no host, or a port"),
    ],
)
def test_check_refuses_what_a_node_could_only_try_again_for_ever(write, values, words):
    done = CliRunner().invoke(app, ["check", str(write(values))])
    assert isinstance(done.exception, ConfigError)
    assert words in str(done.exception)
    assert SECRET not in str(done.exception)


def test_check_notes_a_file_that_is_not_there_yet(write):
    done = CliRunner().invoke(app, ["check", str(write({"cameras": {"a": "/no/such.mp4"}}))])
    assert done.exit_code == 0
    assert "camera a: there is no file /no/such.mp4 at present" in done.stderr


def test_a_section_that_only_the_environment_names_is_refused(write, monkeypatch):
    monkeypatch.setenv("OMNIDROP_MQT__HOST", "b")
    with pytest.raises(ConfigError, match="MQT is no setting; did you mean 'MQTT'"):
        load_node_config(write({}))


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("OMNIDROP_MQTT__PROT", "1", "OMNIDROP_MQTT__PROT is no setting; did you mean 'port'?"),
        ("OMNIDROP_HTTP__PORT", "x", "OMNIDROP_HTTP__PORT = 'x' is not allowed: give a whole num"),
    ],
)
def test_a_mistake_in_the_environment_names_the_variable_and_no_file(
    write, monkeypatch, variable, value, words
):
    path = write({"mqtt": "h"})
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError) as caught:
        load_node_config(path)
    assert str(caught.value).startswith(f"the environment: {words}")


@pytest.mark.parametrize(
    ("name", "words"), [("DOR", "'dor'; did you mean 'door'?"), ("X", "'x'; name it in the file")]
)
def test_a_variable_about_a_camera_that_there_is_not_is_named(write, monkeypatch, name, words):
    monkeypatch.setenv(f"OMNIDROP_CAMERAS__{name}__PASSWORD", SECRET)
    with pytest.raises(ConfigError) as caught:
        load_node_config(write({"cameras": {"door": "demo:"}}))
    told = f"the environment has OMNIDROP_CAMERAS__{name}__PASSWORD, and there is no camera {words}"
    assert str(caught.value).startswith(told)
    assert SECRET not in str(caught.value)


def test_a_camera_may_be_given_by_the_environment_alone(write, monkeypatch):
    monkeypatch.setenv("OMNIDROP_CAMERAS__DOOR__SOURCE", "demo:")
    monkeypatch.setenv("OMNIDROP_CAMERAS__DOOR__MUTED", "true")
    assert load_node_config(write({})).cameras["door"].muted


def test_every_pattern_of_a_setting_has_words_of_ours():
    def patterns(schema):
        if isinstance(schema, dict):
            yield from [schema["pattern"]] if isinstance(schema.get("pattern"), str) else []
            yield from schema.get("patternProperties", {})
            schema = list(schema.values())
        for inner in schema if isinstance(schema, list) else []:
            yield from patterns(inner)

    assert {"^[a-z0-9]+$"} < set(patterns(file_schema())) <= set(PATTERNS)


def test_show_prints_every_setting_as_yaml_or_json(write):
    path = write("cameras:\n  a: 'demo:'\n")
    as_yaml = yaml.safe_load(CliRunner().invoke(app, ["show", str(path)]).stdout)
    as_json = json.loads(CliRunner().invoke(app, ["show", "--json", str(path)]).stdout)
    assert as_yaml == as_json
    assert as_json["http"]["port"] == 9464


def test_config_alone_prints_its_help_and_nothing_else(capsys):
    assert main(["config"]) == 0
    told = capsys.readouterr()
    assert told.out.startswith("Usage: omnidrop config ")
    assert told.err == ""


@pytest.mark.parametrize("words", [[], ["check"], ["show"], ["schema"], ["reload"]])
def test_help_of_config_is_had_by_h_and_looks_as_everywhere(capsys, words):
    assert main(["config", *words, "-h"]) == 0
    told = capsys.readouterr().out
    assert "--install-completion" not in told
    assert not set(told) & set("\u2500\u2502\u256d")


def test_schema_prints_one(write):
    assert json.loads(CliRunner().invoke(app, ["schema"]).stdout) == file_schema()


def test_reload_without_a_running_node_says_how_to_start_one(write, tmp_path):
    path = write({"state_dir": str(tmp_path)})
    done = CliRunner().invoke(app, ["reload", str(path)])
    assert isinstance(done.exception, NodeError)
    assert done.exception.exit_code == 3
    assert f"omnidrop serve {path}" in str(done.exception)
