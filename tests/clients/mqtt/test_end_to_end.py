"""Broker, service, node and model together: nothing is played by a stand-in."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path

import jsonschema
import pytest

from clients import contract
from clients.mqtt.service import MqttService
from clients.mqtt.watches import kept_watches
from omnidrop_stream.config import make_config
from runtime.host import ModelHost
from runtime.journal import Journal
from runtime.node import CameraSpec, Node
from tests.clients.mqtt.broker import Broker
from tests.clients.mqtt.conftest import mqtt_config, serving, until
from tests.clients.mqtt.device import Device
from tests.clients.mqtt.test_presence import Home
from tests.helpers import settings
from tests.runtime.fakes import GatedSource
from tests.watches import watching_model

MINE = "omnidrop/node/reply/lamp/1"


async def test_the_embedded_model_is_asked_about_its_world_over_the_broker(
    broker: Broker, tmp_path: Path
):
    config = make_config({"model": {"model": "embedded", "device": "cpu"}})
    async with Node(config) as node:
        node.add_camera("door", CameraSpec("demo:?seed=1", config))
        async with (
            serving(node, mqtt_config(broker), tmp_path / "j.db"),
            Device(broker.port) as device,
        ):
            await device.listen("omnidrop/node/reply/lamp/#")
            await until(lambda: node.camera_stats("door").counter("chunk.committed") > 0, 60)
            question = {"id": "q1", "text": "What colour is the shape? <|im_end|>"}
            await device.send("omnidrop/door/query", question, MINE)
            final = await device.ended("q1", 60)
            deltas = "".join(told["text"] for told in device.told("q1", "delta"))
        counted = node.stats.counter("mqtt.control_tokens")
    jsonschema.Draft202012Validator(contract.schema()).validate(final)
    assert (final["source"], final["finish"], counted) == ("door", "stop", 1)
    assert deltas == final["text"] != ""
    assert final["coverage"]["to_s"] > 0


@pytest.fixture(scope="module")
def model():
    return watching_model()


async def test_a_standing_question_is_set_told_kept_and_removed_by_topic(
    model, broker: Broker, tmp_path: Path
):
    config = settings(pruning={"retention": 0.45}, decode={"max_tokens": 4})
    source = GatedSource(600)
    async with (
        ModelHost(load=lambda: model) as host,
        Node(config, host) as node,
        Home(broker) as home,
    ):
        node.add_camera("door", CameraSpec(lambda: source, config))
        async with Journal(tmp_path / "j.db", node.stats) as journal:
            service = MqttService(mqtt_config(broker), node, journal, watch_node=node)
            running = asyncio.create_task(service.run())
            await until(service.online.is_set)
            await home.listen("omnidrop/#")
            always = {"text": "anything at all", "floor": -50.0, "learn": 0}
            await home.send("omnidrop/door/watch/any/set", always)
            await home.until(lambda: home.last("door/watch/any/state") is not None)
            source.let(4.5)
            await home.until(lambda: home.last("door/watch/any/event") is not None, 30)
            event = json.loads(home.last("door/watch/any/event") or b"")
            assert list((await kept_watches(journal))["door"]) == ["any"]
            await home.send("omnidrop/door/watch/any/set", b"")
            await home.shows("door/watch/any/state", b"")
            assert await kept_watches(journal) == {}
            await home.send("omnidrop/door/watch/any/set", {"text": "x", "treshold": 1})
            await home.until(lambda: b"did you mean 'threshold'" in (home.last("events") or b""))
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
    jsonschema.Draft202012Validator(contract.schema()).validate(event)
    assert (event["source"], event["watch"]) == ("door", "anything at all")
    assert base64.b64decode(event["key_frame"]["data"])[:2] == b"\xff\xd8"
