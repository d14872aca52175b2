"""How many live streams one model carries: every chunk on time while questions are asked.

Each stream has what a session has: a capture thread that paces its source in real time and cuts
chunks, the bounded hand-over with its overload ladder, and the one model thread. Its window is full
before the clock starts. The worlds are drawn before that (`runtime.replay`), a few of them, and
each is played by several streams; streams begin at random moments within a chunk's period, since
cameras have no common clock. Questions go to random streams, one every few seconds, and are not
waited for.
"""

from __future__ import annotations

import asyncio
import dataclasses
import math
import os
import random
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

from omnidrop_stream.config import Config, DepthName, merged
from omnidrop_stream.errors import OmniDropError
from omnidrop_stream.lab.bench_cost import conditions
from omnidrop_stream.model.base import OmniModel
from omnidrop_stream.model.pick import pick_device
from omnidrop_stream.stream import OmniStream
from omnidrop_stream.types import CHUNK_SECONDS
from runtime.asking import within_reach
from runtime.bench_streams_live import Live, filled
from runtime.models import load
from runtime.replay import Material, render
from runtime.worker import ModelWorker

QUESTIONS = ("What happened?", "What could be seen?", "What could be heard?", "What was it last?")
WORLDS = 8
"""Different worlds; streams beyond that many share them, at other phases."""
DRAIN_S = 10.0
"""How long is waited, after the sources have ended, for the last chunks and answers."""


@dataclass(frozen=True, slots=True)
class StreamsBench:
    """What to run."""

    streams: tuple[int, ...] = (8, 16, 32)
    depths: tuple[int | DepthName, ...] = ("exact",)
    seconds: float = 40.0
    """How long the streams play."""
    window: int = 30
    """Chunks that each holds; its token budget is that of so many."""
    ask_every_s: float = 5.0
    seed: int = 0
    stop_when_late: bool = True
    """Leave out larger numbers of streams at a depth where one did not hold."""


@dataclass(frozen=True, slots=True)
class Row:
    """One number of streams at one depth. Times are in milliseconds; shares are of real time."""

    streams: int
    depth: str
    layers: int
    chunks: int
    """That the sources gave."""
    late: int
    """Committed more than a chunk's period after they were whole."""
    dropped: int
    ladder: int
    """How often a step of the overload ladder was taken."""
    questions: int
    unanswered: int
    age_p50_ms: float
    """From when a chunk was whole until it was in the trunk."""
    age_p95_ms: float
    age_max_ms: float
    ttft_p50_ms: float
    ttft_p95_ms: float
    ttft_max_ms: float
    model_share: float
    """The model thread's time for chunks, by their measured cost."""
    processor_share: float
    """Of all cores, this process, everything included."""
    starved_share: float
    """The model thread was ready to go on, and other programs had the processors; nan: not told."""
    chunks_together: float
    """Chunks in work in a turn of the towers or of a layer, mean."""
    window_chunks: float
    window_tokens: float
    load_average: float

    @property
    def holds(self) -> bool:
        """Whether every chunk was on time, none was dropped, and every question was answered."""
        return not (self.late or self.dropped or self.ladder or self.unanswered)


def run_streams(
    bench: StreamsBench,
    config: Config,
    model: OmniModel | None = None,
    tell: Callable[[str], None] = lambda _: None,
    allocator: Sequence[str] = ("as it is",),
) -> Generator[dict[str, Any], None, None]:
    """The report after each row. model: instead of loading the configured one. allocator: which of
    glibc's settings hold, in words.
    """
    model = model or load(config.model)
    config = within_reach(config, model)[0]
    tell("drawing the worlds")
    worlds = [render(bench.seed + n, bench.window, bench.seconds) for n in range(WORLDS)]
    config = _with_window(model, config, worlds[0], bench.window)
    report: dict[str, Any] = {
        "model": config.model.model,
        "engine": config.model.engine,
        **conditions(pick_device(config.model.device)),
        "options": {
            "seconds": bench.seconds,
            "ask_every_s": bench.ask_every_s,
            "window_chunks": bench.window,
            "budget_tokens": config.stream.budget_tokens,
            "worlds": WORLDS,
            "seed": bench.seed,
            "questions": list(QUESTIONS),
            "answer_tokens_at_most": config.decode.max_tokens,
            "allocator": list(allocator),
        },
        "rows": [],
        "largest_that_holds": {},
    }
    for depth in bench.depths:
        for count in sorted(bench.streams):
            tell(f"{count} streams at depth {depth}")
            row = asyncio.run(_measured(bench, config, model, worlds, count, depth))
            report["rows"].append(_rounded(row))
            if row.holds:
                report["largest_that_holds"][str(depth)] = count
            yield report
            if bench.stop_when_late and not row.holds:
                break


def _with_window(model: OmniModel, config: Config, world: Material, window: int) -> Config:
    """The token budget of so many chunks of such a world, from what its first ones take."""
    stream = OmniStream(model, merged(config, {"stream": {"prefill_depth": 0}}))
    for chunk in world.before[: 8 if window >= 8 else window]:
        stream.push(chunk)
    held = stream.status()
    tokens = math.ceil(held.tokens / max(1, held.chunks_held) * window)
    return merged(config, {"stream": {"budget_tokens": max(1, tokens)}})


@contextmanager
def _running(worker: ModelWorker) -> Iterator[ModelWorker]:
    worker.start()
    try:
        yield worker
    finally:
        worker.close()


async def _measured(
    bench: StreamsBench,
    config: Config,
    model: OmniModel,
    worlds: list[Material],
    count: int,
    depth: int | DepthName,
) -> Row:
    config = merged(config, {"stream": {"prefill_depth": depth}})
    loop, draw = asyncio.get_running_loop(), random.Random(bench.seed)
    go = threading.Event()
    encoded: list[dict[int, Any]] = [{} for _ in worlds]

    def post(call: Callable[..., Any], *values: Any) -> None:
        loop.call_soon_threadsafe(call, *values)

    with _running(ModelWorker()) as worker:
        lives: list[Live] = []
        try:
            for number in range(count):
                world = worlds[number % len(worlds)]
                fill = partial(filled, model, config, world, encoded[number % len(worlds)])
                stream = await asyncio.wrap_future(worker.call(fill))
                phase_s = draw.uniform(0.0, CHUNK_SECONDS)
                lives.append(Live(worker, stream, world, go, phase_s, post))
            before = worker.stats.counter("rounds.chunk"), worker.stats.counter("served.chunk")
            load_average = _load_average()
            thread = await asyncio.wrap_future(worker.call(threading.get_native_id))
            starved_s = -waited_s(thread)
            wall, cpu = time.perf_counter(), time.process_time()
            go.set()
            asked = await _ask_while_they_play(lives, bench, draw)
            ttft = await _finished(asked)
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            starved_s += waited_s(thread)
            for live in lives:
                await asyncio.wait_for(live.drained(), bench.seconds + DRAIN_S)
            errors = [error for live in lives for error in live.errors]
            if errors:
                raise errors[0]
            rounds = worker.stats.counter("rounds.chunk") - before[0]
            served = worker.stats.counter("served.chunk") - before[1]
            return _row(
                lives,
                str(depth),
                ttft,
                len(asked),
                worker.load.now().chunks,
                cpu / wall,
                starved_s / wall,
                served / max(1, rounds),
                load_average,
            )
        finally:
            go.set()
            for live in lives:
                live.answers.cancel_all()
                live.feed.close()
                live.capture.stop()
                worker.remove_feed(live.feed)
            for live in lives:
                await asyncio.to_thread(live.capture.join, 2.0)


async def _ask_while_they_play(
    lives: list[Live], bench: StreamsBench, draw: random.Random
) -> list[asyncio.Task[float]]:
    asked: list[asyncio.Task[float]] = []
    began = time.monotonic()
    for number in range(1, math.ceil(bench.seconds / bench.ask_every_s)):
        await asyncio.sleep(max(0.0, began + number * bench.ask_every_s - time.monotonic()))
        live, text = draw.choice(lives), draw.choice(QUESTIONS)
        asked.append(asyncio.create_task(live.ask(text, number)))
    await asyncio.sleep(max(0.0, began + bench.seconds - time.monotonic()))
    return asked


async def _finished(asked: list[asyncio.Task[float]]) -> list[float]:
    """Times to first token of those that were answered; the others are given up."""
    if not asked:
        return []
    done, late = await asyncio.wait(asked, timeout=DRAIN_S)
    for task in late:
        task.cancel()
    await asyncio.gather(*asked, return_exceptions=True)
    failed = [error for task in done if (error := task.exception()) is not None]
    if unexpected := [error for error in failed if not isinstance(error, OmniDropError)]:
        raise unexpected[0]
    return [task.result() for task in done if task.exception() is None]


def _row(
    lives: list[Live],
    depth: str,
    ttft: list[float],
    questions: int,
    model_share: float,
    cores: float,
    starved: float,
    together: float,
    load_average: float,
) -> Row:
    def total(name: str) -> int:
        return sum(live.stats.counter(name) for live in lives)

    ages = sorted(ms for live in lives for ms in live.stats.recent("chunk.to_prefill"))
    first = sorted(ttft)
    held = [live.stream.status() for live in lives]
    offered = total("feed.offered")
    return Row(
        streams=len(lives),
        depth=depth,
        layers=max(one.depth for one in held),
        chunks=offered,
        late=total("chunk.late"),
        dropped=offered - total("chunk.committed"),
        ladder=total("overload.engaged"),
        questions=questions,
        unanswered=questions - len(ttft),
        age_p50_ms=_percentile(ages, 0.5),
        age_p95_ms=_percentile(ages, 0.95),
        age_max_ms=ages[-1] if ages else math.nan,
        ttft_p50_ms=_percentile(first, 0.5),
        ttft_p95_ms=_percentile(first, 0.95),
        ttft_max_ms=first[-1] if first else math.nan,
        model_share=model_share,
        processor_share=cores / (os.cpu_count() or 1),
        starved_share=starved,
        chunks_together=together,
        window_chunks=mean(one.chunks_held for one in held),
        window_tokens=mean(one.tokens for one in held),
        load_average=load_average,
    )


def _percentile(ordered: list[float], share: float) -> float:
    return ordered[math.ceil(share * len(ordered)) - 1] if ordered else math.nan


def waited_s(thread: int, folder: Path = Path("/proc/self/task")) -> float:
    """Seconds that a thread of ours was ready to run without a processor; nan where the system does
    not tell.
    """
    try:
        return int((folder / str(thread) / "schedstat").read_text("ascii").split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return math.nan


def _load_average() -> float:
    return os.getloadavg()[0]


def _rounded(row: Row) -> dict[str, Any]:
    """As JSON: what was not measured is null."""
    found: dict[str, Any] = {"holds": row.holds}
    for name, value in dataclasses.asdict(row).items():
        if isinstance(value, float):
            found[name] = round(value, 3) if math.isfinite(value) else None
        else:
            found[name] = value
    return found
