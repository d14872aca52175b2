"""The desk of a live run: takes questions and commands to the session, tells what happens.

It knows neither terminal nor pipe: events go to a front's ``show``, a command's reply is returned.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing

from clients import live_words
from clients.live_commands import Command
from clients.live_watch import listed, obey_watch, parse_watch
from clients.spans import clock
from omnidrop_stream.errors import Busy, NothingHeld, OmniDropError, UsageError
from omnidrop_stream.types import Answer
from runtime.asking import Answered, Asked, Event, Failed, Question, Status, describe
from runtime.models import TINY, TINY_WARNING, note_on
from runtime.redact import redact
from runtime.session import StreamSession
from runtime.status import SessionStatus
from runtime.watch_types import Happened, WatchEvent

LOOK_EVERY_S = 0.2
PATIENCE_S = 0.3
"""A source that opens within this needs no word."""
SESSION = "live"
"""One name for all questions of a run: each sees the ones before."""


class Withdrawn(OmniDropError):
    """A question that was given up before it was asked."""

    code = "cancelled"
    exit_code = 5


class Desk:
    """One session's questions and commands; all methods belong to the event loop."""

    def __init__(
        self,
        session: StreamSession,
        source: str,
        show: Callable[[Event], Awaitable[None]],
    ) -> None:
        self.session = session
        self.last: Answer | None = None
        self.running: dict[str, asyncio.Task[None]] = {}
        self._name = redact(source)
        self._show = show
        self.broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Fails with what no question may fail with: a fault of the model or of this program."""
        self._opened = asyncio.Event()
        self._told: tuple[object, ...] = ()
        self._begun = self._closed = self._noted = self._seen = False
        self._number = 0

    # -- the session's life

    async def hold(self) -> None:
        """Open the session and keep it until cancelled; raises what ends it."""
        self._begun = True
        async with self.session:
            self._opened.set()
            telling = asyncio.create_task(self._tell_watches(), name="watches")
            telling.add_done_callback(lambda done: self._done("", done))
            try:
                await self.session.ended.wait()
                if self.session.failure is not None:
                    raise self.session.failure
                await asyncio.get_running_loop().create_future()  # held until cancelled
            finally:
                telling.cancel()

    async def _tell_watches(self) -> None:
        """Show what is watched for, and each time that it happens, until cancelled."""
        states = self.session.watching.states()
        for line in listed(states) if states else []:
            await self._show(Status("note", line))
        async with aclosing(self.session.watching.events()) as events:
            async for told in events:
                if isinstance(told, WatchEvent):
                    name = self.session.info.name if self.session.info else self._name
                    await self._show(Happened(told, name))
                elif told.refusal is not None:
                    await self._show(Failed(told.id, told.refusal))

    async def opened(self) -> None:
        """Wait until the source is open."""
        await self._opened.wait()

    async def drained(self) -> None:
        """Wait until the source has ended and all of it is in the trunk; tell that it has."""
        await self._opened.wait()
        await self.session.drained()
        await self.session.watching.read()
        await self.look()

    async def answered(self) -> None:
        """Wait until no answer is in progress."""
        while self.running:
            await asyncio.wait(set(self.running.values()))

    async def close(self) -> None:
        """End what is in progress; nothing is shown of it."""
        self._closed = True
        running = list(self.running.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def watch(self) -> None:
        """Tell each change of state, until cancelled."""
        model = self.session.config.model.model
        if model == TINY:
            await self._show(Status("note", TINY_WARNING))
        while True:
            await self.look()
            await asyncio.sleep(LOOK_EVERY_S)

    async def look(self) -> None:
        """Tell the state where it has changed."""
        status = self.status()
        if self.session.note and not self._noted:
            self._noted = True
            await self._show(Status("note", self.session.note))
        missing = (status.video is False, status.audio is False)
        key = (status.state, status.code, status.reason, status.step, missing)
        if key != self._told:
            self._told = key
            text, at_s = self._words(status), round(status.stream_s, 3)
            await self._show(Status(status.state, text, at_s, session=status))

    def _words(self, status: SessionStatus) -> str:
        info, at = self.session.info, clock(status.stream_s)
        if status.state == "live" and info is not None:
            first, self._seen = not self._seen, True
            if first:
                return f"watching {info.name}: {describe(info)}"
            media = (("pictures", status.video), ("sound", status.audio))
            lacks = " and ".join(name for name, comes in media if comes is False)
            return f"live at {at}, without {lacks}" if lacks else f"live again at {at}"
        words = {
            "connecting": f"opening {self._name}",
            "loading": self._loading(status.reason),
            "offline": f"offline at {at}: {status.reason or 'no reason given'}",
            "degraded": f"degraded at {at}: {status.reason or 'no reason given'}",
            "paused": f"paused at {at}",
            "ended": f"the source has ended at {status.stream_s:.1f} s",
        }
        return words.get(status.state, status.reason or status.state)

    def _loading(self, trouble: str) -> str:
        name = redact(self.session.config.model.model)
        if trouble:
            return f"waiting for the model {name}: {redact(trouble)}"
        return f"loading {name}; questions wait for it"

    def status(self) -> SessionStatus:
        """The present state, also before the source is open."""
        if self._begun:
            return self.session.status()
        budget = self.session.config.stream.budget_tokens
        return SessionStatus("connecting", "", 0.0, 0.0, 0, budget, 0, None, 0, 0, False)

    # -- questions

    def question(self, text: str, at_s: float | None = None) -> Question:
        """Number a question. Raises QuestionError for what cannot be one."""
        self.session.config.decode.check_question(text)
        self._number += 1
        return Question(f"q{self._number}", text, at_s, SESSION)

    def ask(self, question: Question) -> asyncio.Task[None]:
        """Answer it in the background; what comes of it is shown."""
        task = asyncio.create_task(self._answer(question), name=f"answer {question.id}")
        self.running[question.id] = task
        task.add_done_callback(lambda done: self._done(question.id, done))
        return task

    def _done(self, id: str, task: asyncio.Task[None]) -> None:
        self.running.pop(id, None)
        error = None if task.cancelled() else task.exception()
        if error is not None and not self.broken.done():
            self.broken.set_exception(error)

    async def _answer(self, question: Question) -> None:
        try:
            await self._wait_for_moment(question)
            await self._ask(question)
        except asyncio.CancelledError as error:
            why = str(error) or "cancelled before it was answered"
            if not self._closed:
                await self._show(Failed(question.id, Withdrawn(why)))
        except (UsageError, Busy, NothingHeld) as error:
            await self._show(Failed(question.id, error))
        except OmniDropError:
            if self.session.failure is None:
                raise
            # The session ends with this error, and says so once.

    async def _wait_for_moment(self, question: Question) -> None:
        try:
            await asyncio.wait_for(self._opened.wait(), PATIENCE_S)
        except TimeoutError:
            await self._queued(question, "the source is being opened")
            await self._opened.wait()
        if self.status().state == "loading":
            await self._queued(question, "the model is loading")
        if question.at_s is None:
            return
        await self.session.reached(question.at_s)
        end_s = self.status().stream_s
        if end_s + 1e-6 < question.at_s:
            await self.session.drained()
            await self._show(
                Status(
                    "note",
                    f"question {question.id} is to be asked at {question.at_s:g} s but the stream "
                    f"ended at {end_s:.1f} s: asked there",
                )
            )

    async def _queued(self, question: Question, why: str) -> None:
        await self._show(Status("queued", f"question {question.id} is queued: {why}"))

    async def _ask(self, question: Question) -> None:
        await self.session.ready()
        asked_wall_s = time.time()
        if note := note_on(self.session.config.model.model, question.text):
            await self._show(Status("note", note))
        spelt = tuple(self.session.control_tokens_in(question.text))
        await self._show(Asked(question, self.status().stream_s, spelt))
        answer = self.session.ask(question.text, session=question.session, id=question.id)
        async with aclosing(answer) as events:
            async for event in events:
                if isinstance(event, Answer):
                    self.last = event
                    name = self.session.info.name if self.session.info else self._name
                    await self._show(Answered(event, name, asked_wall_s))
                else:
                    await self._show(event)

    def cancel(self, why: str = "") -> int:
        """Cancel every answer in progress, withdraw what waits; returns how many there were."""
        running = list(self.running.items())
        for id, task in running:
            if not self.session.cancel(id):
                task.cancel(why)
        return len(running)

    # -- commands

    async def obey(self, command: Command) -> list[str]:
        """Do what a command says; returns the reply. Raises UsageError, ConfigError."""
        session, value = self.session, command.value
        if command.name == "help":
            return live_words.help_lines()
        if command.name == "status":
            name = session.info.name if session.info else self._name
            return live_words.statistics(self.status(), session.stats.snapshot(), name)
        if command.name == "evidence":
            return live_words.evidence(self.last)
        if not self._opened.is_set():
            raise UsageError(f"/{command.name} has to wait until the source is open")
        if command.name == "watch":
            return await obey_watch(session.watching, parse_watch(str(value or "")), self._say)
        if command.name == "retry":
            return self._retry()
        if command.name == "forget":
            return await self._forget(None if value is None else float(value))
        if command.name in ("pause", "resume"):
            session.pause(command.name == "pause")
            return ["paused: nothing is kept"] if command.name == "pause" else ["watching again"]
        if command.name in ("mute", "unmute"):
            session.mute(command.name == "mute")
            return (
                ["muted: sound is thrown away"] if command.name == "mute" else ["listening again"]
            )
        if command.name == "retention" and isinstance(value, float):
            await session.ready()  # only the model knows what it can reach
            session.set_retention(value)
            return [f"later answers aim at a mean retention of {value:.0%}"]
        if command.name == "depth" and value is not None:
            return await self._deepen(value)
        raise UsageError(f"/{command.name} is no command here")

    async def _say(self, text: str) -> None:
        await self._show(Status("note", text))

    def _retry(self) -> list[str]:
        if not self.session.retry_now():
            raise UsageError("/retry is for a camera or a stream; this source cannot be lost")
        return ["trying again at once"]

    async def _forget(self, last_s: float | None) -> list[str]:
        gone = await self.session.forget(last_s)
        self.last = None
        what = "everything" if last_s is None else f"the last {live_words.length(last_s)}"
        return [f"forgot {what}: {gone} chunk{'' if gone == 1 else 's'} and what was said of them"]

    async def _deepen(self, depth: float | int | str) -> list[str]:
        layers = await self.session.set_depth(depth)  # type: ignore[arg-type]  # parsed before
        return [f"chunks pass {layers} layers on arrival once what is held has caught up"]
