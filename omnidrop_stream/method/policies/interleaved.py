"""What OmniZip and DASH share: audio that stays and absorbs, and pictures pruned by turns.

Interleaved spatio-temporal compression, in words: within a group, the patches at even places are
pruned spatially (what is most itself, or stands for a cluster, stays), those at odd places in time
(what is least like the token in the same place of the patch before stays).

Anchor consolidation, in words: of the audio tokens that were not chosen, 5 % evenly spaced ones
stay too, as anchors; each of the others belongs to the anchor most similar to it, and each anchor
absorbs at most three of its own, those most similar to some video token, weighted by a softmax of
that similarity: new = (anchor + sum w a) / (1 + sum w).
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from omnidrop_stream.method.policies.inputs import apportion, cosine, highest
from omnidrop_stream.method.policies.window import Window

ABSORBED = 3
ANCHOR_SHARE = 0.05
NEIGHBOURS = 5
_ROWS = 256  # of similarities to all video tokens at a time, for memory

Spatial = Callable[[Tensor], Tensor]
"""Scores [n] of one patch's tokens [n, d]; the highest stay."""


def density_times_distance(tokens: Tensor) -> Tensor:
    """DPC-KNN (OmniZip's second version): density among the 5 nearest, times the distance to the
    nearest token of higher density (for the densest, to the farthest token).
    """
    n = tokens.shape[0]
    if n < 2:
        return tokens.new_zeros(n, dtype=torch.float32)
    distance = (1.0 - cosine(tokens, tokens)).fill_diagonal_(float("inf"))
    nearest = distance.topk(min(NEIGHBOURS, n - 1), dim=1, largest=False).values
    density = (-nearest.mean(dim=1)).exp()
    denser = density[None, :] > density[:, None]
    delta = distance.masked_fill(~denser, float("inf")).min(dim=1).values
    farthest = distance.fill_diagonal_(0.0).max(dim=1).values
    return torch.where(delta.isinf(), farthest, delta) * density


def least_crowded(tokens: Tensor) -> Tensor:
    """DASH's rule (and OmniZip's first): low mean similarity to the 5 nearest."""
    n = tokens.shape[0]
    if n < 2:
        return tokens.new_zeros(n, dtype=torch.float32)
    similar = cosine(tokens, tokens).fill_diagonal_(float("-inf"))
    return -similar.topk(min(NEIGHBOURS, n - 1), dim=1).values.mean(dim=1)


def interleaved(
    embeds: Tensor, groups: Sequence[Sequence[Tensor]], counts: Sequence[int], spatial: Spatial
) -> list[Tensor]:
    """Indices that stay of every patch, the patches of all groups in a row; counts [patches].

    A patch of another size than the one before it has nothing to be compared with: it is pruned
    spatially.
    """
    kept, wanted = list[Tensor](), iter(counts)
    for group in groups:
        for place, patch in enumerate(group):
            tokens = embeds[patch]
            before = embeds[group[place - 1]] if place % 2 else None
            if before is None or before.shape != tokens.shape:
                scores = spatial(tokens)
            else:
                scores = -cosine_similarity(tokens.float(), before.float(), dim=-1)
            kept.append(patch[highest(scores, next(wanted))])
    return kept


def split_budget(n_audio: int, n_video: int, keep: int) -> tuple[int, int]:
    """How many audio and video tokens stay (the paper's appendix A).

    Its settings keep 55 % of the audio and 5 % more as anchors, at 30 % and at 20 % alike, and move
    the rate of the video. Below its 20 % the two keep the proportions that they have there, so that
    pictures do not vanish first.
    """
    at_20_percent = (0.60 * 50) / (0.60 * 50 + 0.15 * 288)
    audio = min(round(0.60 * n_audio), round(at_20_percent * keep) if n_video else keep)
    audio = min(max(audio, keep - n_video), n_audio)
    return audio, keep - audio


def consolidated(
    window: Window, scores: Tensor, keep: int, lot: torch.Generator | None = None
) -> tuple[Tensor, dict[int, Tensor]]:
    """`keep` audio tokens by `scores` [n_audio], some of them anchors, and what anchors become.

    Returns indices into the audio tokens, and the merged embedding [d] (fp32) of each anchor that
    absorbed any. lot: draw what an anchor absorbs from its own tokens by lot (the paper's Table 1,
    "random-k sampling").
    """
    audio = window.embeds[window.audio]
    n = audio.shape[0]
    anchors_wanted = min(round(ANCHOR_SHARE * n), keep)
    chosen = highest(scores, keep - anchors_wanted)
    rest = torch.ones(n, dtype=torch.bool, device=scores.device)
    rest[chosen] = False
    remaining = rest.nonzero()[:, 0]
    if not anchors_wanted or not len(remaining):
        return highest(scores, keep), {}
    step = max(1, len(remaining) // anchors_wanted)
    spaced = torch.arange(0, len(remaining), step, device=scores.device)[:anchors_wanted]
    anchors = remaining[spaced]
    rest[anchors] = False
    pool = rest.nonzero()[:, 0]
    kept = torch.cat([chosen, anchors]).sort().values
    if not len(pool):
        return kept, {}
    to_anchor = cosine(audio[pool], audio[anchors])
    own = to_anchor.argmax(dim=1)
    likeness = _likeness(audio[pool], window.embeds[window.video], to_anchor)
    merged = dict[int, Tensor]()
    for number, anchor in enumerate(anchors.tolist()):
        mine = (own == number).nonzero()[:, 0]
        if not len(mine):
            continue
        order = _lots(len(mine), lot, mine.device) if lot else likeness[mine]
        taken = mine[highest(order, ABSORBED)]
        weight = likeness[taken].softmax(dim=0)[:, None]
        absorbed = (audio[pool[taken]].float() * weight).sum(dim=0)
        merged[anchor] = (audio[anchor].float() + absorbed) / (1.0 + weight.sum())
    return kept, merged


def _likeness(pool: Tensor, video: Tensor, to_anchor: Tensor) -> Tensor:
    """Each token's highest similarity to a video token; without pictures, to an anchor."""
    if not len(video):
        return to_anchor.max(dim=1).values
    blocks = torch.split(pool, _ROWS)
    return torch.cat([cosine(rows, video).max(dim=1).values for rows in blocks])


def _lots(n: int, lot: torch.Generator, device: torch.device) -> Tensor:
    return torch.rand(n, generator=lot).to(device)


def merged_embeds(window: Window, kept: Tensor, merged: dict[int, Tensor]) -> Tensor | None:
    """Embeddings of the kept tokens with the anchors' in their places; None if none changed.

    The keys of `merged` count the audio tokens.
    """
    if not merged:
        return None
    embeds = window.embeds[kept]
    audio = window.audio[torch.tensor(list(merged), device=kept.device)]
    rows = torch.searchsorted(kept, audio)
    embeds[rows] = torch.stack(list(merged.values())).to(embeds.dtype)
    return embeds


def per_patch(rates: Sequence[float], groups: Sequence[Sequence[Tensor]], keep: int) -> list[int]:
    """Counts of all patches in a row that add up to `keep`: rates are shares kept, by group."""
    sizes = [[len(patch) for patch in group] for group in groups]
    wanted = [rate * n for rate, group in zip(rates, sizes, strict=True) for n in group]
    return apportion(wanted, [n for group in sizes for n in group], keep)
