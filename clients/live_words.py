"""What ``omnidrop live`` says of itself: status line, statistics, evidence, help. Pure text."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from clients.live_commands import HELP
from clients.spans import clock, stretch
from clients.terminal import sentence
from omnidrop_stream.types import Answer

if TYPE_CHECKING:
    from runtime.status import SessionStatus

LABEL_WIDTH = 11


def length(seconds: float) -> str:
    """A length of time in words: 30 s, 5 min, 1 h 30 min."""
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    parts = [f"{hours} h"] if hours else []
    parts += [f"{minutes} min"] if minutes else []
    parts += [f"{rest:g} s"] if rest or not parts else []
    return " ".join(parts)


def status_line(status: SessionStatus, width: int = 200) -> str:
    """State and reason, lag, tokens, first token, drops in one line; what matters least goes first
    where it does not fit.
    """
    state = f"{status.state} {clock(status.stream_s)}"
    if status.reason:
        state += f" ({sentence(status.reason)})"
    parts = [(0, state), *((0, word) for word in _missing(status))]
    if status.state in ("live", "degraded", "offline"):
        parts.append((1, f"lag {status.lag_s:.1f} s" if status.tokens else "nothing held"))
    parts.append((3, f"{status.tokens:,} of {status.budget_tokens:,} tokens"))
    first = "-" if status.ttft_ms is None else f"{status.ttft_ms:,.0f} ms"
    parts.append((4, f"first token {first}"))
    parts.append((2, f"dropped {status.dropped}"))
    if status.step and status.code != "overload":
        parts.append((2, status.step_name))
    if status.reconnects:
        parts.append((5, f"reconnects {status.reconnects}"))
    if status.muted:
        parts.append((0, "muted"))
    if status.answers:
        parts.append((5, f"answering {status.answers}"))
    parts.append((6, "/help"))
    while len(" | ".join(text for _, text in parts)) > width - 2:
        least = max(rank for rank, _ in parts)
        if least == 0:
            break
        parts = [(rank, text) for rank, text in parts if rank != least]
    line = " | ".join(text for _, text in parts)
    return line if len(line) <= width - 2 else line[: max(1, width - 3)] + "…"


def _missing(status: SessionStatus) -> list[str]:
    """What does not come and is not said by the reason already."""
    missing = [("no_video", status.video, "no picture"), ("no_audio", status.audio, "no sound")]
    hidden = status.state not in ("live", "degraded")
    return [
        w for code, comes, w in missing if comes is False and code != status.code and not hidden
    ]


def worth_telling(state: str, before: str) -> bool:
    """Whether people want a sentence for a state: not for what they did themselves, nor for what is
    told as an error.
    """
    return state not in ("connecting", "paused", "refused", "failed") and not (
        state == "live" and before == "paused"
    )


def spelt(id: str, tokens: Sequence[str]) -> str:
    """What a question that spells control tokens needs saying."""
    return (
        f"question {id} spells control tokens of the model ({', '.join(tokens)}); they are read as "
        "plain characters"
    )


def statistics(status: SessionStatus, snapshot: Mapping[str, Any], source: str) -> list[str]:
    """Everything that is counted, in one place."""
    reason = f" ({sentence(status.reason)})" if status.reason else ""
    muted = ", muted" if status.muted else ""
    lag = f"lag {status.lag_s:.1f} s, " if status.tokens else ""
    first = "none yet" if status.ttft_ms is None else f"{status.ttft_ms:,.0f} ms"
    lines = [
        _row("source", sentence(source)),
        _row("state", f"{status.state}{reason}{muted}, {clock(status.stream_s)} of stream"),
        _row("", _state_more(status)),
        _row(
            "held",
            f"{status.tokens:,} of {status.budget_tokens:,} tokens, {lag}depth {status.depth}",
        ),
        _row("answers", f"{status.answers} in progress, last first token {first}"),
    ]
    for kind in ("counters", "gauges"):
        found = snapshot.get(kind, {}).items()
        rows = [f"{name} {_value(value)}" for name, value in found if value not in (None, "")]
        lines += _rows(kind, rows)
    timings = snapshot.get("timings_ms", {})
    width = max((len(name) for name in timings), default=0)
    rows = [
        f"{name:<{width}}  last {row['last']:,.1f}, median {row['median']:,.1f}, p95 "
        f"{row['p95']:,.1f}, most {row['max']:,.1f} ({row['n']:g})"
        for name, row in timings.items()
    ]
    return lines + _rows("times, ms", rows)


def _value(value: object) -> str:
    """A counted or measured value for people."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{round(value, 3):g}" if isinstance(value, float) else sentence(value)


def _state_more(status: SessionStatus) -> str:
    """What the first line on the state leaves out."""
    begun = status.chunk_age_s is not None
    words = {True: "comes", False: "missing", None: "not part of it" if begun else "not known yet"}
    sound = "muted" if status.muted and status.audio is None else words[status.audio]
    newest = (
        "no chunk given yet"
        if status.chunk_age_s is None
        else f"newest chunk given at the age of {status.chunk_age_s:.1f} s"
    )
    code = f"code {status.code}, " if status.code else ""
    return (
        f"{code}for {length(round(status.since_s))}; picture {words[status.video]}, sound {sound}; "
        f"reconnects {status.reconnects}, gaps {status.gaps}, {newest}; overload step "
        f"{status.step} ({status.step_name})"
    )


def evidence(answer: Answer | None) -> list[str]:
    """What an answer rests on: spans, what it could see, how much was kept."""
    if answer is None:
        return ["There is no answer yet; ask a question first."]
    lines = [f"{answer.id}: {sentence(answer.question)}"]
    if not answer.evidence:
        lines.append("  no span stands out")
    for span in answer.evidence:
        wall = _wall(span.from_wall_s, span.to_wall_s)
        lines.append(
            f"  {stretch(span.from_s, span.to_s)} {span.modality}, weight {span.weight:.2f}{wall}"
        )
    coverage, tokens = answer.coverage, answer.tokens
    lines.append(
        f"  could see {stretch(coverage.from_s, coverage.to_s)}, "
        f"{answer.staleness_s:.1f} s old when asked; {answer.dropped_chunks} chunks dropped"
    )
    lines += [
        f"  missing {stretch(gap.from_s, gap.to_s)}: {sentence(gap.reason)}"
        for gap in coverage.gaps
    ]
    lines.append(
        f"  {tokens.entering:,} of {tokens.unpruned:,} tokens entered, mean retention "
        f"{tokens.mean_entering:.1%} entering and {tokens.mean_leaving:.1%} leaving a layer; "
        f"{answer.policy}, depth {answer.prefill_depth}, {answer.label}"
    )
    return lines


def help_lines() -> list[str]:
    """The commands, a line each."""
    rows = [f"  {usage:<20}{meaning}" for usage, meaning in HELP.values()]
    return ["Type a question at any moment. Ctrl-C cancels an answer. Commands:", *rows]


def _row(label: str, text: str) -> str:
    return f"{label:<{LABEL_WIDTH}}{text}"


def _rows(label: str, rows: list[str]) -> list[str]:
    return [_row(label if number == 0 else "", row) for number, row in enumerate(rows)]


def _wall(from_s: float | None, to_s: float | None) -> str:
    if from_s is None or to_s is None:
        return ""
    first, last = (datetime.datetime.fromtimestamp(value).astimezone() for value in (from_s, to_s))
    return f" ({first:%H:%M:%S}-{last:%H:%M:%S})"
