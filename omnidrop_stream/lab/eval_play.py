"""Test streams of the world played through the chunker and asked: one stream, many settings.

Chunks come out of the same `Chunker` as live. Cells that need the same depth share one `OmniStream`
and each asks it with its own pruning; all are asked the same questions on the same snapshot.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from omnidrop_stream.chunker import Chunker, ChunkerSettings
from omnidrop_stream.config import Config, PruningConfig, merged
from omnidrop_stream.errors import ConfigError
from omnidrop_stream.lab.eval_score import evidence_cells, is_right
from omnidrop_stream.lab.eval_types import Cell, EvalSettings, Record
from omnidrop_stream.model.base import OmniModel
from omnidrop_stream.plan import resolve_depth
from omnidrop_stream.stream import OmniStream
from omnidrop_stream.types import CHUNK_SAMPLES, CHUNK_SECONDS, Answer, Chunk, Frame, Query, Samples
from omnidrop_stream.world import ALL_KINDS, Question, World, WorldChunk
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


def questions_for(world: World, indices: Sequence[int], seed: int) -> Iterator[Question]:
    """One question of every kind that these chunks give a fair one of."""
    truths = [world.truth(i) for i in indices]
    for number, kind in enumerate(ALL_KINDS):
        rng = np.random.default_rng([seed, 2, len(indices), number])
        question = make_question(truths, kind, rng, "test")
        if question is not None:
            yield question


def pruning_of(config: Config, cell: Cell) -> PruningConfig:
    """The configuration's pruning with the cell's policy and retention."""
    values: dict[str, Any] = {"policy": cell.policy}
    if cell.retention is not None:
        values |= {"retention": cell.retention, "schedule": None}
    return merged(config, {"pruning": values}).pruning


def depth_of(model: OmniModel, config: Config, cell: Cell) -> int:
    """The cell's depth as a number; raises ConfigError for what this model cannot reach."""
    layers = model.spec.n_layers
    if isinstance(cell.depth, int) and cell.depth > layers:
        raise ConfigError(f"depth {cell.depth} is not allowed: this model has {layers} layers")
    stream = config.stream.model_copy(update={"prefill_depth": cell.depth})
    tokens = min(stream.frame_tokens or model.spec.frame_tokens, model.spec.pixels.max_tokens)
    return resolve_depth(stream, config.intra, pruning_of(config, cell), layers, tokens)


def open_at(model: OmniModel, config: Config, depth: int) -> OmniStream:
    """A stream whose chunks pass ``depth`` layers on arrival, for any pruning at question time."""
    free = {"pruning": {"policy": "intra-only", "retention": None, "schedule": None}}
    return OmniStream(model, merged(config, {"stream": {"prefill_depth": depth}, **free}))


def ask_one(stream: OmniStream, text: str, pruning: PruningConfig) -> Answer:
    """The finished answer; streams end in one whatever happens."""
    *_, last = stream.ask(Query(text), pruning=pruning)
    if not isinstance(last, Answer):
        raise RuntimeError("a stream ended without an answer")
    return last


def play(model: OmniModel, settings: EvalSettings, depths: dict[Cell, int], seed: int) -> Record:
    """One stream at all lengths and cells; what was answered, judged."""
    grid, config, cells = settings.grid, settings.config, settings.cells
    world = World(seed, "test")
    indices = delivered(seed, max(grid.chunks), grid.gaps)
    streams = {depth: open_at(model, config, depth) for depth in sorted(set(depths.values()))}
    answers = []
    for count, chunk in enumerate(chunks_of(indices, world.chunk), start=1):
        for stream in streams.values():
            stream.push(chunk)
        if count not in grid.chunks:
            continue
        _check_held(streams.values(), count)
        for question in questions_for(world, indices[:count], seed):
            for cell, depth in depths.items():
                answer = ask_one(streams[depth], question.text, pruning_of(config, cell))
                starts = [s.start_s for s in streams[depth].snapshot()]
                judged = judge(question, answer, starts, indices[0] * CHUNK_SECONDS)
                answers.append({"cell": cells.index(cell), "chunks": count, **judged})
    return {"type": "stream", "seed": seed, "answers": answers}


def _check_held(streams: Iterable[OmniStream], count: int) -> None:
    for stream in streams:
        held = len(stream.snapshot())
        if held < count:
            raise ConfigError(
                f"a stream of {count} chunks does not fit: stream.budget_tokens = "
                f"{stream.config.stream.budget_tokens} and the model's positions hold {held}; ask "
                "for fewer chunks or raise it"
            )


def judge(
    question: Question, answer: Answer, starts_s: Sequence[float], offset_s: float = 0.0
) -> dict[str, Any]:
    """Right or wrong, grounds and cost. offset_s: world time of the stream's second 0."""
    events = tuple(
        type(e)(e.what, e.modality, e.from_s - offset_s, e.to_s - offset_s)
        for e in question.evidence
    )
    return {
        "kind": question.kind,
        "question": question.text,
        "truth": question.answer,
        "text": answer.text,
        "ok": is_right(answer.text, question.answer),
        "grounds": evidence_cells(answer.evidence, events, starts_s),
        "label": answer.label,
        "entering": round(answer.tokens.mean_entering, 6),
        "leaving": round(answer.tokens.mean_leaving, 6),
        "tokens": answer.tokens.entering,
    }
