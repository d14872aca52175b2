"""What a session says of itself: overload, missing media, a source or a model that is not there."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from omnidrop_stream.errors import ModelNotFound, NothingHeld
from omnidrop_stream.model.base import OmniModel
from omnidrop_stream.types import Answer, Frame, Samples
from runtime.host import ModelHost
from runtime.session import StreamSession
from runtime.sources.base import SourceState
from runtime.sources.options import SourceOptions
from tests.helpers import settings, small_model
from tests.runtime.fakes import GatedSource

WAIT_S = 30.0
CONFIG = settings(pruning={"retention": 0.45}, decode={"max_tokens": 4, "question_chars": 200})


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


class Slow:
    """A model that takes a chunk in only when it is let."""

    def __init__(self, model: OmniModel) -> None:
        self._model = model
        self.permits = threading.Semaphore(0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def encode(self, *values: Any) -> Any:
        assert self.permits.acquire(timeout=WAIT_S)
        return self._model.encode(*values)


async def test_overload_is_published_named_and_undone_when_there_is_room(model: OmniModel) -> None:
    slow, source = Slow(model), GatedSource(600)
    done = 0
    async with (
        asyncio.timeout(WAIT_S),
        StreamSession(source, CONFIG, load=lambda: slow) as session,  # type: ignore[arg-type,return-value]
    ):
        while session.status().step < 5:  # five chunks come in the time that the model takes one
            source.let(10)
            await session.reached(10.0 * (done + 1) - 1.5)
            slow.permits.release()
            done += 1
            await committed(session, done)
        worst = session.status()
        slow.permits.release(10_000)
        while session.status().step:
            before = session.stats.counter("chunk.committed")
            source.let(2)
            await committed(session, before + 1)
        answer = await answer_of(session, "what happened?")
        ledger = [gap.reason for gap in session._stream._ledger]  # type: ignore[union-attr]
        best = session.status()
    counters = session.stats.snapshot()["counters"]
    assert (worst.state, worst.code) == ("degraded", "overload")
    assert worst.reason == "the model is too slow: skipping chunks"
    assert counters["overload.engaged"] == counters["overload.disengaged"] == 5
    assert (best.state, best.step_name) == ("live", "normal")
    assert {"overload: smaller frames", "overload: smaller frames undone"} <= set(ledger)
    assert any(gap.reason == "video_absent" for gap in answer.coverage.gaps)
    assert session.stats.snapshot()["gauges"]["overload.step"] == 0


class Deaf(GatedSource):
    """Its sound stops for ever after some seconds, and then its pictures stand still."""

    def __init__(self, sound_s: float, picture_s: float = 1e9) -> None:
        super().__init__(600)
        self._sound_s, self._picture_s = sound_s, picture_s

    def __iter__(self) -> Iterator[Frame | Samples]:
        for item in super().__iter__():
            until_s = self._picture_s if isinstance(item, Frame) else self._sound_s
            if item.time_s < until_s:
                yield item


async def test_sound_that_stops_is_said_within_five_seconds_of_stream(model: OmniModel) -> None:
    source = Deaf(sound_s=6.5)
    async with StreamSession(source, CONFIG, load=lambda: model) as session:
        source.let(4.5)
        await committed(session, 2)
        source.let(2)
        await committed(session, 3)
        before = session.status()
        source.let(4.5)
        await session.reached(10.5)
        after = session.status()
        await committed(session, 4)
        answer = await answer_of(session, "what?")
    assert (before.audio, before.video, before.state) == (True, True, "live")
    assert (after.audio, after.video) == (False, True)
    assert (after.state, after.code) == ("degraded", "no_audio")
    assert any(gap.reason == "audio_absent" for gap in answer.coverage.gaps)


async def test_muted_sound_is_nothing_missing(model: OmniModel) -> None:
    source = GatedSource(600)
    async with StreamSession(source, CONFIG, load=lambda: model) as session:
        session.mute()
        source.let(8.5)
        await session.reached(8.0)
        status = session.status()
        await committed(session, 1)
        status = session.status()
    assert (status.state, status.audio, status.video) == ("live", None, True)


async def test_what_the_source_says_of_itself_is_handed_on(model: OmniModel) -> None:
    source = GatedSource(600)
    async with StreamSession(source, CONFIG, load=lambda: model) as session:
        source.let(2.5)
        await committed(session, 1)
        source.state = SourceState(
            "degraded", "pictures do not come", reconnects=3, code="no_video", video=False
        )
        degraded = session.status()
        source.state = SourceState("offline", "no answer", reconnects=3, code="timeout")
        offline = session.status()
        since_s = session.status().since_s
    assert (degraded.state, degraded.code, degraded.video) == ("degraded", "no_video", False)
    assert (offline.state, offline.code, offline.reconnects) == ("offline", "timeout", 3)
    assert since_s >= 0


async def test_retry_now_reaches_the_source(model: OmniModel) -> None:
    source = GatedSource(600)
    async with StreamSession(source, CONFIG, load=lambda: model) as session:
        assert session.retry_now()
    assert source.retries == 1


async def test_retry_now_says_where_there_is_nothing_to_retry(model: OmniModel) -> None:
    async with StreamSession("demo:?seconds=2", CONFIG, realtime=False, load=lambda: model) as s:
        assert not s.retry_now()


class Absent(GatedSource):
    """A camera that is not there until it is plugged in."""

    def __init__(self) -> None:
        super().__init__(600)
        self.plugged = threading.Event()
        self.state = SourceState("offline", "nothing listens there", code="refused")

    def __enter__(self) -> Self:
        self.plugged.wait(WAIT_S)
        self.state = SourceState()
        return super().__enter__()

    def stop(self) -> None:
        self.plugged.set()
        super().stop()


WAITING = SourceOptions(wait_for_first=True)


async def test_a_source_that_is_absent_at_start_is_waited_for_inside_the_session(
    model: OmniModel,
) -> None:
    source = Absent()
    async with (
        asyncio.timeout(WAIT_S),
        StreamSession(source, CONFIG, load=lambda: model, options=WAITING) as session,
    ):
        absent = session.status()
        with pytest.raises(NothingHeld, match="nothing listens there"):
            await answer_of(session, "what?")
        source.plugged.set()
        source.let(4.5)
        await committed(session, 1)
        answer = await answer_of(session, "what?")
        there = session.status()
    assert (absent.state, absent.code) == ("offline", "refused")
    assert there.state == "live"
    assert answer.finish in ("stop", "length")


async def test_a_session_whose_source_never_came_ends_at_once_without_an_error(
    model: OmniModel,
) -> None:
    threads = {thread.name for thread in threading.enumerate()}
    async with (
        asyncio.timeout(WAIT_S),
        StreamSession(Absent(), CONFIG, load=lambda: model, options=WAITING) as session,
    ):
        with pytest.raises(NothingHeld):
            await session.set_depth(1)
    left = {thread.name for thread in threading.enumerate()} - threads
    assert not {name for name in left if name.startswith("omnidrop")}


def until_there(model: OmniModel, folder: Path) -> Callable[[], OmniModel]:
    def load() -> OmniModel:
        if not folder.exists():
            raise ModelNotFound(f"{folder.name} is not there; copy it")
        return model

    return load


def telling(failed: asyncio.Event) -> Callable[[], float]:
    """The back-off's draw, asked for when the model could not be loaded: waits long."""

    def draw() -> float:
        failed.set()
        return 0.99

    return draw


async def test_a_model_that_is_absent_at_start_is_waited_for_where_that_is_wished(
    model: OmniModel, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    source, failed = GatedSource(600), asyncio.Event()
    host = ModelHost(load=until_there(model, folder), wait_for_model=True, draw=telling(failed))
    async with asyncio.timeout(WAIT_S), host, StreamSession(source, CONFIG, host) as session:
        await failed.wait()
        absent = session.status()
        folder.mkdir()
        session.retry_now()
        source.let(4.5)
        await committed(session, 1)
        there = session.status()
    assert (absent.state, absent.code) == ("loading", "model_not_ready")
    assert absent.reason == "model is not there; copy it"
    assert (there.state, there.code) == ("live", "")


async def test_a_model_that_is_absent_at_start_is_refused_by_default(
    model: OmniModel, tmp_path: Path
) -> None:
    async with ModelHost(load=until_there(model, tmp_path / "model")) as host:
        with pytest.raises(ModelNotFound):
            await host.model()


async def test_waiting_for_a_model_ends_with_the_host(model: OmniModel, tmp_path: Path) -> None:
    failed, load = asyncio.Event(), until_there(model, tmp_path / "model")
    host = ModelHost(load=load, wait_for_model=True, draw=telling(failed))
    async with asyncio.timeout(WAIT_S), host:
        await failed.wait()
    assert host.stats.counter("worker.not_ended") == 0
    assert "load-model" not in {task.get_name() for task in asyncio.all_tasks()}


async def test_the_picture_that_stands_still_is_a_missing_picture(model: OmniModel) -> None:
    source = Deaf(sound_s=1e9, picture_s=4.0)
    async with StreamSession(source, CONFIG, load=lambda: model) as session:
        for chunks in range(1, 5):
            source.let(2.5)
            await committed(session, chunks)
        status = session.status()
    assert (status.video, status.audio) == (False, True)
    assert (status.state, status.code) == ("degraded", "no_video")
