"""Standing questions in ``omnidrop live``: what ``/watch`` and ``--watch`` mean, and what is shown.

Everything but `obey_watch` is pure.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from clients.spans import moment, stretch
from clients.terminal import grounds, sentence
from omnidrop_stream.config import make_watch
from omnidrop_stream.errors import Busy, UsageError
from omnidrop_stream.types import CHUNK_SECONDS
from omnidrop_stream.watch_config import WatchConfig
from runtime.watch_types import WatchStage

if TYPE_CHECKING:
    from runtime.watch_types import WatchEvent, WatchState
    from runtime.watching import Watching

MOMENT_S = 0.5
"""What takes longer is told that it has begun."""
SOUND = "sound:"
"""In front of the words: judge by the sound alone."""


@dataclass(frozen=True, slots=True)
class WatchCommand:
    """What to do. ``value``: the words, or the id of the one to remove."""

    action: Literal["add", "list", "remove"]
    value: str = ""


def parse_watch(rest: str) -> WatchCommand:
    """What stands behind ``/watch``; nothing lists. Raises UsageError."""
    word, _, value = rest.partition(" ")
    value = value.strip()
    if not rest or (word == "list" and not value):
        return WatchCommand("list")
    if word == "remove":
        if not value or " " in value:
            raise UsageError(
                f"/watch {rest}: name one number of /watch list, such as /watch remove 1"
            )
        return WatchCommand("remove", f"w{value}" if value.isascii() and value.isdigit() else value)
    watch_of(rest)
    return WatchCommand("add", rest)


def watch_of(text: str) -> WatchConfig:
    """A standing question from words; ``sound:`` in front means by sound alone. Raises ConfigError
    for words that cannot be one.
    """
    return make_watch(from_words(text), "--watch or /watch")


def from_words(text: str) -> dict[str, Any]:
    """The settings of a standing question that is given as words only."""
    by_sound = text.lower().startswith(SOUND)
    words = text[len(SOUND) :] if by_sound else text
    return {"text": words.strip(), "sound_only": by_sound}


Say = Callable[[str], Awaitable[None]]
"""Tell a sentence while the reply is still on its way."""


async def obey_watch(
    watching: Watching, command: WatchCommand, say: Say, patience_s: float = MOMENT_S
) -> list[str]:
    """Do it; returns the reply. say: told of what takes longer than patience_s. Raises what
    `Watching.add` raises, UsageError.
    """
    if command.action == "list":
        return listed(watching.states())
    if command.action == "remove":
        if not watching.remove(command.value):
            known = ", ".join(state.id for state in watching.states()) or "none"
            raise UsageError(f"there is no standing question {command.value}; there are: {known}")
        return [f"{command.value} is not watched for any more"]
    state = await _added(watching, command.value, say, patience_s)
    cost = "" if state.judge_ms is None else f", {state.judge_ms:.0f} ms for each chunk"
    reply = f"{state.id}: watching for {_what(state)} ({state.stage}{cost})"
    return ["; ".join(filter(None, (reply, _learning(state))))]


async def _added(watching: Watching, words: str, say: Say, patience_s: float) -> WatchState:
    adding = asyncio.create_task(watching.add(watch_of(words)), name="watch")
    try:
        done, _ = await asyncio.wait({adding}, timeout=patience_s)
        if not done:
            await say(f"/watch {words}: learning what is usual from what is held")
        return await adding
    except Busy as error:
        raise Busy(f"/watch {words}: {error}") from None
    finally:
        adding.cancel()


def listed(states: Sequence[WatchState]) -> list[str]:
    """All standing questions, a line each."""
    if not states:
        return ["Nothing is watched for. /watch a bell rings: tells you when it does."]
    return [_line(state) for state in states]


def happened(event: WatchEvent) -> list[str]:
    """An event: what and when, how sure, its evidence; and the answer, where one was asked for."""
    spans = [
        f"{stretch(span.from_s, span.to_s)} {span.modality} {span.weight:.2f}"
        for span in event.evidence
    ]
    lines = [
        f"[{moment(event.time_s)}] {event.id} {sentence(event.text)}: {event.confidence:.0%} | "
        f"evidence {', '.join(spans) or 'none'}"
    ]
    if event.answer is not None:
        answer = event.answer
        lines.append(f"   {sentence(answer.question)} {sentence(answer.text)} | {grounds(answer)}")
    elif event.problem:
        lines.append(f"   no answer: {sentence(event.problem)}")
    return lines


def _learning(state: WatchState) -> str:
    """How long nothing is told; empty where that is over."""
    if state.stage not in (WatchStage.WAITING, WatchStage.LEARNING):
        return ""
    chunks = f"{state.learn} chunk{'' if state.learn == 1 else 's'}"
    return (
        f"the first {chunks} ({state.learn * CHUNK_SECONDS:g} s) tell what is usual, and nothing "
        "is told before"
    )


def _what(state: WatchState) -> str:
    return f"{sentence(state.text)}{' (by sound)' if state.sound_only else ''}"


def _line(state: WatchState) -> str:
    times = f"{state.events} time{'' if state.events == 1 else 's'}"
    parts = [f"{state.id} {_what(state)}: {state.stage}, told {times}"]
    if state.odds is not None and state.baseline is not None:
        parts.append(f"odds {state.odds:+.1f} (usual {state.baseline:+.1f})")
    if state.judge_ms is not None:
        parts.append(f"{state.judge_ms:.0f} ms a chunk")
    if state.reason:
        parts.append(sentence(state.reason))
    return "; ".join(filter(None, (", ".join(parts), _learning(state))))
