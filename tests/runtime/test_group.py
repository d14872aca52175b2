"""Sessions that join and leave a group while the others go on; eight cameras on one model."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from omnidrop_stream.config import Config
from omnidrop_stream.errors import ModelError, SourceNotFound, UsageError
from omnidrop_stream.model.base import OmniModel
from omnidrop_stream.types import Answer
from runtime.group import SessionGroup
from runtime.host import ModelHost
from runtime.session import StreamSession
from runtime.sources.options import SourceOptions
from tests.helpers import settings, small_model
from tests.runtime.fakes import GatedSource
from tests.runtime.servers import RtspServer

WAIT_S = 30.0
CAMERAS, CLIP_S = 8, 12.0
CONFIG = settings(pruning={"retention": 0.45}, decode={"max_tokens": 4, "question_chars": 200})
REPLAY = (
    'filesrc location="{file}" ! qtdemux name=d '
    "d.video_0 ! queue ! h264parse config-interval=-1 ! rtph264pay name=pay0 pt=96 "
    "d.audio_0 ! queue ! aacparse ! rtpmp4gpay name=pay1 pt=97"
)


@pytest.fixture(scope="module")
def model() -> OmniModel:
    return small_model()


async def committed(session: StreamSession, count: int) -> None:
    """Wait until ``count`` chunks are in the trunk."""
    async with asyncio.timeout(WAIT_S):
        while session.stats.counter("chunk.committed") < count:
            session._settled.clear()
            if session.stats.counter("chunk.committed") < count:
                await session._settled.wait()


async def answer_of(session: StreamSession, text: str) -> Answer:
    last: object = None
    async for event in session.ask(text):
        last = event
    assert isinstance(last, Answer)
    return last


async def test_a_stream_joins_and_leaves_while_another_goes_on(model: OmniModel) -> None:
    first, second = GatedSource(600), GatedSource(600)
    async with ModelHost(load=lambda: model) as host, SessionGroup(host) as group:
        one = await group.add("one", first, CONFIG)
        first.let(2.5)
        await committed(one, 1)
        two = await group.add("two", second, CONFIG)
        second.let(2.5)
        await committed(two, 1)
        assert list(group.status()) == ["one", "two"]
        assert await group.remove("two") is None
        assert list(group.sessions) == ["one"]
        first.let(2)
        await committed(one, 2)
        answer = await answer_of(one, "still there?")
    assert answer.dropped_chunks == 0
    assert one.stats.counter("chunk.committed") == 2


async def test_the_model_is_warmed_up_by_the_first_stream_that_opens(
    model: OmniModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    warmed: list[str] = []

    def noted(_: OmniModel, config: Config) -> None:
        warmed.append(threading.current_thread().name)
        if len(warmed) == 1:
            raise ModelError("it could not be recorded")

    monkeypatch.setattr("omnidrop_stream.warming.warm_up", noted)
    async with ModelHost(load=lambda: model) as host, SessionGroup(host) as group:
        first = await group.add("first", GatedSource(600), CONFIG)
        async with asyncio.timeout(WAIT_S):
            await first.ended.wait()
        for name in ("second", "third"):
            session = await group.add(name, GatedSource(600), CONFIG)
            async with asyncio.timeout(WAIT_S):
                await session._ready
    assert isinstance(first.failure, ModelError)
    assert warmed == ["omnidrop-model"] * 2


async def test_a_source_that_fails_harms_no_other_and_says_so_until_removed(
    model: OmniModel,
) -> None:
    bad, good = GatedSource(2, error=SourceNotFound("the camera fell off")), GatedSource(600)
    async with ModelHost(load=lambda: model) as host, SessionGroup(host) as group:
        broken = await group.add("bad", bad, CONFIG)
        fine = await group.add("good", good, CONFIG)
        bad.let(3)
        async with asyncio.timeout(WAIT_S):
            await broken.ended.wait()
        good.let(4.5)
        await committed(fine, 2)
        states = {name: status.state for name, status in group.status().items()}
        failure = await group.remove("bad")
        answer = await answer_of(fine, "and you?")
    assert states == {"bad": "failed", "good": "live"}
    assert isinstance(failure, SourceNotFound)
    assert answer.finish in ("stop", "length")


async def test_an_ingest_that_fails_ends_its_own_session_only(model: OmniModel) -> None:
    first, second = GatedSource(600), GatedSource(600)
    async with ModelHost(load=lambda: model) as host, SessionGroup(host) as group:
        one, two = await group.add("one", first, CONFIG), await group.add("two", second, CONFIG)
        await asyncio.gather(one._ready, two._ready)

        def broken(chunk: object) -> None:
            raise RuntimeError("no such chunk")

        one._feed._lighter.lightened = broken  # type: ignore[assignment,method-assign]
        first.let(2.5)
        async with asyncio.timeout(WAIT_S):
            await one.ended.wait()
        second.let(2.5)
        await committed(two, 1)
    assert isinstance(one.failure, RuntimeError)
    assert two.failure is None


async def test_a_source_that_cannot_be_opened_does_not_join(model: OmniModel) -> None:
    async with ModelHost(load=lambda: model) as host, SessionGroup(host) as group:
        with pytest.raises(SourceNotFound):
            await group.add("one", "no/such/file.mp4", CONFIG)
        assert not group.sessions


async def test_a_name_is_given_once(model: OmniModel) -> None:
    async with ModelHost(load=lambda: model) as host, SessionGroup(host) as group:
        await group.add("one", GatedSource(600), CONFIG)
        with pytest.raises(UsageError, match="'one' already; choose another"):
            await group.add("one", GatedSource(600), CONFIG)


async def test_an_unknown_name_is_refused_with_the_known_ones(model: OmniModel) -> None:
    async with ModelHost(load=lambda: model) as host, SessionGroup(host) as group:
        await group.add("one", GatedSource(600), CONFIG)
        with pytest.raises(UsageError, match="'two'; known are: 'one'"):
            await group.remove("two")


async def test_the_stream_that_was_due_first_is_served_first_however_many_there_are(
    model: OmniModel,
) -> None:
    sources = [GatedSource(600) for _ in range(4)]
    gate = threading.Event()
    async with ModelHost(load=lambda: model) as host, SessionGroup(host) as group:
        sessions = [await group.add(str(n), source, CONFIG) for n, source in enumerate(sources)]
        await asyncio.gather(*(session._ready for session in sessions))
        blocked = host.worker.call(lambda: gate.wait(WAIT_S))
        for source, session in zip(sources, sessions, strict=True):
            source.let(6.5)
            await session.reached(6.0)
        gate.set()
        await asyncio.wrap_future(blocked)
        await asyncio.gather(*(committed(session, 2) for session in sessions))
        counts = [session.stats.counter("chunk.committed") for session in sessions]
    assert max(counts) - min(counts) <= 1


async def test_eight_replayed_cameras_live_on_one_model_and_all_their_threads_end_in_time(
    rtsp_server: Callable[..., RtspServer], clip: Callable[..., Path]
) -> None:
    paths = [clip(CLIP_S, (96, 54), 8.0), clip(CLIP_S, (54, 96), 8.0)]
    mounts = [
        part
        for n in range(CAMERAS)
        for part in ("--mount", f"/cam{n}", REPLAY.format(file=paths[n % 2]))
    ]
    server = rtsp_server(*mounts)
    config = settings(stream={"share": 100.0}, decode={"max_tokens": 4})  # a busy machine's too
    draw = random.Random(5)
    async with asyncio.timeout(60), ModelHost(config.model) as host:
        await host.model()
        async with SessionGroup(host) as group:
            waiting = SourceOptions(wait_for_first=True)
            for n in range(CAMERAS):
                await group.add(f"cam{n}", server.url(f"/cam{n}"), config, options=waiting)
            await asyncio.gather(*(committed(s, 2) for s in group.sessions.values()))
            codes = {status.code for status in group.status().values()}
            asked = [draw.choice(list(group.sessions.values())) for _ in range(4)]
            answers = await asyncio.gather(*(answer_of(s, "What is shown?") for s in asked))
            sessions = list(group.sessions.values())
    # A busy machine may put some of them on the overload ladder; all of them come.
    assert codes <= {"", "overload"}
    assert all(answer.finish in ("stop", "length") for answer in answers)
    assert len({session.info.name for session in sessions if session.info}) == CAMERAS
    # Each join is given two seconds; they run side by side.
    assert sum(session.stats.counter("capture.not_ended") for session in sessions) == 0
    assert host.stats.counter("worker.not_ended") == 0
