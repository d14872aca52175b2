"""Clocks in simulated time: a sound clock that is off for two hours, and a day of everything.

Nothing waits: a simulated camera's stamps and arrivals go through the live time line, the drift
correction and the chunker, and, for the day, into a stream of a small model.
"""

from __future__ import annotations

import gc
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from omnidrop_stream.cache import slots_of
from omnidrop_stream.chunker import Chunker, ChunkerSettings
from omnidrop_stream.ledger import MAX_LEDGER
from omnidrop_stream.stream import OmniStream
from omnidrop_stream.types import CHUNK_SAMPLES, Chunk, Frame
from runtime.sources.base import Interruption
from runtime.sources.live import LiveItems, Timeline
from tests.faults.report import Row, Tell
from tests.faults.scale import Scale
from tests.helpers import settings, small_model
from tests.runtime.feeds import LOUDEST_S, Camera, to_rgb

SKEW_MS = 40.0
MOST_OBJECTS = 3000
"""Growth of the number of Python objects; the two ledgers alone may hold 2,024 entries."""
SETTLED_S = 60.0
"""So long after a fault of a clock skew is not looked at: a wrong rate is known after 30 s."""
_MOST = 100_000
_BY_ARRIVAL = ("fast", "slow", "untimed")
_FAULTS = ("reset", "forward", "backward", "one medium", "fast", "slow", "untimed", "silent", "")

Stamp = Callable[[bool, float], float]


@dataclass
class _Day:
    """What a simulated camera's stream came to, hour by hour."""

    push: Callable[[Chunk], None]
    on_gaps: Callable[[Chunker], None]
    chunker: Chunker = field(default_factory=lambda: Chunker(ChunkerSettings()))
    chunks: int = 0
    wrong_lengths: int = 0
    worst_skew_s: float = 0.0
    by_arrival_s: list[float] = field(default_factory=list)
    held: int = 0
    end_s: float = 0.0
    steps_back: int = 0

    def take(self, chunks: list[Chunk]) -> None:
        for chunk in chunks:
            self.chunks += 1
            self.steps_back += chunk.start_s < self.end_s - 1e-6
            self.end_s = chunk.end_s
            whole = chunk.flags.partial or (
                chunk.duration_s == 2.0
                and (chunk.audio is None or abs(len(chunk.audio) - CHUNK_SAMPLES) <= 1)
            )
            self.wrong_lengths += not whole
            self.push(chunk)
        self.on_gaps(self.chunker)

    def connection(
        self,
        camera: Camera,
        timeline: Timeline,
        seconds: float,
        quiet: tuple[float, float],
        stamped: bool = True,
    ) -> None:
        """One connection to the camera; within ``quiet`` (true time) skew is not looked at. Without
        ``stamped`` its stamps are worth nothing after that.
        """
        live = LiveItems(timeline, 2.0, has_video=True, to_rgb=to_rgb)
        apart_s: float | None = None
        fresh = self.chunks > 0
        for item in camera.items(seconds, live):
            if isinstance(item, Interruption):
                self.take(self.chunker.start_epoch(item.reason, source_s=item.at_s))
                continue
            if fresh:
                fresh = False
                self.take(self.chunker.start_epoch("reconnected", source_s=item.time_s))
            if isinstance(item, Frame):
                apart_s = item.time_s - camera.shot_at(item.image)
            elif apart_s is not None and len(item.pcm) > 100:
                true_s = float(item.pcm[0]) * LOUDEST_S
                if not quiet[0] <= true_s <= quiet[1]:
                    skew_s = abs(item.time_s - true_s - apart_s)
                    if stamped or true_s < quiet[0]:
                        self.worst_skew_s = max(self.worst_skew_s, skew_s)
                    elif len(self.by_arrival_s) < _MOST:
                        self.by_arrival_s.append(skew_s)
            self.take(self.chunker.push(item))
            self.held = max(self.held, self.chunker.held)


def drift(hours: float, ppm: float) -> dict[str, Any]:
    """A camera whose sound clock is ``ppm`` too fast, for so long."""
    day = _Day(lambda chunk: None, lambda chunker: None)
    camera = Camera(ppm=ppm, fps=10, run_s=0.1, jitter_s=0.02)
    timeline = Timeline(camera.clock)
    day.connection(camera, timeline, hours * 3600, (-1.0, 0.0))
    day.take(day.chunker.flush())
    return {
        "hours": hours,
        "ppm": ppm,
        "chunks": day.chunks,
        "wrong_lengths": day.wrong_lengths,
        "worst_skew_ms": day.worst_skew_s * 1e3,
        "unmended_skew_ms": abs(ppm) * 1e-6 * hours * 3.6e6,
        "silence_filled_samples": day.chunker.counters.silence_filled_samples,
        "faults": dict(timeline.faults),
    }


def simulated_day(hours: float = 24.0, seed: int = 0) -> dict[str, Any]:
    """Connections of minutes to an hour, nearly each with a fault of a clock; every chunk goes
    into a stream of a small model. Figures: lengths, order, skew, the ledgers, cache, positions,
    memory.
    """
    draw, model = random.Random(seed), small_model()
    stream = OmniStream(model, settings(stream={"frame_tokens": 24, "budget_tokens": 600}))
    peak_tokens = peak_position = peak_ledger = 0

    def push(chunk: Chunk) -> None:
        nonlocal peak_tokens, peak_position
        stream.push(chunk)
        held = stream.snapshot()
        peak_tokens = max(peak_tokens, stream.status().tokens)
        slots = int(slots_of(held)[-1]) + 1
        peak_position = max(peak_position, slots * model.spec.ids_per_chunk)

    def told(chunker: Chunker) -> None:
        nonlocal peak_ledger
        for gap in chunker.new_gaps():
            stream.note_gap(gap)
        peak_ledger = max(peak_ledger, len(chunker.gaps))

    day, sizes = _Day(push, told), list[int]()
    camera = Camera()
    timeline = Timeline(lambda: camera.clock())
    now_s, injected = 0.0, Counter[str]()
    while now_s < hours * 3600:
        seconds = min(draw.uniform(300, 3600), hours * 3600 - now_s + 60)
        kind, at_s = draw.choice(_FAULTS), draw.uniform(0.2, 0.6) * seconds
        injected[kind or "none"] += 1
        camera = Camera(
            stamp=_spoilt(kind, at_s, draw),
            lost=_silent(kind, at_s),
            ppm=draw.choice([-200.0, 0.0, 200.0]),
            fps=4,
            run_s=0.25,
            seed=draw.randrange(1000),
            base_s=5000.0 + now_s,
        )
        day.connection(
            camera, timeline, seconds, (at_s - 1, at_s + SETTLED_S), kind not in _BY_ARRIVAL
        )
        now_s += seconds + draw.uniform(0.2, 10)  # down so long
        gc.collect()
        sizes.append(len(gc.get_objects()))
    day.take(day.chunker.flush())
    counters, later = day.chunker.counters, sizes[len(sizes) // 4 :] or sizes
    return {
        "hours": now_s / 3600,
        "stream_hours": day.end_s / 3600,
        "chunks": day.chunks,
        "connections": sum(injected.values()),
        "injected": dict(injected),
        "faults": dict(timeline.faults),
        "epochs": counters.epochs,
        "wrong_lengths": day.wrong_lengths,
        "steps_back": day.steps_back,
        "worst_skew_ms": day.worst_skew_s * 1e3,
        "skew_by_arrival_p99_ms": 1e3 * _p99(day.by_arrival_s),
        "chunker_held": day.held,
        "ledger": peak_ledger,
        "ledger_limit": day.chunker.settings.max_gaps,
        "stream_ledger_limit": MAX_LEDGER,
        "cache_tokens": peak_tokens,
        "cache_budget": stream.status().budget_tokens,
        "evicted": stream.status().evicted,
        "highest_position": peak_position,
        "position_limit": model.spec.max_positions,
        "objects": later[0],
        "objects_grown": max(later) - later[0],
    }


def _p99(values: list[float]) -> float:
    return sorted(values)[int(0.99 * len(values))] if values else 0.0


def _spoilt(kind: str, at_s: float, draw: random.Random) -> Stamp:
    base_s, sound_only = draw.uniform(0, 1e5), draw.random() < 0.5
    after: dict[str, Callable[[float], float]] = {
        "reset": lambda t: t - at_s,
        "forward": lambda t: t + base_s + 3600,
        "backward": lambda t: t + base_s - 3600,
        "one medium": lambda t: t + base_s + 3600,
        "fast": lambda t: at_s + base_s + 10 * (t - at_s),
        "slow": lambda t: at_s + base_s + (t - at_s) / 10,
        "untimed": lambda t: float("nan"),
    }
    spoil = after.get(kind)

    def stamp(sound: bool, t: float) -> float:
        concerned = kind != "one medium" or sound == sound_only
        return spoil(t) if spoil is not None and concerned and t >= at_s else t + base_s

    return stamp


def _silent(kind: str, at_s: float) -> Callable[[bool, float], bool]:
    return lambda sound, t: kind == "silent" and sound and at_s < t < at_s + 60


def run(tell: Tell, scale: Scale) -> None:
    """Two hours of drift each way, and a day."""
    drift_hours, day_hours = (0.25, 0.5) if scale.quick else (2.0, 24.0)
    for ppm in (200.0, -200.0):
        got = drift(drift_hours, ppm)
        held = got["worst_skew_ms"] <= SKEW_MS and not got["wrong_lengths"]
        figure = (
            f"skew at most {got['worst_skew_ms']:.1f} ms "
            f"(left alone {got['unmended_skew_ms']:.0f} ms), {got['chunks']} chunks, "
            f"{got['wrong_lengths']} not of 2.0 s ± 1 sample"
        )
        condition = f"sound clock {ppm:+.0f} ppm off for {drift_hours:g} h (simulated time)"
        tell(Row(condition, figure, f"{SKEW_MS:g} ms; 0", held, got))
    day = simulated_day(day_hours)
    figure = (
        f"{day['chunks']} chunks, {day['epochs']} epochs, skew at most "
        f"{day['worst_skew_ms']:.1f} ms ({day['skew_by_arrival_p99_ms']:.1f} ms p99 where pictures "
        f"go by arrival), ledger {day['ledger']} entries, cache "
        f"{day['cache_tokens']} tokens, highest position {day['highest_position']}, Python objects "
        f"{day['objects_grown']:+d} of {day['objects']}"
    )
    limit = (
        f"lengths, order; {SKEW_MS:g} ms; {day['ledger_limit']}; {day['cache_budget']}; "
        f"{day['position_limit']}; {MOST_OBJECTS}"
    )
    tell(Row(f"{day_hours:g} h of simulated time", figure, limit, holds(day), day))


def holds(day: dict[str, Any]) -> bool:
    """Whether a simulated day went as it must."""
    return bool(
        day["wrong_lengths"] == day["steps_back"] == 0
        and day["worst_skew_ms"] <= SKEW_MS
        and day["skew_by_arrival_p99_ms"] <= SKEW_MS
        and day["chunker_held"] < 200
        and day["ledger"] <= day["ledger_limit"]
        and day["cache_tokens"] <= day["cache_budget"]
        and day["highest_position"] <= day["position_limit"]
        and day["objects_grown"] < MOST_OBJECTS
    )
