"""Test streams of the world played through the chunker and asked: one stream, many settings.

Chunks come out of the same `Chunker` as live. What does not depend on the cell is made once for
all of them: towers, embeddings, the layers that no cell has dropped in yet (`lab.held`); the
questions of a window share a pass (`lab.batched`). The plain path, one question at a time through
`OmniStream`, answers some questions of the first streams too: it is the check, and what is timed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from omnidrop_stream.chunker import Chunker, ChunkerSettings
from omnidrop_stream.errors import ConfigError
from omnidrop_stream.lab.eval_desk import Desk
from omnidrop_stream.lab.eval_score import GROUNDS, evidence_cells, is_right
from omnidrop_stream.lab.eval_types import Cell, EvalSettings, Record
from omnidrop_stream.model.base import OmniModel
from omnidrop_stream.model.qwen_omni import QwenOmni
from omnidrop_stream.plan import intra_for, resolve_depth
from omnidrop_stream.stream import OmniStream
from omnidrop_stream.types import (
    CHUNK_SAMPLES,
    CHUNK_SECONDS,
    Chunk,
    Evidence,
    Frame,
    Samples,
)
from omnidrop_stream.world import ALL_KINDS, Question, Split, World, WorldChunk
from omnidrop_stream.world import ask as make_question
from omnidrop_stream.world.items import FRAME_STEP_S

GAP = "a chunk is missing"


def delivered(seed: int, count: int, gaps: float) -> list[int]:
    """Indices of the world's chunks that arrive: ``count``, in some streams with one hole."""
    rng = np.random.default_rng([seed, 1])
    holed, at = rng.random() < gaps, int(rng.integers(1, max(2, min(count, 8))))
    return [i if not holed or i < at else i + 1 for i in range(count)]


def chunks_of(
    indices: Sequence[int], draw: Callable[[int], WorldChunk], blocks: int = 1
) -> Iterator[Chunk]:
    """These chunks of a world, through the chunker. blocks: runs of sound that a chunk comes in."""
    chunker = Chunker(ChunkerSettings())
    last: int | None = None
    for index in indices:
        if last is not None and index != last + 1:
            yield from chunker.start_epoch(GAP, index * CHUNK_SECONDS)
        last = index
        for item in _items(draw(index), blocks):
            yield from chunker.push(item)
    yield from chunker.flush()


def _items(drawn: WorldChunk, blocks: int) -> Iterator[Frame | Samples]:
    """In order of time, pictures first."""
    start_s = drawn.index * CHUNK_SECONDS
    parts = np.array_split(drawn.audio, blocks)
    at = np.cumsum([0, *(len(part) for part in parts)]) / CHUNK_SAMPLES * CHUNK_SECONDS
    items: list[Frame | Samples] = [
        Frame(image, start_s + n * FRAME_STEP_S) for n, image in enumerate(drawn.frames)
    ]
    items += [Samples(part, start_s + float(t)) for part, t in zip(parts, at, strict=False)]
    yield from sorted(items, key=lambda item: item.time_s)


def questions_for(
    world: World, indices: Sequence[int], seed: int, split: Split = "test"
) -> Iterator[Question]:
    """One question of every kind that these chunks give a fair one of."""
    truths = [world.truth(i) for i in indices]
    for number, kind in enumerate(ALL_KINDS):
        rng = np.random.default_rng([seed, 2, len(indices), number])
        question = make_question(truths, kind, rng, split)
        if question is not None:
            yield question


def depth_of(model: OmniModel, settings: EvalSettings, cell: Cell) -> int:
    """The cell's depth as a number; raises ConfigError for what this model cannot reach."""
    layers, config = model.spec.n_layers, settings.varied(cell.policy)
    if isinstance(cell.depth, int) and cell.depth > layers:
        raise ConfigError(f"depth {cell.depth} is not allowed: this model has {layers} layers")
    stream = config.stream.model_copy(update={"prefill_depth": cell.depth})
    tokens = min(stream.frame_tokens or model.spec.frame_tokens, model.spec.pixels.max_tokens)
    pruning = settings.pruning(cell)
    return resolve_depth(stream, intra_for(pruning, config.intra), pruning, layers, tokens)


def open_at(model: OmniModel, settings: EvalSettings, cell: Cell, depth: int) -> OmniStream:
    """A stream for the cell whose chunks pass ``depth`` layers on arrival."""
    return OmniStream(model, settings.opening(cell, depth))


def play(model: QwenOmni, settings: EvalSettings, depths: dict[Cell, int], seed: int) -> Record:
    """One stream at all lengths and cells; what was answered, judged."""
    grid = settings.grid
    desk = Desk(model, settings, depths)
    world = World(seed, settings.split)
    indices = delivered(seed, max(grid.chunks), grid.gaps)
    for chunk in chunks_of(indices, world.chunk):
        desk.push(chunk)
    timed = seed - grid.seed < grid.timed
    record: Record = {"type": "stream", "seed": seed, "asked": [], "answers": []}
    for count in grid.chunks:
        questions = list(questions_for(world, indices[:count], seed, settings.split))
        told = [{"kind": q.kind, "question": q.text, "truth": q.answer} for q in questions]
        record["asked"].append({"chunks": count, "questions": told})
        for cell in depths:
            answered = desk.answers(cell, count, questions)
            starts = [s.start_s for s in answered.segments]
            offset = indices[0] * CHUNK_SECONDS
            pairs = zip(questions, answered.told, strict=True)
            record["answers"].append(
                {"cell": settings.cells.index(cell), "chunks": count}
                | answered.cost
                | together([judge(q, *one, starts, offset) for q, one in pairs])
                | (desk.timed(cell, count, questions, seed, answered) if timed else {})
            )
    return record


def judge(
    question: Question,
    text: str,
    evidence: Sequence[Evidence],
    starts_s: Sequence[float],
    offset_s: float = 0.0,
) -> tuple[str, bool, dict[str, Any]]:
    """Text, whether it is right, and its grounds. offset_s: world time of the stream's second 0."""
    events = tuple(
        type(e)(e.what, e.modality, e.from_s - offset_s, e.to_s - offset_s)
        for e in question.evidence
    )
    return text, is_right(text, question.answer), evidence_cells(evidence, events, starts_s)


def together(judged: Sequence[tuple[str, bool, dict[str, Any]]]) -> dict[str, Any]:
    """A cell's answers as columns, small enough for thousands of them."""
    return {
        "texts": [text for text, _, _ in judged],
        "ok": "".join("01"[ok] for _, ok, _ in judged),
        "grounds": [list(grounds.values()) for _, _, grounds in judged],
    }


def apart(record: Record) -> Iterator[dict[str, Any]]:
    """The answers of a stream one by one, each with its question and its cell's cost."""
    asked = {part["chunks"]: part["questions"] for part in record["asked"]}
    for part in record["answers"]:
        shared = {k: v for k, v in part.items() if k not in ("texts", "ok", "grounds")}
        rows = zip(asked[part["chunks"]], part["texts"], part["ok"], part["grounds"], strict=True)
        for question, text, ok, grounds in rows:
            named = dict(zip(GROUNDS, grounds, strict=True))
            yield shared | question | {"text": text, "ok": ok == "1", "grounds": named}
