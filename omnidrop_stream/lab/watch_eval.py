"""``omnidrop bench watches``: standing questions on test streams of the world.

Each stream has a watch for the bell, for some of the 20 words, and for things: some of those that
it will show (each of the 80 is rare) and some that it never shows. Every watch is judged after
every chunk; the odds are kept, so that other thresholds can be tried on the same judgements.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np
import torch

from omnidrop_stream.config import Config
from omnidrop_stream.errors import ConfigError
from omnidrop_stream.lab.bench_cost import Stopwatch, conditions
from omnidrop_stream.lab.eval import model_hash
from omnidrop_stream.lab.eval_play import chunks_of, depth_of, open_at
from omnidrop_stream.lab.eval_score import clustered
from omnidrop_stream.lab.eval_types import Cell, EvalSettings, GridConfig, Mean
from omnidrop_stream.lab.watch_score import Happening, Outcome, Point, happenings, score
from omnidrop_stream.model.qwen_omni import QwenOmni
from omnidrop_stream.types import CHUNK_SECONDS
from omnidrop_stream.watch import Judgement
from omnidrop_stream.watch_config import WatchConfig
from omnidrop_stream.world import World
from omnidrop_stream.world.items import BELL, COLOUR_NAMES, KINDS, WORDS

KINDS_OF_WATCH = ("bell", "word", "thing")
THRESHOLDS = (0.5, 1.0, 2.0, 3.0, 4.0)


@dataclass(frozen=True, slots=True)
class WatchBench:
    """What is played: ``streams`` worlds of ``chunks`` chunks, and how many watches each has."""

    config: Config
    rule: WatchConfig
    seed: int = 200_000
    streams: int = 16
    chunks: int = 90
    words: int = 4
    shown: int = 5
    never: int = 2
    depth: int | str = "exact"


@dataclass(frozen=True, slots=True)
class Watched:
    """One watch on one stream: what happened and what was judged."""

    kind: str
    what: str
    config: WatchConfig
    events: tuple[Happening, ...]
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class Played:
    """One stream."""

    seed: int
    watched: tuple[Watched, ...]
    push_ms: tuple[float, ...]
    judge_ms: tuple[float, ...]
    """Each judgement, its share of what is done once for all included."""
    chunk_ms: tuple[float, ...]
    """All judgements of a chunk together."""
    chunk_cpu_ms: tuple[float, ...]
    """Processor time for them, which other work on the machine does not lengthen; 0 on a GPU."""


@dataclass(frozen=True, slots=True)
class Row:
    """One kind of watch (or all) at one threshold."""

    kind: str
    threshold: float
    watches: int
    events: int
    precision: Mean | None
    recall: Mean | None
    again: int
    false_per_hour: float
    """False messages for each hour of one watch."""
    delay_s: dict[str, float]
    """From the end of the event to the message: median, p95, most; stream time and computing."""
    waiting_s: float
    """The part of it, median, until the chunk is whole."""
    grounded: Mean | None


@dataclass(frozen=True, slots=True)
class Report:
    """What came out, with everything it depends on."""

    conditions: dict[str, Any]
    settings: dict[str, Any]
    streams: int
    rows: tuple[Row, ...]
    other_thresholds: tuple[Row, ...]
    unheard: int
    cost: dict[str, float]
    totals: dict[str, int] = field(default_factory=dict)


def watches_of(world: World, bench: WatchBench, seed: int) -> list[tuple[str, str, WatchConfig]]:
    """(kind, what, settings) of a stream's watches, drawn from its seed."""
    rng = np.random.default_rng([seed, 7])
    shown = [t.thing for t in world.truths(0, bench.chunks) if t.thing is not None]
    things = sorted(set(shown))
    names = [f"{colour} {kind}" for colour in COLOUR_NAMES for kind in KINDS]
    absent = [name for name in names if name not in things]
    picked = [
        *_some(rng, things, bench.shown),
        *_some(rng, absent, bench.never),
    ]
    words = _some(rng, list(WORDS), bench.words)
    found = [("bell", BELL, "a bell")] + [("word", word, f'"{word}"') for word in words]
    found += [("thing", name, f"{'an' if name[0] in 'aeiou' else 'a'} {name}") for name in picked]
    return [
        (kind, what, bench.rule.model_copy(update={"text": text, "sound_only": kind != "thing"}))
        for kind, what, text in found
    ]


def _some(rng: np.random.Generator, names: Sequence[str], count: int) -> list[str]:
    order = rng.permutation(len(names))[:count]
    return [names[i] for i in order]


def depth_for(model: QwenOmni, bench: WatchBench) -> int:
    """The trunk's depth in layers; ``exact`` is that of a question at the configured retention."""
    return depth_of(model, EvalSettings(bench.config, GridConfig()), _cell(bench))


def _cell(bench: WatchBench) -> Cell:
    return Cell("omnidrop", None, bench.depth)


def play(model: QwenOmni, bench: WatchBench, depth: int, seed: int) -> Played:
    """Push a stream's chunks and judge every watch after each."""
    watch = Stopwatch(torch.device(model.spec.device))
    world = World(seed, "test")
    settings = EvalSettings(bench.config, GridConfig())
    stream = open_at(model, settings, _cell(bench), depth)
    asked = watches_of(world, bench, seed)
    questions = [stream.standing(config) for _, _, config in asked]
    points: list[list[Point]] = [[] for _ in asked]
    push_ms, judge_ms, chunk_ms, chunk_cpu_ms = [], [], [], []
    for number, chunk in enumerate(chunks_of(range(bench.chunks), world.chunk)):
        began = watch.now()
        stream.push(chunk)
        pushed, pushed_cpu = watch.now(), watch.cpu()
        for turn in stream.judge_steps(questions):
            if not isinstance(turn, Judgement):
                continue
            late_ms = (watch.now() - began) * 1e3
            judge_ms.append(turn.own_ms + turn.shared_ms)
            points[turn.number].append(Point(number, turn.to_s, turn.odds, turn.evidence, late_ms))
        push_ms.append((pushed - began) * 1e3)
        chunk_ms.append((watch.now() - pushed) * 1e3)
        chunk_cpu_ms.append((watch.cpu() - pushed_cpu) * 1e3)
    truths = world.truths(0, bench.chunks)
    watched = []
    for (kind, what, config), judged in zip(asked, points, strict=True):
        seen = [(n, t.seen if kind == "thing" else t.heard) for n, t in enumerate(truths)]
        events = happenings([(n, e) for n, e in seen if e is not None and e.what == what])
        watched.append(Watched(kind, what, config, tuple(events), tuple(judged)))
    return Played(
        seed,
        tuple(watched),
        tuple(push_ms),
        tuple(judge_ms),
        tuple(chunk_ms),
        tuple(chunk_cpu_ms),
    )


def steps(
    model: QwenOmni, bench: WatchBench, tell: Callable[[str], None] = lambda _: None
) -> Iterator[Played]:
    """One stream after the other."""
    depth = depth_for(model, bench)
    for seed in range(bench.seed, bench.seed + bench.streams):
        played = play(model, bench, depth, seed)
        yield played
        events = sum(len(w.events) for w in played.watched)
        tell(f"done: stream {seed}, {events} events")


def report_of(model: QwenOmni, bench: WatchBench, played: Sequence[Played]) -> Report:
    """Tables of what was played; at least one stream."""
    if not played:
        raise ConfigError("no stream was played, so there is nothing to report")
    rule = bench.rule
    kinds = (*KINDS_OF_WATCH, "all")
    chunk_ms = [ms for p in played for ms in p.chunk_ms]
    judge_ms = [ms for p in played for ms in p.judge_ms]
    push_ms = [ms for p in played for ms in p.push_ms]
    cpu_ms = [ms for p in played for ms in p.chunk_cpu_ms]
    period_ms = CHUNK_SECONDS * 1e3
    rows = tuple(_row(played, kind, rule) for kind in kinds)
    return Report(
        conditions=conditions(torch.device(model.spec.device)),
        settings=_told(model, bench),
        streams=len(played),
        rows=rows,
        other_thresholds=tuple(
            _row(played, "all", rule.model_copy(update={"threshold": threshold, "release": low}))
            for threshold in THRESHOLDS
            for low in (min(rule.release, threshold - 0.5),)
        ),
        unheard=sum(_outcome(w, rule).unheard for p in played for w in p.watched),
        cost={
            "watches": len(played[0].watched),
            "judge_ms_median": median(judge_ms),
            "judge_ms_p95": p95(judge_ms),
            "chunk_ms_median": median(chunk_ms),
            "chunk_ms_p95": p95(chunk_ms),
            "chunk_cpu_ms_median": median(cpu_ms),
            "push_ms_median": median(push_ms),
            "share_of_period_one": median(judge_ms) / period_ms,
            "share_of_period_all": median(chunk_ms) / period_ms,
        },
        totals={
            "judgements": len(judge_ms),
            "chunks": len(chunk_ms),
            "events": rows[-1].events,
        },
    )


def _told(model: QwenOmni, bench: WatchBench) -> dict[str, Any]:
    spec, rule = model.spec, bench.rule
    return {
        "model": {
            "name": spec.name,
            "sha256": model_hash(model),
            "layers": spec.n_layers,
            "width": spec.hidden_size,
            "dtype": spec.dtype,
        },
        "templates": {"any": spec.watch.any, "sound": spec.watch.sound},
        "depth": depth_for(model, bench),
        "rule": rule.model_dump(exclude={"text", "sound_only", "ask"}),
        "seed": bench.seed,
        "chunks": bench.chunks,
        "watches": {
            "bell": 1,
            "words": bench.words,
            "things": bench.shown,
            "things never shown": bench.never,
        },
    }


def _outcome(watched: Watched, rule: WatchConfig) -> Outcome:
    return score(watched.points, watched.events, rule)


def _row(played: Sequence[Played], kind: str, rule: WatchConfig) -> Row:
    by_stream = [[_outcome(w, rule) for w in p.watched if kind in (w.kind, "all")] for p in played]
    flat = [outcome for outcomes in by_stream for outcome in outcomes]
    hits = [hit for outcome in flat for hit in outcome.hits]
    delays = [hit.delay_s + hit.late_ms / 1e3 for hit in hits]
    hours = sum(outcome.judged for outcome in flat) * CHUNK_SECONDS / 3600
    return Row(
        kind=kind,
        threshold=rule.threshold,
        watches=len(flat),
        events=sum(outcome.events for outcome in flat),
        precision=clustered(
            (sum(len(o.hits) for o in outcomes), sum(o.messages for o in outcomes))
            for outcomes in by_stream
        ),
        recall=clustered(
            (sum(len(o.hits) for o in outcomes), sum(o.events for o in outcomes))
            for outcomes in by_stream
        ),
        again=sum(outcome.again for outcome in flat),
        false_per_hour=sum(outcome.false for outcome in flat) / hours if hours else 0.0,
        delay_s={"median": median(delays), "p95": p95(delays), "most": max(delays)}
        if delays
        else {},
        waiting_s=median([hit.delay_s for hit in hits]) if hits else 0.0,
        grounded=clustered(
            (
                sum(hit.grounded for o in outcomes for hit in o.hits),
                sum(len(o.hits) for o in outcomes),
            )
            for outcomes in by_stream
        ),
    )


def p95(values: Sequence[float]) -> float:
    """The value that 95 % do not pass."""
    return sorted(values)[math.ceil(0.95 * len(values)) - 1]
