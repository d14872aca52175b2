"""The parts that need no broker: topics, messages, turns, the outbox, the configuration."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from clients.mqtt.adapter import Connection
from clients.mqtt.config import MqttConfig, kept_client_id
from clients.mqtt.fair import FairQueue
from clients.mqtt.messages import Incoming, Outgoing
from clients.mqtt.outbox import Outbox
from clients.mqtt.reading import CODES, Refused, Shape, depth, read_json
from clients.mqtt.requests import Kept, QueryMessage, Question, parse_query
from clients.mqtt.topics import Command, Topics
from omnidrop_stream.config import DecodeConfig
from runtime.stats import Stats

TOPICS = Topics("site/eye", ("devices/+/",))
SHAPE = Shape(2000, 8, DecodeConfig(question_chars=200))


def came(payload: bytes, **values: Any) -> Incoming:
    return Incoming("site/eye/door/query", payload, 1, False, lambda: None, **values)


# -- topics


@pytest.mark.parametrize(
    ("topic", "command"),
    [
        ("site/eye/door/query", Command("door", "query")),
        ("site/eye/door/query/lamp", Command("door", "query", "lamp")),
        ("site/eye/all/cancel", Command("all", "cancel")),
        ("site/eye/door/watch/bell/set", Command("door", "watch", "bell")),
        ("site/eye/door/enabled/set", Command("door", "enabled")),
        ("site/eye/door/enabled/state", None),
        ("site/eye/door/answer/q1", None),
        ("site/eyes/door/query", None),
        ("door/query", None),
        ("site/eye/door/query/", None),
    ],
)
def test_a_topic_is_understood_or_it_is_not(topic: str, command: Command | None):
    assert TOPICS.command(topic) == command


@pytest.mark.parametrize(
    ("topic", "owner"),
    [
        ("site/eye/door/answer/q1", ""),
        ("site/eye/node/reply/lamp/x", "lamp"),
        ("devices/lamp/x/y", "lamp"),
        ("devices/lamp", None),
        ("devices/lamp/", None),
        ("devices//x", None),
        ("devices/+/x", None),
        ("site/eye/door/query", None),
        ("site/eye/node/status", None),
        ("site/eye/door/answer", None),
        ("other/x", None),
        ("", None),
        ("devices/lamp/" + "x" * 600, None),
        ("devices/lamp/\0", None),
        ("devices/lamp/\ud800", None),
    ],
)
def test_a_reply_topic_names_its_client_or_is_not_allowed(topic: str, owner: str | None):
    assert TOPICS.replier(topic) == owner


def test_no_setting_lets_an_answer_become_a_command():
    wide = Topics("site/eye", ("site/",))
    assert wide.replier("site/eye/door/query") is None
    assert wide.replier("site/eye/door/answer/q1") == ""
    assert wide.replier("site/tv/x") == ""


@given(topic=st.text(max_size=60))
def test_no_text_as_a_topic_breaks_anything(topic: str):
    TOPICS.command(topic)
    TOPICS.replier(f"devices/{topic}")


# -- messages


def outcome(message: Incoming) -> Question | Refused:
    try:
        return parse_query(message, Command("door", "query"), TOPICS, SHAPE, "fresh", 300.0)
    except Refused as refused:
        return refused


@given(payload=st.binary(max_size=300))
def test_any_bytes_are_an_object_or_a_refusal(payload: bytes):
    with suppress(Refused):
        assert isinstance(read_json(payload, SHAPE), dict)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)
KEYS = st.sampled_from(
    [*QueryMessage.model_fields, "txt"],
)


@given(values=st.dictionaries(KEYS, JSON, max_size=6), reply_to=st.text(max_size=30))
def test_any_object_is_a_question_or_a_refusal_with_a_code(values: dict[str, Any], reply_to: str):
    message = came(json.dumps(values).encode(), reply_to=reply_to)
    found = outcome(message)
    if isinstance(found, Refused):
        assert found.code in CODES
        assert found.route is None or TOPICS.replier(found.route.topic) is not None
    else:
        assert TOPICS.replier(found.asker.route.topic) is not None
        kept = Kept.of(found.request())
        assert (kept.text, kept.route) == (found.text, found.asker.route)


@given(value=JSON)
def test_the_depth_is_what_a_parser_finds(value: Any):
    def deep(part: Any) -> int:
        if isinstance(part, dict):
            return 1 + max(map(deep, part.values()), default=0)
        return 1 + max(map(deep, part), default=0) if isinstance(part, list) else 0

    assert depth(json.dumps(value).encode()) == deep(value)


def test_the_shorter_of_all_deadlines_counts():
    def deadline_s(expiry_s: int | None, **values: Any) -> float:
        message = came(json.dumps({"text": "x", **values}).encode(), expiry_s=expiry_s)
        return parse_query(message, Command("door", "query"), TOPICS, SHAPE, "f", 300.0).deadline_s

    assert deadline_s(None) == 300.0
    assert deadline_s(20) == 20.0
    assert deadline_s(20, deadline_ms=500) == 0.5
    assert deadline_s(9999) == 300.0


@pytest.mark.parametrize(
    ("topic_client", "reply_to", "values", "owner", "key"),
    [
        ("", "", {}, "", "//site/eye/door/answer/q"),
        ("", "devices/lamp/1", {}, "lamp", "lamp/"),
        ("", "devices/lamp/1", {"client": "app"}, "lamp", "lamp/app"),
        ("", "", {"client": "app"}, "app", "app/app"),
        ("bell", "", {}, "bell", "bell/"),
        ("bell", "devices/bell/1", {"client": "app"}, "bell", "bell/app"),
    ],
)
def test_a_client_is_told_by_topic_then_reply_topic_then_its_own_word(
    topic_client: str, reply_to: str, values: dict[str, str], owner: str, key: str
):
    message = came(json.dumps({"id": "q", "text": "x", **values}).encode(), reply_to=reply_to)
    command = Command("door", "query", topic_client)
    asker = parse_query(message, command, TOPICS, SHAPE, "f", 300.0).asker
    assert (asker.owner, asker.key) == (owner, key)


# -- turns


def test_owners_are_served_in_turn():
    queue: FairQueue[str] = FairQueue(at_once=9, together=9)
    for item in ("a1", "a2", "a3"):
        queue.put("a", item)
    queue.put("b", "b1")
    assert [queue.take() for _ in range(5)] == ["a1", "b1", "a2", "a3", None]


def test_one_owner_has_only_so_many_at_once():
    queue: FairQueue[str] = FairQueue(at_once=1, together=9)
    queue.put("a", "a1")
    queue.put("a", "a2")
    assert (queue.take(), queue.take()) == ("a1", None)
    queue.done("a")
    assert queue.take() == "a2"


def test_all_together_have_only_so_many():
    queue: FairQueue[str] = FairQueue(at_once=9, together=1)
    queue.put("a", "a1")
    queue.put("b", "b1")
    assert (queue.take(), queue.take()) == ("a1", None)


@given(steps=st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=40))
def test_nothing_is_lost_doubled_or_over_the_limits(steps: list[tuple[str, bool]]):
    queue: FairQueue[tuple[str, int]] = FairQueue(at_once=2, together=3)
    put: list[tuple[str, int]] = []
    running: list[tuple[str, int]] = []
    seen: list[tuple[str, int]] = []
    for number, (owner, take) in enumerate(steps):
        if take:
            item = queue.take()
            if item is None and running:
                queue.done(running.pop(0)[0])
            elif item is not None:
                running.append(item)
                seen.append(item)
        else:
            queue.put(owner, (owner, number))
            put.append((owner, number))
        assert len(running) <= 3
        assert all(sum(o == owner for o, _ in running) <= 2 for owner in "abc")
    while len(seen) < len(put):
        item = queue.take()
        if item is None:
            queue.done(running.pop(0)[0])
        else:
            running.append(item)
            seen.append(item)
    assert sorted(seen) == sorted(put)


# -- the outbox


class Sender:
    """Takes messages; confirms those of quality of service 1 when it is told to."""

    def __init__(self) -> None:
        self.took: list[bytes] = []
        self.confirm = asyncio.Event()
        self.broken = asyncio.Event()
        self.slow = False

    async def publish(self, message: Outgoing) -> None:
        self.took.append(message.payload)
        waits = [self.broken.wait()]
        if message.qos or self.slow:
            waits.append(self.confirm.wait())
            tasks = [asyncio.ensure_future(wait) for wait in waits]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()
        else:
            waits[0].close()
        if self.broken.is_set():
            raise ConnectionError("broken")


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_the_order_is_kept_between_pieces_and_ends():
    outbox, sender = Outbox(Stats(), 10), Sender()
    sender.confirm.set()
    running = asyncio.create_task(outbox.run(sender))
    await settle()
    for payload, qos in ((b"a", 1), (b"d", 0), (b"f", 1)):
        outbox.put(Outgoing("t", payload, qos))
    await outbox.emptied()
    running.cancel()
    assert sender.took == [b"a", b"d", b"f"]


async def test_pieces_beyond_the_bound_are_dropped_and_counted_ends_are_not():
    stats = Stats()
    outbox, sender = Outbox(stats, 2), Sender()
    sender.slow = True
    running = asyncio.create_task(outbox.run(sender))
    outbox.put(Outgoing("t", b"held", 0))
    await settle()
    kept = [outbox.put(Outgoing("t", b"%d" % n, 0)) for n in range(4)]
    assert all(outbox.put(Outgoing("t", b"final%d" % n, 1)) for n in range(50))
    assert kept == [True, True, False, False]
    assert stats.counter("mqtt.dropped.slow_connection") == 2
    sender.confirm.set()
    await outbox.emptied()
    running.cancel()
    assert sum(payload.startswith(b"final") for payload in sender.took) == 50


async def test_what_was_not_confirmed_is_sent_again_over_the_next_connection():
    stats = Stats()
    outbox, first, second = Outbox(stats, 2), Sender(), Sender()
    sent: list[str] = []
    outbox.put(Outgoing("t", b"one", 1, on_sent=lambda: sent.append("one")))
    running = asyncio.create_task(outbox.run(first))
    await settle()
    first.broken.set()
    with pytest.raises(ExceptionGroup):
        await running
    second.confirm.set()
    running = asyncio.create_task(outbox.run(second))
    await outbox.emptied()
    running.cancel()
    assert (first.took, second.took, sent) == ([b"one"], [b"one"], ["one"])


async def test_what_was_confirmed_just_before_the_break_is_sent_once_more():
    """The broker may have died before it had written it."""
    now = [0.0]
    outbox, first, second = Outbox(Stats(), 2, lambda: now[0]), Sender(), Sender()
    first.confirm.set()
    outbox.put(Outgoing("t", b"old", 1))
    running = asyncio.create_task(outbox.run(first))
    await outbox.emptied()
    now[0] = 6.0
    outbox.put(Outgoing("t", b"new", 1))
    await outbox.emptied()
    first.broken.set()
    first.confirm.clear()
    outbox.put(Outgoing("t", b"lost", 1))
    with pytest.raises(ExceptionGroup):
        await running
    second.confirm.set()
    running = asyncio.create_task(outbox.run(second))
    await outbox.emptied()
    running.cancel()
    assert second.took == [b"new", b"lost"]


# -- the configuration


@pytest.mark.parametrize(
    ("values", "encrypted", "port"),
    [
        ({}, False, 1883),
        ({"host": "localhost"}, False, 1883),
        ({"host": "::1"}, False, 1883),
        ({"host": "broker.local"}, True, 8883),
        ({"host": "192.168.1.2"}, True, 8883),
        ({"host": "broker.local", "tls": False}, False, 1883),
        ({"host": "broker.local", "tls": "off"}, False, 1883),
        ({"tls": True}, True, 8883),
        ({"host": "broker.local", "port": 99}, True, 99),
    ],
)
def test_a_broker_elsewhere_is_spoken_to_with_tls_unless_it_is_switched_off(
    values: dict[str, Any], encrypted: bool, port: int
):
    config = MqttConfig.model_validate(values)
    assert (config.encrypted, config.endpoint[1]) == (encrypted, port)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"prefix": "a/#"}, "prefix"),
        ({"reply_prefixes": ["devices/+"]}, "with a slash at the end"),
        ({"reply_prefixes": ["+/"]}, "with a slash at the end"),
        ({"reply_prefixes": ["a/+/+/"]}, "at most one"),
        ({"password": "a", "password_file": "/x"}, "either password or password_file"),
        ({"tls": {"cert": "/x"}}, "needs its key"),
        ({"hosst": "a"}, "hosst"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(values: dict[str, Any], words: str):
    with pytest.raises(ValidationError, match=words):
        MqttConfig.model_validate(values)


def test_a_password_is_not_shown():
    config = MqttConfig.model_validate({"password": "hunter2"})
    assert "hunter2" not in repr(config) + config.model_dump_json()
    assert config.secret() == "hunter2"


def test_a_password_file_is_read_anew_each_time(tmp_path: Path):
    path = tmp_path / "secret"
    config = MqttConfig(password_file=path)
    for secret in ("one", "two"):
        path.write_text(secret + "\n")
        assert config.secret() == secret


def test_the_client_id_is_made_once_and_kept(tmp_path: Path):
    first = kept_client_id(tmp_path / "state", "node")
    assert first.startswith("node-")
    assert kept_client_id(tmp_path / "state", "node") == first
    assert kept_client_id(tmp_path / "other", "node") != first


def test_who_presses_is_served_one_at_a_time_and_only_while_nobody_else_has_anything():
    queue: FairQueue[str] = FairQueue(at_once=2, together=9)
    for item in ("f1", "f2", "f3"):
        queue.put("flood", item)
    assert (queue.take({"flood"}), queue.take({"flood"})) == ("f1", None)
    queue.put("polite", "p1")
    assert queue.take({"flood"}) == "p1"
    queue.done("flood")
    assert queue.take({"flood"}) is None
    queue.done("polite")
    assert queue.take({"flood"}, calm=False) is None
    assert queue.take({"flood"}) == "f2"


# -- the connection


class WaitingClient:
    """As aiomqtt waits for a confirmation; it comes when the test says."""

    def __init__(self) -> None:
        self.confirmed = asyncio.get_running_loop().create_future()
        self.waits = asyncio.Event()

    async def publish(self, *arguments: Any) -> None:
        self.waits.set()
        await asyncio.wait_for(self.confirmed, 60)


async def test_a_cancellation_in_the_moment_of_a_confirmation_ends_the_outbox():
    client = WaitingClient()
    outbox = Outbox(Stats(), 10)
    sending = asyncio.create_task(outbox.run(Connection(client, v5=False)))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    outbox.put(Outgoing("a", b"1", 0))
    async with asyncio.timeout(5):
        await client.waits.wait()
    client.confirmed.set_result(None)
    sending.cancel()
    await asyncio.wait({sending}, timeout=5)
    assert sending.cancelled()
