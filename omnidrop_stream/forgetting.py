"""What a stream's cache forgets, as its settings say, and how that meets a change of depth."""

from __future__ import annotations

from collections.abc import Mapping

from omnidrop_stream.cache import EVICTION, Budget, EvictionSettings, Segment, TokenCache
from omnidrop_stream.config import StreamConfig


def cache_for(stream: StreamConfig, slots: int) -> TokenCache:
    """An empty cache with the stream's budget, at most ``slots`` long, and its eviction policy."""
    chosen = stream.eviction
    settings = EvictionSettings(chosen.keep_share, chosen.whole_share, chosen.audio_share)
    budget = Budget(stream.budget_tokens, stream.budget_bytes, slots)
    return TokenCache(budget, EVICTION[chosen.policy](settings))


def next_undone(
    held: tuple[Segment, ...], done: Mapping[int, Segment]
) -> tuple[Segment | None, tuple[Segment, ...]]:
    """The oldest held segment that ``done`` (by chunk) lacks, or has with tokens that have been
    thinned away since; and what is done before it.
    """
    past: list[Segment] = []
    for segment in held:
        known = done.get(segment.chunk)
        if known is None or known.count != segment.count:
            return segment, tuple(past)
        past.append(known)
    return None, tuple(past)
