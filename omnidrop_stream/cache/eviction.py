"""What a full cache gives up next: pure functions over segments, oldest first.

`oldest_window` is the baseline: a merging window leaves whole, so that no patch outlives the one it
was compared with. The others forget by degrees, at the same budget: `thin` keeps a share of every
older window's tokens before it lets one go, so that it sees further back, less clearly; `separate`
gives sound and pictures budgets of their own, so that one of them may reach further back.

Tokens that are thinned away count as evicted, not as pruned: a segment's unpruned counts shrink
with them, so that a retention means the same before and after. What stays keeps its positions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch.nn.functional import normalize

from omnidrop_stream.cache.segment import Segment
from omnidrop_stream.types import Modality

Segments = tuple[Segment, ...]
Eviction = Callable[[Segments, bool], Segments]
"""What stays of the segments older than the newest window (never empty): one step, at least one
token or segment less. The flag says that slots are short, which only whole windows free.
"""


@dataclass(frozen=True, slots=True)
class EvictionSettings:
    """keep_share: of a thinned window's tokens. whole_share: of all tokens held, those in windows
    not yet thinned. audio_share: of all tokens held, those of sound.
    """

    keep_share: float = 0.25
    whole_share: float = 0.5
    audio_share: float = 0.5


def oldest_window(segments: Segments, slots_short: bool = False) -> Segments:
    """Without the oldest merging window: the baseline that other policies are compared with."""
    return tuple(s for s in segments if s.window != segments[0].window)


Chooser = Callable[[Segments, float], tuple[torch.Tensor, ...]]
"""Given a window's segments and a share: which tokens of each stay (bool [n])."""


def thin(settings: EvictionSettings, choose: Chooser) -> Eviction:
    """Thin the oldest whole window; once few are whole, the oldest of all leaves."""

    def step(segments: Segments, slots_short: bool) -> Segments:
        whole = [s for s in segments if not s.thinned]
        held = sum(s.count for s in segments)
        if slots_short or sum(s.count for s in whole) <= settings.whole_share * held:
            return oldest_window(segments)
        window = tuple(s for s in whole if s.window == whole[0].window)
        masks = choose(window, settings.keep_share)
        thinned = {
            s.chunk: replace(fewer(s, mask), thinned=True)
            for s, mask in zip(window, masks, strict=True)
        }
        return tuple(thinned.get(s.chunk, s) for s in segments)

    return step


def separate(settings: EvictionSettings) -> Eviction:
    """From what is further above its share of the tokens held, sound or pictures, the oldest
    window's leave; a segment that has neither left goes.
    """
    shares = {Modality.AUDIO: settings.audio_share, Modality.VIDEO: 1.0 - settings.audio_share}

    def step(segments: Segments, slots_short: bool) -> Segments:
        if slots_short or not any(s.count for s in segments):
            return oldest_window(segments)
        load = {m: sum(s.tokens.of(m) for s in segments) / share for m, share in shares.items()}
        leaving = max(load, key=lambda m: load[m])
        oldest = next(s.window for s in segments if s.tokens.of(leaving))
        left = (
            fewer(s, s.tokens.modality != int(leaving)) if s.window == oldest else s
            for s in segments
        )
        return tuple(s for s in left if s.count)

    return step


def evenly(window: Segments, share: float) -> tuple[torch.Tensor, ...]:
    """Of each segment and modality, tokens at even distances."""
    return tuple(_per_modality(s, share, lambda own: _spread(len(own), share)) for s in window)


def salient(window: Segments, share: float) -> tuple[torch.Tensor, ...]:
    """As many as `evenly`: the sound that received most attention in its encoder, the pictures
    least like any earlier token of the window.
    """
    fresh = _freshness(window)
    masks = []
    for s, own_fresh in zip(window, fresh, strict=True):
        known = s.tokens.saliency
        saliency = torch.zeros_like(own_fresh) if known is None else known
        video = s.tokens.modality == int(Modality.VIDEO)
        score = torch.where(video, own_fresh, saliency)

        def best(own: torch.Tensor, score: torch.Tensor = score) -> torch.Tensor:
            order = torch.argsort(score[own], stable=True, descending=True)
            return order[: _kept(len(own), share)]

        masks.append(_per_modality(s, share, best))
    return tuple(masks)


def fewer(segment: Segment, kept: torch.Tensor) -> Segment:
    """The segment with the tokens in ``kept`` (bool [n]) alone, its unpruned counts in
    proportion.
    """
    t, left = segment.tokens, segment.only(kept)
    video = _part(
        t.n_unpruned_video, segment.tokens.of(Modality.VIDEO), left.tokens.of(Modality.VIDEO)
    )
    sound = t.n_unpruned - t.n_unpruned_video
    audio = _part(sound, segment.tokens.of(Modality.AUDIO), left.tokens.of(Modality.AUDIO))
    tokens = replace(left.tokens, n_unpruned=video + audio, n_unpruned_video=video)
    return replace(left, tokens=tokens)


EVICTION: dict[str, Callable[[EvictionSettings], Eviction]] = {
    "oldest_window": lambda settings: oldest_window,
    "thin_even": lambda settings: thin(settings, evenly),
    "thin_salient": lambda settings: thin(settings, salient),
    "separate": separate,
}


def _part(unpruned: int, before: int, after: int) -> int:
    return unpruned if before == after else max(after, round(unpruned * after / before))


def _kept(count: int, share: float) -> int:
    """How many of ``count`` stay: one at least, where there are any."""
    return math.ceil(share * count - 1e-9)


def _spread(count: int, share: float) -> torch.Tensor:
    kept = _kept(count, share)
    return ((torch.arange(kept) + 0.5) * (count / max(1, kept))).long()


def _per_modality(
    segment: Segment, share: float, places: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """Mask of the tokens that ``places`` names among those of each modality."""
    modality = segment.tokens.modality
    stays = torch.zeros(segment.count, dtype=torch.bool, device=modality.device)
    for m in Modality:
        own = (modality == int(m)).nonzero()[:, 0]
        stays[own[places(own).to(own.device)]] = True
    return stays


def _freshness(window: Segments) -> list[torch.Tensor]:
    """For each token of each segment, how unlike it is to the most similar earlier one."""
    counts = [s.count for s in window]
    embeds = normalize(torch.cat([s.tokens.embeds for s in window]).float(), dim=-1)
    video = torch.cat([s.tokens.modality for s in window]) == int(Modality.VIDEO)
    own = embeds[video]
    similar = own @ own.T
    later = torch.ones_like(similar, dtype=torch.bool).triu()
    similar.masked_fill_(later, -2.0)
    fresh = embeds.new_zeros(len(embeds))
    if len(own):
        fresh[video] = -similar.max(dim=1).values
    return list(torch.split(fresh, counts))
