"""Input embeddings, before the language model: do sound and pictures share a space (Fig. 1)?

As in the paper's appendix A: the components are fitted on as many tokens of the one medium as of
the other, the points shown are drawn in the proportion that the towers make them, and cosines are
taken of pairs within one clip. The paper takes all pairs and draws of them; here pairs are drawn at
once, as many from every clip.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from omnidrop_stream.lab.inspect_types import Cosines, Projection

PAIRINGS = ("video-video", "audio-audio", "audio-video")
BINS = 100
_FIT = 20_000
"""Tokens of each medium that the components are fitted on at most."""

Clip = tuple[torch.Tensor, torch.Tensor]
"""Embeddings f32 [n_video, d] and [n_audio, d] of one clip."""


def principal(clips: Sequence[Clip], points: int, seed: int) -> Projection | None:
    """Both media on two components, ``points`` of them; None where there are fewer than 3 tokens
    of one medium.
    """
    draw = torch.Generator().manual_seed(seed)
    video, audio = (torch.cat([clip[m] for clip in clips]) for m in (0, 1))
    fitted = min(video.shape[0], audio.shape[0], _FIT)
    if fitted < 3:
        return None
    balanced = torch.cat([_drawn(video, fitted, draw), _drawn(audio, fitted, draw)]).double()
    mean = balanced.mean(dim=0)
    covariance = (balanced - mean).T @ (balanced - mean) / (balanced.shape[0] - 1)
    values, vectors = torch.linalg.eigh(covariance)
    axes = vectors[:, [-1, -2]]
    largest = axes.abs().argmax(dim=0)
    axes = axes * axes[largest, [0, 1]].sign()  # an axis has no sign of its own
    explained = values[[-1, -2]].clamp(min=0.0) / values.clamp(min=0.0).sum()
    share = min(1.0, points / (video.shape[0] + audio.shape[0]))
    placed = [
        (_drawn(x, max(1, round(share * x.shape[0])), draw).double() - mean) @ axes
        for x in (video, audio)
    ]
    return Projection(
        (float(explained[0]), float(explained[1])), _points(placed[0]), _points(placed[1])
    )


def cosines(clips: Sequence[Clip], pairs: int, seed: int) -> Cosines | None:
    """Distributions of the cosines of ``pairs`` pairs of each pairing; None without any."""
    draw = torch.Generator().manual_seed(seed)
    edges = torch.linspace(-1.0, 1.0, BINS + 1)
    found: dict[str, list[torch.Tensor]] = {name: [] for name in PAIRINGS}
    for video, audio in clips:
        v, a = torch.nn.functional.normalize(video), torch.nn.functional.normalize(audio)
        for name, left, right in zip(PAIRINGS, (v, a, a), (v, a, v), strict=True):
            drawn = _cosines(left, right, -(-pairs // len(clips)), left is right, draw)
            found[name].append(drawn)
    values = {name: torch.cat(parts) for name, parts in found.items() if parts}
    values = {name: value for name, value in values.items() if len(value)}
    if not values:
        return None
    width = 2.0 / BINS
    counts = {
        name: torch.histc(value.clamp(-1.0, 1.0), BINS, -1.0, 1.0) for name, value in values.items()
    }
    return Cosines(
        tuple(round(float(edge), 6) for edge in edges),
        {name: _rounded(c / (c.sum() * width)) for name, c in counts.items()},
        {name: float(value.mean()) for name, value in values.items()},
        {name: len(value) for name, value in values.items()},
    )


def _cosines(
    left: torch.Tensor, right: torch.Tensor, count: int, same: bool, draw: torch.Generator
) -> torch.Tensor:
    """Of pairs drawn with replacement; never of a token with itself."""
    n, m = left.shape[0], right.shape[0]
    if not n or not m or (same and n < 2):
        return torch.zeros(0)
    one = torch.randint(n, (count,), generator=draw)
    two = torch.randint(m - same, (count,), generator=draw)
    two = two + (two >= one).long() if same else two
    return (left[one] * right[two]).sum(dim=1)


def _drawn(x: torch.Tensor, count: int, draw: torch.Generator) -> torch.Tensor:
    return x[torch.randperm(x.shape[0], generator=draw)[:count]]


def _points(x: torch.Tensor) -> tuple[tuple[float, float], ...]:
    return tuple((round(float(a), 4), round(float(b), 4)) for a, b in x)


def _rounded(x: torch.Tensor) -> tuple[float, ...]:
    return tuple(round(float(value), 5) for value in x)
