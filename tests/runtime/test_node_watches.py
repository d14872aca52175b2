"""What each camera is watched for, while its sessions come, refuse, and go."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from types import SimpleNamespace

import pytest

from omnidrop_stream.errors import Busy
from omnidrop_stream.watch_config import WatchConfig
from runtime.node_watches import NodeWatches
from runtime.stats import Stats
from runtime.watch_types import WatchStage, WatchState

RED, BLUE, BELL = (WatchConfig(text=text) for text in ("red", "blue", "a bell rings"))


class Told(asyncio.Queue):
    """What a session tells; endless."""

    def __aiter__(self):
        return self

    async def __anext__(self):
        return await self.get()

    async def aclose(self):
        return None


class Watching:
    """A session's standing questions; those in ``refuse`` are refused, ``gate`` holds them up."""

    def __init__(self, *refuse):
        self.refuse = set(refuse)
        self.there = {}
        self.gate = asyncio.Event()
        self.gate.set()
        self.asked = asyncio.Event()

    async def add(self, watch, name):
        self.asked.set()
        await self.gate.wait()
        if watch.text in self.refuse:
            raise Busy(f"{watch.text} is too much")
        self.there[name] = watch
        return self._state(name)

    def remove(self, name):
        return self.there.pop(name, None) is not None

    def _state(self, name):
        watch = self.there[name]
        return WatchState(name, watch.text, watch.sound_only, WatchStage.WATCHING)

    def states(self):
        return tuple(self._state(name) for name in self.there)

    def events(self):
        return Told()


def session(*refuse):
    return SimpleNamespace(watching=Watching(*refuse))


@pytest.fixture
def watches():
    made = NodeWatches(Stats())
    made.want("door", {})
    return made


@pytest.fixture
async def serve(watches):
    running = []

    def started(opened):
        running.append(asyncio.create_task(watches.serve("door", opened)))
        return running[-1]

    yield started
    for task in running:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def until(there):
    async with asyncio.timeout(5):
        while not there():  # noqa: ASYNC110
            await asyncio.sleep(0)


def shown(watches, opened):
    return {state.id: (state.text, state.stage) for state in watches.states("door", opened)}


async def test_what_a_session_refuses_at_its_beginning_is_shown_as_refused(watches, serve):
    watches.want("door", {"bell": BELL, "red": RED})
    opened = session("a bell rings")
    serve(opened)
    await until(lambda: "red" in opened.watching.there)
    assert shown(watches, opened) == {
        "bell": ("a bell rings", WatchStage.REFUSED),
        "red": ("red", WatchStage.WATCHING),
    }
    (bell, _) = watches.states("door", opened)
    assert bell.reason == "a bell rings is too much"


async def test_what_was_refused_may_be_set_again(watches, serve):
    watches.want("door", {"bell": BELL})
    opened = session("a bell rings")
    serve(opened)
    await opened.watching.asked.wait()
    await asyncio.sleep(0)
    await watches.set("door", "bell", RED, opened, 8)
    assert shown(watches, opened) == {"bell": ("red", WatchStage.WATCHING)}


async def test_a_replacement_that_is_refused_leaves_the_old_one(watches):
    opened = session("blue")
    await watches.set("door", "w", RED, opened, 8)
    with pytest.raises(Busy):
        await watches.set("door", "w", BLUE, opened, 8)
    assert shown(watches, opened) == {"w": ("red", WatchStage.WATCHING)}


async def test_a_new_one_that_is_refused_is_not_wanted(watches):
    with pytest.raises(Busy):
        await watches.set("door", "w", BLUE, session("blue"), 8)
    assert shown(watches, None) == {}


async def test_no_more_are_wanted_than_the_limit_also_without_a_session(watches):
    await watches.set("door", "a", RED, None, 1)
    with pytest.raises(Busy, match="limit allows 1: remove one first"):
        await watches.set("door", "b", BLUE, None, 1)
    await watches.set("door", "a", BLUE, None, 1)
    assert shown(watches, None) == {"a": ("blue", WatchStage.WAITING)}


async def test_one_that_is_set_while_a_session_begins_is_neither_lost_nor_doubled(watches, serve):
    watches.want("door", {"a": RED, "b": BLUE})
    opened = session()
    opened.watching.gate.clear()
    serving = serve(opened)
    await opened.watching.asked.wait()
    both = [watches.set("door", name, BELL, opened, 8) for name in ("c", "d")]
    setting = asyncio.ensure_future(asyncio.gather(*both))
    await asyncio.sleep(0)
    watches.remove("door", "b", opened)
    opened.watching.gate.set()
    await setting
    await until(lambda: len(opened.watching.there) == 3)
    await asyncio.sleep(0)
    assert not serving.done()
    assert set(shown(watches, opened)) == set(opened.watching.there) == {"a", "c", "d"}


async def test_what_the_settings_of_the_library_ask_is_shown_too(watches):
    opened = session()
    await opened.watching.add(RED, "w1")
    assert shown(watches, opened) == {"w1": ("red", WatchStage.WATCHING)}
