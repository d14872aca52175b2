"""The terminal front of ``omnidrop live``: answers grow above the input line, the state below it.

Answers in progress are part of the prompt; a finished one moves into the scrollback.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Iterator
from typing import TYPE_CHECKING, Any

from prompt_toolkit import PromptSession, print_formatted_text
from prompt_toolkit.application import run_in_terminal
from prompt_toolkit.filters import Condition
from prompt_toolkit.formatted_text import FormattedText
from prompt_toolkit.history import InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.patch_stdout import patch_stdout
from prompt_toolkit.styles import Style

from clients import live_words
from clients.live_blocks import INDENT, Block, Line, wrapped
from clients.live_commands import Command, Interrupts, parse_command
from clients.live_watch import happened
from clients.terminal import clean, grounds, sentence
from omnidrop_stream.errors import OmniDropError
from omnidrop_stream.types import Answer, Delta
from runtime.asking import Answered, Asked, Failed, Status
from runtime.watch_types import Happened

if TYPE_CHECKING:
    from clients.live_desk import Desk
    from clients.live_output import Shown

INTERRUPTED = 130
REFRESH_S = 0.25
LEAST_REGION_LINES = 4
LOOK = Style.from_dict(
    {
        "question": "bold",
        "dim": "#888888",
        "wrong": "ansired",
        "bottom-toolbar": "noreverse bg:#303030 #d0d0d0",
    }
)


class Screen:
    """Reads questions and commands, shows what comes; ends by /quit, Ctrl-D or Ctrl-C twice."""

    def __init__(self, for_s: float | None = None) -> None:
        """for_s: end by itself after so many seconds."""
        self._for_s = for_s
        self._desk: Desk | None = None
        self._blocks: dict[str, Block] = {}
        self._interrupts = Interrupts()
        self._replies: set[asyncio.Task[None]] = set()
        self._state = ""
        self._ready = asyncio.Event()
        self._prompt: PromptSession[int] = PromptSession(
            message=self._message,
            bottom_toolbar=self._toolbar,
            key_bindings=self._keys(),
            history=InMemoryHistory(),
            erase_when_done=True,
            refresh_interval=REFRESH_S,
            reserve_space_for_menu=0,
            style=LOOK,
        )
        # No word where a terminal does not tell the cursor's place: all works there, too.
        self._prompt.app.renderer.cpr_not_supported_callback = None
        self._prompt.app.after_render += lambda _: self._ready.set()

    # -- as the run sees it

    async def show(self, event: Shown) -> None:
        """One event of the desk, or a line of a reply."""
        if isinstance(event, Delta):
            if block := self._blocks.get(event.id):
                block.text += clean(event.text)
            self._prompt.app.invalidate()
        elif isinstance(event, Asked):
            if block := self._blocks.get(event.question.id):
                block.at_s, block.waits = event.at_s, "looks and listens"
            if event.control_tokens:
                await self._say(live_words.spelt(event.question.id, event.control_tokens))
        elif isinstance(event, Answered):
            await self._finish(event.answer)
        elif isinstance(event, Failed):
            block = self._blocks.pop(event.id, Block(event.id, ""))
            block.waits = ""
            wrong = [("wrong", line) for line in self._wrapped(f"{event.error}")]
            await self._print([*block.lines(self._width), *wrong])
        elif isinstance(event, Happened):
            lines = [line for text in happened(event.event) for line in self._wrapped(text, "")]
            await self._print([("question", line) for line in lines])
        elif isinstance(event, Status):
            await self._status(event)
        else:
            await self._print([("", line) for line in wrapped(clean(event), self._width)])

    async def run(self, desk: Desk) -> int:
        """Returns 0, or 130 after Ctrl-C."""
        self._desk = desk
        with patch_stdout():
            try:
                async with asyncio.timeout(self._for_s):
                    return await self._prompt.prompt_async(handle_sigint=False)
            except TimeoutError:
                return 0

    async def ready(self) -> None:
        """Wait until one can type."""
        await self._ready.wait()

    def interrupt(self) -> bool:
        """Ctrl-C: cancel, or quit. The run itself ends with the prompt."""
        desk = self._desk
        action = self._interrupts.press(time.monotonic(), desk is not None and bool(desk.running))
        if action == "quit":
            self._quit(INTERRUPTED)
        elif action == "cancel" and desk is not None:
            desk.cancel()
        else:
            self._prompt.default_buffer.reset()
            self._later(self._say("press Ctrl-C once more to quit"))
        return False

    async def close(self) -> None:
        """Nothing is shown any more."""
        for task in self._replies:
            task.cancel()

    # -- what is typed

    def _keys(self) -> KeyBindings:
        keys = KeyBindings()

        @keys.add("enter")
        def _(event: KeyPressEvent) -> None:
            buffer = event.current_buffer
            text = buffer.text
            if text.strip():
                buffer.append_to_history()
            buffer.reset()
            self._interrupts.forget()
            self._later(self._take(text))

        @keys.add("c-c")
        def _(event: KeyPressEvent) -> None:
            self.interrupt()

        @keys.add("c-d", filter=Condition(lambda: not self._prompt.default_buffer.text))
        def _(event: KeyPressEvent) -> None:
            self._quit(0)

        return keys

    async def _take(self, text: str) -> None:
        desk = self._desk
        if desk is None:
            return
        try:
            typed = parse_command(text)
            if isinstance(typed, Command):
                await self._obey(desk, typed)
            elif typed.text:
                question = desk.question(typed.text)
                self._blocks[question.id] = Block(question.id, sentence(typed.text))
                desk.ask(question)
        except OmniDropError as error:
            await self._print([("wrong", line) for line in self._wrapped(f"{error}", "")])

    async def _obey(self, desk: Desk, command: Command) -> None:
        if command.name == "quit":
            self._quit(0)
            return
        reply = await desk.obey(command)
        if command.name == "forget":
            buffer = self._prompt.default_buffer
            self._prompt.history = buffer.history = InMemoryHistory()
            buffer.reset(buffer.document)  # else the lines it has loaded could still be recalled
        await self._print([("dim", line) for text in reply for line in wrapped(text, self._width)])

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._replies.add(task)
        task.add_done_callback(self._replies.discard)

    def _quit(self, code: int) -> None:
        app = self._prompt.app
        if app.is_running and not app.is_done:
            app.exit(result=code)

    # -- what is shown

    @property
    def _width(self) -> int:
        return max(20, self._prompt.app.output.get_size().columns - 1)

    def _wrapped(self, text: str, indent: str = INDENT) -> list[str]:
        return [indent + line for line in wrapped(sentence(text), self._width - len(indent))]

    def _message(self) -> FormattedText:
        """Answers in progress, the newest lines of each, then the prompt itself."""
        room = max(LEAST_REGION_LINES, self._prompt.app.output.get_size().rows - 6)
        each = max(LEAST_REGION_LINES, room // max(1, len(self._blocks)))
        lines: list[Line] = []
        for block in self._blocks.values():
            own = block.lines(self._width)
            cut = [own[0], *own[-(each - 1) :]] if len(own) > each else own
            lines += cut
        return FormattedText([*_fragments(lines[-room:]), ("class:dim", "> ")])

    def _toolbar(self) -> FormattedText:
        if self._desk is None:
            return FormattedText([("", "")])
        line = live_words.status_line(self._desk.status(), self._width)
        return FormattedText([("", f" {line}")])

    async def _finish(self, answer: Answer) -> None:
        block = self._blocks.pop(answer.id, Block(answer.id, sentence(answer.question)))
        block.text, block.at_s = clean(answer.text), answer.asked_at_s
        block.waits = "" if answer.finish == "cancelled" else "no words"
        rest = [("dim", line) for line in self._wrapped(grounds(answer))]
        await self._print([*block.lines(self._width), *rest])

    async def _status(self, status: Status) -> None:
        if status.state == "queued":
            for id, block in self._blocks.items():
                if status.text.startswith(f"question {id} "):
                    block.waits = status.text.removeprefix(f"question {id} is ")
            return
        if live_words.worth_telling(status.state, self._state):
            await self._say(status.text)
        if status.state != "note":
            self._state = status.state

    async def _say(self, text: str) -> None:
        await self._print([("dim", line) for line in self._wrapped(text, "")])

    async def _print(self, lines: list[Line]) -> None:
        """Above the prompt, into the scrollback."""
        text, output = FormattedText(_fragments(lines)), self._prompt.app.output

        def write() -> None:
            print_formatted_text(text, end="", style=LOOK, output=output)

        await run_in_terminal(write)


def _fragments(lines: list[Line]) -> Iterator[tuple[str, str]]:
    for style, line in lines:
        yield (f"class:{style}" if style else "", line)
        yield ("", "\n")
