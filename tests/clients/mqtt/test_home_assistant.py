"""Home Assistant is told of cameras that come and go, and again after it was born."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager, suppress

import pytest

from clients.mqtt.home_assistant import HomeAssistant
from clients.mqtt.messages import Incoming
from clients.mqtt.topics import Topics

DOOR = "homeassistant/device/omnidrop_home_door/config"
YARD = "homeassistant/device/omnidrop_home_yard/config"


class Node:
    """The two things that are looked at."""

    def __init__(self, *names):
        self.names = list(names)

    def cameras(self):
        return list(self.names)

    def about(self):
        return {"version": "1.0"}


class Sent(asyncio.Queue):
    def publish(self, message):
        self.put_nowait(message)
        return True

    def all(self):
        return [self.get_nowait() for _ in range(self.qsize())]


@pytest.fixture
def sent():
    return Sent()


def _made(node, watches=None):
    return HomeAssistant(
        node, Topics("home"), "home", "homeassistant", lambda _: watches or {}, draw=lambda: 0.0
    )


def _birth(payload=b"online", retain=False):
    return Incoming("homeassistant/status", payload, 1, retain, ack=lambda: None)


@asynccontextmanager
async def _running(assistant, sent):
    task = asyncio.create_task(assistant.run(sent.publish))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_every_camera_is_described_and_retained_on_each_connection(sent):
    assistant = _made(Node("door", "yard"))
    for _ in range(2):
        assistant.connected(sent.publish)
        told = sent.all()
        assert [message.topic for message in told] == [DOOR, YARD]
        assert all(message.retain and message.qos == 1 for message in told)


async def test_a_camera_that_left_is_removed_and_one_that_came_is_described(sent):
    node = Node("door")
    assistant = _made(node)
    assistant.connected(sent.publish)
    sent.all()
    node.names = ["yard"]
    async with _running(assistant, sent), asyncio.timeout(10):
        *gone, came = [await sent.get() for _ in range(3)]
    assert [(m.topic, m.payload, m.retain) for m in gone] == [
        (DOOR, b"", True),
        ("home/door/last_answer", b"", True),
    ]
    assert (came.topic, came.payload[:1]) == (YARD, b"{")


async def test_a_new_watch_changes_the_description(sent):
    watches = {}
    assistant = _made(Node("door"), watches)
    assistant.connected(sent.publish)
    sent.all()
    watches["bell"] = "a bell rings"
    async with _running(assistant, sent), asyncio.timeout(10):
        message = await sent.get()
    assert "omnidrop_home_door_watch_bell" in json.loads(message.payload)["components"]


async def test_its_birth_is_answered_with_everything(sent):
    assistant = _made(Node("door"))
    assistant.connected(sent.publish)
    sent.all()
    async with _running(assistant, sent), asyncio.timeout(10):
        assert await assistant.handle(_birth(), sent.publish)
        assert (await sent.get()).topic == DOOR


@pytest.mark.parametrize("birth", [_birth(retain=True), _birth(payload=b"offline")])
async def test_a_retained_birth_or_a_death_is_not_answered(sent, birth):
    assistant = _made(Node("door"))
    assert await assistant.handle(birth, sent.publish)
    assert not assistant._born.is_set()


async def test_other_messages_are_for_somebody_else(sent):
    other = Incoming("home/door/query", b"{}", 1, False, ack=lambda: None)
    assert not await _made(Node("door")).handle(other, sent.publish)


async def test_the_newest_answer_is_retained_for_its_entity_and_an_error_is_not(sent):
    assistant = _made(Node("door"))
    final = {"v": 1, "type": "final", "id": "1", "text": "ü", "question": "?", "ttft_ms": 3}
    assistant.answered("door", "somebody", final, sent.publish)
    assistant.answered("door", "somebody", {"type": "error"}, sent.publish)
    (message,) = sent.all()
    assert (message.topic, message.retain) == ("home/door/last_answer", True)
    assert json.loads(message.payload) == final
