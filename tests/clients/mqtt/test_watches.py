"""Standing questions by topic: real broker and service, a node that watches for what it is told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path

import pytest

from clients.mqtt.service import MqttService
from clients.mqtt.watches import kept_watches
from omnidrop_stream.errors import Busy, OmniDropError
from omnidrop_stream.watch_config import WatchConfig
from runtime.journal import Journal, JournalFile
from runtime.stats import Stats
from runtime.watch_telling import Told
from runtime.watch_types import KeyFrame, WatchEvent, WatchStage, WatchState
from tests.clients.mqtt.broker import Broker
from tests.clients.mqtt.conftest import mqtt_config, serving, until
from tests.clients.mqtt.fake_node import FakeNode
from tests.clients.mqtt.test_presence import Home

SET, STATE, FRAME = "omnidrop/door/watch/bell/set", "door/watch/bell/state", "door/watch/bell/frame"


class WatchingNode(FakeNode):
    """Watches for whatever it is told; events are the test's."""

    def __init__(self) -> None:
        super().__init__("door")
        self.wanted: dict[str, WatchConfig] = {}
        self.told: asyncio.Queue[tuple[str, Told]] = asyncio.Queue()
        self.refusal: OmniDropError | None = None
        self.refused_late: OmniDropError | None = None

    async def set_watch(self, camera: str, name: str, watch: WatchConfig) -> WatchState:
        self.status(camera)
        if self.refusal is not None:
            raise self.refusal
        self.wanted[name] = watch
        return self._state(name)

    def remove_watch(self, camera: str, name: str) -> bool:
        return self.wanted.pop(name, None) is not None

    def watches(self, camera: str) -> tuple[WatchState, ...]:
        return tuple(self._state(name) for name in self.wanted)

    def _state(self, name: str) -> WatchState:
        watch, error = self.wanted[name], self.refused_late
        stage = WatchStage.WATCHING if error is None else WatchStage.REFUSED
        reason = "" if error is None else str(error)
        return WatchState(name, watch.text, watch.sound_only, stage, reason, refusal=error)

    async def watch_events(self) -> AsyncGenerator[tuple[str, Told], None]:
        while True:
            yield await self.told.get()

    def happens(self, jpeg: bytes | None = None) -> None:
        frame = None if jpeg is None else KeyFrame(1.0, jpeg)
        event = WatchEvent("bell", 1, "a bell rings", 4.0, 0.0, 1e9, 0.9, 3.0, 0.0, (), frame)
        self.told.put_nowait(("door", event))


@pytest.fixture
def node() -> WatchingNode:
    return WatchingNode()


@pytest.fixture
async def service(broker: Broker, node: WatchingNode, tmp_path: Path) -> AsyncIterator[MqttService]:
    config = mqtt_config(broker)
    async with serving(node, config, tmp_path / "journal.db", watch_node=node) as service:
        yield service


@pytest.fixture
async def home(broker: Broker, service: MqttService) -> AsyncIterator[Home]:
    async with Home(broker) as home:
        await home.listen("omnidrop/#")
        yield home
        for what in ("state", "frame"):
            await home.send(f"omnidrop/door/watch/bell/{what}", b"", retain=True)


def state(home: Home) -> dict[str, object]:
    payload = home.last(STATE)
    found: dict[str, object] = json.loads(payload) if payload else {}
    return found


@pytest.mark.parametrize(
    ("payload", "text", "by_sound"),
    [
        ("a bell rings", "a bell rings", False),
        ("sound: a bell rings", "a bell rings", True),
        ('{"text": "a bell rings", "sound_only": true}', "a bell rings", True),
    ],
)
async def test_words_alone_or_settings_as_json_set_a_standing_question(
    home: Home, node: WatchingNode, payload: str, text: str, by_sound: bool
):
    await home.send(SET, payload)
    await home.until(lambda: state(home).get("text") == text)
    assert state(home)["sound_only"] is by_sound


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (b"\xff\xfe", b"not UTF-8"),
        (b"x" * 20_000, b"20000 bytes; allowed: 16384"),
        (b"x" * 600, b"at most 500 characters"),
        (b"  ", b"give at least one character"),
        (b"[1]", b"an object is needed"),
        (b'{"text": "x", "threshold": NaN}', b"NaN is no JSON number"),
        (b'{"text": "x", "threshold": 1, "release": 2}', b"must be below threshold"),
    ],
)
async def test_what_cannot_be_a_standing_question_is_told_as_an_event(
    home: Home, node: WatchingNode, payload: bytes, words: bytes
):
    await home.send(SET, payload)
    await home.until(lambda: words in (home.last("events") or b""))
    assert node.wanted == {}


async def test_what_the_node_cannot_carry_is_told_with_its_reason_and_not_kept(
    home: Home, node: WatchingNode, service: MqttService
):
    node.refusal = Busy("the model is taken up to 99 %")
    await home.send(SET, "a bell rings")
    await home.until(lambda: b"taken up to 99 %" in (home.last("events") or b""))
    assert await kept_watches(service._journal) == {}


async def test_one_that_is_refused_only_when_the_camera_is_there_says_so_in_its_state(
    home: Home, node: WatchingNode
):
    await home.send(SET, "a bell rings")
    await home.until(lambda: bool(state(home)))
    node.refused_late = Busy("the model is taken up to 99 %")
    await home.until(lambda: state(home)["stage"] == "refused")
    assert state(home)["reason"] == "the model is taken up to 99 %"


async def test_an_event_comes_with_its_picture_which_stays_until_it_is_removed(
    home: Home, broker: Broker, node: WatchingNode
):
    await home.send(SET, "a bell rings")
    await home.until(lambda: bool(state(home)))
    node.happens(b"\xff\xd8picture")
    await home.shows(FRAME, b"\xff\xd8picture")
    assert json.loads(home.last("door/watch/bell/event") or b"")["watch"] == "a bell rings"
    async with Home(broker) as late:
        await late.listen("omnidrop/door/watch/#")
        await late.shows(FRAME, b"\xff\xd8picture")
        (frame,) = [m for m in late.came if m.topic.value.endswith("/frame")]
        assert frame.properties.json()["ContentType"] == "image/jpeg"
        assert home.last("door/watch/bell/event") is not None
        assert late.last("door/watch/bell/event") is None
    await home.send(SET, b"")
    await home.shows(STATE, b"")
    await home.shows(FRAME, b"")


async def test_a_camera_that_forgets_takes_its_pictures_from_the_broker_too(
    home: Home, node: WatchingNode
):
    await home.send(SET, "a bell rings")
    node.happens(b"\xff\xd8picture")
    await home.shows(FRAME, b"\xff\xd8picture")
    await home.send("omnidrop/door/forget", b"")
    await home.shows(FRAME, b"")


async def test_a_retained_set_is_ignored(broker: Broker, node: WatchingNode, tmp_path: Path):
    """It would come again at every connection, also after it was removed."""
    async with Home(broker) as home:
        await home.send(SET, "a bell rings", retain=True)
        async with serving(node, mqtt_config(broker), tmp_path / "j.db", watch_node=node):
            await until(lambda: node.stats.counter("mqtt.ignored.retained") == 1)
        await home.send(SET, b"", retain=True)
        assert node.wanted == {}


async def test_what_was_set_is_kept_and_what_was_removed_leaves_no_trace(
    home: Home, service: MqttService
):
    await home.send(SET, "sound: a bell rings")
    await home.until(lambda: bool(state(home)))
    kept = await kept_watches(service._journal)
    assert kept["door"]["bell"] == WatchConfig(text="a bell rings", sound_only=True)
    await home.send(SET, b"")
    await home.shows(STATE, b"")
    settings = await service._journal.do(JournalFile.settings)
    assert [name for name in settings if "bell" in name] == []


async def test_a_kept_one_that_this_version_does_not_allow_stops_nothing(tmp_path: Path):
    stats = Stats()
    async with Journal(tmp_path / "j.db", stats) as journal:
        for name, value in (("old", '{"text": "x", "gone": 1}'), ("new", '{"text": "x"}')):
            key = f"door/watch/{name}"
            await journal.do(lambda file, key=key, value=value: file.set(key, value))
        assert list((await kept_watches(journal))["door"]) == ["new"]
    assert stats.counter("watch.kept_unreadable") == 1


async def test_one_that_was_removed_while_the_node_was_away_leaves_no_state_and_no_picture(
    broker: Broker, tmp_path: Path
):
    node, later, journal = WatchingNode(), WatchingNode(), tmp_path / "journal.db"
    node.wanted["bell"] = WatchConfig(text="a bell rings")
    async with Home(broker) as home:
        await home.listen("omnidrop/#")
        async with serving(node, mqtt_config(broker), journal, watch_node=node):
            await home.until(lambda: bool(state(home)))
            node.happens(b"\xff\xd8picture")
            await home.shows(FRAME, b"\xff\xd8picture")
        async with serving(later, mqtt_config(broker), journal, watch_node=later):
            await home.shows(STATE, b"")
            await home.shows(FRAME, b"")
