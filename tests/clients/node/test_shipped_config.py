"""The node's file that is shipped: as it stands, and with its comments taken away."""

from __future__ import annotations

import re

import pytest
from typer.testing import CliRunner

from clients.node.config import load_node_config
from clients.node.config_commands import app


@pytest.fixture
def shipped(repository):
    return repository / "configs" / "node.yaml"


@pytest.fixture
def whole(shipped, tmp_path, monkeypatch):
    """The settings that stand there as comments, as a file of their own."""
    lines = shipped.read_text("utf-8").splitlines()
    start = lines.index("#name: omnidrop")
    path = tmp_path / "node.yaml"
    path.write_text("\n".join(re.sub("^#", "", line) for line in lines[start:]), "utf-8")
    for name in ("door-password", "mqtt-password"):
        (tmp_path / name).write_text("secret\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    return path


def test_it_is_three_lines_and_right(shipped):
    lines = [line for line in shipped.read_text("utf-8").splitlines() if line[:1] not in ("", "#")]
    assert len(lines) == 3
    done = CliRunner().invoke(app, ["check", str(shipped)])
    assert (done.exit_code, done.stderr) == (0, "")
    assert "1 camera, broker" in done.stdout


def test_its_comments_are_right_too(whole):
    config = load_node_config(whole)
    watches = config.cameras["door"].watches
    assert {name: watch.sound_only for name, watch in watches.items()} == {
        "parcel": False,
        "bell": True,
        "gate": False,
    }
    assert watches["bell"].text == "a bell rings"
    assert config.mqtt.secret() == "secret"


def test_its_comments_say_what_is_the_default_where_they_show_one(whole, shipped):
    told, default = load_node_config(whole), load_node_config(shipped)
    assert (told.name, told.http, told.log) == (default.name, default.http, default.log)
    assert told.stream.watches == default.stream.watches
    assert told.mqtt.limits == default.mqtt.limits
    assert told.cameras["door"].budget_tokens == default.stream.budget_tokens
    assert told.cameras["door"].retention == default.pruning.retention
