"""Two promises of a live stream, checked on answers: chunk by chunk is as good as at once, and a
rolling budget does as well as a fresh stream of the same window.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from omnidrop_stream.config import merged
from omnidrop_stream.errors import ConfigError
from omnidrop_stream.lab.eval_desk import ask_one
from omnidrop_stream.lab.eval_play import chunks_of, delivered, depth_of, open_at, questions_for
from omnidrop_stream.lab.eval_score import clustered, difference, is_right
from omnidrop_stream.lab.eval_types import Cell, Check, EvalSettings, Record
from omnidrop_stream.model.base import OmniModel
from omnidrop_stream.plan import AUDIO_TOKENS_PER_CHUNK
from omnidrop_stream.stream import OmniStream
from omnidrop_stream.types import (
    CHUNK_SECONDS,
    LEFT_CONTEXT_SAMPLES,
    RIGHT_CONTEXT_SAMPLES,
    Chunk,
    StreamKind,
)
from omnidrop_stream.world import Question, World

BLOCKS = 20
"""Runs of sound that a chunk comes in: 0.1 s each."""
ROLLING_WINDOW = 16
ROLLING_ASKED = 9
"""Windows at a long stream's end that are asked about: what was forgotten wrongly would show there.
"""
ROLLING_SEED_STEP = 1_000_000
MOST_SHOWN = 20


def offline_chunks(world: World, indices: Sequence[int]) -> Iterator[Chunk]:
    """The same chunks cut from the arrays, with everything known in advance: no chunker."""
    epoch = number = 0
    for place, index in enumerate(indices):
        follows = place > 0 and indices[place - 1] == index - 1
        goes_on = place + 1 < len(indices) and indices[place + 1] == index + 1
        if place and not follows:
            epoch, number = epoch + 1, number + 1
        drawn = world.chunk(index)
        left = world.audio(index - 1)[-LEFT_CONTEXT_SAMPLES:] if follows else None
        right = world.audio(index + 1)[:RIGHT_CONTEXT_SAMPLES] if goes_on else None
        yield Chunk(
            index=number,
            epoch=epoch,
            start_s=(index - indices[0]) * CHUNK_SECONDS,
            frames=drawn.frames,
            audio=drawn.audio,
            audio_left=np.zeros(LEFT_CONTEXT_SAMPLES, np.float32) if left is None else left,
            audio_right=np.zeros(RIGHT_CONTEXT_SAMPLES, np.float32) if right is None else right,
        )
        number += 1


def streamed(model: OmniModel, settings: EvalSettings, cell: Cell, seed: int) -> Record:
    """One stream twice: live through the chunker at depth ``exact``, and offline at depth 0."""
    lengths, split = settings.grid.chunks, settings.split
    exact = Cell(cell.policy, cell.retention, "exact")
    pruning, world = settings.pruning(exact), World(seed, split)
    indices = delivered(seed, max(lengths), settings.grid.gaps)
    depth = depth_of(model, settings, exact)
    live, offline = open_at(model, settings, exact, depth), open_at(model, settings, exact, 0)
    answers = []
    both = zip(chunks_of(indices, world.chunk, BLOCKS), offline_chunks(world, indices), strict=True)
    for count, (came, cut) in enumerate(both, start=1):
        live.push(came)
        offline.push(cut)
        if count in lengths:
            for question in questions_for(world, indices[:count], seed, split):
                first = ask_one(offline, question.text, pruning)
                second = ask_one(live, question.text, pruning)
                told = {"label": second.label, "chunks": count}
                answers.append(_pair(question, first.text, second.text) | told)
    return {
        "type": "streamed",
        "seed": seed,
        "depth": depth,
        "cell": exact.name,
        "answers": answers,
    }


def check_rolling(chunks: int) -> None:
    """Raise ConfigError for a stream that never rolls."""
    if chunks < 2 * ROLLING_WINDOW:
        raise ConfigError(
            f"--rolling = {chunks} is not allowed: give {2 * ROLLING_WINDOW} chunks or more, "
            f"twice the window of {ROLLING_WINDOW}"
        )


def rolling(model: OmniModel, settings: EvalSettings, cell: Cell, chunks: int) -> Record:
    """A long stream with a rolling budget, asked about each of its last ROLLING_ASKED windows,
    against a fresh stream of the same chunks; at the cell's depth and at depth 0, where nothing
    that left is remembered.
    """
    config = merged(settings.config, {"stream": {"budget_tokens": _budget(model, settings)}})
    settings = replace(settings, config=config)
    seed = settings.grid.seed + ROLLING_SEED_STEP
    world, pruning = World(seed, settings.split), settings.pruning(cell)
    draw = lru_cache(maxsize=2 * ROLLING_WINDOW)(world.chunk)
    depths = sorted({depth_of(model, settings, cell), 0}, reverse=True)
    long = {depth: open_at(model, settings, cell, depth) for depth in depths}
    windows = []
    never_asked = max(ROLLING_WINDOW, chunks - ROLLING_ASKED * ROLLING_WINDOW)
    for count, chunk in enumerate(chunks_of(range(chunks), draw), start=1):
        for stream in long.values():
            stream.push(chunk)
        if count % ROLLING_WINDOW or count <= never_asked:
            continue
        answers = {}
        for depth, stream in long.items():
            held = [segment.chunk for segment in stream.snapshot()]
            fresh = open_at(model, settings, cell, depth)
            for again in chunks_of(held, draw):
                fresh.push(again)
            asked = questions_for(world, held, seed + count, settings.split)
            answers[str(depth)] = _compared(fresh, stream, asked, pruning)
        windows.append({"end": count, "answers": answers})
    return {"type": "rolling", "seed": chunks, "cell": cell.name, "windows": windows}


def _compared(
    first: OmniStream, second: OmniStream, questions: Iterator[Question], pruning: Any
) -> list[dict[str, Any]]:
    pairs = []
    for question in questions:
        one, two = (ask_one(stream, question.text, pruning) for stream in (first, second))
        pairs.append(_pair(question, one.text, two.text) | {"label": two.label})
    return pairs


def _pair(question: Question, first: str, second: str) -> dict[str, Any]:
    return {
        "kind": question.kind,
        "question": question.text,
        "truth": question.answer,
        "first": first,
        "second": second,
        "ok": [is_right(first, question.answer), is_right(second, question.answer)],
    }


def _budget(model: OmniModel, settings: EvalSettings) -> int:
    """Tokens of the window: whole merging windows of two chunks, pruned within each modality."""
    stream, intra = settings.config.stream, settings.config.intra
    if stream.kind is not StreamKind.AV or stream.fps != 2.0:
        raise ConfigError("--rolling needs a stream of kind av at 2 fps, as the world is")
    patch = min(stream.frame_tokens or model.spec.frame_tokens, model.spec.pixels.max_tokens)
    if not intra.enabled:
        return ROLLING_WINDOW * (2 * patch + AUDIO_TOKENS_PER_CHUNK)
    video = patch + 3 * int(intra.video_keep * patch)
    audio = 2 * int(intra.audio_keep * AUDIO_TOKENS_PER_CHUNK)
    return ROLLING_WINDOW // 2 * (video + audio)


def score_check(kind: str, records: Sequence[Record]) -> list[Check]:
    """What the records of a check amount to; nothing of none."""
    if not records:
        return []
    last = records[-1]
    if kind == "streamed":
        name = "streamed chunk by chunk (depth exact) against offline (depth 0)"
        about = {"cell": last["cell"], "streams": len(records), "depth": last["depth"]}
        return _check(name, about, [r["answers"] for r in records])
    checks = []
    for depth in last["windows"][0]["answers"]:
        name = f"rolling stream of {last['seed']} chunks against fresh streams, depth {depth}"
        about = {"cell": last["cell"], "windows": len(last["windows"]), "depth": int(depth)}
        about["chunks in a window"] = ROLLING_WINDOW
        checks += _check(name, about, [w["answers"][depth] for w in last["windows"]])
    return checks


def _check(name: str, about: dict[str, Any], groups: Sequence[list[dict[str, Any]]]) -> list[Check]:
    flat = [a for group in groups for a in group]
    sums = [
        (float(sum(a["ok"][0] for a in g)), float(sum(a["ok"][1] for a in g)), len(g))
        for g in groups
    ]
    first = clustered((one, n) for one, _, n in sums)
    second = clustered((two, n) for _, two, n in sums)
    apart = difference(sums)
    if first is None or second is None or apart is None:
        return []
    told = about | {"labels": ", ".join(sorted({a["label"] for a in flat}))}
    unlike = [a for a in flat if a["first"] != a["second"]]
    same, shown = len(flat) - len(unlike), tuple(unlike[:MOST_SHOWN])
    return [Check(name, told, len(flat), same, first, second, apart, shown)]
