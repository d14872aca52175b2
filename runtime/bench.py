"""The runtime measured while it works: chunks on time, first token, event loop, during a long
answer.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from statistics import median
from typing import Any

from omnidrop_stream.config import Config
from omnidrop_stream.lab.bench_cost import conditions
from omnidrop_stream.model.pick import pick_device
from omnidrop_stream.types import Answer, Delta
from runtime.host import ModelHost
from runtime.session import StreamSession


@dataclass(frozen=True, slots=True)
class LiveBench:
    """What to run: how long the stream plays, how often it is asked, how long an answer may get."""

    source: str
    seconds: float = 40.0
    ask_every_s: float = 5.0
    answer_tokens: int = 200


async def run_live(
    options: LiveBench, config: Config, host: ModelHost | None = None
) -> dict[str, Any]:
    """Play ``source`` in real time, ask while it plays, and report what was late or dropped."""
    decode = config.decode.model_copy(update={"max_tokens": options.answer_tokens})
    answers: list[Answer] = []
    gaps_ms: list[float] = []

    async def one(session: StreamSession, number: int) -> None:
        loop = asyncio.get_running_loop()
        last: float | None = None
        async for event in session.ask(f"What happened? ({number})", decode=decode):
            now = loop.time()
            if isinstance(event, Delta):
                if last is not None:
                    gaps_ms.append((now - last) * 1e3)
                last = now
            else:
                answers.append(event)

    async with StreamSession(options.source, config, host) as session, asyncio.TaskGroup() as group:
        number, at = 0, options.ask_every_s
        while at < options.seconds and not session.ended.is_set():
            await session.reached(at)
            group.create_task(one(session, number))
            number, at = number + 1, at + options.ask_every_s
        await session.reached(options.seconds)
        snapshot, dropped = session.stats.snapshot(), session.status().dropped
    return {
        "model": config.model.model,
        **conditions(pick_device(config.model.device)),
        "options": {"seconds": options.seconds, "ask_every_s": options.ask_every_s},
        "chunks": snapshot["counters"].get("chunk.committed", 0),
        "chunks_late": snapshot["counters"].get("chunk.late", 0),
        "chunks_dropped": dropped,
        "overload_engaged": snapshot["counters"].get("overload.engaged", 0),
        "answers": len(answers),
        "answer_tokens": [a.answer_tokens for a in answers],
        "ttft_ms_median": round(median([a.ttft_ms for a in answers]), 2) if answers else None,
        "token_gap_ms_median": round(median(gaps_ms), 2) if gaps_ms else None,
        "timings_ms": snapshot["timings_ms"],
    }
