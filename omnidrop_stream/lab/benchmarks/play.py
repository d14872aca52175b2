"""One clip of a benchmark: its chunks into streams, its questions asked with every cell's pruning.

Cells that need the same states share one `OmniStream`, so a clip is decoded and encoded once for
each way of pruning within the modalities, whatever the number of rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from omnidrop_stream.config import Config, IntraConfig, merged
from omnidrop_stream.errors import OmniDropError, SourceUnreadable
from omnidrop_stream.lab.benchmarks.items import Benchmark, Choice, Clip
from omnidrop_stream.lab.benchmarks.settings import Cell
from omnidrop_stream.lab.eval_desk import ask_one
from omnidrop_stream.lab.eval_types import Record
from omnidrop_stream.model.base import OmniModel
from omnidrop_stream.plan import intra_for, resolve_depth
from omnidrop_stream.stream import OmniStream
from omnidrop_stream.types import Chunk, StreamKind


@dataclass(frozen=True, slots=True)
class Played:
    """A clip as it comes from the decoder."""

    kind: StreamKind
    fps: float
    """Pictures a second that its chunks hold."""
    chunks: Iterable[Chunk]
    seconds: float | None
    """Its length as the file tells it."""


Key = tuple[IntraConfig, int]


def play(
    model: OmniModel, benchmark: Benchmark, cells: Sequence[Cell], clip: Clip, played: Played
) -> Record:
    """Push every chunk, then ask every question with every cell.

    Raises what the chunks raise (`SourceError` for a clip that cannot be read). What one cell
    refuses (a retention out of reach, guidance by a sound that is not there) is in its answers.
    """
    keys = {cell.name: _key(model, cell, played) for cell in cells}
    streams = {
        key: _opened(model, cell.config, key, played)
        for cell in cells
        if not isinstance(key := keys[cell.name], str)
    }
    chunks = pictured = 0
    for chunk in played.chunks:
        chunks += 1
        pictured += chunk.frames is not None
        for stream in streams.values():
            stream.push(chunk)
    if not chunks:
        raise SourceUnreadable(f"{clip.path.name} holds less than a tenth of a second")
    answers = []
    for question in clip.questions:
        for number, cell in enumerate(cells):
            key = keys[cell.name]
            told: dict[str, Any] = {"question": question.id, "cell": number}
            told |= {"group": question.group, "task": question.task, "truth": question.answer}
            refused = key if isinstance(key, str) else None
            told |= {"refused": refused} if refused else {}
            if not isinstance(key, str):
                told |= _answered(streams[key], cell, benchmark, question)
            answers.append(told)
    return {
        "type": "clip",
        "set": benchmark.name,
        "clip": clip.id,
        "kind": str(played.kind),
        "fps": played.fps,
        "seconds": played.seconds,
        "chunks": chunks,
        "pictured": pictured,
        "held": min((len(s.snapshot()) for s in streams.values()), default=0),
        "answers": answers,
    }


def _key(model: OmniModel, cell: Cell, played: Played) -> Key | str:
    """What the cell's stream must be opened with, or why it cannot be."""
    config = _for_clip(cell.config, played)
    intra = intra_for(config.pruning, config.intra)
    tokens = min(
        config.stream.frame_tokens or model.spec.frame_tokens, model.spec.pixels.max_tokens
    )
    layers = model.spec.n_layers
    try:
        return intra, resolve_depth(config.stream, config.intra, config.pruning, layers, tokens)
    except OmniDropError as error:
        return str(error)


def _for_clip(config: Config, played: Played) -> Config:
    return merged(config, {"stream": {"kind": played.kind, "fps": played.fps}})


def _opened(model: OmniModel, config: Config, key: Key, played: Played) -> OmniStream:
    """A stream that any pruning may be asked of: its own drops nothing in the decoder."""
    intra, depth = key
    free = {
        "stream": {"prefill_depth": depth},
        "intra": intra.model_dump(),
        "pruning": {"policy": "intra-only", "retention": None, "schedule": None},
    }
    return OmniStream(model, merged(_for_clip(config, played), free))


def _answered(
    stream: OmniStream, cell: Cell, benchmark: Benchmark, question: Choice
) -> dict[str, Any]:
    device = torch.device(stream.model.spec.device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    try:
        answer = ask_one(stream, question.text, cell.config.pruning)
    except OmniDropError as error:
        return {"refused": str(error)}
    letter = benchmark.letter(answer.text)
    return {
        "text": answer.text,
        "letter": letter,
        "ok": letter == question.answer,
        "label": answer.label,
        "tokens": answer.tokens.entering,
        "entering": round(answer.tokens.mean_entering, 6),
        "leaving": round(answer.tokens.mean_leaving, 6),
        "first_token_ms": round(answer.ttft_ms, 3),
        "total_ms": round(answer.total_ms, 3),
        "peak_mib": _peak_mib(device),
    }


def _peak_mib(device: torch.device) -> float | None:
    """What torch held at most during the answer, weights included; on the CPU nobody counts."""
    if device.type != "cuda":
        return None
    return round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
