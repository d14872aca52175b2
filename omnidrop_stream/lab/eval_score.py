"""Scores: is an answer right, are its grounds, and how sure is a mean. Pure functions."""

from __future__ import annotations

import math
import re
import string
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from omnidrop_stream.lab.eval_types import EvidenceScore, Mean
from omnidrop_stream.types import CHUNK_SECONDS, Evidence
from omnidrop_stream.world import Event

Judged = Mapping[str, Any]
_ARTICLE = re.compile(r"^(a|an|the)\s+")
_STRIPPED = string.whitespace + string.punctuation


def normalise(text: str) -> str:
    """Case, outer punctuation, an article and runs of blanks do not count."""
    plain = " ".join(text.lower().split()).strip(_STRIPPED)
    return _ARTICLE.sub("", plain)


def is_right(answer: str, truth: str) -> bool:
    """Exact match after normalisation."""
    return normalise(answer) == normalise(truth)


GROUNDS = ("spans", "named", "window", "true", "right", "events", "events_hit")
"""The keys of `evidence_cells`, in order."""


def evidence_cells(
    named: Sequence[Evidence], events: Sequence[Event], starts_s: Sequence[float]
) -> dict[str, Any]:
    """Named and true chunks of a window whose chunks begin at ``starts_s``."""
    spans = [(e.from_s, e.to_s) for e in named]
    named_at = [i for i, s in enumerate(starts_s) if any(_in(span, s) for span in spans)]
    true_at = [[i for i, s in enumerate(starts_s) if _in((e.from_s, e.to_s), s)] for e in events]
    return {
        "spans": len(spans),
        "named": len(named_at),
        "window": len(starts_s),
        "true": len({i for event in true_at for i in event}),
        "right": len({i for event in true_at for i in event} & set(named_at)),
        "events": len(true_at),
        "events_hit": sum(bool(set(event) & set(named_at)) for event in true_at),
    }


def _in(span: tuple[float, float], start_s: float) -> bool:
    return span[0] < start_s + CHUNK_SECONDS - 1e-6 and span[1] > start_s + 1e-6


def chance_of_hit(window: int, true: int, named: int) -> float:
    """How often ``named`` chunks at random out of ``window`` hold one of ``true``."""
    return 1.0 - math.comb(window - true, named) / math.comb(window, named)


def clustered(streams: Iterable[tuple[float, int]]) -> Mean | None:
    """A ratio of sums over streams, (sum, count) each, with its standard error; None of nothing.

    Questions of one stream are not independent: the error is that of a ratio over streams.
    """
    pairs = [(total, n) for total, n in streams if n]
    n = sum(count for _, count in pairs)
    if not n:
        return None
    value = sum(total for total, _ in pairs) / n
    return Mean(n, value, _error([total - value * count for total, count in pairs], n))


def difference(pairs: Iterable[tuple[float, float, int]]) -> Mean | None:
    """Mean of (second - first) over paired questions; (first, second, count) for each stream."""
    return clustered((second - first, n) for first, second, n in pairs)


def half_width(mean: Mean, streams: int) -> float | None:
    """Half of a 95 % confidence interval: Student's t for the number of streams, times the error.

    The quantile is its expansion in 1 / degrees of freedom (Abramowitz and Stegun 26.7.5), good to
    0.02 from 4 on; None below 3 streams.
    """
    if mean.error is None or streams < 3:
        return None
    z, v = 1.959964, streams - 1
    quantile = z + (z**3 + z) / (4 * v) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
    quantile += (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
    return quantile * mean.error


def _error(residuals: Sequence[float], n: int) -> float | None:
    count = len(residuals)
    if count < 2:
        return None
    return math.sqrt(count / (count - 1) * math.fsum(r * r for r in residuals)) / n


def score_evidence(streams: Sequence[Sequence[Judged]]) -> EvidenceScore | None:
    """Of the correct answers that rest on events, by stream; None where there are none."""
    kept = [[a for a in answers if a["ok"] and a["grounds"]["events"]] for answers in streams]
    grounds = [[a["grounds"] for a in answers] for answers in kept]
    flat = [g for stream in grounds for g in stream]
    hit = clustered((sum(g["right"] > 0 for g in s), len(s)) for s in grounds)
    whole = clustered((sum(g["events_hit"] == g["events"] for g in s), len(s)) for s in grounds)
    named = sum(g["named"] for g in flat)
    precision = clustered((sum(g["right"] for g in s), sum(g["named"] for g in s)) for s in grounds)
    if hit is None or whole is None:
        return None
    chance = [chance_of_hit(g["window"], g["true"], g["named"]) for g in flat]
    return EvidenceScore(
        hit=hit,
        chance=math.fsum(chance) / len(flat),
        all_hit=whole,
        precision=precision or Mean(0, 0.0, None),
        named=named / sum(g["window"] for g in flat),
        most_spans=max(g["spans"] for g in flat),
    )
