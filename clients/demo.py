"""``omnidrop demo``: a made-up world plays live, is asked about, and the answers are checked.

What is shown and said is known (the world is a pure function of its seed), so the truth stands
beside each answer. On a terminal one may go on asking afterwards.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
from collections.abc import Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING

from clients.demo_plan import Planned, at_present, plan
from clients.options import Flags, settings
from clients.spans import clock, moment
from clients.terminal import clean, complain, grounds, is_terminal, sentence, write_out
from omnidrop_stream.config import Config
from omnidrop_stream.errors import Busy, NothingHeld, OmniDropError, UsageError
from omnidrop_stream.types import CHUNK_SECONDS, Answer, Delta
from omnidrop_stream.world import World

if TYPE_CHECKING:
    from rich.console import Console

    from runtime.session import StreamSession
    from runtime.sources import Source

SHORTEST_S, LONGEST_S = 10.0, 600.0
MOST_TOKENS = 16
MISSING = "the embedded model is not in this installation, so the tiny one with random weights runs"
TOO_SLOW = (
    "this machine is too slow for real time: some questions are asked later than planned, about "
    "what was over by then"
)
PROMPT = "ask (Enter ends) > "


def demo(seed: int = 1, seconds: float = 32.0, model: str | None = None, speed: float = 1.0) -> int:
    """Run the demo; speed: 1 is real time. Returns the exit code."""
    from runtime.models import EMBEDDED, TINY, TINY_WARNING, default_model

    if not SHORTEST_S <= seconds <= LONGEST_S:
        raise UsageError(
            f"--seconds = {seconds:g} is not allowed: give {SHORTEST_S:g} to {LONGEST_S:g}"
        )
    config = settings(Flags(model=model, max_tokens=MOST_TOKENS), default_model())
    name = config.model.model
    if model is None and name == TINY:
        complain(MISSING)
    if name == TINY:
        complain(TINY_WARNING)
    elif name != EMBEDDED:
        complain("the world is small and made up; only the embedded model was trained in it")
    return asyncio.run(_Demo(seed, seconds, speed).run(config))


class _Demo:
    """One run: the session, what it says, and the score."""

    def __init__(self, seed: int, seconds: float, speed: float) -> None:
        from runtime.sources import Paced, WorldSource

        self._seconds, self._real = seconds, speed == 1.0
        self._talks = is_terminal(sys.stdin) and is_terminal(sys.stdout)
        world = WorldSource(None if self._talks else seconds, seed)
        self._source: Source = world if self._real else Paced(world, speed)
        self._world = world.world
        self._page = Page(is_terminal(sys.stdout))
        self._told_chunks = 0
        self._asked: set[str] = set()
        self._late = False

    async def run(self, config: Config) -> int:
        """Play, ask, sum up; returns the exit code."""
        from runtime.session import StreamSession

        page, planned = self._page, plan(self._world, self._seconds)
        page.line(
            f"A made-up world (seed {self._world.seed}), live for {self._seconds:g} s: pictures "
            "and voices that the model was never trained on."
        )
        page.line(f"model: {sentence(config.model.model)}")
        score = Score()
        async with StreamSession(self._source, config, realtime=self._real) as session:
            complain("the world begins once the model is loaded")
            await session.ready()
            if session.note:
                complain(session.note)
            for item in planned:
                await self._play(session, item.at_s)
                now = self._at_present(item, session.status().stream_s)
                if now is not None:
                    self._tell_world(now.at_s)
                    await self._ask(session, now, score)
            await self._play(session, self._seconds - 0.1)
            self._tell_world(self._seconds)
            score.end(session)
            for line in score.lines():
                page.line(line, "bold")
            if self._talks:
                await self._talk(session)
        return score.exit_code

    def _at_present(self, item: Planned, now_s: float) -> Planned | None:
        """A question whose moment passed while the one before was answered is made anew."""
        if not self._real:
            return item
        now = at_present(self._world, item, now_s, self._asked)
        if now is not item and not self._late:
            self._late = True
            complain(TOO_SLOW)
        return now

    async def _play(self, session: StreamSession, until_s: float) -> None:
        """Wait for a moment; each chunk is told when it is over."""
        while (over_s := (self._told_chunks + 1) * CHUNK_SECONDS) <= until_s + 1e-6:
            await session.reached(over_s)
            self._tell_world(over_s)
        await session.reached(until_s)

    def _tell_world(self, until_s: float) -> None:
        """What was shown and said in the chunks that are over."""
        while (self._told_chunks + 1) * CHUNK_SECONDS <= until_s + 1e-6:
            self._page.line(happened(self._world, self._told_chunks), "dim")
            self._told_chunks += 1

    async def _ask(self, session: StreamSession, item: Planned, score: Score) -> None:
        page, question = self._page, item.question
        self._asked.add(question.text)
        lag_s = session.status().lag_s
        page.line(f"[{moment(item.at_s)}] {item.about}: {question.text}", "bold")
        answer = await self._answer(session, question.text)
        if answer is None:
            score.failed += 1
            return
        right = same(answer.text, question.answer)
        score.add(answer, right, lag_s)
        spans = ", ".join(f"{clock(e.from_s)} {e.what}" for e in question.evidence)
        mark, style = ("✓", "green") if right else ("✗", "red")
        page.line(f"  {mark} truth: {question.answer} ({spans})", style)
        page.line(f"  {grounds(answer)} | lag {lag_s:.1f} s", "dim")

    async def _answer(self, session: StreamSession, text: str) -> Answer | None:
        """Print the answer as it comes; None, with a word, where there is none."""
        last: Answer | None = None
        try:
            async with aclosing(session.ask(text)) as events:
                async for event in events:
                    if isinstance(event, Delta):
                        self._page.piece(event.text)
                    else:
                        last = event
        except (Busy, NothingHeld, UsageError) as error:
            self._page.end_piece()
            complain(error)
        self._page.end_piece()
        return last

    async def _talk(self, session: StreamSession) -> None:
        """The user's own questions, until an empty one; the world goes on meanwhile."""
        from prompt_toolkit import PromptSession
        from prompt_toolkit.patch_stdout import patch_stdout

        self._page.line("The world goes on. Ask about it: What was said last? What do you see now?")
        reader: PromptSession[str] = PromptSession()
        reader.app.renderer.cpr_not_supported_callback = None  # as in live_screen
        while True:
            try:
                with patch_stdout(raw=True):
                    text = (await reader.prompt_async(PROMPT)).strip()
            except (EOFError, KeyboardInterrupt):
                return
            if not text:
                return
            seen_s = session.status().stream_s
            answer = await self._answer(session, text)
            if answer is not None:
                self._page.line(f"  {grounds(answer)}", "dim")
            begin = max(0, int(seen_s // CHUNK_SECONDS) - 3)
            for index in range(begin, int(seen_s // CHUNK_SECONDS) + 1):
                self._page.line(f"  {happened(self._world, index)}", "dim")


class Page:
    """Lines and pieces of answers on stdout; weight and colour on a terminal only."""

    def __init__(self, colour: bool) -> None:
        self._console: Console | None = None
        self._open = False
        if colour:
            from rich.console import Console

            self._console = Console(highlight=False, emoji=False)

    def line(self, text: str, style: str = "") -> None:
        """A whole line."""
        self._write(f"{text}\n", style)

    def piece(self, text: str) -> None:
        """A piece of an answer."""
        self._open = True
        self._write(clean(text))

    def end_piece(self) -> None:
        """End the answer's line."""
        if self._open:
            self._open = False
            self._write("\n")

    def _write(self, text: str, style: str = "") -> None:
        if self._console is None:
            write_out(text, end="")
        else:
            self._console.print(text, style=style, markup=False, end="", soft_wrap=True)


class Score:
    """What came out, for the summary."""

    def __init__(self) -> None:
        self.failed = self._right = self._dropped = self._tokens = self._budget = 0
        self._answers: list[Answer] = []
        self._lags: list[float] = []

    def add(self, answer: Answer, right: bool, lag_s: float) -> None:
        """An answer that was checked."""
        self._answers.append(answer)
        self._right += right
        self._lags.append(lag_s)

    def end(self, session: StreamSession) -> None:
        """What the session counted."""
        status = session.status()
        self._dropped, self._tokens = status.dropped, status.tokens
        self._budget = status.budget_tokens

    @property
    def exit_code(self) -> int:
        """Wrong answers are no error; no answer at all is."""
        return 0 if self._answers else OmniDropError.exit_code

    def lines(self) -> Sequence[str]:
        """The summary."""
        if not self._answers:
            return ["No question was answered; run omnidrop doctor."]
        first_ms = statistics.median(answer.ttft_ms for answer in self._answers)
        kept = statistics.mean(answer.tokens.mean_entering for answer in self._answers)
        asked = len(self._answers) + self.failed
        return [
            f"{self._right} of {asked} right; first token after {first_ms:.0f} ms (median), lag "
            f"{statistics.median(self._lags):.1f} s (median, {max(self._lags):.1f} s at most), "
            f"{self._dropped} chunks dropped.",
            f"{self._tokens:,} of {self._budget:,} tokens held; mean retention {kept:.1%}.",
        ]


def same(answer: str, truth: str) -> bool:
    """Whether the words are the truth, case and outer punctuation aside."""
    return " ".join(answer.lower().split()).strip(" .!?\"'") == truth


def happened(world: World, index: int) -> str:
    """A chunk's truth in a line."""
    truth, start_s = world.truth(index), index * CHUNK_SECONDS
    sound = "–" if truth.word is None else truth.word
    return f"{clock(start_s)}  shown: {truth.thing or '–':16} heard: {sound}".rstrip()
