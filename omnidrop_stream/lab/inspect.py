"""``omnidrop inspect``: what a checkpoint does with a stream and a question (the paper's Figures 1,
2 and 4), on any clips.

Each clip goes into two streams: one unpruned, whose embeddings and attention are looked at, and one
with the settings' pruning, whose answers tell what it keeps for which kind of question.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from omnidrop_stream.cache import Segment
from omnidrop_stream.config import Config, merged
from omnidrop_stream.errors import NothingHeld
from omnidrop_stream.lab.bench_cost import conditions
from omnidrop_stream.lab.eval_desk import ask_one
from omnidrop_stream.lab.fingerprint import fingerprint
from omnidrop_stream.lab.inspect_attention import (
    attention_scores,
    chunk_means,
    of_medium,
    top_recall,
)
from omnidrop_stream.lab.inspect_embeddings import Clip, cosines, principal
from omnidrop_stream.lab.inspect_types import (
    Asked,
    AttentionMap,
    Inspection,
    Recall,
    Retention,
)
from omnidrop_stream.model.qwen_omni import QwenOmni
from omnidrop_stream.stream import OmniStream
from omnidrop_stream.types import Answer, Chunk, Modality, StreamKind

Layers = list[float]
_UNPRUNED: dict[str, dict[str, Any]] = {
    "intra": {"enabled": False},
    "pruning": {"policy": "keep-all", "retention": None, "schedule": None},
}


@dataclass(frozen=True, slots=True)
class Sampling:
    """How much is drawn, and from which seed."""

    points: int = 2_000
    """Tokens shown on the principal components; the paper shows 10,000."""
    pairs: int = 100_000
    """Pairs of each kind whose cosine is taken; the paper's number."""
    seed: int = 0
    maps: int = 6
    """Questions whose attention is kept in full: the first ones."""


class Inspector:
    """Clips in by `add`, the whole picture out by `result`."""

    def __init__(self, model: QwenOmni, config: Config, sampling: Sampling | None = None) -> None:
        self._model, self._config = model, config
        self._sampling = sampling or Sampling()
        self._clips: list[Clip] = []
        self._chunks = 0
        self._maps: list[AttentionMap] = []
        self._recall: tuple[list[Layers], list[Layers]] = ([], [])
        self._kept: dict[str, tuple[list[Layers], list[Layers]]] = {}

    def add(
        self,
        kind: StreamKind,
        chunks: Iterable[Chunk],
        asked: Sequence[Asked],
        fps: float | None = None,
    ) -> None:
        """One clip and what is asked at its end, of the window that is held then.

        fps: pictures a second in its chunks, where that is not the settings'. Raises NothingHeld
        for a clip without chunks, ConfigError for pruning out of reach, QuestionError.
        """
        rate = self._config.stream.fps if fps is None else fps
        config = merged(self._config, {"stream": {"kind": kind, "fps": rate}})
        whole = OmniStream(
            self._model, merged(config, {"stream": {"prefill_depth": 0}, **_UNPRUNED})
        )
        pruned = OmniStream(self._model, config)
        for chunk in chunks:
            whole.push(chunk)
            pruned.push(chunk)
        held = whole.snapshot()
        if not held:
            raise NothingHeld(
                "the source gave no whole chunk (2 s), so there is nothing to inspect"
            )
        self._chunks += len(held)
        self._clips.append(_embeddings(held))
        for one in asked:
            answer = ask_one(pruned, one.text, config.pruning)
            self._look(config, kind, held, one, answer)
            self._count(one.kind, answer, pruned.snapshot())

    def _look(
        self,
        config: Config,
        kind: StreamKind,
        held: Sequence[Segment],
        asked: Asked,
        answer: Answer,
    ) -> None:
        system = config.stream.system_prompt
        scores = attention_scores(self._model, kind, system, held, asked.text)
        modality = torch.cat([s.tokens.modality for s in held]).cpu()
        chunk = torch.repeat_interleave(
            torch.arange(len(held)), torch.tensor([s.count for s in held])
        )
        for medium in Modality:
            own = of_medium(scores, modality, medium)
            if own.shape[1]:
                self._recall[medium].append([float(x) for x in top_recall(own)])
        if len(self._maps) < self._sampling.maps:
            self._maps.append(_map(scores, modality, chunk, held, asked, answer))

    def _count(self, kind: str, answer: Answer, held: Sequence[Segment]) -> None:
        made = sum(s.tokens.n_unpruned for s in held)
        pictures = sum(s.tokens.n_unpruned_video for s in held)
        kept = self._kept.setdefault(kind or "all questions", ([], []))
        rows = answer.tokens.per_layer
        if pictures:
            kept[Modality.VIDEO].append([row.video / pictures for row in rows])
        if made > pictures:
            kept[Modality.AUDIO].append([row.audio / (made - pictures) for row in rows])

    def result(self) -> Inspection:
        """What has been found so far."""
        spec, sampling = self._model.spec, self._sampling
        video, audio = self._recall
        return Inspection(
            settings={
                "model": {
                    "name": spec.name,
                    "layers": spec.n_layers,
                    "width": spec.hidden_size,
                    "dtype": spec.dtype,
                    "sha256": fingerprint(self._model),
                },
                "pruning": self._config.pruning.model_dump(mode="json"),
                "fps": self._config.stream.fps,
                "frame_tokens": self._config.stream.frame_tokens or spec.frame_tokens,
                "sampling": dataclasses.asdict(sampling),
            },
            conditions=conditions(torch.device(spec.device)),
            clips=len(self._clips),
            chunks=self._chunks,
            maps=tuple(self._maps),
            recall=Recall(_mean(video), _mean(audio), max(len(video), len(audio))),
            retention=tuple(
                Retention(kind, max(map(len, kept)), _mean(kept[0]), _mean(kept[1]))
                for kind, kept in self._kept.items()
            ),
            projection=principal(self._clips, sampling.points, sampling.seed),
            cosines=cosines(self._clips, sampling.pairs, sampling.seed),
        )


def to_json(found: Inspection) -> str:
    """Everything, in one line for each of its parts."""
    parts = dataclasses.asdict(found)
    lines = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in parts.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _embeddings(held: Sequence[Segment]) -> Clip:
    embeds = torch.cat([s.tokens.embeds for s in held]).float().cpu()
    modality = torch.cat([s.tokens.modality for s in held]).cpu()
    return embeds[modality == int(Modality.VIDEO)], embeds[modality == int(Modality.AUDIO)]


def _map(
    scores: torch.Tensor,
    modality: torch.Tensor,
    chunk: torch.Tensor,
    held: Sequence[Segment],
    asked: Asked,
    answer: Answer,
) -> AttentionMap:
    mean = chunk_means(scores, chunk, len(held)).nan_to_num(0.0)
    parts = [
        chunk_means(of_medium(scores, modality, m), chunk[modality == int(m)], len(held))
        for m in Modality
    ]
    pairs = torch.stack(parts, dim=2)
    return AttentionMap(
        question=asked.text,
        kind=asked.kind,
        answer=answer.text,
        starts_s=tuple(round(s.start_s, 3) for s in held),
        mean=tuple(tuple(_short(x) or 0.0 for x in layer) for layer in mean.tolist()),
        by_medium=tuple(
            tuple((_short(video), _short(audio)) for video, audio in layer)
            for layer in pairs.tolist()
        ),
    )


def _short(value: float) -> float | None:
    """Four digits; None for no number."""
    return None if math.isnan(value) else float(f"{value:.4g}")


def _mean(rows: Sequence[Layers]) -> tuple[float, ...]:
    """By layer; of nothing nothing."""
    columns = zip(*rows, strict=True)
    return tuple(float(f"{sum(column) / len(column):.4g}") for column in columns)
