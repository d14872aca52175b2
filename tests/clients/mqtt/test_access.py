"""Who may ask, how much, and where answers may go: limits, the access list, TLS, login."""

from __future__ import annotations

import asyncio
import gc
import json
from pathlib import Path
from typing import Any

import pytest

from clients.mqtt.service import MqttService
from runtime.journal import Journal
from tests.clients.mqtt.broker import ACCOUNTS, Broker
from tests.clients.mqtt.conftest import mqtt_config, serving, until
from tests.clients.mqtt.device import Device
from tests.clients.mqtt.fake_node import FakeNode

MINE = "omnidrop/node/reply/lamp/1"
ASK = "omnidrop/door/query"


async def refused(device: Device, payload: Any, reply_to: str = MINE) -> dict[str, Any]:
    """The error that a message gets, whatever its id."""
    await device.send(ASK, payload, reply_to)
    await device.until(lambda: bool(device.told(None, "error")))
    return device.told(None, "error")[0]


@pytest.mark.parametrize(
    ("payload", "code", "words"),
    [
        (b"", "bad_request", "no JSON"),
        (b"{", "bad_request", "no JSON"),
        (b'{"id": "a", "text": NaN}', "bad_request", "NaN"),
        (b'{"id": "a", "text": "x", "look_back_s": 1e999}', "bad_request", "out of range"),
        (b'{"id": "a", "text": "\xff"}', "bad_request", "not UTF-8"),
        (b'{"text": "\\ud800"}', "bad_request", ""),
        (b"[" * 10_000, "bad_request", "nested"),
        (b'{"text": "x", "a": ' + b"[" * 9 + b"]" * 9 + b"}", "bad_request", "nested 10 deep"),
        (b'"text"', "bad_request", "an object is needed"),
        (b'{"text": "x", "text": "y"}', "bad_request", "twice"),
        (b'{"text": "x", "txt": "y"}', "bad_request", "did you mean 'text'"),
        (b'{"text": "x", "id": "a/b"}', "bad_request", "id"),
        (b'{"text": "x", "max_tokens": true}', "bad_request", "max_tokens"),
        (b'{"text": "x", "v": 2}', "bad_request", "v"),
        (b'{"text": "  "}', "bad_request", "empty"),
        (b'{"text": "' + b"x" * 501 + b'"}', "bad_request", "501 characters"),
        (b'{"text": "' + b"x" * 20_000 + b'"}', "too_large", "20"),
        (b'{"text": "x", "max_tokens": 8192, "id": "b", "look_back_s": 0}', "bad_request", "look"),
    ],
)
async def test_a_bad_message_gets_an_error_that_says_what_is_wrong(
    device: Device, node: FakeNode, payload: bytes, code: str, words: str
):
    error = await refused(device, payload)
    assert (error["code"], node.asked) == (code, [])
    assert words in error["message"]


async def test_a_bad_message_of_an_old_device_is_told_where_its_id_says(
    broker: Broker, service: MqttService
):
    async with Device(broker.port, "homeassistant", "ha-secret", v5=False) as home:
        await home.listen("omnidrop/door/answer/#")
        await home.send(ASK, {"id": "q1", "text": ""})
        assert (await home.ended("q1"))["code"] == "bad_request"


async def test_a_bad_message_that_nobody_can_be_told_of_is_counted(
    broker: Broker, service: MqttService, node: FakeNode
):
    async with Device(broker.port, v5=False) as device:
        await device.send(ASK, b"{")
        await until(lambda: node.stats.counter("mqtt.dropped.unanswerable") == 1)


@pytest.mark.parametrize(
    "topic",
    [
        "omnidrop/door/query",
        "omnidrop/node/status",
        "elsewhere/x",
        "omnidrop/node/reply/#",
        "$SYS/x",
    ],
)
async def test_an_answer_is_sent_only_where_it_may_go(
    broker: Broker, service: MqttService, node: FakeNode, topic: str
):
    async with Device(broker.port, "homeassistant", "ha-secret") as home:
        await home.listen("omnidrop/door/answer/#")
        await home.send(ASK, {"id": "q1", "text": "one", "reply_to": topic})
        assert (await home.ended("q1"))["code"] == "unauthorized"
        assert node.asked == []


async def test_a_prefix_of_the_configuration_may_be_answered_to(
    broker: Broker, node: FakeNode, tmp_path: Path
):
    config = mqtt_config(broker, reply_prefixes=["homeassistant/devices/+/"])
    async with (
        serving(node, config, tmp_path / "j.db"),
        Device(broker.port, "homeassistant", "ha-secret") as home,
    ):
        await home.listen("homeassistant/devices/#")
        await home.send(ASK, {"id": "q1", "text": "one"}, "homeassistant/devices/tv/1")
        await home.ended("q1")


async def test_a_client_that_the_topic_names_cannot_answer_into_anothers_topic(
    device: Device, node: FakeNode
):
    await device.send(
        "omnidrop/door/query/lamp", {"id": "q2", "text": "one"}, "omnidrop/node/reply/bell/1"
    )
    await until(lambda: node.stats.counter("mqtt.refused.unauthorized") == 1)
    assert node.asked == []


async def test_the_access_list_keeps_one_account_from_asking_as_another(
    broker: Broker, device: Device, node: FakeNode
):
    await device.send("omnidrop/door/query/bell", {"id": "q1", "text": "stolen"}, MINE)
    await device.send("omnidrop/door/muted/set", b"ON")
    await device.send("omnidrop/door/query/lamp", {"id": "q2", "text": "mine"}, MINE)
    await device.ended("q2")
    assert [request.text for _, request in node.asked] == ["mine"]
    assert node.muted["door"] is False


async def test_the_access_list_keeps_one_account_from_reading_anothers_answers(
    broker: Broker, device: Device
):
    async with Device(broker.port, "bell", "bell-secret") as bell:
        for topic in ("omnidrop/node/reply/lamp/#", "omnidrop/#", "omnidrop/node/reply/bell/#"):
            await bell.listen(topic)
        await device.send(ASK, {"id": "q1", "text": "secret"}, MINE)
        await device.ended("q1")
        await bell.send(ASK, {"id": "q2", "text": "mine"}, "omnidrop/node/reply/bell/1")
        await bell.ended("q2")
        assert bell.told("q1") == []


async def test_who_asks_too_much_is_told_when_to_come_back(
    broker: Broker, node: FakeNode, tmp_path: Path
):
    limits = {"queries_per_s": 0.5, "queries_burst": 2, "refusals_per_s": 2}
    config = mqtt_config(broker, limits=limits)
    async with serving(node, config, tmp_path / "j.db"), Device(broker.port) as device:
        await device.listen("omnidrop/node/reply/lamp/#")
        for number in range(30):
            await device.send(ASK, {"id": f"q{number}", "text": "one"}, MINE, qos=0)
        await device.until(lambda: len(device.told(None, "error")) == 2)
        error = device.told(None, "error")[0]
        assert error["code"] == "rate_limited"
        assert 0 < error["retry_after_ms"] <= 6000
        await until(lambda: node.stats.counter("mqtt.dropped.flood") == 26)


async def test_tokens_are_limited_and_what_an_answer_did_not_use_comes_back(
    broker: Broker, node: FakeNode, tmp_path: Path
):
    limits = {"tokens_per_s": 0.01, "tokens_burst": 20}
    async with (
        serving(node, mqtt_config(broker, limits=limits), tmp_path / "j.db"),
        Device(broker.port) as device,
    ):
        await device.listen("omnidrop/node/reply/lamp/#")
        for number in range(5):  # each reserves 16 and uses 1
            await device.send(ASK, {"id": f"q{number}", "text": "one"}, MINE)
            ended = await device.ended(f"q{number}")
            assert ended["type"] == "final"
        await device.send(ASK, {"id": "q9", "text": "one", "max_tokens": 18}, MINE)
        assert (await device.ended("q9"))["code"] == "rate_limited"
        await device.send(ASK, {"id": "q10", "text": "one", "max_tokens": 99}, MINE)
        assert "may ever have" in (await device.ended("q10"))["message"]


async def test_one_clients_waiting_questions_are_bounded(
    broker: Broker, node: FakeNode, tmp_path: Path
):
    node.held = True
    limits = {"waiting": 2, "at_once": 1, "queries_burst": 100}
    async with (
        serving(node, mqtt_config(broker, limits=limits), tmp_path / "j.db"),
        Device(broker.port) as device,
    ):
        await device.listen("omnidrop/node/reply/lamp/#")
        for number in range(4):
            await device.send(ASK, {"id": f"q{number}", "text": "one"}, MINE)
        assert (await device.ended("q3"))["code"] == "busy"
        node.let(3)
        for number in range(3):
            assert (await device.ended(f"q{number}"))["type"] == "final"


async def test_a_clients_many_questions_do_not_hold_up_anothers_one(
    broker: Broker, device: Device, node: FakeNode
):
    node.held = True
    for number in range(10):
        await device.send(ASK, {"id": f"q{number}", "text": "lamp"}, MINE)
    async with Device(broker.port, "bell", "bell-secret") as bell:
        await bell.listen("omnidrop/node/reply/bell/#")
        await bell.send(ASK, {"id": "b", "text": "bell"}, "omnidrop/node/reply/bell/1")
        await until(lambda: "bell" in [request.text for _, request in node.asked])
        assert len(node.asked) <= 3  # two of the lamp's, at most
        node.let(20)
        await bell.ended("b")


async def test_the_node_speaks_tls_and_trusts_only_its_authority(
    broker: Broker, node: FakeNode, tmp_path: Path
):
    tls = {"ca": str(broker.folder / "ca.crt")}
    config = mqtt_config(broker, port=broker.tls_port, tls=tls)
    async with serving(node, config, tmp_path / "j.db"), Device(broker.port) as device:
        await device.listen("omnidrop/node/reply/lamp/#")
        await device.send(ASK, {"id": "q1", "text": "one"}, MINE)
        await device.ended("q1")


# paho leaves its socket open when the TLS handshake fails
@pytest.mark.filterwarnings("ignore:unclosed <ssl:ResourceWarning")
@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"password": "wrong"}, "Not authorized"),
        ({"tls": True, "port": "tls"}, "CERTIFICATE_VERIFY_FAILED"),
        ({"tls": True}, "no broker at"),
    ],
)
async def test_a_broker_that_cannot_be_used_is_named_and_tried_again_without_a_secret(
    broker: Broker,
    node: FakeNode,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    values: dict[str, Any],
    words: str,
):
    values = {**values, "port": broker.tls_port} if values.get("port") else values
    async with Journal(tmp_path / "j.db") as journal:
        service = MqttService(mqtt_config(broker, **values), node, journal)
        running = asyncio.create_task(service.run())
        await until(lambda: node.stats.counter("mqtt.lost") == 1)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    gc.collect()
    assert words in caplog.text
    assert "wrong" not in caplog.text.replace("wrong version number", "")
    assert "node-secret" not in caplog.text


async def test_no_secret_of_the_node_is_in_anything_it_sends(
    broker: Broker, device: Device, service: MqttService, node: FakeNode
):
    node.errors["fail"] = OSError("rtsp://user:hunter2@cam/ failed with node-secret")
    async with Device(broker.port, "homeassistant", "ha-secret") as home:
        await home.listen("omnidrop/#")
        await device.send(ASK, {"id": "q1", "text": "fail"}, MINE)
        await home.ended("q1")
        await home.until(lambda: any(b"online" in m.payload for m in home.came))
        sent = b" ".join(bytes(message.payload) for message in home.came)
    assert b"hunter2" not in sent
    assert b"node-secret" not in sent
    assert json.dumps(node.stats.snapshot()).find("hunter2") == -1


# -- the connection for sending


async def test_answers_go_over_a_connection_of_their_own(broker: Broker, service: MqttService):
    assert f" as {service.client_id}-send " in broker.log


async def test_where_a_user_may_connect_only_once_questions_are_answered_all_the_same(
    broker: Broker, node: FakeNode, tmp_path: Path
):
    config = mqtt_config(broker, send_apart=False)
    async with serving(node, config, tmp_path / "j.db"), Device(broker.port) as device:
        await device.listen("omnidrop/node/reply/lamp/#")
        await device.send(ASK, {"id": "q1", "text": "one"}, MINE)
        assert (await device.ended("q1"))["type"] == "final"
    assert f" as {config.client_id}-send " not in broker.log


async def test_a_connection_for_sending_that_breaks_is_made_again(
    broker: Broker, node: FakeNode, tmp_path: Path
):
    config = mqtt_config(broker)
    async with serving(node, config, tmp_path / "j.db", draw=lambda: 0.0) as service:
        await service.outbox.emptied()  # it has told who it is: else it would find another's word
        id_, user, password = f"{config.client_id}-send", "omnidrop", ACCOUNTS["omnidrop"]
        async with Device(broker.port, user, password, identifier=id_):  # takes it over
            await until(lambda: service.outbox._stats.counter("mqtt.lost") == 1)
        async with Device(broker.port) as device:
            await device.listen("omnidrop/node/reply/lamp/#")
            await device.send(ASK, {"id": "q1", "text": "one"}, MINE)
            assert (await device.ended("q1"))["type"] == "final"
