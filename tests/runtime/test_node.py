"""A node's cameras: asked by name, switched, lost and back again, watched for things."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Self

import pytest

from omnidrop_stream.errors import (
    ConfigError,
    NothingHeld,
    SourceNotFound,
    UnknownCamera,
    UsageError,
)
from omnidrop_stream.types import Answer
from omnidrop_stream.watch_config import WatchConfig
from runtime.host import ModelHost
from runtime.node import AskRequest, CameraSpec, Node
from runtime.sources.options import SourceOptions
from runtime.watch_types import WatchEvent, WatchStage
from tests.helpers import settings
from tests.runtime.fakes import GatedSource
from tests.watches import watching_model

WAIT_S = 30.0
CONFIG = settings(pruning={"retention": 0.45}, decode={"max_tokens": 4, "question_chars": 200})
WAITING = SourceOptions(wait_for_first=True)
ALWAYS = WatchConfig(text="anything at all", floor=-50.0, learn=0)


@pytest.fixture(scope="module")
def model():
    return watching_model()


@pytest.fixture
async def node(model) -> AsyncIterator[Node]:
    async with (
        asyncio.timeout(60),
        ModelHost(load=lambda: model) as host,
        Node(CONFIG, host, draw=lambda: 0.0) as node,
    ):
        yield node


def add(node: Node, name: str, seconds: float = 2.5, **values) -> GatedSource:
    source = GatedSource(600)
    source.let(seconds)
    node.add_camera(name, CameraSpec(lambda: source, CONFIG, **values))
    return source


async def until(there) -> None:
    async with asyncio.timeout(WAIT_S):
        while not there():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def held(node: Node, name: str, chunks: int = 1) -> None:
    await until(lambda: node.camera_stats(name).counter("chunk.committed") >= chunks)


async def answer_of(node: Node, camera: str, request: AskRequest) -> Answer:
    last: object = None
    async for event in node.ask(camera, request):
        last = event
    assert isinstance(last, Answer)
    return last


async def test_a_camera_is_asked_by_its_name(node: Node):
    add(node, "door")
    add(node, "yard")
    await held(node, "door")
    answer = await answer_of(node, "door", AskRequest("what?", id="q9"))
    assert (answer.id, node.cameras()) == ("q9", ["door", "yard"])


async def test_a_question_brings_its_own_bounds(node: Node):
    add(node, "door", 6.5)
    await held(node, "door", 3)
    plain = await answer_of(node, "door", AskRequest("what?"))
    own = AskRequest("what?", max_tokens=1, look_back_s=2.0, retention=0.6)
    answer = await answer_of(node, "door", own)
    assert (plain.answer_tokens, answer.answer_tokens) == (4, 1)
    assert answer.coverage.from_s > plain.coverage.from_s
    assert answer.tokens.mean_entering > plain.tokens.mean_entering


async def test_the_tokens_that_an_answer_kept_and_pruned_are_counted(node: Node):
    add(node, "door", 6.5)
    await held(node, "door", 3)
    used = (await answer_of(node, "door", AskRequest("what?"))).tokens
    stats = node.camera_stats("door")
    kept, pruned = (stats.counter(f"answer.tokens.{name}") for name in ("kept", "pruned"))
    assert kept == round(used.unpruned * used.mean_entering) > 0
    assert kept + pruned == used.unpruned


async def test_a_retention_that_cannot_be_is_refused(node: Node):
    add(node, "door")
    await held(node, "door")
    with pytest.raises(ConfigError):
        await answer_of(node, "door", AskRequest("what?", retention=0.0001))


async def test_an_unknown_camera_is_named_with_those_there_are(node: Node):
    add(node, "door")
    with pytest.raises(UnknownCamera, match="'cellar'; known are: door"):
        await answer_of(node, "cellar", AskRequest("what?"))


async def test_a_name_is_given_once(node: Node):
    add(node, "door")
    with pytest.raises(UsageError, match="already"):
        add(node, "door")


async def test_a_camera_leaves_while_another_goes_on(node: Node):
    add(node, "door")
    source = add(node, "yard")
    await held(node, "yard")
    await node.remove_camera("door")
    source.let(2)
    await held(node, "yard", 2)
    assert node.cameras() == ["yard"]
    assert list(node.group.sessions) == ["yard"]


async def test_an_answer_is_cancelled_by_its_id(node: Node):
    add(node, "door")
    await held(node, "door")
    request = AskRequest("what?", id="q1", max_tokens=64)
    answer = None
    async for event in node.ask("door", request):
        node.cancel("q1")
        answer = event
    assert isinstance(answer, Answer)
    assert answer.finish == "cancelled"
    assert not node.cancel("q1")


async def test_a_camera_that_cannot_be_opened_says_why_and_is_tried_again(node: Node):
    opened: list[GatedSource] = []

    def source() -> GatedSource:
        opened.append(GatedSource(600))
        if len(opened) < 3:
            raise SourceNotFound("rtsp://me:hunter2@cam is not there")
        opened[-1].let(2.5)
        return opened[-1]

    node.add_camera("door", CameraSpec(source, CONFIG))
    await until(lambda: node.status("door").state == "failed")
    assert node.status("door").code == "not_found"
    assert "hunter2" not in str(node.status("door"))
    with pytest.raises(NothingHeld) as refused:
        await answer_of(node, "door", AskRequest("what?"))
    assert "hunter2" not in str(refused.value)
    await held(node, "door")
    assert node.status("door").state == "live"


async def test_a_camera_that_breaks_is_opened_again(node: Node):
    sources = [GatedSource(2, error=SourceNotFound("it fell off")), GatedSource(600)]
    for source in sources:
        source.let(3)
    node.add_camera("door", CameraSpec(lambda: sources.pop(0), CONFIG))
    await until(lambda: not sources and node.status("door").session is not None)
    await until(lambda: node.status("door").message(0.0)["tokens"] > 0)
    assert node.camera_stats("door").counter("chunk.committed") >= 1


async def test_switches_hold_for_the_next_session_too(node: Node):
    sources = [GatedSource(2, error=SourceNotFound("it fell off")), GatedSource(600)]
    node.add_camera("door", CameraSpec(lambda: sources.pop(0), CONFIG))
    await until(lambda: "door" in node.group.sessions)
    first = node.group.sessions["door"]
    await node.set_muted("door", True)
    await node.set_enabled("door", False)
    assert (first.status().muted, first.status().state) == (True, "paused")
    first._source.let(3)
    await until(lambda: node.group.sessions.get("door") not in (None, first))
    status = node.status("door")
    assert (status.muted, status.enabled, status.state) == (True, False, "paused")
    assert node.group.sessions["door"].status().muted


async def test_a_camera_that_begins_switched_off_takes_nothing_from_the_first_item_on(node: Node):
    add(node, "door", 2.5, enabled=False)
    await until(lambda: node.camera_stats("door").counter("source.dropped.paused") == 10)


async def test_a_camera_that_begins_muted_takes_no_sound_from_the_first_item_on(node: Node):
    add(node, "door", 2.5, muted=True)
    await until(lambda: node.camera_stats("door").counter("source.dropped.muted") == 5)


async def test_forgetting_empties_the_camera(node: Node):
    add(node, "door")
    await held(node, "door")
    assert await node.forget("door") == 1
    with pytest.raises(NothingHeld):
        await answer_of(node, "door", AskRequest("what?"))


async def test_a_status_as_json_has_what_a_screen_needs(node: Node):
    add(node, "door")
    await held(node, "door")
    told = node.status("door").message(wall_s=1000.0)
    assert (told["camera"], told["state"], told["enabled"]) == ("door", "live", True)
    assert told["since_wall_s"] <= 1000.0
    assert 0 < told["tokens"] <= told["budget_tokens"]


async def test_a_standing_question_is_told_with_its_camera(node: Node):
    source = add(node, "door", 0.5, watches={"any": ALWAYS})
    told = asyncio.ensure_future(anext(aiter(node.watch_events())))
    await until(lambda: node.watches("door")[0].stage is WatchStage.WAITING)
    source.let(4)
    camera, event = await told
    assert isinstance(event, WatchEvent)
    assert (camera, event.id) == ("door", "any")


async def test_a_standing_question_is_put_to_the_next_session_too(node: Node):
    sources = [GatedSource(2, error=SourceNotFound("it fell off")), GatedSource(600)]
    node.add_camera("door", CameraSpec(lambda: sources.pop(0), CONFIG))
    await until(lambda: "door" in node.group.sessions)
    first = node.group.sessions["door"]
    await node.set_watch("door", "any", ALWAYS)
    first._source.let(3)
    await until(lambda: node.group.sessions.get("door") not in (None, first))
    session = node.group.sessions["door"]
    await until(lambda: [state.id for state in session.watching.states()] == ["any"])
    assert node.remove_watch("door", "any")
    assert node.watches("door") == ()
    assert not node.remove_watch("door", "any")


async def test_a_standing_question_is_replaced_by_one_of_its_name(node: Node):
    add(node, "door")
    await held(node, "door")
    await node.set_watch("door", "any", ALWAYS)
    await node.set_watch("door", "any", WatchConfig(text="something else"))
    assert [state.text for state in node.watches("door")] == ["something else"]


async def test_a_camera_that_the_model_cannot_carry_is_shown_as_refused_until_there_is_room(
    node: Node,
):
    others = object()
    for _ in range(3):
        node.host.worker.load.chunk(others, 1.95)  # seconds of the model for each 2 s

    def opened() -> GatedSource:
        source = GatedSource(600)
        source.let(2.5)
        return source

    node.add_camera("late", CameraSpec(opened, CONFIG))
    await until(lambda: node.status("late").state == "refused")
    status = node.status("late")
    assert status.code == "overloaded"
    assert "with this one (1950 ms a chunk" in status.reason
    node.host.worker.load.drop(others)
    await held(node, "late")
    assert node.status("late").state != "refused"
    assert (await answer_of(node, "late", AskRequest("what?"))).finish


class OpensNever(GatedSource):
    """Is told to stop while it opens, and then says that there is nothing to open."""

    def __init__(self) -> None:
        super().__init__()
        self.opening = threading.Event()

    def __enter__(self) -> Self:
        self.opening.set()
        self._stopped.wait(WAIT_S)
        raise SourceNotFound("there is no such file")


async def test_a_camera_that_fails_to_open_while_it_is_removed_is_gone(node: Node):
    for number in range(5):
        source = OpensNever()
        name = f"door{number}"
        node.add_camera(name, CameraSpec(lambda source=source: source, CONFIG, WAITING))
        await asyncio.to_thread(source.opening.wait, WAIT_S)
        async with asyncio.timeout(WAIT_S):
            await node.remove_camera(name)
    assert node.cameras() == []
