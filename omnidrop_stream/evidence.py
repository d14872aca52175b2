"""Which seconds an answer rests on, and which it could see at all (design section 9). Pure
functions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from omnidrop_stream.cache import Segment
from omnidrop_stream.types import Coverage, Evidence, Gap, Modality

MAX_SPANS = 3
MAX_SHARE = 0.15
_EPSILON_S = 1e-3


def chunk_scores(scores: torch.Tensor, segments: Sequence[Segment]) -> torch.Tensor:
    """Guidance score f32 [chunks, 2] by chunk and modality, from one score a token [n0]."""
    kinds = torch.cat([segment.tokens.modality for segment in segments])
    part, kind = torch.stack([scores.float(), kinds.float()]).cpu()  # the one wait for a device
    row = torch.arange(len(segments)).repeat_interleave(torch.tensor([s.count for s in segments]))
    table = torch.zeros(len(segments) * len(Modality))
    table.index_add_(0, row * len(Modality) + kind.long(), part)
    return table.view(len(segments), len(Modality))


def name_evidence(scores: torch.Tensor, segments: Sequence[Segment]) -> tuple[Evidence, ...]:
    """At most 3 spans and 15 % of the window (but one chunk at least), strongest first.

    A span's weight is its share of what stands above the stream's mean, each modality against its
    own.
    """
    if not segments or not scores.numel():
        return ()
    table = chunk_scores(scores, segments)
    excess = (table - table.mean(dim=0, keepdim=True)).clamp(min=0.0)
    total = float(excess.sum())
    if total <= 0.0:
        excess, total = table, float(table.sum())
        if total <= 0.0:
            return ()
    window_s = sum(s.end_s - s.start_s for s in segments)
    allowed_s = MAX_SHARE * window_s
    spans: list[tuple[int, int, Modality, float]] = []
    seen: set[int] = set()
    for cell in excess.flatten().argsort(descending=True, stable=True).tolist():
        chunk, modality = divmod(cell, len(Modality))
        value = float(excess[chunk, modality])
        if value <= 0.0:
            break
        used = sum(segments[c].end_s - segments[c].start_s for c in seen | {chunk})
        if not seen:
            allowed_s = max(allowed_s, used)  # one chunk at least
        if used > allowed_s + _EPSILON_S:
            continue
        grown = _grow(spans, chunk, Modality(modality), value, segments)
        if len(grown) > MAX_SPANS:
            continue
        spans = grown
        seen.add(chunk)
    spans.sort(key=lambda span: -span[3])
    weights = [round(span[3] / total, 4) for span in spans]
    weights[-1] = round(min(weights[-1], 1.0 - sum(weights[:-1])), 4)  # roundings do not pass 1
    return tuple(
        _evidence(span, segments, weight)
        for span, weight in zip(spans, weights, strict=True)
        if weight > 0.0
    )


def _grow(
    spans: list[tuple[int, int, Modality, float]],
    chunk: int,
    modality: Modality,
    value: float,
    segments: Sequence[Segment],
) -> list[tuple[int, int, Modality, float]]:
    """``spans`` with one more chunk, joined to its neighbours of the same modality."""
    first, last, weight = chunk, chunk, value
    rest = []
    for span in spans:
        before = span[1] == chunk - 1 and _joined(segments[span[1]], segments[chunk])
        after = span[0] == chunk + 1 and _joined(segments[chunk], segments[span[0]])
        if span[2] is modality and (before or after):
            first, last, weight = min(first, span[0]), max(last, span[1]), weight + span[3]
        else:
            rest.append(span)
    return [*rest, (first, last, modality, weight)]


def _joined(left: Segment, right: Segment) -> bool:
    return abs(left.end_s - right.start_s) < _EPSILON_S


def _evidence(
    span: tuple[int, int, Modality, float], segments: Sequence[Segment], weight: float
) -> Evidence:
    first, last = segments[span[0]], segments[span[1]]
    wall = first.wall_time_s
    length = last.end_s - first.start_s
    return Evidence(
        from_s=first.start_s,
        to_s=last.end_s,
        modality=span[2].name.lower(),
        weight=weight,
        from_wall_s=wall,
        to_wall_s=None if wall is None else wall + length,
    )


def coverage_of(segments: Sequence[Segment], ledger: Sequence[Gap]) -> Coverage:
    """The seconds seen; each hole with the reason the ledger knows, and chunks whose sound or
    pictures are missing.
    """
    gaps: list[Gap] = []
    previous: Segment | None = None
    for segment in segments:
        if previous is not None and segment.start_s > previous.end_s + _EPSILON_S:
            gaps.append(_named(previous.end_s, segment.start_s, ledger))
        if segment.flags.audio_absent:
            gaps.append(Gap(segment.start_s, segment.end_s, "audio_absent"))
        if segment.flags.video_absent:
            gaps.append(Gap(segment.start_s, segment.end_s, "video_absent"))
        previous = segment
    return Coverage(segments[0].start_s, segments[-1].end_s, tuple(gaps))


def _named(from_s: float, to_s: float, ledger: Sequence[Gap]) -> Gap:
    for gap in ledger:
        if gap.from_s < to_s and gap.to_s > from_s:
            return Gap(from_s, to_s, gap.reason)
    return Gap(from_s, to_s, "missing")
