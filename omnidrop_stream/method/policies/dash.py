"""DASH (arXiv 2603.15685, repository laychou666/DASH), re-implemented.

In words. Where neighbouring audio tokens differ, a boundary is likely: p = (1 - cos) / 2. An audio
token's score is 0.4 boundary + 0.3 uniqueness (how far it is from the mean of all, by Gaussian
kernels of five widths) + 0.3 attention received, each but uniqueness divided by its maximum; the
best stay, with anchors as in OmniZip. The sound is cut into segments where a similarity falls below
0.4, at least 30 tokens apart; the cuts are carried over to the video in proportion, and a segment's
pruning rate is the mean one, plus 0.1 (0.5 - the share of its audio that stayed). Within a segment
the patches are pruned by turns in space (low similarity to the nearest five stays) and in time.

The sources leave open, or do otherwise, and we chose:

- A cut falls on a patch. In the repository a segment may begin in mid-patch, so that unlike places
  are compared, and what follows its last whole patch is dropped.
- The repository's description lets frames near a boundary keep more; its code never passes the
  boundaries on, and so it is here. Segments of less than two patches want to stay whole.
- Attention, and the count met exactly: as in `omnizip`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from omnidrop_stream.method.policies.inputs import in_order
from omnidrop_stream.method.policies.interleaved import (
    consolidated,
    interleaved,
    least_crowded,
    merged_embeds,
    per_patch,
    split_budget,
)
from omnidrop_stream.method.policies.window import Selection, Window

BOUNDARY, UNIQUENESS, ATTENTION = 0.4, 0.3, 0.3
WIDTHS = (0.125, 0.25, 0.5, 1.0, 2.0)
CUT_BELOW, SHORTEST = 0.4, 30  # similarity, audio tokens
GUIDANCE = 0.1
_TINY = 1e-6


def boundary_probability(audio: Tensor) -> Tensor:
    """p [n] of audio tokens [n, d]: (1 - cos to the one before) / 2, and 1 for the first."""
    similar = cosine_similarity(audio[1:].float(), audio[:-1].float(), dim=-1)
    return torch.cat([similar.new_ones(min(1, len(audio))), ((1.0 - similar) / 2).clamp(0.0, 1.0)])


def uniqueness(audio: Tensor) -> Tensor:
    """Distance of each token [n, d] from the mean, 0 to 1.

    Over the half of the channels that varies least; all of them where there are 10 or fewer.
    """
    x = audio.float()
    if x.shape[1] > 10:
        calm = torch.argsort(x.var(dim=0, unbiased=False), stable=True)[: x.shape[1] // 2]
        x = x[:, calm.sort().values]
    x = normalize(x, dim=-1)
    distance = ((x - x.mean(dim=0)) ** 2).sum(dim=-1)
    near = torch.stack([(-distance / (2 * width)).exp() for width in WIDTHS]).sum(dim=0)
    return 1.0 - near / near.max().clamp(min=_TINY)


def audio_scores(audio: Tensor, attention: Tensor) -> Tensor:
    """The three signals together, [n]."""
    boundary = boundary_probability(audio)
    return (
        BOUNDARY * boundary / (boundary.max() + _TINY)
        + UNIQUENESS * uniqueness(audio)
        + ATTENTION * attention / (attention.max() + _TINY)
    )


def segment_starts(audio: Tensor) -> list[int]:
    """Where segments begin among the audio tokens [n, d]; the first at 0."""
    similar = cosine_similarity(audio[1:].float(), audio[:-1].float(), dim=-1).tolist()
    starts = [0]
    for t, likeness in enumerate(similar, start=1):
        if likeness < CUT_BELOW and t - starts[-1] >= SHORTEST:
            starts.append(t)
    return starts


@dataclass(frozen=True, slots=True)
class Dash:
    """Audio by boundary, uniqueness and attention; video by segments that the sound cuts."""

    def least(self, n_audio: int, sizes: Sequence[int]) -> int:
        """None at all."""
        return 0

    def select(self, window: Window, keep: int) -> Selection:
        """Exactly `keep` tokens, anchors merged."""
        audio, device = window.audio, window.embeds.device
        patches = window.patches()
        n_video = sum(len(patch) for patch in patches)
        keep_audio, keep_video = split_budget(len(audio), n_video, keep)
        stay, merged = torch.empty(0, dtype=torch.long, device=device), dict[int, Tensor]()
        starts = [0]
        if len(audio):
            features = window.embeds[audio]
            scores = audio_scores(features, window.saliency[audio])
            stay, merged = consolidated(window, scores, keep_audio)
            starts = segment_starts(features)
        stayed = torch.zeros(len(audio), device=device)
        stayed[stay] = 1.0
        mean_rate = 1.0 - keep_video / max(1, n_video)
        groups, rates = list[list[Tensor]](), list[float]()
        edges = [*starts, len(audio)]
        firsts = [s * len(patches) // max(1, len(audio)) for s in starts]
        for number, first in enumerate(firsts):
            last = firsts[number + 1] if number + 1 < len(firsts) else len(patches)
            group = patches[first:last]
            if not group:
                continue
            part = stayed[edges[number] : edges[number + 1]]
            heard = float(part.mean()) if len(part) else 0.5
            whole = len(group) < 2
            groups.append(group)
            rates.append(1.0 if whole else 1.0 - (mean_rate + GUIDANCE * (0.5 - heard)))
        counts = per_patch(rates, groups, keep_video)
        video = interleaved(window.embeds, groups, counts, least_crowded)
        kept = in_order([audio[stay], *video], device)
        return Selection(kept, merged_embeds(window, kept, merged))
