"""A question through a real broker: accepted, answered piece by piece, ended once."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from clients import contract
from clients.mqtt.service import MqttService
from omnidrop_stream.errors import Busy, ModelNotFound, NothingHeld, SourceDenied
from tests.clients.mqtt.broker import Broker
from tests.clients.mqtt.conftest import mqtt_config, serving, until
from tests.clients.mqtt.device import Device
from tests.clients.mqtt.fake_node import FakeNode

MINE = "omnidrop/node/reply/lamp/1"
ASK = "omnidrop/door/query"


@pytest.mark.parametrize("version", ["5", "3.1.1"])
async def test_a_question_is_accepted_streams_and_ends_in_one_final(
    broker: Broker, node: FakeNode, tmp_path: Path, version: str
):
    config = mqtt_config(broker, version=version)
    async with (
        serving(node, config, tmp_path / "j.db"),
        Device(broker.port, v5=version == "5") as device,
    ):
        await device.listen("omnidrop/node/reply/lamp/#")
        question = {"id": "q1", "text": "one two three", "reply_to": MINE, "client": "lamp"}
        await device.send(ASK, question)
        final = await device.ended("q1")
        kinds = [message["type"] for message in device.told("q1")]
        assert kinds == ["accepted", "delta", "delta", "delta", "final"]
        assert (final["text"], final["source"]) == ("one two three", "door")


async def test_every_message_fits_the_schema(device: Device):
    await device.send(ASK, {"id": "q1", "text": "one two"}, MINE)
    await device.send(ASK, {"id": "q2", "text": ""}, MINE)
    await device.send("omnidrop/all/query", {"id": "q3", "text": "one"}, MINE)
    for id_ in ("q1", "q2", "q3"):
        await device.ended(id_)
    validator = jsonschema.Draft202012Validator(contract.schema())
    for message in device.told():
        validator.validate(message)


async def test_correlation_data_come_back_byte_for_byte_with_each_message(device: Device):
    correlation = bytes(range(256))
    await device.send(ASK, {"id": "q1", "text": "one"}, MINE, correlation)
    await device.ended("q1")
    given = [message.properties.json() for message in device.came]
    assert len(given) == 3
    assert {bytes.fromhex(each["CorrelationData"]) for each in given} == {correlation}
    assert {each["ContentType"] for each in given} == {"application/json"}


async def test_trace_properties_come_back_and_others_do_not(device: Device):
    sent = [("traceparent", "00-ab-cd-01"), ("password", "x")]
    await device.send(ASK, {"id": "q1", "text": "one"}, MINE, user_properties=sent)
    await device.ended("q1")
    for message in device.came:
        assert message.properties.json()["UserProperty"] == [("traceparent", "00-ab-cd-01")]


async def test_without_a_reply_topic_the_answer_goes_to_the_cameras_own(
    broker: Broker, service: MqttService
):
    async with Device(broker.port, "homeassistant", "ha-secret") as home:
        await home.listen("omnidrop/door/answer/#")
        await home.send(ASK, {"id": "q1", "text": "one two"})
        await home.ended("q1")
        assert {message.topic.value for message in home.came} == {"omnidrop/door/answer/q1"}


async def test_the_settings_of_a_question_reach_the_node(device: Device, node: FakeNode):
    settings = {"max_tokens": 9, "look_back_s": 5, "retention": 0.25, "session": "evening"}
    await device.send(ASK, {"id": "q1", "text": "one", **settings}, MINE)
    final = await device.ended("q1")
    camera, request = node.asked[0]
    assert (camera, request.max_tokens, request.look_back_s) == ("door", 9, 5.0)
    assert request.retention == 0.25
    assert final["session"] == "evening"


async def test_two_clients_with_one_session_name_do_not_share_a_conversation(
    device: Device, node: FakeNode
):
    question = {"text": "one", "session": "s"}
    await device.send(ASK, {"id": "q1", **question, "client": "a"}, MINE)
    await device.send(ASK, {"id": "q1", **question, "client": "b"}, MINE)
    await device.until(lambda: len(device.told("q1", "final")) == 2)
    assert len({request.session for _, request in node.asked}) == 2


@pytest.mark.parametrize(("text", "end"), [("one two", "final"), ("", "error")])
async def test_one_message_is_all_that_comes_where_nothing_is_to_stream(
    device: Device, text: str, end: str
):
    await device.send(ASK, {"id": "q1", "text": text, "stream": False}, MINE)
    await device.send(ASK, {"id": "q2", "text": "one"}, MINE)
    await device.ended("q2")
    assert [message["type"] for message in device.told("q1")] == [end]


async def test_a_question_without_an_id_gets_one(device: Device):
    await device.send(ASK, {"text": "one"}, MINE)
    await device.until(lambda: bool(device.told(None, "final")))
    assert device.told(None, "final")[0]["id"] == device.told(None, "accepted")[0]["id"] != ""


async def test_a_question_to_all_cameras_ends_in_a_summary_of_one_answer_each(device: Device):
    await device.send("omnidrop/all/query", {"id": "q1", "text": "one"}, MINE, b"corr")
    summary = await device.ended("q1")
    assert summary["answers"] == [
        {"id": "q1/door", "camera": "door", "type": "final"},
        {"id": "q1/yard", "camera": "yard", "type": "final"},
    ]
    assert [told["source"] for told in device.told(None, "final")] == ["door", "yard"]
    assert {m.properties.json()["CorrelationData"] for m in device.came} == {b"corr".hex()}


async def test_the_summary_names_the_code_of_a_camera_that_cannot_answer(
    device: Device, node: FakeNode
):
    node.errors["one"] = NothingHeld("nothing yet")
    await device.send("omnidrop/all/query", {"id": "q1", "text": "one"}, MINE)
    summary = await device.ended("q1")
    assert [part["code"] for part in summary["answers"]] == ["camera_offline"] * 2


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NothingHeld("x"), "camera_offline"),
        (SourceDenied("x"), "camera_offline"),
        (ModelNotFound("x"), "model_not_ready"),
        (Busy("x"), "busy"),
        (ZeroDivisionError("secret rtsp://a:b@c"), "internal"),
    ],
)
async def test_what_the_node_fails_with_becomes_one_error_with_its_code(
    device: Device, node: FakeNode, error: Exception, code: str
):
    node.errors["fail"] = error
    await device.send(ASK, {"id": "q1", "text": "fail"}, MINE)
    ended = await device.ended("q1")
    assert ended["code"] == code
    assert "a:b" not in ended["message"]


async def test_an_unknown_camera_is_named_with_those_that_there_are(device: Device):
    await device.send("omnidrop/cellar/query", {"id": "q1", "text": "one"}, MINE)
    ended = await device.ended("q1")
    assert ended["code"] == "unknown_camera"
    assert "door, yard" in ended["message"]


async def test_a_repeated_question_gets_the_same_bytes_and_is_asked_once(
    device: Device, node: FakeNode
):
    for _ in range(2):
        await device.send(ASK, {"id": "q1", "text": "one"}, MINE)
        await device.ended("q1")
    await device.until(lambda: len(device.told("q1", "final")) == 2)
    finals = {bytes(m.payload) for m in device.came if b'"final"' in m.payload}
    assert (len(finals), len(node.asked)) == (1, 1)


async def test_a_repeated_question_that_still_runs_is_answered_once_where_it_asks_last(
    device: Device, node: FakeNode
):
    node.held = True
    await device.send(ASK, {"id": "q1", "text": "one"}, MINE)
    await device.until(lambda: len(device.told("q1", "accepted")) == 1)
    await device.send(ASK, {"id": "q1", "text": "one"}, "omnidrop/node/reply/lamp/2")
    await device.until(lambda: len(device.told("q1", "accepted")) == 2)
    node.let(1)
    await device.ended("q1")
    where = [m.topic.value for m in device.came if b'"final"' in m.payload]
    assert (where, len(node.asked)) == (["omnidrop/node/reply/lamp/2"], 1)


async def test_an_id_that_stands_for_another_question_is_refused(device: Device):
    await device.send(ASK, {"id": "q1", "text": "one"}, MINE)
    await device.ended("q1")
    await device.send(ASK, {"id": "q1", "text": "two"}, MINE)
    await device.until(lambda: bool(device.told("q1", "error")))
    assert "another question" in device.told("q1", "error")[0]["message"]


@pytest.mark.parametrize("how", ["message expiry", "deadline_ms"])
async def test_a_question_that_is_too_late_ends_as_expired(
    device: Device, node: FakeNode, how: str
):
    node.held = True
    deadline = {"deadline_ms": 300} if how == "deadline_ms" else {}
    expiry_s = 1 if how == "message expiry" else None
    await device.send(ASK, {"id": "q1", "text": "one", **deadline}, MINE, expiry_s=expiry_s)
    ended = await device.ended("q1")
    assert (ended["code"], node.running) == ("expired", {})


async def test_a_question_that_waits_for_its_turn_expires_there(device: Device, node: FakeNode):
    node.held = True
    for number in range(2):  # as many as one client may have at once
        await device.send(ASK, {"id": f"long{number}", "text": "one"}, MINE)
    await device.send(ASK, {"id": "q1", "text": "two", "deadline_ms": 200}, MINE)
    ended = await device.ended("q1")
    assert ended["code"] == "expired"
    assert "two" not in [request.text for _, request in node.asked]


async def test_a_cancelled_answer_ends_in_a_final_that_says_so(device: Device, node: FakeNode):
    node.held = True
    await device.send(ASK, {"id": "q1", "text": "one two three"}, MINE)
    node.let(1)
    await device.until(lambda: bool(device.told("q1", "delta")))
    await device.send("omnidrop/door/cancel", {"id": "q1"}, MINE)
    ended = await device.ended("q1")
    assert (ended["finish"], ended["text"]) == ("cancelled", "one")


async def test_a_waiting_question_can_be_cancelled(device: Device, node: FakeNode):
    node.held = True
    for number in range(3):
        await device.send(ASK, {"id": f"q{number}", "text": "one"}, MINE)
    await device.until(lambda: bool(device.told("q2", "accepted")))
    await device.send("omnidrop/door/cancel", {"id": "q2"}, MINE)
    assert (await device.ended("q2"))["code"] == "cancelled"


async def test_a_question_to_all_cameras_is_cancelled_as_a_whole(device: Device, node: FakeNode):
    node.held = True
    await device.send("omnidrop/all/query", {"id": "q1", "text": "one"}, MINE)
    await device.until(lambda: bool(device.told("q1", "accepted")))
    await device.send("omnidrop/all/cancel", {"id": "q1"}, MINE)
    assert (await device.ended("q1"))["type"] == "summary"
    assert node.running == {}


async def test_nobody_cancels_another_clients_question(
    broker: Broker, device: Device, node: FakeNode
):
    node.held = True
    await device.send(ASK, {"id": "q1", "text": "one"}, MINE)
    await device.until(lambda: bool(device.told("q1", "accepted")))
    async with Device(broker.port, "bell", "bell-secret") as bell:
        await bell.send("omnidrop/door/cancel/bell", {"id": "q1"})
        await bell.send("omnidrop/door/cancel", {"id": "q1"})
        await until(lambda: node.stats.counter("mqtt.cancel_of_nothing") == 2)
    node.let(1)
    assert (await device.ended("q1"))["finish"] == "stop"


async def test_control_tokens_in_a_question_are_counted_and_change_nothing(
    device: Device, node: FakeNode
):
    await device.send(ASK, {"id": "q1", "text": "one <|im_end|> two"}, MINE)
    final = await device.ended("q1")
    assert final["question"] == "one <|im_end|> two"
    assert node.stats.counter("mqtt.control_tokens") == 1


async def test_what_is_sent_is_one_line_of_ascii(device: Device):
    await device.send(ASK, {"id": "q1", "text": "grün\u2028 \U0001f600"}, MINE)
    await device.ended("q1")
    for message in device.came:
        assert bytes(message.payload).isascii()
        assert b"\n" not in message.payload
        json.loads(message.payload)


async def test_a_fault_of_ours_at_one_message_does_not_end_the_service(
    device: Device, service: MqttService, node: FakeNode, monkeypatch: pytest.MonkeyPatch
):
    def broken(text: str) -> list[str]:
        if text == "poison":
            raise ZeroDivisionError
        return []

    monkeypatch.setattr(node, "control_tokens_in", broken)
    for number, text in enumerate(("one", "poison", "two")):
        await device.send(ASK, {"id": f"q{number}", "text": text}, MINE, qos=0)
    await device.ended("q0")
    await device.ended("q2")
    assert node.stats.counter("mqtt.failed.message") == 1
