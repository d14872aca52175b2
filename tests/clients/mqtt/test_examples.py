"""The examples of the README talk to a node through a real broker, as they stand there."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from pathlib import Path

import pytest

from clients.mqtt.service import MqttService
from tests.clients.mqtt.broker import Broker
from tests.clients.mqtt.conftest import mqtt_config, serving
from tests.clients.mqtt.fake_node import FakeNode
from tests.conftest import REPOSITORY

README = REPOSITORY / "README.md"
BLOCK = re.compile(r"<!-- example: ([\w ]+) -->\n```\w+\n(.*?)\n```", re.DOTALL)


def example(name: str) -> str:
    found = dict(BLOCK.findall(README.read_text("utf-8")))
    if name not in found:
        pytest.skip(f"the README has no <!-- example: {name} --> before a block of code yet")
    return found[name]


@pytest.fixture
def account(broker: Broker, tmp_path: Path) -> dict[str, str]:
    """Broker and login, in the environment and where mosquitto_rr looks for its options."""
    options = f"-h 127.0.0.1\n-p {broker.port}\n-u lamp\n-P lamp-secret\n"
    (tmp_path / "mosquitto_rr").write_text(options)
    return {
        **os.environ,
        "XDG_CONFIG_HOME": str(tmp_path),
        "MQTT_HOST": "127.0.0.1",
        "MQTT_PORT": str(broker.port),
        "MQTT_USER": "lamp",
        "MQTT_PASSWORD": "lamp-secret",
    }


async def run(environment: dict[str, str], *command: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *command,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment,
    )
    async with asyncio.timeout(30):
        out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


async def test_the_client_prints_the_pieces_and_the_final(
    service: MqttService, account: dict[str, str]
):
    code, out, err = await run(
        account, sys.executable, "-c", example("mqtt client"), "one two three"
    )
    assert (code, err) == (0, "")
    assert out == "one two three \n(1 ms, evidence: [])\n"


async def test_the_client_with_tls_is_told_of_a_mistake(
    service: MqttService, account: dict[str, str], broker: Broker
):
    tls = {"MQTT_CA": str(broker.folder / "ca.crt"), "MQTT_PORT": str(broker.tls_port)}
    code, _, err = await run({**account, **tls}, sys.executable, "-c", example("mqtt client"), " ")
    assert code == 1
    assert err.startswith("bad_request: ")


async def test_the_client_asks_through_a_broker_that_takes_anybody(node: FakeNode, tmp_path: Path):
    broker = Broker(tmp_path / "anybody", shipped=False)
    broker.start()
    try:
        async with serving(node, mqtt_config(broker), tmp_path / "journal.db"):
            port = {"MQTT_HOST": "127.0.0.1", "MQTT_PORT": str(broker.port)}
            command = (sys.executable, "-c", example("mqtt client"), "one", "two")
            code, out, err = await run({**os.environ, **port}, *command)
    finally:
        broker.stop()
    assert (code, err) == (0, "")
    assert out == "one two \n(1 ms, evidence: [])\n"


def test_the_client_is_no_longer_than_40_lines():
    assert len(example("mqtt client").splitlines()) <= 40


async def test_the_line_for_the_shell_prints_the_one_answer(
    service: MqttService, node: FakeNode, account: dict[str, str]
):
    command = example("mosquitto_rr")
    assert "\n" not in command
    code, out, err = await run(account, "sh", "-c", command)
    assert (code, err) == (0, "")
    final = json.loads(out)
    assert (final["type"], final["text"]) == ("final", "What is shown now?")
    assert [camera for camera, _ in node.asked] == ["door"]
