"""The scripted front of ``omnidrop live``: plain lines or JSON lines, no terminal needed."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

from clients import live_words
from clients.live_commands import Command, parse_command
from clients.live_output import PrintThread, Shown, Turnstile, lines_of, reader_gone
from clients.terminal import OutputLost, ReaderGone, complain, make_printer, write_out
from omnidrop_stream.errors import OmniDropError
from runtime.asking import Asked, Failed, Status

if TYPE_CHECKING:
    from clients.live_desk import Desk
    from runtime.stats import Stats

CLOSE_S = 1.0


@dataclass(frozen=True, slots=True)
class Script:
    """What is to happen. questions: text and moment (None: when there is material); lines: more
    questions and commands come from here, one after the other.
    """

    questions: Sequence[tuple[str, float | None]] = ()
    lines: TextIO | None = None
    for_s: float | None = None
    json: bool = False
    quiet: bool = False


class PipeFront:
    """Asks what the script says and prints what comes; ends when all is answered."""

    def __init__(self, script: Script, stats: Stats) -> None:
        self._script = script
        self._printer = make_printer(script.json, quiet=True)
        self._thread = PrintThread(
            self._print if script.json else Turnstile(self._print).show, stats
        )
        self._state = ""
        self._code = 0

    async def show(self, event: Shown) -> None:
        """One event of the desk."""
        if isinstance(event, Failed):
            self._code = self._code or event.error.exit_code
        await self._thread.put(event)

    async def run(self, desk: Desk) -> int:
        """Returns the exit code of the first question that failed, or 0.

        Raises what printing raised: ReaderGone where nobody reads any more.
        """
        work = asyncio.create_task(self._work(desk), name="script")
        gone = reader_gone(sys.stdout)
        waits = [wait for wait in (work, gone, self._thread.ended) if wait is not None]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                if wait.done():
                    wait.result()
            await self._printed()
        finally:
            work.cancel()
            if gone is not None and not gone.done():
                gone.cancel()
        return self._code

    async def ready(self) -> None:
        """At once."""

    def interrupt(self) -> bool:
        """Ctrl-C ends a script at once."""
        return True

    async def close(self) -> None:
        """Print what still waits; who does not read is not waited for."""
        with suppress(TimeoutError, OSError, ReaderGone, OutputLost):  # `run` has told it
            async with asyncio.timeout(CLOSE_S):
                await self._printed()
                self._printer.close()

    async def _printed(self) -> None:
        await self._thread.put(None)
        await asyncio.shield(self._thread.ended)

    # -- the script

    async def _work(self, desk: Desk) -> None:
        script = self._script
        try:
            async with asyncio.timeout(script.for_s):
                await self._ask_all(desk)
                await desk.answered()
                if script.for_s is not None or self._only_watches:
                    await desk.drained()
        except TimeoutError:
            desk.cancel(f"--for {script.for_s:g} s ended before it was answered")
        await desk.answered()

    @property
    def _only_watches(self) -> bool:
        return not self._script.questions and self._script.lines is None

    async def _ask_all(self, desk: Desk) -> None:
        if self._only_watches and not self._script.quiet:
            complain("no --ask is given: watching until the source ends, or Ctrl-C")
        for text, at_s in self._script.questions:
            desk.ask(desk.question(text, at_s))
        if self._script.lines is None:
            return
        async with aclosing(lines_of(self._script.lines)) as lines:
            async for line in lines:
                if not await self._take(desk, line):
                    return

    async def _take(self, desk: Desk, line: str) -> bool:
        """A question or a command, and wait for what comes of it; False to read no more."""
        try:
            typed = parse_command(line)
            if isinstance(typed, Command):
                if typed.name == "quit":
                    return False
                await desk.opened()
                for reply in await desk.obey(typed):
                    await self.show(Status("note", reply) if self._script.json else reply)
            elif typed.text:
                await asyncio.wait([desk.ask(desk.question(typed.text))])
        except OmniDropError as error:
            self._code = self._code or error.exit_code
            complain(error)
        return True

    # -- on the print thread

    def _print(self, event: Shown) -> None:
        if isinstance(event, str):
            write_out(event)
            return
        if not self._script.quiet:
            self._tell_people(event)
        if not isinstance(event, Status) or self._script.json:
            self._printer.show(event)

    def _tell_people(self, event: object) -> None:
        if isinstance(event, Asked) and event.control_tokens:
            complain(live_words.spelt(event.question.id, event.control_tokens))
        if not isinstance(event, Status):
            return
        if live_words.worth_telling(event.state, self._state):
            complain(event.text)
        if event.state not in ("note", "queued"):
            self._state = event.state
