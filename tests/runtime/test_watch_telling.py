"""Whoever reads events gets each one, or it is counted."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import numpy as np
import pytest

from omnidrop_stream.errors import Busy
from runtime.key_frames import Picture
from runtime.stats import Stats
from runtime.watch_telling import MOST_UNREAD, Telling
from runtime.watch_types import WatchEvent, WatchStage, WatchState

STATES = [WatchState(f"w{n}", "x", False, WatchStage.WATCHING) for n in range(MOST_UNREAD + 3)]
EVENT = WatchEvent("w1", 1, "x", 4.0, 0.0, 1e9, 0.9, 3.0, 0.0, (), None)


async def no_answer(text):
    raise Busy("full")
    yield text


@pytest.fixture
def failures():
    return []


@pytest.fixture
def stats():
    return Stats()


@pytest.fixture
def telling(stats, failures):
    return Telling(stats, no_answer, failures.append)


async def test_a_reader_gets_what_was_told_since_it_was_made_also_before_it_reads(telling):
    telling.tell(STATES[0])
    first, second = telling.events(), telling.events()
    telling.tell(STATES[1])
    telling.tell(STATES[2])
    assert [await anext(first), await anext(first)] == STATES[1:3]
    assert await anext(second) == STATES[1]


async def test_a_reader_that_does_not_read_loses_the_oldest_counted(telling, stats):
    reader = telling.events()
    for state in STATES:
        telling.tell(state)
    assert await anext(reader) == STATES[3]
    assert stats.counter("watch.unread") == 3


async def test_a_reader_that_was_closed_is_told_nothing(telling, stats):
    async with aclosing(telling.events()):
        telling.tell(STATES[0])
    for state in STATES:
        telling.tell(state)
    assert stats.counter("watch.unread") == 0


async def test_closing_ends_readers_after_what_they_have_not_read(telling):
    reader = telling.events()
    telling.tell(STATES[0])
    await telling.close()
    assert [told async for told in reader] == [STATES[0]]
    assert [told async for told in telling.events()] == []


async def test_what_was_told_is_waited_for_until_it_is_read_and_done_with(telling):
    reader = telling.events()
    telling.tell(STATES[0])
    waiting = asyncio.create_task(telling.read())
    await asyncio.sleep(0)
    assert not waiting.done()
    assert await anext(reader) == STATES[0]
    await asyncio.sleep(0)
    assert not waiting.done()
    reading = asyncio.create_task(anext(reader))
    await waiting
    reading.cancel()


async def test_a_reader_that_goes_is_not_waited_for(telling):
    reader = telling.events()
    telling.tell(STATES[0])
    await anext(reader)
    waiting = asyncio.create_task(telling.read())
    await asyncio.sleep(0)
    await reader.aclose()
    async with asyncio.timeout(5):
        await waiting


async def test_an_event_without_a_picture_is_told_and_counted(telling, stats):
    reader = telling.events()
    telling.happened(EVENT, Picture(1.0, np.zeros((4, 4), np.uint8)), "")
    assert (await anext(reader)).key_frame is None
    assert stats.counter("watch.no_key_frame") == 1


async def test_why_a_follow_up_has_no_answer_is_told(telling, stats):
    reader = telling.events()
    telling.happened(EVENT, None, "what is it?")
    told = await anext(reader)
    assert (told.answer, told.problem) == (None, "full")
    assert stats.counter("watch.unanswered") == 1


async def test_what_is_cancelled_is_not_told(telling):
    reader = telling.events()
    telling.happened(EVENT, None, "")
    telling.cancel()
    await telling.close()
    assert [told async for told in reader] == []


async def test_an_unexpected_fault_is_handed_on(telling, failures):
    async def broken():
        raise ZeroDivisionError

    await asyncio.wait([telling.spawn(broken())])
    await asyncio.sleep(0)
    assert [type(error) for error in failures] == [ZeroDivisionError]
