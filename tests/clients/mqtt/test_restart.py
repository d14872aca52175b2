"""What was accepted survives a restart of the node and of the broker."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from clients.mqtt.config import MqttConfig
from clients.mqtt.service import MqttService
from runtime.journal import Journal
from tests.clients.mqtt.broker import Broker
from tests.clients.mqtt.conftest import mqtt_config, serving, until
from tests.clients.mqtt.device import Device
from tests.clients.mqtt.fake_node import FakeNode

MINE = "omnidrop/node/reply/lamp/1"
ASK = "omnidrop/door/query"


def states(device: Device) -> list[bytes]:
    return [bytes(m.payload) for m in device.came if m.topic.value == "omnidrop/node/status"]


@pytest.fixture
def own_broker(needs_mosquitto: None, tmp_path: Path) -> Iterator[Broker]:
    """One that the test may kill."""
    broker = Broker(tmp_path / "broker")
    broker.start()
    yield broker
    broker.stop(signal.SIGKILL)


@pytest.fixture
def config(broker: Broker) -> MqttConfig:
    return mqtt_config(broker)


async def test_a_question_in_progress_is_answered_after_a_restart(
    broker: Broker, config: MqttConfig, tmp_path: Path
):
    before, after = FakeNode("door"), FakeNode("door")
    before.held = True
    async with Device(broker.port) as device:
        await device.listen("omnidrop/node/reply/lamp/#")
        async with serving(before, config, tmp_path / "j.db"):
            await device.send(ASK, {"id": "q1", "text": "one"}, MINE, b"\x00\xff")
            await device.until(lambda: bool(device.told("q1", "accepted")))
        async with serving(after, config, tmp_path / "j.db"):
            await device.ended("q1")
        final = next(m for m in device.came if b'"final"' in m.payload)
        assert final.properties.json()["CorrelationData"] == "00ff"


async def test_a_question_that_is_out_of_date_after_a_restart_ends_as_expired(
    broker: Broker, config: MqttConfig, tmp_path: Path
):
    before, after = FakeNode("door"), FakeNode("door")
    before.held = True
    async with Device(broker.port) as device:
        await device.listen("omnidrop/node/reply/lamp/#")
        async with serving(before, config, tmp_path / "j.db"):
            await device.send(ASK, {"id": "q1", "text": "one", "deadline_ms": 60_000}, MINE)
            await device.until(lambda: bool(device.told("q1", "accepted")))
        async with serving(after, config, tmp_path / "j.db", wall=lambda: time.time() + 61):
            assert (await device.ended("q1"))["code"] == "expired"
        assert after.asked == []


async def test_an_answer_that_was_not_confirmed_is_sent_again_byte_for_byte(
    broker: Broker, config: MqttConfig, tmp_path: Path
):
    async with Device(broker.port) as device:
        await device.listen("omnidrop/node/reply/lamp/#")
        async with serving(FakeNode("door"), config, tmp_path / "j.db"):
            await device.send(ASK, {"id": "q1", "text": "one"}, MINE)
            await device.ended("q1")
        async with Journal(tmp_path / "j.db") as journal:  # as if the crash had come before
            row = await journal.do(lambda file: file.get(1))
            await journal.do(lambda f: f._db.execute("update queries set delivered = 0"))
        later = FakeNode("door")
        async with serving(later, config, tmp_path / "j.db"):
            await device.until(lambda: len(device.told("q1", "final")) == 2)
        finals = {bytes(m.payload) for m in device.came if b'"final"' in m.payload}
        assert finals == {row.final}
        assert later.asked == []


async def test_a_question_to_all_cameras_gets_its_summary_after_a_restart(
    broker: Broker, config: MqttConfig, tmp_path: Path
):
    before = FakeNode("door", "yard")
    before.held = True
    async with Device(broker.port) as device:
        await device.listen("omnidrop/node/reply/lamp/#")
        async with serving(before, config, tmp_path / "j.db"):
            await device.send("omnidrop/all/query", {"id": "q1", "text": "one"}, MINE)
            await device.until(lambda: bool(device.told("q1", "accepted")))
        async with serving(FakeNode("door", "yard"), config, tmp_path / "j.db"):
            summary = await device.ended("q1")
        assert [part["type"] for part in summary["answers"]] == ["final", "final"]


async def test_questions_that_came_while_the_node_was_away_are_answered(
    broker: Broker, config: MqttConfig, tmp_path: Path
):
    async with serving(FakeNode("door"), config, tmp_path / "j.db"):
        pass
    async with Device(broker.port) as device:
        await device.listen("omnidrop/node/reply/lamp/#")
        for number in range(5):
            await device.send(ASK, {"id": f"q{number}", "text": "one"}, MINE)
        async with serving(FakeNode("door"), config, tmp_path / "j.db"):
            for number in range(5):
                await device.ended(f"q{number}")


async def test_a_question_is_confirmed_to_the_broker_only_once_it_is_journalled(
    broker: Broker, config: MqttConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The node dies between the message and the journal: the broker brings it again."""
    node = FakeNode("door")
    async with Device(broker.port) as device:
        await device.listen("omnidrop/node/reply/lamp/#")
        async with serving(node, config, tmp_path / "j.db") as service:

            async def never(queries: object) -> None:
                node.stats.count("test.seen")
                await until(lambda: False, 1000)

            monkeypatch.setattr(service.intake, "take", never)
            await device.send(ASK, {"id": "q1", "text": "one"}, MINE)
            await until(lambda: node.stats.counter("test.seen") == 1)
        async with serving(FakeNode("door"), config, tmp_path / "j.db"):
            await device.ended("q1")
        assert len(device.told("q1", "final")) == 1


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("version", ["5", "3.1.1"])
async def test_the_node_comes_back_after_the_broker_died_and_says_that_it_is_there(
    own_broker: Broker, tmp_path: Path, how: signal.Signals, version: str
):
    node = FakeNode("door")
    config = mqtt_config(own_broker, version=version)
    async with serving(node, config, tmp_path / "j.db", draw=lambda: 0.0) as service:
        own_broker.stop(how)
        await until(lambda: not service.online.is_set())
        own_broker.start()
        await until(service.online.is_set)
        async with Device(own_broker.port) as device:
            await device.listen("omnidrop/node/status")
            await device.listen("omnidrop/node/reply/lamp/#")
            await device.send(ASK, {"id": "q1", "text": "one", "reply_to": MINE})
            await device.ended("q1")
            assert states(device)[-1] == b"online"


async def test_an_answer_that_is_ready_while_the_broker_is_away_comes_when_it_is_back(
    own_broker: Broker, tmp_path: Path
):
    node = FakeNode("door")
    node.held = True
    async with serving(
        node, mqtt_config(own_broker), tmp_path / "j.db", draw=lambda: 0.0
    ) as service:
        async with Device(own_broker.port) as device:
            await device.send(ASK, {"id": "q1", "text": "one"}, MINE)
            await until(lambda: len(node.running) == 1)
        own_broker.stop(signal.SIGKILL)
        await until(lambda: not service.online.is_set())
        node.let(1)
        await until(lambda: node.stats.counter("mqtt.ended.final") == 1)
        own_broker.start()
        async with Device(own_broker.port) as device:
            await device.listen("omnidrop/node/reply/lamp/#")
            await device.ended("q1")


async def test_a_node_starts_without_a_broker_and_serves_when_there_is_one(
    needs_mosquitto: None, tmp_path: Path
):
    broker = Broker(tmp_path / "broker")
    node = FakeNode("door")
    async with Journal(tmp_path / "j.db") as journal:
        service = MqttService(mqtt_config(broker), node, journal, draw=lambda: 0.0)
        running = asyncio.create_task(service.run())
        try:
            await until(lambda: node.stats.counter("mqtt.lost") >= 1)
            broker.start()
            await until(service.online.is_set)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            broker.stop()


async def test_a_drain_lets_an_answer_end_and_says_draining_then_offline(
    broker: Broker, config: MqttConfig, tmp_path: Path
):
    node = FakeNode("door")
    node.held = True
    async with Device(broker.port) as device:
        await device.listen("omnidrop/node/#")
        async with serving(node, config, tmp_path / "j.db") as service:
            await device.send(ASK, {"id": "q1", "text": "one"}, MINE)
            await until(lambda: len(node.running) == 1)
            draining = asyncio.create_task(service.drain(5))
            await device.until(lambda: states(device)[-1:] == [b"draining"])
            await device.send(ASK, {"id": "q2", "text": "late"}, MINE)
            node.let(1)
            await draining
            await device.ended("q1")
            await device.until(lambda: states(device)[-1:] == [b"offline"])
        assert device.told("q2") == []
        async with serving(FakeNode("door"), config, tmp_path / "j.db"):
            await device.ended("q2")  # the broker kept it


async def test_a_node_ends_when_it_is_cancelled_while_the_broker_does_not_answer(
    own_broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("clients.mqtt.adapter.ANSWER_S", 0.3)
    async with Journal(tmp_path / "j.db") as journal:
        service = MqttService(mqtt_config(own_broker), FakeNode("door"), journal)
        running = asyncio.create_task(service.run())
        await until(service.online.is_set)
        own_broker.freeze()
        running.cancel()
        async with asyncio.timeout(10):
            await asyncio.gather(running, return_exceptions=True)
        own_broker.thaw()
    assert running.cancelled()
