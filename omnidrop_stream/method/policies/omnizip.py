"""OmniZip (arXiv 2511.14582, repository KD-TAO/OmniZip, its second version), re-implemented.

In words. Audio tokens stay by the attention they receive in the audio encoder's last layer, over
the whole window at once; of the others some become anchors that absorb their neighbours
(`interleaved`). Where more audio stayed, more video stays: a group's pruning rate falls linearly
from rho_max, where no audio stayed, to rho_min, where all did. Within a group the patches are
pruned by turns in space (DPC-KNN) and in time. Table 1 of the OmniDrop paper: without anchors, and
with what an anchor absorbs drawn by lot instead of by similarity.

The sources leave open, or do otherwise, and we chose:

- A group is a chunk, as in the second version, which reads it off the order of the tokens.
- The attention is the one that the encoder computed, within 2-second blocks. The repository takes
  one softmax over the clip, an attention that no layer computed.
- rho_max and rho_min lie 0.10 above and 0.35 below the window's mean video rate, as in the
  OmniDrop paper's 30 % setting (0.85, 0.40 around 0.75).
- The budget: the repository scales all groups but the two extreme ones; here all rates move
  together until the count asked for is met exactly. Without anchors as many tokens stay.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from omnidrop_stream.method.policies.inputs import highest, in_order
from omnidrop_stream.method.policies.interleaved import (
    consolidated,
    density_times_distance,
    interleaved,
    merged_embeds,
    per_patch,
    split_budget,
)
from omnidrop_stream.method.policies.window import Selection, Window

ABOVE, BELOW = 0.10, 0.35  # of rho_max and rho_min, from the mean rate

Anchors = Literal["similar", "random", "none"]


def group_rate(audio_kept: float | None, mean_rate: float) -> float:
    """Pruning rate of a group's video, from the share of its audio that stayed; the mean rate where
    it has no audio.
    """
    if audio_kept is None:
        return mean_rate
    highest_rate, lowest_rate = min(1.0, mean_rate + ABOVE), max(0.0, mean_rate - BELOW)
    return highest_rate + (lowest_rate - highest_rate) * audio_kept


@dataclass(frozen=True, slots=True)
class OmniZip:
    """Audio by attention, with anchors; video by turns, guided by how much audio stayed."""

    anchors: Anchors = "similar"
    seed: int = 0

    def least(self, n_audio: int, sizes: Sequence[int]) -> int:
        """None at all."""
        return 0

    def select(self, window: Window, keep: int) -> Selection:
        """Exactly `keep` tokens, anchors merged."""
        audio, device = window.audio, window.embeds.device
        patches = window.patches()
        n_video = sum(len(patch) for patch in patches)
        keep_audio, keep_video = split_budget(len(audio), n_video, keep)
        scores = window.saliency[audio]
        if self.anchors == "none":
            stay, merged = highest(scores, keep_audio), dict[int, torch.Tensor]()
        else:
            lot = torch.Generator().manual_seed(self.seed) if self.anchors == "random" else None
            stay, merged = consolidated(window, scores, keep_audio, lot)
        mean_rate = 1.0 - keep_video / max(1, n_video)
        groups, rates = list[list[torch.Tensor]](), list[float]()
        for patch in patches:
            chunk = int(window.chunk[patch[0]])
            if not groups or int(window.chunk[groups[-1][0][0]]) != chunk:
                groups.append([])
                own = window.chunk[audio] == chunk
                here = int(own.sum())
                heard = int(own[stay].sum()) / here if here else None
                rates.append(1.0 - group_rate(heard, mean_rate))
            groups[-1].append(patch)
        counts = per_patch(rates, groups, keep_video)
        video = interleaved(window.embeds, groups, counts, density_times_distance)
        kept = in_order([audio[stay], *video], device)
        return Selection(kept, merged_embeds(window, kept, merged))
