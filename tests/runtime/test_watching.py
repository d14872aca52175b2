"""Standing questions of a session: judged after each chunk, told once, refused with a figure."""

from __future__ import annotations

import asyncio
import io
import threading
from dataclasses import replace

import av
import numpy as np
import pytest

from omnidrop_stream.errors import Busy, ConfigError, ModelMismatch, UsageError
from omnidrop_stream.types import Answer
from omnidrop_stream.watch import Judgement
from omnidrop_stream.watch_config import WatchConfig
from runtime.session import StreamSession
from runtime.watch_rounds import Learnt
from runtime.watch_types import WatchEvent, WatchStage, WatchState
from tests.helpers import settings, small_model
from tests.runtime.fakes import GatedSource
from tests.runtime.test_session import committed, trunk_hash
from tests.watches import watching_model

WAIT_S = 20.0
ALWAYS = WatchConfig(text="anything at all", floor=-50.0, learn=0)
"""Even a random model's odds are above this: it happens at the first judgement."""
NEVER = WatchConfig(text="nothing at all", floor=50.0)
FAST = {"pruning": {"retention": 0.45}, "decode": {"max_tokens": 4, "question_chars": 200}}


@pytest.fixture(scope="module")
def model():
    return watching_model()


def opened(model, source="demo:?seconds=7&seed=1", *, realtime=False, watches=None, **sections):
    stream = {"frame_tokens": 24, "watches": watches or {}}
    config = settings(stream=stream, **{**FAST, **sections})
    return StreamSession(source, config, realtime=realtime, load=lambda: model)


async def first(session, kind=WatchEvent):
    async for told in session.watching.events():
        if isinstance(told, kind):
            return told
    raise AssertionError("nothing was told")


async def test_what_happens_is_told_with_its_grounds_and_its_picture(model):
    source = GatedSource(20)
    async with asyncio.timeout(WAIT_S), opened(model, source, realtime=True) as session:
        told = asyncio.create_task(first(session))
        state = await session.watching.add(ALWAYS)
        source.let(4.5)
        event = await told
        assert (state.id, state.stage) == ("w1", WatchStage.WAITING)
        now = session.watching.states()[0]
    assert (event.id, event.seq, event.text) == ("w1", 1, "anything at all")
    assert (event.time_s - event.from_s) in (2.0, 4.0)
    assert 0.5 < event.confidence <= 1.0
    assert event.evidence
    assert all(event.from_s <= s.from_s < s.to_s <= event.time_s for s in event.evidence)
    assert event.key_frame is not None
    assert event.from_s <= event.key_frame.time_s < event.time_s
    assert (now.stage, now.events) == (WatchStage.HAPPENING, 1)
    assert now.odds is not None
    assert now.judge_ms is not None


async def test_the_picture_is_the_raw_one_of_its_time(model):
    source, shown = GatedSource(20, seed=3), {}
    rng = np.random.default_rng(3)
    for step in range(20):
        shown[step / 2] = rng.integers(0, 255, (36, 64, 3), dtype=np.uint8)
    async with asyncio.timeout(WAIT_S), opened(model, source, realtime=True) as session:
        told = asyncio.create_task(first(session))
        await session.watching.add(ALWAYS)
        source.let(4.5)
        frame = (await told).key_frame
    with av.open(io.BytesIO(frame.jpeg)) as container:
        picture = next(container.decode(video=0)).to_ndarray(format="rgb24")
    apart = {
        time_s: float(np.abs(picture.astype(float) - image.astype(float)).mean())
        for time_s, image in shown.items()
        if image.shape == picture.shape
    }
    assert min(apart, key=apart.get) == frame.time_s


async def test_a_watch_that_is_added_later_learns_from_what_is_held(model):
    async with asyncio.timeout(WAIT_S), opened(model) as session:
        await session.drained()
        state = await session.watching.add(WatchConfig(text="a bell", learn=2))
        assert state.stage is WatchStage.WATCHING
        assert state.judge_ms is not None
        assert session.stats.counter("watch.judged") == 1  # the newest chunk, at once


async def test_a_watch_that_has_learnt_too_little_goes_on_learning(model):
    async with asyncio.timeout(WAIT_S), opened(model) as session:
        await session.drained()
        state = await session.watching.add(WatchConfig(text="a bell", learn=50))
        assert state.stage is WatchStage.LEARNING


async def test_where_nothing_has_to_keep_pace_every_chunk_is_judged(model):
    watches = {"questions": [{"text": "a bell", "sound_only": True}, {"text": "a door"}]}
    source = "demo:?seconds=16&seed=1"
    async with asyncio.timeout(WAIT_S), opened(model, source, watches=watches) as session:
        await session.drained()
        counters = session.stats.snapshot()["counters"]
        states = session.watching.states()
    assert [state.id for state in states] == ["w1", "w2"]
    assert counters["watch.judged"] == 2 * counters["chunk.committed"] == 16
    assert "watch.skipped.late" not in counters


async def test_judgements_leave_the_trunk_as_it_is_without_them(model):
    async def trunk(watches):
        async with asyncio.timeout(WAIT_S), opened(model, watches=watches) as session:
            await session.drained()
            return trunk_hash(session._stream)

    assert await trunk({"questions": [{"text": "a bell"}]}) == await trunk({})


async def test_judgements_run_on_the_model_thread_alone(model):
    async with asyncio.timeout(WAIT_S), opened(model) as session:
        await session.drained()
        stream, idents = session._stream, set()
        steps = type(stream).judge_steps

        class Seen:
            def __getattr__(self, name):
                return getattr(stream, name)

            def judge_steps(self, *rest):
                for turn in steps(stream, *rest):
                    idents.add(threading.get_ident())
                    yield turn

        session.watching.attach(Seen())
        await session.watching.add(ALWAYS)
        session.watching.committed()
        await session.watching.settled()
        assert idents == {session.host.worker.ident}
        assert threading.get_ident() not in idents


async def test_a_judgement_that_breaks_ends_the_watches_and_not_the_session(model):
    async with asyncio.timeout(WAIT_S), opened(model) as session:
        await session.drained()
        await session.watching.add(NEVER)
        stream = session._stream

        class Broken:
            def judge_steps(self, *_):
                raise RuntimeError("out of memory")
                yield

        told = asyncio.create_task(first(session, WatchState))
        await asyncio.sleep(0)
        session.watching.attach(Broken())
        session.watching.committed()
        state = await told
        assert state.stage is WatchStage.REFUSED
        assert "RuntimeError: out of memory" in state.reason
        assert session.stats.counter("watch.failed") == 1
        assert session.failure is None
        session.watching.attach(stream)
        assert session.watching.remove("w1")
        await session.watching.add(NEVER)


async def test_chunks_that_come_during_a_judgement_are_judged_with_the_newest(model):
    async with asyncio.timeout(WAIT_S), opened(model) as session:
        await session.drained()
        await session.watching.add(NEVER)
        before = session.stats.counter("watch.judged")
        gate = threading.Event()
        held = session.host.worker.call(gate.wait)
        for _ in range(4):
            session.watching.committed()
        gate.set()
        await asyncio.wrap_future(held)
        await session.watching.settled()
        assert session.stats.counter("watch.judged") == before + 2
        assert session.stats.counter("watch.skipped.late") == 2


async def test_a_follow_up_question_is_answered_with_the_event(model):
    async with asyncio.timeout(WAIT_S), opened(model) as session:
        await session.drained()
        told = asyncio.create_task(first(session))
        await asyncio.sleep(0)
        await session.watching.add(ALWAYS.model_copy(update={"ask": "what is it?"}))
        event = await told
    assert isinstance(event.answer, Answer)
    assert event.answer.question == "what is it?"
    assert event.problem == ""


async def test_a_follow_up_that_cannot_be_answered_is_named_and_the_event_told(model):
    async with asyncio.timeout(WAIT_S), opened(model) as session:
        await session.drained()
        told = asyncio.create_task(first(session))
        await asyncio.sleep(0)
        await session.watching.add(ALWAYS.model_copy(update={"ask": "x" * 300}))
        event = await told
    assert event.answer is None
    assert "the question has 300 characters" in event.problem
    assert session.stats.counter("watch.unanswered") == 1


async def test_a_stream_has_at_most_its_number_of_watches(model):
    async with asyncio.timeout(WAIT_S), opened(model, watches={"limit": 1}) as session:
        await session.watching.add(NEVER)
        with pytest.raises(Busy, match=r"has 1 standing questions, and watches\.limit allows 1"):
            await session.watching.add(NEVER)
        assert session.watching.remove("w1")
        await session.watching.add(NEVER)


async def test_what_the_model_cannot_carry_is_refused_with_the_figures(model):
    source, busy = GatedSource(20), object()
    async with asyncio.timeout(WAIT_S), opened(model, source, realtime=True) as session:
        source.let(4.5)
        await committed(session, 1)
        session.host.worker.load.chunk(busy, 1.6)
        with pytest.raises(Busy, match=r"chunks take 8\d% .*\d+ ms a chunk, measured.*allows 75%"):
            await session.watching.add(NEVER)
        assert session.watching.states() == ()
        session.host.worker.load.drop(busy)
        assert (await session.watching.add(NEVER)).stage is not WatchStage.REFUSED


def test_a_cold_judgement_and_a_busy_moment_do_not_count_as_the_cost_of_a_watch():
    learnt = Learnt(cost_s=[1.6, 0.5, 0.4, 0.2, 0.4, 0.5, 3.9])
    assert learnt.usual_s == 0.5


async def test_what_is_refused_after_it_was_added_is_told(model):
    source = GatedSource(20)
    async with asyncio.timeout(WAIT_S), opened(model, source, realtime=True) as session:
        told = asyncio.create_task(first(session, WatchState))
        session.host.worker.load.chunk(source, 1.6)
        await session.watching.add(NEVER)
        source.let(2.5)
        state = await told
        assert state.stage is WatchStage.REFUSED
        assert "cannot carry one more" in state.reason
        assert session.watching.states() == (state,)
        assert session.stats.counter("watch.refused") == 1


async def test_a_file_that_need_not_keep_pace_is_never_refused(model):
    async with asyncio.timeout(WAIT_S), opened(model) as session:
        await session.drained()
        session.host.worker.load.chunk(session, 1.9)
        await session.watching.add(NEVER)


async def test_a_model_without_yes_is_refused():
    async with asyncio.timeout(WAIT_S), opened(small_model()) as session:
        await session.drained()
        with pytest.raises(ModelMismatch, match="no single token for 'yes'"):
            await session.watching.add(NEVER)
        assert session.watching.states() == ()


async def test_without_room_beside_the_answers_a_watch_waits(model):
    stream = {"frame_tokens": 24, "fork_bytes": 10}
    config = settings(**{**FAST, "stream": stream})
    source = "demo:?seconds=4"
    async with (
        asyncio.timeout(WAIT_S),
        StreamSession(source, config, realtime=False, load=lambda: model) as session,
    ):
        await session.drained()
        state = await session.watching.add(NEVER)
        assert state.stage is WatchStage.WAITING
        assert session.stats.counter("watch.skipped.busy") == 1


async def test_an_id_that_is_taken_is_refused(model):
    async with asyncio.timeout(WAIT_S), opened(model) as session:
        await session.watching.add(NEVER, "door")
        with pytest.raises(UsageError, match="already; choose another id"):
            await session.watching.add(NEVER, "door")


async def test_a_removed_watch_is_judged_no_more_and_costs_nothing(model):
    async with asyncio.timeout(WAIT_S), opened(model) as session:
        await session.drained()
        await session.watching.add(NEVER)
        assert session.host.worker.load.now().count == 1
        before = session.stats.counter("watch.judged")
        assert session.watching.remove("w1")
        session.watching.committed()
        await session.watching.settled()
        assert session.stats.counter("watch.judged") == before
        assert session.host.worker.load.now().count == 0
        assert not session.watching.remove("w1")


async def test_forgetting_takes_the_pictures_and_what_was_about_to_be_told(model):
    source = GatedSource(20)
    async with asyncio.timeout(WAIT_S), opened(model, source, realtime=True) as session:
        await session.watching.add(NEVER)
        source.let(4.5)
        await committed(session, 2)
        await session.watching.settled()
        assert session.watching._pictures.at(2.0) is not None
        gate = threading.Event()
        held = session.host.worker.call(gate.wait)
        before = session.stats.counter("watch.judged")
        session.watching.committed()
        session.watching.forget()
        gate.set()
        await asyncio.wrap_future(held)
        await session.watching.settled()
        assert session.watching._pictures.at(2.0) is None
        assert session.stats.counter("watch.judged") == before


async def test_after_everything_is_forgotten_there_is_nothing_to_judge(model):
    async with asyncio.timeout(WAIT_S), opened(model) as session:
        await session.drained()
        await session.watching.add(NEVER)
        before = session.stats.counter("watch.judged")
        await session.forget()
        session.watching.committed()
        await session.watching.settled()
        assert session.stats.counter("watch.judged") == before
        assert session.stats.counter("watch.skipped.busy") == 1


async def test_without_a_watch_no_picture_is_kept(model):
    async with asyncio.timeout(WAIT_S), opened(model) as session:
        await session.drained()
        assert session.watching._pictures.at(2.0) is None


async def test_readers_end_with_the_session(model):
    async with asyncio.timeout(WAIT_S):
        async with opened(model) as session:
            reading = asyncio.create_task(_all(session))
            await session.drained()
        assert await reading == []
        assert await _all(session) == []


async def _all(session):
    return [told async for told in session.watching.events()]


async def test_questions_of_the_settings_beyond_the_limit_are_refused(model):
    with pytest.raises(ConfigError, match="there are 2 questions, and limit allows 1"):
        opened(model, watches={"limit": 1, "questions": [{"text": "a"}, {"text": "b"}]})


async def test_a_question_can_look_back(model):
    async with asyncio.timeout(WAIT_S), opened(model) as session:
        await session.drained()
        async for event in session.ask("what?", look_back_s=2.5):
            answer = event
    assert answer.coverage.from_s == 4.0


async def test_one_slow_judgement_does_not_change_what_one_is_said_to_take(model):
    async with asyncio.timeout(WAIT_S), opened(model) as session:
        await session.drained()
        watching = session.watching
        before = await watching.add(WatchConfig(text="a bell", learn=2))
        watch = watching._watches[before.id]
        slow = Judgement(0, 0.0, 2.0, None, (), 1.0, tokens=9, own_ms=1e6, shared_ms=0.0)
        usual = replace(slow, own_ms=before.judge_ms)
        for judgement in (usual, slow, usual):
            watching._judged(watch, judgement, 0.0)
        assert watching.states()[0].judge_ms < 10 * before.judge_ms
