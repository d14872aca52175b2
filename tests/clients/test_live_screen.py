"""The terminal front, in this process: real keys through prompt_toolkit's pipe, a real session."""

from __future__ import annotations

import asyncio
import io
import re
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.data_structures import Size
from prompt_toolkit.input import PipeInput, create_pipe_input
from prompt_toolkit.output.vt100 import Vt100_Output

from clients.live_desk import Desk
from clients.live_screen import Screen
from omnidrop_stream.model.base import OmniModel
from runtime.host import ModelHost
from runtime.session import StreamSession
from runtime.sources.base import SourceState
from tests.helpers import settings, small_model
from tests.runtime.fakes import GatedSource

WAIT_S = 20.0
CTRL_C, CTRL_D = "\x03", "\x04"
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>]")


class Written(io.StringIO):
    """What went to the terminal, without the escapes; each write wakes who waits for a text."""

    encoding = "utf-8"

    def __init__(self) -> None:
        super().__init__()
        self.wrote = asyncio.Event()

    def write(self, text: str) -> int:
        self.wrote.set()
        return super().write(text)

    @property
    def plain(self) -> str:
        return _ESCAPES.sub("", self.getvalue())


@dataclass
class Terminal:
    """A person at a terminal."""

    screen: Screen
    desk: Desk
    source: GatedSource
    keys: PipeInput
    written: Written
    talk: asyncio.Task[int]
    load: threading.Event
    seen: int = field(default=0)

    def type(self, text: str) -> None:
        self.keys.send_text(text)

    async def sees(self, text: str) -> None:
        """Wait until ``text`` appears after what was waited for before."""
        try:
            async with asyncio.timeout(WAIT_S):
                while (at := self.written.plain.find(text, self.seen)) < 0:
                    self.written.wrote.clear()
                    await self.written.wrote.wait()
        except TimeoutError:
            raise AssertionError(
                f"{text!r} is not in {self.written.plain[self.seen :]!r}"
            ) from None
        self.seen = at + len(text)

    async def shows(self, text: str) -> None:
        """Wait until ``text`` stands in what is drawn again and again: answers in progress, state.

        (prompt_toolkit writes only the cells that changed, so it cannot be found in the output.)
        """
        async with asyncio.timeout(WAIT_S):
            while text not in self._drawn():
                self.written.wrote.clear()
                await self.written.wrote.wait()

    def _drawn(self) -> str:
        parts = (self.screen._message(), self.screen._toolbar())
        return "".join(piece[1] for part in parts for piece in part)

    async def code(self) -> int:
        async with asyncio.timeout(WAIT_S):
            return await self.talk


@pytest.fixture(scope="module")
def model() -> OmniModel:
    return small_model()


@asynccontextmanager
async def terminal(
    model: OmniModel, material_s: float = 2.5, tokens: int = 6, loads: bool = True
) -> AsyncIterator[Terminal]:
    config = settings(
        pruning={"retention": 0.45},
        decode={"max_tokens": tokens, "question_chars": 200},
        stream={"watches": {"share": 1.0}},  # a busy machine is no reason to refuse one here
    )
    load, source, written = threading.Event(), GatedSource(600), Written()
    (load.set if loads else load.clear)()

    def loaded() -> OmniModel:
        load.wait(WAIT_S)
        return model

    output = Vt100_Output(written, lambda: Size(40, 100), term="xterm", enable_cpr=False)
    host = ModelHost(config.model, loaded)
    with (
        create_pipe_input() as keys,
        create_app_session(keys, output),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("TERM", "xterm-256color")  # where it says "dumb", Enter would end the prompt
        screen = Screen()
        desk = Desk(StreamSession(source, config, host), "gated", screen.show)
        talk = asyncio.create_task(screen.run(desk))
        async with host:
            tasks = [talk, asyncio.create_task(desk.hold()), asyncio.create_task(desk.watch())]
            source.let(material_s)
            try:
                yield Terminal(screen, desk, source, keys, written, talk, load)
            finally:
                load.set()
                await desk.close()
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                await screen.close()


async def test_a_typed_question_is_answered_above_the_line(model: OmniModel) -> None:
    async with terminal(model) as t:
        t.type("What is it?\r")
        await t.sees("q1 [00:02")
        await t.sees("] What is it?")
        await t.sees("evidence ")


async def test_the_text_grows_while_the_answer_is_not_finished(model: OmniModel) -> None:
    async with terminal(model, tokens=4000) as t:
        t.type("Tell me a story\r")
        await t.shows("q1 [00:02")
        await t.shows("] Tell me a story")
        async with asyncio.timeout(WAIT_S):
            while not t.screen._blocks["q1"].text:
                t.written.wrote.clear()
                await t.written.wrote.wait()
        assert "evidence" not in t.written.plain


async def test_a_second_question_runs_beside_the_first_under_its_own_label(
    model: OmniModel,
) -> None:
    async with terminal(model, tokens=4000) as t:
        t.type("One?\rTwo?\r")
        await t.shows("q1 [00:02")
        await t.shows("] One?")
        await t.shows("q2 [00:02")
        await t.shows("] Two?")
        assert set(t.desk.running) == {"q1", "q2"}


async def test_a_question_while_the_model_loads_waits_and_says_so(model: OmniModel) -> None:
    async with terminal(model, loads=False) as t:
        t.type("What?\r")
        await t.shows("queued: the model is loading")
        t.load.set()
        await t.sees("evidence ")


async def test_the_state_stands_below_the_line(model: OmniModel) -> None:
    async with terminal(model) as t:
        await t.shows("live 00:02 | lag 0.")
        await t.shows(" tokens | first token - | dropped 0")


async def test_ctrl_c_cancels_the_answer_and_the_run_goes_on(model: OmniModel) -> None:
    async with terminal(model, tokens=4000) as t:
        t.type("Tell me a story\r")
        await t.shows("q1 [00:02")
        t.type(CTRL_C)
        await t.sees("cancelled")
        assert not t.talk.done()


async def test_ctrl_c_twice_quits_with_130(model: OmniModel) -> None:
    async with terminal(model) as t:
        await t.sees("watching gated")
        t.type(CTRL_C)
        await t.sees("press Ctrl-C once more to quit")
        t.type(CTRL_C)
        assert await t.code() == 130


async def test_ctrl_c_withdraws_a_question_that_waits_for_the_model(model: OmniModel) -> None:
    async with terminal(model, loads=False) as t:
        t.type("What?\r")
        await t.shows("queued")
        t.type(CTRL_C)
        await t.sees("cancelled before it was answered")


@pytest.mark.parametrize("keys", ["/quit\r", CTRL_D])
async def test_it_can_be_quit_with_0(model: OmniModel, keys: str) -> None:
    async with terminal(model) as t:
        await t.sees("watching gated")
        t.type(keys)
        assert await t.code() == 0


async def test_a_command_is_answered_above_the_line(model: OmniModel) -> None:
    async with terminal(model) as t:
        await t.sees("watching gated")
        t.type("/status\r")
        await t.sees("source     gated")
        await t.sees("feed.limit 3")


async def test_retry_reaches_the_source_and_is_answered(model: OmniModel) -> None:
    async with terminal(model) as t:
        await t.sees("watching gated")
        t.type("/retry\r")
        await t.sees("trying again at once")
        assert t.source.retries == 1


async def test_an_outage_and_its_reason_are_told_and_stand_below_the_line(
    model: OmniModel,
) -> None:
    async with terminal(model) as t:
        await t.sees("watching gated")
        t.source.state = SourceState("offline", "nothing listens there", 1, "refused")
        await t.sees("offline at 00:0")
        await t.shows("(nothing listens there)")
        t.source.state = SourceState(reconnects=2)
        await t.sees("live again at")
        await t.shows("reconnects 2")


async def test_evidence_is_of_the_last_answer(model: OmniModel) -> None:
    async with terminal(model) as t:
        t.type("What?\r")
        await t.sees("evidence ")
        t.type("/evidence\r")
        await t.sees("could see 00:00-00:02")


async def test_a_mistyped_command_names_the_nearest(model: OmniModel) -> None:
    async with terminal(model) as t:
        t.type("/stat\r")
        await t.sees("did you mean /status?")


async def test_after_forgetting_everything_a_question_gets_a_sentence_and_it_goes_on(
    model: OmniModel,
) -> None:
    async with terminal(model) as t:
        t.type("What?\r")
        await t.sees("evidence ")
        t.type("/forget\r")
        await t.sees("forgot everything")
        t.type("And now?\r")
        await t.sees("nothing of this stream is held")
        t.type("/evidence\r")
        await t.sees("There is no answer yet")
        assert not t.talk.done()


async def test_forgetting_leaves_no_question_in_the_input_history(model: OmniModel) -> None:
    async with terminal(model) as t:
        t.type("Who is the stranger?\r")
        await t.sees("evidence ")
        t.type("/forget\r")
        await t.sees("forgot everything")
        assert "Who is the stranger?" not in t.screen._prompt.history.get_strings()
        assert list(t.screen._prompt.default_buffer._working_lines) == [""]
        t.type("\x1b[A/help\r")
        await t.sees("Type a question at any moment")


async def test_pause_and_mute_are_on_the_status_line(model: OmniModel) -> None:
    async with terminal(model) as t:
        await t.sees("watching gated")
        t.type("/pause\r/mute\r")
        await t.shows("paused 00:0")
        assert t.desk.status().muted


async def test_an_escape_in_a_question_never_drives_the_terminal(model: OmniModel) -> None:
    async with terminal(model) as t:
        t.type("What is \x16\x1b[2J it?\r")
        await t.sees("evidence ")
        assert "\x1b[2J" not in t.written.getvalue()
