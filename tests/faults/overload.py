"""A model five times slower than real time: ingest, the ladder, the age of chunks, memory."""

from __future__ import annotations

import asyncio
import threading
from statistics import fmean
from typing import Any

from omnidrop_stream.config import ModelConfig
from omnidrop_stream.model.base import OmniModel
from omnidrop_stream.types import CHUNK_SECONDS, Chunk
from runtime.feed import OLDEST_S
from runtime.models import load
from runtime.session import StreamSession
from tests.faults.measure import resident_mib
from tests.faults.report import Row, Tell
from tests.faults.scale import Scale
from tests.helpers import settings

TIMES_SLOWER = 5.0
SLOW_S, QUICK_SLOW_S = 600, 45
RECOVERY_S = 300.0
BUDGET_TOKENS = 1000
LOOK_S = 0.5
DRIFT_LIMIT_MIB = 20.0
BEHIND_LIMIT = 2.0
"""Chunks that may be on their way: cut, and the second that the chunker waits for more."""


class SlowModel:
    """The model, which until `recover` takes five periods for a full chunk, and less for less: half
    of that for the pictures' tokens, a quarter for those that merging leaves.
    """

    def __init__(self, model: OmniModel) -> None:
        self._model = model
        self._full_tokens: float | None = None
        self._recovered = threading.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def recover(self) -> None:
        """From now on as fast as it is; a wait in progress ends."""
        self._recovered.set()

    def encode(self, chunk: Chunk, carry: Any, encode_settings: Any) -> Any:
        if self._full_tokens is None:
            self._full_tokens = encode_settings.frame_tokens
            self._full_merging = encode_settings.intra.video_keep
        frames = 0.0 if chunk.frames is None else len(chunk.frames) / 4
        pictures = frames * encode_settings.frame_tokens / self._full_tokens
        merging = encode_settings.intra.video_keep / self._full_merging
        share = 0.25 + pictures * (0.5 + 0.25 * merging)
        self._recovered.wait(TIMES_SLOWER * CHUNK_SECONDS * share)
        return self._model.encode(chunk, carry, encode_settings)


def run(tell: Tell, scale: Scale) -> None:
    """Ten minutes of it (quick: 45 s), then until the ladder is down again."""
    told = figures(scale.pick(SLOW_S, QUICK_SLOW_S))
    condition = f"embedded model {TIMES_SLOWER:g}x slower than real time for {told['slow_s']:.0f} s"
    tell(
        Row(
            f"{condition}: chunks by which ingest was behind the stream",
            f"at most {told['most_behind_chunks']:.1f}",
            f"<= {BEHIND_LIMIT:g}",
            told["most_behind_chunks"] <= BEHIND_LIMIT,
            told,
        )
    )
    limit_s = OLDEST_S + told["longest_compute_s"]
    tell(
        Row(
            f"{condition}: age of the newest chunk given to the model",
            f"at most {told['oldest_given_s']:.2f} s",
            f"<= {OLDEST_S:g} s plus {told['longest_compute_s']:.1f} s of compute",
            told["oldest_given_s"] <= limit_s,
        )
    )
    tell(
        Row(
            f"{condition}: the overload ladder",
            f"up to step {told['highest_step']}, {told['engaged']} up, {told['disengaged']} down, "
            f"normal again after {told['recovered_after_s']:.0f} s",
            "engages, and is undone",
            told["engaged"] >= 1 and told["last_step"] == 0,
        )
    )
    tell(
        Row(
            f"{condition}: memory, last quarter against the second",
            f"{told['drift_mib']:+.1f} MiB",
            f"< {DRIFT_LIMIT_MIB:g} MiB",
            told["drift_mib"] < DRIFT_LIMIT_MIB,
        )
    )


def figures(slow_s: float) -> dict[str, Any]:
    """Run it, real time; the numbers behind the rows."""
    return asyncio.run(_figures(slow_s))


async def _figures(slow_s: float) -> dict[str, Any]:
    slow = SlowModel(load(ModelConfig()))
    loop = asyncio.get_running_loop()
    memory: list[float] = []
    behind: list[float] = []
    steps: list[int] = []
    # A small budget is full early, so that what grows later is no cache.
    stream = {"frame_tokens": None, "budget_tokens": BUDGET_TOKENS}
    config = settings(stream=stream, decode={"max_tokens": 8})
    async with StreamSession("demo:", config, load=lambda: slow) as session:  # type: ignore[arg-type,return-value]
        await session.reached(0.1)
        began_s = loop.time()
        while loop.time() - began_s < slow_s:
            await asyncio.sleep(LOOK_S)
            chunks = session.stats.counter("source.chunks")
            behind.append((loop.time() - began_s) / CHUNK_SECONDS - chunks)
            memory.append(resident_mib())
            steps.append(session.status().step)
        slow.recover()
        recovers_s = loop.time()
        for _ in range(round(RECOVERY_S / LOOK_S)):
            if not session.status().step:
                break
            await asyncio.sleep(LOOK_S)
        recovered_after_s = loop.time() - recovers_s
        answered = [event async for event in session.ask("What is shown?")]
        snapshot, last_step = session.stats.snapshot(), session.status().step
    counters, timings = snapshot["counters"], snapshot["timings_ms"]
    quarter = len(memory) // 4
    return {
        "slow_s": slow_s,
        "most_behind_chunks": max(behind),
        "oldest_given_s": timings["chunk.waited"]["max"] / 1e3,
        "longest_compute_s": timings["chunk.push"]["max"] / 1e3,
        "highest_step": max(steps),
        "last_step": last_step,
        "engaged": counters.get("overload.engaged", 0),
        "disengaged": counters.get("overload.disengaged", 0),
        "recovered_after_s": recovered_after_s,
        "drift_mib": fmean(memory[-quarter:]) - fmean(memory[quarter : 2 * quarter]),
        "dropped": {k: v for k, v in counters.items() if k.startswith("feed.dropped.")},
        "committed": counters.get("chunk.committed", 0),
        "answer_events": len(answered),
    }
