"""Pipes: one answer at a time, a reader that does not read or has gone, lines of stdin."""

from __future__ import annotations

import asyncio
import io
import os
import threading
from contextlib import aclosing

import pytest

from clients.live_output import PrintThread, Shown, Turnstile, lines_of, reader_gone
from clients.terminal import ReaderGone
from omnidrop_stream.errors import NothingHeld
from omnidrop_stream.types import Delta
from runtime.asking import Failed, Status
from runtime.stats import Stats

WAIT_S = 20.0


def shown_of(*events: Shown) -> list[Shown]:
    shown: list[Shown] = []
    turnstile = Turnstile(shown.append)
    for event in events:
        turnstile.show(event)
    return shown


def end(id: str) -> Failed:
    return Failed(id, NothingHeld("nothing"))


def piece(id: str, seq: int = 0) -> Delta:
    return Delta(id, seq, "x")


def test_an_answer_streams_while_it_is_the_only_one() -> None:
    assert shown_of(piece("q1"), piece("q1", 1)) == [piece("q1"), piece("q1", 1)]


def test_a_second_answer_waits_until_the_first_has_ended() -> None:
    events = (piece("q1"), piece("q2"), piece("q1", 1))
    assert shown_of(*events) == [piece("q1"), piece("q1", 1)]
    ended = end("q1")
    assert shown_of(*events, ended) == [piece("q1"), piece("q1", 1), ended, piece("q2")]


def test_an_answer_that_ended_while_it_waited_comes_out_whole() -> None:
    one, two = end("q1"), end("q2")
    assert shown_of(piece("q1"), piece("q2"), two, one) == [piece("q1"), one, piece("q2"), two]


def test_a_note_waits_for_the_end_of_the_answers_line() -> None:
    note, ended = Status("note", "hm"), end("q1")
    assert shown_of(piece("q1"), note) == [piece("q1")]
    assert shown_of(piece("q1"), note, ended) == [piece("q1"), ended, note]


def test_a_note_between_answers_comes_at_once() -> None:
    note = Status("note", "hm")
    assert shown_of(note) == [note]


async def test_printing_that_blocks_holds_up_nobody_until_the_queue_is_full() -> None:
    release, shown = threading.Event(), []

    def show(event: Shown) -> None:
        release.wait(WAIT_S)
        shown.append(event)

    thread = PrintThread(show, Stats())
    async with asyncio.timeout(WAIT_S):
        for number in range(200):
            await thread.put(f"line {number}")
        release.set()
        await thread.put(None)
        await thread.ended
    assert shown == [f"line {number}" for number in range(200)]


async def test_a_full_queue_makes_the_teller_wait_and_loses_nothing() -> None:
    release, shown = threading.Event(), []

    def show(event: Shown) -> None:
        release.wait(WAIT_S)
        shown.append(event)

    thread = PrintThread(show, Stats())

    async def tell() -> None:
        for number in range(600):
            await thread.put(f"line {number}")
        await thread.put(None)

    async with asyncio.timeout(WAIT_S):
        telling = asyncio.create_task(tell())
        await asyncio.wait([telling], timeout=0.01)
        assert not telling.done()
        release.set()
        await telling
        await thread.ended
    assert len(shown) == 600


async def test_what_printing_raises_is_raised_where_the_end_is_waited_for() -> None:
    def show(event: Shown) -> None:
        raise BrokenPipeError

    thread = PrintThread(show, Stats())
    async with asyncio.timeout(WAIT_S):
        await thread.put("x")
        with pytest.raises(BrokenPipeError):
            await thread.ended
        await thread.put("y")


async def test_a_reader_that_goes_is_noticed_although_nothing_is_written() -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stream:
        gone = reader_gone(stream)
        assert gone is not None
        assert not gone.done()
        os.close(reading)
        with pytest.raises(ReaderGone):
            async with asyncio.timeout(WAIT_S):
                await gone


async def test_a_file_has_no_reader_to_lose() -> None:
    assert reader_gone(io.StringIO()) is None


async def test_lines_come_without_their_ends_and_stop_with_the_stream() -> None:
    async with asyncio.timeout(WAIT_S):
        lines = [line async for line in lines_of(io.StringIO("one\r\ntwo\n\nthree"))]
    assert lines == ["one", "two", "", "three"]


async def test_more_lines_than_may_wait_all_come() -> None:
    text = "".join(f"{number}\n" for number in range(100))
    async with asyncio.timeout(WAIT_S):
        lines = [line async for line in lines_of(io.StringIO(text))]
    assert len(lines) == 100


async def test_the_reading_thread_ends_when_no_more_lines_are_wanted() -> None:
    text = "".join(f"{number}\n" for number in range(100))
    async with asyncio.timeout(WAIT_S), aclosing(lines_of(io.StringIO(text))) as lines:
        await anext(lines)
    for thread in threading.enumerate():
        if thread.name == "omnidrop-stdin":
            thread.join(WAIT_S)
    assert "omnidrop-stdin" not in {thread.name for thread in threading.enumerate()}


async def test_lines_that_are_no_text_end_the_lines() -> None:
    async with asyncio.timeout(WAIT_S):
        stream = io.TextIOWrapper(io.BytesIO(b"one\n\xff\xfe\n"), encoding="utf-8")
        assert len([line async for line in lines_of(stream)]) <= 1
