"""What the node tells without being asked, and what it is told besides questions."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from pathlib import Path

import pytest

from clients.mqtt.controls import kept_switches
from clients.mqtt.discovery import topic_of
from clients.mqtt.service import MqttService
from runtime.journal import Journal
from tests.clients.mqtt.broker import Broker
from tests.clients.mqtt.conftest import mqtt_config, serving, until
from tests.clients.mqtt.device import Device
from tests.clients.mqtt.fake_node import FakeNode

DYING_NODE = """
import asyncio, os, sys
from clients.mqtt.adapter import Endpoint, connected
from clients.mqtt.presence import OFFLINE, ONLINE, node_status
from clients.mqtt.topics import Topics

async def main():
    login = ("omnidrop", "node-secret")
    endpoint = Endpoint("127.0.0.1", int(sys.argv[1]), "5", "dying", *login)
    topics = Topics("omnidrop")
    async with connected(endpoint, node_status(topics, OFFLINE), 0, lambda: None) as connection:
        await connection.publish(node_status(topics, ONLINE))
        os._exit(1)

asyncio.run(main())
"""


class Home(Device):
    """Home Assistant's account sees everything."""

    def __init__(self, broker: Broker, **options: object) -> None:
        super().__init__(broker.port, "homeassistant", "ha-secret", **options)

    def last(self, topic: str) -> bytes | None:
        found = [bytes(m.payload) for m in self.came if m.topic.value == f"omnidrop/{topic}"]
        return found[-1] if found else None

    async def shows(self, topic: str, payload: bytes) -> None:
        await self.until(lambda: self.last(topic) == payload)


async def test_node_and_cameras_tell_of_themselves_in_retained_messages(
    broker: Broker, service: MqttService
):
    await service.outbox.emptied()
    async with Home(broker) as home:
        await home.listen("omnidrop/#")
        await home.shows("node/status", b"online")
        await home.shows("door/enabled/state", b"ON")
        await home.shows("yard/muted/state", b"OFF")
        await home.until(lambda: home.last("node/info") is not None)
        assert json.loads(home.last("node/info") or b"")["cameras"] == ["door", "yard"]
        assert json.loads(home.last("door/status") or b"")["state"] == "live"
        assert all(message.retain for message in home.came)


async def test_a_change_of_a_cameras_state_is_told_once_with_an_event(
    broker: Broker, service: MqttService, node: FakeNode
):
    await service.outbox.emptied()
    async with Home(broker) as home:
        await home.listen("omnidrop/#")
        await home.shows("node/status", b"online")
        node.state = "offline"
        service.presence.look()
        service.presence.look()
        await home.until(lambda: b'"offline"' in (home.last("yard/status") or b""))
        told = [m for m in home.came if m.topic.value == "omnidrop/door/status" and not m.retain]
        assert len(told) == 1
        await home.until(lambda: b"yard is offline" in (home.last("events") or b""))


async def test_a_camera_that_is_away_from_the_start_is_told_once_whatever_it_tries(
    broker: Broker, node: FakeNode, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    node.state = "failed"
    async with serving(node, mqtt_config(broker), tmp_path / "journal.db") as service:
        for node.state in ("connecting", "failed", "connecting", "failed"):
            service.presence.look()
    assert [m for m in caplog.messages if m.startswith("door")] == ["door is failed"]


async def test_good_news_is_no_warning_and_bad_news_gives_its_reason_after_a_colon(
    service: MqttService, node: FakeNode, caplog: pytest.LogCaptureFixture
):
    caplog.set_level("INFO")
    for node.state, node.reason in (("degraded", "the model is too slow"), ("live", "")):
        service.presence.look()
    told = [(r.levelname, r.getMessage()) for r in caplog.records if "door is" in r.getMessage()]
    assert told == [
        ("WARNING", "door is degraded: the model is too slow"),
        ("INFO", "door is live"),
    ]


async def test_a_camera_that_is_removed_leaves_no_retained_message(
    broker: Broker, service: MqttService, node: FakeNode
):
    async with Home(broker) as home:
        await home.listen("omnidrop/yard/#")
        await home.until(lambda: home.last("yard/muted/state") is not None)
        node.names.remove("yard")
        service.presence.look()
        for topic in ("status", "enabled/state", "muted/state"):
            await home.shows(f"yard/{topic}", b"")


async def test_a_camera_that_was_removed_while_the_node_was_away_leaves_nothing_retained(
    broker: Broker, tmp_path: Path
):
    left = ("yard/status", "yard/enabled/state", "yard/muted/state", "yard/last_answer")
    device = topic_of("omnidrop", "yard")
    node, journal = FakeNode("door", "yard"), tmp_path / "j.db"
    async with Home(broker) as home:
        await home.listen("omnidrop/yard/#")
        await home.listen(device)
        async with serving(node, mqtt_config(broker), journal):
            await home.until(lambda: home.last("yard/muted/state") is not None)
            for topic in ("omnidrop/yard/last_answer", device):
                await home.send(topic, b"{}", retain=True)
            await home.shows("yard/last_answer", b"{}")
        async with serving(FakeNode("door"), mqtt_config(broker), journal):
            for topic in left:
                await home.shows(topic, b"")
        found = [bytes(m.payload) for m in home.came if m.topic.value == device]
        assert found[-1] == b""


async def test_the_last_will_says_offline_when_the_node_dies(broker: Broker, repository: Path):
    async with Home(broker) as home:
        await home.listen("omnidrop/node/status")
        dying = await asyncio.create_subprocess_exec(
            sys.executable, "-c", DYING_NODE, str(broker.port), cwd=repository
        )
        await home.shows("node/status", b"online")
        await home.shows("node/status", b"offline")
        assert await dying.wait() == 1


async def test_a_node_that_is_cancelled_says_offline(
    broker: Broker, node: FakeNode, tmp_path: Path
):
    async with Home(broker) as home:
        await home.listen("omnidrop/node/status")
        async with serving(node, mqtt_config(broker), tmp_path / "j.db"):
            await home.shows("node/status", b"online")
        await home.shows("node/status", b"offline")


@pytest.mark.parametrize("switch", ["enabled", "muted"])
async def test_a_switch_reaches_the_camera_is_told_and_kept(
    broker: Broker, node: FakeNode, tmp_path: Path, switch: str
):
    state = {"enabled": node.enabled, "muted": node.muted}[switch]
    new = not state["door"]
    word = b"ON" if new else b"OFF"
    async with Home(broker) as home:
        async with serving(node, mqtt_config(broker), tmp_path / "j.db"):
            await home.listen("omnidrop/#")
            await home.send(f"omnidrop/door/{switch}/set", word)
            await home.shows(f"door/{switch}/state", word)
            assert state["door"] is new
        async with Journal(tmp_path / "j.db") as journal:
            assert await kept_switches(journal) == {"door": {switch: new}}


async def test_forgetting_reaches_the_camera_with_its_seconds(
    broker: Broker, service: MqttService, node: FakeNode
):
    async with Home(broker) as home:
        await home.send("omnidrop/door/forget", b"")
        await home.send("omnidrop/yard/forget", b'{"last_s": 30}')
        await until(lambda: len(node.forgot) == 2)
        assert node.forgot == [("door", None), ("yard", 30.0)]


@pytest.mark.parametrize(
    ("topic", "payload"),
    [
        ("door/forget", b'{"last_s": -1}'),
        ("door/forget", b'{"last_s": true}'),
        ("door/forget", b"[]"),
        ("door/enabled/set", b"maybe"),
        ("cellar/muted/set", b"ON"),
        ("door/cancel", b"{"),
        ("door/cancel", b'{"id": 1}'),
    ],
)
async def test_what_cannot_be_understood_is_counted_and_told_as_an_event(
    broker: Broker, service: MqttService, node: FakeNode, topic: str, payload: bytes
):
    async with Home(broker) as home:
        await home.listen("omnidrop/events")
        await home.send(f"omnidrop/{topic}", payload)
        await home.until(lambda: b"not understood" in (home.last("events") or b""))
        assert node.stats.counter("mqtt.dropped.unanswerable") == 1
        assert node.forgot == []


async def test_retained_questions_and_switches_are_ignored(
    broker: Broker, node: FakeNode, tmp_path: Path
):
    """They would come again at every connection."""
    topics = ("omnidrop/door/query", "omnidrop/door/muted/set", "omnidrop/door/forget")
    async with Home(broker) as home:
        for topic in topics:
            await home.send(topic, {"id": "q1", "text": "one"}, retain=True)
        async with serving(node, mqtt_config(broker), tmp_path / "j.db"):
            await until(lambda: node.stats.counter("mqtt.ignored.retained") == 3)
        for topic in topics:
            await home.send(topic, b"", retain=True)
        assert (node.asked, node.forgot) == ([], [])


async def test_counters_are_told_at_intervals(broker: Broker, node: FakeNode, tmp_path: Path):
    async with (
        Home(broker) as home,
        serving(node, mqtt_config(broker, stats_every_s=1), tmp_path / "j.db"),
    ):
        await home.listen("omnidrop/stats")
        await home.until(lambda: home.last("stats") is not None)
        assert json.loads(home.last("stats") or b"")["counters"]["mqtt.connected"] == 1


@pytest.mark.parametrize("version", ["5", "3.1.1"])
async def test_of_two_nodes_with_one_client_id_one_steps_aside_and_returns(
    broker: Broker,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    version: str,
):
    monkeypatch.setattr("clients.mqtt.service.ASIDE_S", 0.2)
    config = mqtt_config(broker, version=version)
    nodes = (FakeNode("door"), FakeNode("door"))
    async with contextlib.AsyncExitStack() as first, contextlib.AsyncExitStack() as second:
        stacks = (first, second)
        services = [
            await stack.enter_async_context(
                serving(node, config, tmp_path / f"{n}.db", draw=lambda: 0.0)
            )
            for n, (stack, node) in enumerate(zip(stacks, nodes, strict=True))
        ]
        # Which of the two it is depends on who connects how fast; it ends with one of them.
        await until(lambda: "aside" in [service.state for service in services], 20)
        aside = next(n for n in (0, 1) if services[n].state == "aside")
        assert f"client id {config.client_id}" in caplog.text
        await until(services[1 - aside].online.is_set)
        await services[1 - aside].drain(1)
        await stacks[1 - aside].aclose()
        await until(services[aside].online.is_set)


async def test_a_second_node_under_one_prefix_is_noticed(
    broker: Broker, service: MqttService, node: FakeNode, tmp_path: Path
):
    async with serving(FakeNode("door"), mqtt_config(broker), tmp_path / "2.db"):
        await until(lambda: node.stats.counter("mqtt.two_nodes") == 1)
