"""The files under configs/deploy/ agree with the program that they start."""

from __future__ import annotations

import re

import pytest
import yaml

from clients.node.config import HttpConfig, load_node_config


@pytest.fixture
def deploy(repository):
    return repository / "configs" / "deploy"


def _settings(deploy):
    """Every OMNIDROP_ setting that the unit and the compose file make."""
    unit = (deploy / "omnidrop.service").read_text()
    compose = yaml.safe_load((deploy / "compose.yaml").read_text())
    in_unit = dict(re.findall(r"^Environment=(OMNIDROP_\w+)=(.*)$", unit, re.MULTILINE))
    return in_unit | compose["services"]["omnidrop"]["environment"]


def test_the_settings_they_make_are_settings(deploy, tmp_path, monkeypatch):
    (tmp_path / "node.yaml").write_text("mqtt: broker\n")
    for name, value in _settings(deploy).items():
        monkeypatch.setenv(name, value)
    config = load_node_config(tmp_path / "node.yaml")
    assert str(config.state_dir) == "/var/lib/omnidrop"
    assert str(config.mqtt.password_file).endswith("mqtt_password")


def test_unit_and_image_start_the_command_that_exists(deploy, omnidrop):
    unit, image = ((deploy / name).read_text() for name in ("omnidrop.service", "Dockerfile"))
    assert "ExecStart=/opt/omnidrop/bin/omnidrop serve " in unit
    assert 'ENTRYPOINT ["omnidrop", "serve"]' in image
    assert omnidrop("serve", "--help").code == 0


def test_the_health_check_asks_where_the_node_answers(deploy):
    image = (deploy / "Dockerfile").read_text()
    assert f"http://127.0.0.1:{HttpConfig().port}/healthz" in image


def test_the_image_does_not_run_as_root_and_the_unit_gives_time_to_drain(deploy):
    image, unit = (deploy / "Dockerfile").read_text(), (deploy / "omnidrop.service").read_text()
    assert image.index("USER omnidrop") < image.index("ENTRYPOINT")
    assert int(re.search(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)[1]) > 5
    assert "Type=notify" in unit


def test_compose_mounts_the_shipped_brokers_files_where_its_configuration_looks(deploy, repository):
    compose = yaml.safe_load((deploy / "compose.yaml").read_text())
    mounts = [volume.split(":")[1] for volume in compose["services"]["broker"]["volumes"]]
    text = (repository / "configs" / "mosquitto.conf").read_text()
    for path in re.findall(r"^\w+file (/\S+)$|^persistence_location (/\S+)$", text, re.MULTILINE):
        assert any((path[0] or path[1]).startswith(mount) for mount in mounts)
