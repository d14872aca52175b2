"""A session: watching goes on while it is asked, and everything ends cleanly."""

import asyncio
import gc
import hashlib
import random
import threading
import weakref

import pytest

from omnidrop_stream.errors import ConfigError, NothingHeld, QuestionError, SourceNotFound
from omnidrop_stream.types import Answer, Delta
from runtime.host import ModelHost
from runtime.session import StreamSession
from tests.helpers import settings, small_model
from tests.runtime.fakes import GatedSource

WAIT_S = 20.0
PRUNED = {"pruning": {"retention": 0.45}}


@pytest.fixture(scope="module")
def model():
    return small_model()


@pytest.fixture
def config():
    return settings(**PRUNED, decode={"max_tokens": 6, "question_chars": 200})


def trunk_hash(stream):
    digest = hashlib.sha256()
    for s in stream.snapshot():
        for tensor in (s.keys, s.values, s.tokens.embeds, s.tokens.offsets):
            digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


async def committed(session, count):
    """Wait until ``count`` chunks are in the trunk."""
    async with asyncio.timeout(WAIT_S):
        while session.stats.counter("chunk.committed") < count:
            session._settled.clear()
            if session.stats.counter("chunk.committed") < count:
                await session._settled.wait()


async def on_worker(session, work):
    """Run ``work`` on the model thread."""
    return await asyncio.wrap_future(session.host.worker.call(work))


async def answer_of(session, text, **options):
    last = None
    async for event in session.ask(text, **options):
        last = event
    assert isinstance(last, Answer)
    return last


async def test_a_file_is_watched_to_its_end_and_answered(model, config):
    async with (
        asyncio.timeout(WAIT_S),
        StreamSession("demo:?seconds=7&seed=1", config, realtime=False, load=lambda: model) as s,
    ):
        await s.drained()
        answer = await answer_of(s, "what?")
    assert answer.coverage.to_s == pytest.approx(7.0, abs=0.6)
    assert answer.finish in ("stop", "length")


async def test_the_pieces_add_up_to_the_answer(model, config):
    async with (
        asyncio.timeout(WAIT_S),
        StreamSession("demo:?seconds=4", config, realtime=False, load=lambda: model) as session,
    ):
        await session.drained()
        events = [event async for event in session.ask("what?")]
    text = "".join(e.text for e in events if isinstance(e, Delta))
    assert text == events[-1].text


async def test_ingest_goes_on_while_an_answer_decodes(model):
    config = settings(**PRUNED, decode={"max_tokens": 400, "question_chars": 200})
    source = GatedSource(40)
    async with (
        asyncio.timeout(WAIT_S),
        StreamSession(source, config, load=lambda: model) as session,
    ):
        source.let(5)
        await committed(session, 2)
        before = session.stats.counter("chunk.committed")
        answer = session.ask("long?")
        await anext(answer)
        source.let(8)
        await committed(session, before + 3)
        still_going = len(session._answers)
        await answer.aclose()
    assert still_going == 1


async def test_several_questions_at_once_on_one_stream(model, config):
    async with (
        asyncio.timeout(WAIT_S),
        StreamSession("demo:?seconds=6", config, realtime=False, load=lambda: model) as session,
    ):
        await session.drained()
        alone = [(await answer_of(session, f"number {n}?")).text for n in range(4)]
        together = await asyncio.gather(*(answer_of(session, f"number {n}?") for n in range(4)))
    assert [answer.text for answer in together] == alone


async def test_several_streams_share_one_model(model, config):
    async with (
        asyncio.timeout(WAIT_S),
        ModelHost(load=lambda: model) as host,
        StreamSession("demo:?seconds=4&seed=1", config, host, realtime=False) as one,
        StreamSession("demo:?seconds=6&seed=2", config, host, realtime=False) as two,
    ):
        await asyncio.gather(one.drained(), two.drained())
        answers = await asyncio.gather(answer_of(one, "what?"), answer_of(two, "what?"))
    assert [round(a.coverage.to_s) for a in answers] == [4, 6]


async def test_leaving_the_loop_cancels_within_a_step_and_frees_the_fork(model):
    steps = []

    class Counting:
        def __getattr__(self, name):
            return getattr(model, name)

        def decode_step(self, fork, token):
            steps.append(token)
            return model.decode_step(fork, token)

    config = settings(**PRUNED, decode={"max_tokens": 400, "question_chars": 200})
    async with (
        asyncio.timeout(WAIT_S),
        StreamSession("demo:?seconds=4", config, realtime=False, load=Counting) as session,
    ):
        await session.drained()
        stream = session._stream
        before = trunk_hash(stream)
        answer = session.ask("what?")
        await anext(answer)
        await answer.aclose()
        taken = len(steps)
        while (await on_worker(session, stream.status)).answers_in_progress:
            pass
        assert len(steps) - taken <= 1
        assert (await on_worker(session, stream.status)).fork_bytes == 0
        assert trunk_hash(stream) == before


async def test_cancelling_by_id_ends_the_answer_as_cancelled(model):
    config = settings(**PRUNED, decode={"max_tokens": 400, "question_chars": 200})
    async with (
        asyncio.timeout(WAIT_S),
        StreamSession("demo:?seconds=4", config, realtime=False, load=lambda: model) as session,
    ):
        await session.drained()
        events = []
        async for event in session.ask("long?", id="x"):
            events.append(event)
            session.cancel("x")
    assert events[-1].finish == "cancelled"


async def test_a_slow_model_drops_the_oldest_chunks_counts_and_names_them(model, config):
    source = GatedSource(60)
    gate = threading.Event()
    async with (
        asyncio.timeout(WAIT_S),
        StreamSession(source, config, load=lambda: model) as session,
    ):
        source.let(5)
        await committed(session, 2)
        blocked = session.host.worker.call(lambda: gate.wait(WAIT_S))
        source.let(21)
        await session.reached(24.0)
        waiting = session.stats.snapshot()["gauges"]["feed.waiting"]
        gate.set()
        await asyncio.wrap_future(blocked)
        await committed(session, 4)
        answer = await answer_of(session, "what?")
    assert waiting <= 3
    assert session.stats.counter("feed.dropped.overload") > 3
    assert answer.dropped_chunks == session.stats.counter("feed.dropped.overload")
    assert any(gap.reason == "overload" for gap in answer.coverage.gaps)


async def test_torch_and_the_source_never_run_on_the_event_loop(model, config):
    seen = set()

    class Watched:
        def __getattr__(self, name):
            seen.add((name, threading.get_ident()))
            return getattr(model, name)

    source = GatedSource(10)
    async with (
        asyncio.timeout(WAIT_S),
        StreamSession(source, config, load=Watched) as session,
    ):
        source.let(6)
        await committed(session, 2)
        await answer_of(session, "what?")
        worker = session.host.worker.ident
    assert {name for name, thread in seen if thread != worker} <= {"spec"}
    assert source.opened_by == source.closed_by
    assert source.opened_by not in (worker, threading.get_ident())


async def test_forgetting_reaches_trunk_queue_open_chunk_and_history(model, config):
    source = GatedSource(30)
    async with (
        asyncio.timeout(WAIT_S),
        StreamSession(source, config, load=lambda: model) as session,
    ):
        source.let(6.5)
        await committed(session, 2)
        async for _ in session.ask("what?", session="me"):
            pass
        await session.forget()
        assert session._stream.snapshot() == ()
        assert session._stream._conversations.of("me") == ()
        assert session._capture.open_chunk() is None
        with pytest.raises(NothingHeld):
            await answer_of(session, "what?")
        source.let(6)
        await committed(session, session.stats.counter("chunk.committed") + 1)
        answer = await answer_of(session, "and now?")
    assert answer.coverage.from_s >= 6.0


async def test_a_question_while_the_model_loads_waits_for_it(model, config):
    gate = threading.Event()

    def load():
        gate.wait(WAIT_S)
        return model

    source = GatedSource(10)
    async with asyncio.timeout(WAIT_S), StreamSession(source, config, load=load) as session:
        source.let(4)
        asked = asyncio.create_task(answer_of(session, "early?"))
        await session.reached(0.5)
        assert session.status().state == "loading"
        assert not asked.done()
        gate.set()
        answer = await asked
    assert answer.finish in ("stop", "length")


async def test_a_missing_file_is_told_when_the_session_opens(model, config):
    with pytest.raises(SourceNotFound):
        async with StreamSession("no/such/file.mp4", config, load=lambda: model):
            pass


async def test_a_models_error_ends_the_session_unchanged(config):
    def load():
        raise RuntimeError("the weights are upside down")

    with pytest.raises(RuntimeError, match="upside down"):
        async with StreamSession("demo:?seconds=4", config, realtime=False, load=load) as session:
            await answer_of(session, "what?")


async def test_a_sources_error_ends_the_session(model, config):
    source = GatedSource(2, error=SourceNotFound("the camera fell off"))
    source.let(3)

    async def watch():
        async with StreamSession(source, config, load=lambda: model) as session:
            await session.ended.wait()

    with pytest.raises(SourceNotFound, match="fell off"):
        await asyncio.wait_for(watch(), WAIT_S)


async def test_an_empty_question_is_refused_and_the_session_goes_on(model, config):
    async with (
        asyncio.timeout(WAIT_S),
        StreamSession("demo:?seconds=4", config, realtime=False, load=lambda: model) as session,
    ):
        await session.drained()
        with pytest.raises(QuestionError):
            await answer_of(session, "  ")
        answer = await answer_of(session, "what?")
    assert answer.finish in ("stop", "length")


async def test_no_thread_is_left_after_the_end(model, config):
    before = {t.name for t in threading.enumerate()}
    source = GatedSource(30)
    async with StreamSession(source, config, load=lambda: model) as session:
        source.let(5)
        await committed(session, 1)
    left = {t.name for t in threading.enumerate() if t.is_alive()} - before
    assert not {name for name in left if name.startswith("omnidrop")}


async def test_muted_sound_never_reaches_the_trunk(model, config):
    source = GatedSource(30)
    async with (
        asyncio.timeout(WAIT_S),
        StreamSession(source, config, load=lambda: model) as session,
    ):
        source.let(5)
        await committed(session, 2)
        session.mute()
        source.let(9)
        await committed(session, 5)
        answer = await answer_of(session, "what?")
        last = session._stream.snapshot()[-1]
    assert last.flags.audio_absent
    assert int(last.tokens.modality.sum()) == 0
    assert any(gap.reason == "audio_absent" for gap in answer.coverage.gaps)


async def test_questions_cancelled_at_random_tokens_leave_the_never_asked_trunk(model):
    steps = []

    class Counting:
        def __getattr__(self, name):
            return getattr(model, name)

        def decode_step(self, fork, token):
            steps.append(token)
            return model.decode_step(fork, token)

    config = settings(**PRUNED, decode={"max_tokens": 60, "question_chars": 200})
    draw = random.Random(7)
    source = "demo:?seconds=12&seed=3"
    async with asyncio.timeout(90):
        async with StreamSession(source, config, realtime=False, load=lambda: model) as session:
            await session.drained()
            never_asked = await on_worker(session, lambda: trunk_hash(session._stream))
        async with StreamSession(source, config, realtime=False, load=Counting) as session:
            late = []
            for _ in range(60):  # chunks go on arriving meanwhile
                answer = session.ask("what?")
                for _ in range(draw.randrange(20)):
                    if await anext(answer, None) is None:
                        break
                await answer.aclose()
                taken = len(steps)
                while (status := await on_worker(session, session._stream.status)).fork_bytes:
                    pass
                late.append(len(steps) - taken)
            await session.drained()
            asked = await on_worker(session, lambda: trunk_hash(session._stream))
    assert max(late) <= 1
    assert status.answers_in_progress == 0
    assert asked == never_asked


async def test_a_model_five_times_too_slow_never_holds_up_the_source(model, config):
    permits = threading.Semaphore(0)

    class Slow:
        def __getattr__(self, name):
            return getattr(model, name)

        def encode(self, chunk, carry, settings):
            assert permits.acquire(timeout=WAIT_S)
            return model.encode(chunk, carry, settings)

    source = GatedSource(70)
    waiting = []
    async with asyncio.timeout(WAIT_S), StreamSession(source, config, load=Slow) as session:
        for number in range(1, 7):
            source.let(10)  # five chunks come in the time that the model takes for one
            await session.reached(10.0 * number - 1.5)
            waiting.append(session.stats.snapshot()["gauges"]["feed.waiting"])
            permits.release()
            await committed(session, number)
        permits.release(20)
        await committed(session, 8)
        answer = await answer_of(session, "what?")
    lost = session.status().dropped
    assert max(waiting) <= 3
    assert lost >= 15
    assert answer.dropped_chunks == lost
    assert sum(gap.reason == "overload" for gap in answer.coverage.gaps) >= 3


async def test_nothing_is_logged_of_a_failure_that_nobody_waited_for(model, caplog):
    bad = settings(pruning={"policy": "no-such-policy"})
    async with asyncio.timeout(WAIT_S), ModelHost(load=lambda: model) as host:
        session = StreamSession(GatedSource(20), bad, host)
        await session.__aenter__()
        await session.ended.wait()
        assert isinstance(await session.close(), ConfigError)
        del session
        gc.collect()
    assert not caplog.records


async def test_what_a_closed_session_held_waits_for_no_collection_of_garbage(model, config):
    async with asyncio.timeout(WAIT_S), ModelHost(load=lambda: model) as host:
        session = StreamSession("demo:?seconds=5", config, host, realtime=False)
        async with session:
            await session.drained()
            async for _ in session.ask("what?"):
                pass
            held = [weakref.ref(s.tokens.embeds) for s in session._stream.snapshot()]
        assert len(held) > 1
        gc.disable()
        try:
            await asyncio.wrap_future(host.worker.call(lambda: None))
            assert [one() for one in held] == [None] * len(held)
        finally:
            gc.enable()
