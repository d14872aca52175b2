"""A run over benchmarks: which clips are left to play, and what the state file begins with.

A clip is the unit of work. Its record is written when all its questions are answered, so a run that
is started again goes on with the next clip; a clip that could not be read is tried again. Several
processes share the work by taking every n-th clip each, into a state file of their own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from omnidrop_stream.errors import ConfigError, UsageError
from omnidrop_stream.lab.bench_cost import conditions
from omnidrop_stream.lab.benchmarks import BENCHMARKS, Benchmark, Clip
from omnidrop_stream.lab.benchmarks.play import Played, play
from omnidrop_stream.lab.benchmarks.settings import BenchmarkSettings
from omnidrop_stream.lab.eval_types import Record
from omnidrop_stream.lab.fingerprint import fingerprint
from omnidrop_stream.model.qwen_omni import QwenOmni

MOST_SHARDS = 1024


@dataclass(frozen=True, slots=True)
class Shard:
    """This process's part: every ``of``-th clip, beginning with the ``number``-th."""

    number: int = 1
    of: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """From "2/8"; raises UsageError."""
        number, slash, of = text.partition("/")
        parts = (number, of)
        if not slash or not all(p.isascii() and p.isdigit() for p in parts):
            raise UsageError(
                f"--shard = {text!r} is not allowed: give a part and their number: 2/8"
            )
        shard = cls(int(number), int(of))
        if not 1 <= shard.number <= shard.of <= MOST_SHARDS:
            raise UsageError(
                f"--shard = {text!r} is not allowed: the part lies between 1 and their number "
                f"(at most {MOST_SHARDS})"
            )
        return shard

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def of_clips(self, clips: Sequence[Clip]) -> list[Clip]:
        """Those of this part."""
        return list(clips[self.number - 1 :: self.of])


class BenchmarkRun:
    """One model on the clips of some benchmarks."""

    def __init__(
        self,
        model: QwenOmni,
        settings: BenchmarkSettings,
        data: Mapping[str, Sequence[Clip]],
        shard: Shard | None = None,
        first: int | None = None,
    ) -> None:
        """data: the clips by the benchmark's name. first: only so many clips of each benchmark."""
        if first is not None and first < 1:
            raise ConfigError(f"--clips = {first} is not allowed: give 1 or more")
        self._model, self._settings, self._data = model, settings, data
        self._shard, self._first = shard or Shard(), first

    def head(self) -> Record:
        """The state file's first line: what its records depend on, the same for all shards."""
        told = self._told()
        text = json.dumps(told, sort_keys=True)
        return {"type": "head", "run": hashlib.sha256(text.encode()).hexdigest()[:16], **told}

    def _told(self) -> dict[str, Any]:
        spec, settings = self._model.spec, self._settings
        return {
            "model": {
                "name": spec.name,
                "layers": spec.n_layers,
                "width": spec.hidden_size,
                "dtype": spec.dtype,
                "sha256": fingerprint(self._model),
            },
            "table": settings.wanted.table,
            "sets": {name: self._about(name) for name in settings.wanted.sets},
            "cells": [
                {
                    "name": cell.name,
                    "method": cell.method,
                    "ratio": cell.ratio,
                    "pruning": cell.config.pruning.model_dump(mode="json"),
                    "intra": cell.config.intra.model_dump(mode="json"),
                }
                for cell in settings.cells
            ],
            "config": settings.config.model_dump(
                mode="json", exclude={"model": True, "stream": {"watches"}}
            ),
            "frame_tokens": settings.config.stream.frame_tokens or spec.frame_tokens,
        }

    def _about(self, name: str) -> dict[str, Any]:
        clips = self._data[name]
        asked = [[q.id, q.text, q.answer] for clip in clips for q in clip.questions]
        return {
            "clips": len(clips),
            "questions": len(asked),
            "sha256": hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16],
            "max_frames": self._settings.max_frames(name),
        }

    def conditions(self) -> Record:
        """A line for each start of a process: with what the records after it were made."""
        device = torch.device(self._model.spec.device)
        return {"type": "conditions", "shard": str(self._shard), **conditions(device)}

    def left(self, done: Iterable[Record]) -> Iterator[tuple[Benchmark, Clip]]:
        """What this shard has to play that ``done`` does not hold."""
        have = {(r["set"], r["clip"]) for r in done if r["type"] == "clip"}
        for name in self._settings.wanted.sets:
            for clip in self._shard.of_clips(self._data[name])[: self._first]:
                if (name, clip.id) not in have:
                    yield BENCHMARKS[name], clip

    def play(self, benchmark: Benchmark, clip: Clip, played: Played) -> Record:
        """The clip's record. Raises `SourceError` where it cannot be read."""
        try:
            return play(self._model, benchmark, self._settings.cells, clip, played)
        except torch.OutOfMemoryError as error:
            return skipped(benchmark, clip, f"out of memory: {' '.join(str(error).split())[:200]}")


def skipped(benchmark: Benchmark, clip: Clip, reason: str) -> Record:
    """The record of a clip that could not be played."""
    return {"type": "skipped", "set": benchmark.name, "clip": clip.id, "reason": reason}


def joined(files: Sequence[Sequence[Record]], names: Sequence[str]) -> list[Record]:
    """The lines of several state files of one run, one head first. Raises UsageError where they
    belong to different runs.
    """
    heads = [lines[0] for lines in files]
    for name, head in zip(names, heads, strict=True):
        if head.get("run") != heads[0].get("run"):
            raise UsageError(
                f"{name} belongs to another run than {names[0]} (other settings, model or data); "
                "give state files of one run"
            )
    return [heads[0], *(line for lines in files for line in lines[1:])]
