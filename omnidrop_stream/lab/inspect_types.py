"""What ``omnidrop inspect`` finds out: plain data, ready for JSON and for drawing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

MEDIA = ("video", "audio")
"""Index 0 and 1 of every pair here, as `types.Modality` counts."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A question and the kind it is counted under (empty: of no kind)."""

    text: str
    kind: str = ""


@dataclass(frozen=True, slots=True)
class AttentionMap:
    """Where one question looks (the paper's Fig. 2a): S of Eq. 5, nothing dropped."""

    question: str
    kind: str
    answer: str
    """With the pruning of the settings."""
    starts_s: tuple[float, ...]
    """Stream time at which each chunk begins."""
    mean: tuple[tuple[float, ...], ...]
    """[layers][chunks]: mean S of a chunk's tokens, both media together."""
    by_medium: tuple[tuple[tuple[float | None, float | None], ...], ...]
    """[layers][chunks](video, audio): the same for each; None where a chunk has none."""


@dataclass(frozen=True, slots=True)
class Recall:
    """Share of a medium's attention that its strongest fifth of tokens holds (Fig. 2b)."""

    video: tuple[float, ...]
    """[layers], mean over questions; empty where there were no such tokens."""
    audio: tuple[float, ...]
    questions: int


@dataclass(frozen=True, slots=True)
class Retention:
    """Share of a medium's tokens, of those that the towers made, that enter each layer (Fig. 4)."""

    kind: str
    questions: int
    video: tuple[float, ...]
    """[layers], mean over questions; empty where there were no such tokens."""
    audio: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Projection:
    """Input embeddings on their first two principal components (Fig. 1a)."""

    explained: tuple[float, float]
    """Share of the variance along each axis."""
    video: tuple[tuple[float, float], ...]
    audio: tuple[tuple[float, float], ...]
    """A sample of the tokens, in the proportion that the towers make them."""


@dataclass(frozen=True, slots=True)
class Cosines:
    """How alike pairs of input embeddings of one clip are (Fig. 1b)."""

    edges: tuple[float, ...]
    """Of the histogram's bins, from -1 to 1."""
    density: dict[str, tuple[float, ...]]
    """``video-video``, ``audio-audio``, ``audio-video``: each integrates to 1."""
    mean: dict[str, float]
    pairs: dict[str, int]
    """How many were drawn."""


@dataclass(frozen=True, slots=True)
class Inspection:
    """Everything, with what it depends on."""

    settings: dict[str, Any]
    conditions: dict[str, Any]
    clips: int
    chunks: int
    maps: tuple[AttentionMap, ...]
    recall: Recall
    retention: tuple[Retention, ...]
    projection: Projection | None
    cosines: Cosines | None
