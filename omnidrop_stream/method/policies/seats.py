"""SEATS' rule inside the decoder (arXiv 2605.20035 and its repository xxayt/SEATS, re-implemented).

In words. Nothing leaves in the shallow layers. In the middle ones three cuts, each deeper than the
last in the proportions 1 : e : e^2, keep what the *last text token* attends to; the tokens to keep
are shared out first over time windows (by a softmax, at temperature 0.1, of the mean score of a
window's video and of its audio), then in a window over its modalities. Before a late layer *all*
audiovisual tokens leave, from the cache of every earlier layer too: from the second token of the
answer on, the model reads text alone. For 28 layers the cuts come after layers 15, 17, 19, and all
is gone after layer 22 (0-based).

The sources leave open, and we chose:

- The temperature is that of the repository's newest version; an earlier one has 0.3.
- Other depths: the same relative depths, rounded. Where two cuts fall on one layer they are one.
- A window is a chunk, as in the source: there a run of video between two runs of audio.
- The score is the attention that the layer really computed. The repository projects the *output* of
  a layer with the weights of that same layer, an attention that no layer computed.
- One share for both modalities: we are asked for one mean retention.
- The source gives every window at least one token of each modality; here the counts come first, and
  with fewer tokens than windows the windows of most weight get one.
- Its stage before the decoder is in `seats_input`. Here pruning within each modality (section 3.4)
  stands before it as before OmniDrop, so that the two differ inside the decoder and nowhere else.
  That leaves a narrow range of mean retentions (for 28 layers and r0 = 0.45, 30.8 to 37 %).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from omnidrop_stream.method.budget import UnreachableRetention
from omnidrop_stream.method.diversity import check_prune
from omnidrop_stream.method.policies.base import Guidance, Pace, check_counts, needed

REFERENCE_LAYERS = 28  # of Qwen2.5-Omni-7B, for which the source's configuration is written
CUTS = (16, 18, 20)  # the first layers, 0-based, that see fewer tokens
LATE = 23  # the first layer that sees none
TEMPERATURE = 0.1


def cut_layers(n_layers: int) -> tuple[int, ...]:
    """The first layers that see fewer tokens: three cuts, then the removal of all, for a depth."""
    if n_layers < 3:
        raise ValueError(f"n_layers is {n_layers}; allowed: 3 or more; use a deeper model")
    scaled = [round(layer / REFERENCE_LAYERS * n_layers) for layer in (*CUTS, LATE)]
    return tuple(min(max(layer, 1), n_layers - 1) for layer in scaled)


def stage_range(n_layers: int) -> tuple[float, float]:
    """Least and largest mean over the layers, for 1 that enters the first."""
    _, late, _, missing = _stages(n_layers)
    return (late - missing) / n_layers, late / n_layers


def _stages(n_layers: int) -> tuple[list[int], int, list[float], float]:
    """The three cuts, the removal, each cut's share of what leaves, and in how many layers a token
    that leaves by those shares is missing.
    """
    *cuts, late = cut_layers(n_layers)
    weights = [math.exp(i) for i in range(len(cuts))]
    shares = [w / sum(weights) for w in weights]
    # Every token that leaves at a cut is missing in the layers from there to the removal.
    missing = sum(share * (late - cut) for share, cut in zip(shares, cuts, strict=True))
    return cuts, late, shares, missing


def stage_counts(target: float, n0: int, n_layers: int, n_unpruned: int) -> tuple[int, ...]:
    """Tokens entering each layer so that their mean is `target` of `n_unpruned`.

    How much leaves in the three cuts together is what is solved for. Raises UnreachableRetention.
    """
    cuts, late, shares, missing = _stages(n_layers)
    whole = late * n0
    wanted = target * n_layers * n_unpruned
    total = max(1, n_layers * n_unpruned)
    half = 0.5 * n_layers  # what rounding to whole tokens may be off
    if not whole - missing * n0 - half <= wanted <= whole + half:
        raise UnreachableRetention(
            target,
            (whole - missing * n0) / total,
            whole / total,
            "SEATS' rule inside the decoder removes everything before a late layer and little "
            "before the middle: choose a retention in that range",
        )
    leaving = min(max((whole - wanted) / missing, 0.0), float(n0)) if missing else 0.0
    gone = [0.0] * (n_layers + 1)
    for share, cut in zip(shares, cuts, strict=True):
        gone[cut] += share * leaving
    counts, left = list[int](), float(n0)
    for layer in range(n_layers):
        left -= gone[layer]
        counts.append(0 if layer >= late else round(left))
    return tuple(counts)


@dataclass(frozen=True, slots=True)
class SeatsInLayer:
    """Three cuts by the last text token, all audiovisual tokens removed late."""

    guidance: ClassVar[Guidance] = "last"
    intra: ClassVar[bool] = True
    requires_depth_zero: ClassVar[bool] = False
    paced_by: ClassVar[Pace] = "retention"
    input_stage: ClassVar[None] = None

    retention: float = 0.3
    forgets: bool = True
    name: str = "seats-in-layer"

    def counts(self, n0: int, n_layers: int, n_unpruned: int) -> tuple[int, ...]:
        """`stage_counts` for its retention."""
        check_counts(n0, n_unpruned)
        return stage_counts(self.retention, n0, n_layers, n_unpruned)

    def drop(
        self, layer: int, n_layers: int, S: Tensor | None, chunk: Tensor, modality: Tensor, k: int
    ) -> Tensor:
        """All but the best of each window and modality."""
        S = needed(S, self.name)
        check_prune(S, k)
        windows, window = torch.unique(chunk, return_inverse=True)
        parts = [modality == m for m in (0, 1)]
        sizes = [torch.bincount(window[part], minlength=len(windows)) for part in parts]
        means = [
            torch.zeros(len(windows), dtype=torch.float64, device=S.device).index_add_(
                0, window[part], S[part].double()
            )
            / size.clamp(min=1)
            for part, size in zip(parts, sizes, strict=True)
        ]
        budgets = window_budgets(means, sizes, S.shape[0] - k)
        gone = torch.ones(S.shape[0], dtype=torch.bool, device=S.device)
        best_first = torch.argsort(S, stable=True, descending=True)
        for part, budget in zip(parts, budgets, strict=True):
            for number, count in enumerate(budget):
                if count:
                    own = best_first[(part & (window == number))[best_first]]
                    gone[own[:count]] = False
        return gone.nonzero()[:, 0]


def window_budgets(
    means: Sequence[Tensor], sizes: Sequence[Tensor], keep: int
) -> tuple[list[int], list[int]]:
    """How many video and audio tokens each window keeps, `keep` in all.

    means, sizes: for video and for audio, the mean score and number of tokens [W] of each window.
    """
    n_video, n_audio = (int(size.sum()) for size in sizes)
    keep_video = round(keep * n_video / max(1, n_video + n_audio))
    weights = [(mean / TEMPERATURE).softmax(0).tolist() for mean in means]
    room = [[int(s) for s in size.tolist()] for size in sizes]
    present = [w for w, n in zip(weights, (n_video, n_audio), strict=True) if n]
    weight = [sum(w) / max(1, len(present)) for w in zip(*present, strict=True)]
    caps = [v + a for v, a in zip(*room, strict=True)]
    budget = shared_out([w * keep for w in weight], caps, keep)
    video, audio = list[int](), list[int]()
    for i, tokens in enumerate(budget):
        demand_v, demand_a = weights[0][i] * keep_video, weights[1][i] * (keep - keep_video)
        share = demand_v / (demand_v + demand_a) if demand_v + demand_a else 0.5
        wanted = round(tokens * share)
        if tokens >= 2:  # one of each at least, where both are there
            wanted = min(max(wanted, 1), tokens - 1)
        wanted = min(max(wanted, tokens - room[1][i]), room[0][i])
        video.append(wanted)
        audio.append(tokens - wanted)
    return video, audio


def shared_out(wanted: Sequence[float], caps: Sequence[int], total: int) -> list[int]:
    """Whole numbers near `wanted`, each within its cap and 1 or more, that add up to `total`.

    As in the source, what is too much is taken from the largest, what is missing given to the
    smallest, one by one. Where `total` is less than the number of windows, the heaviest get 1.
    """
    if total < sum(cap > 0 for cap in caps):
        order = sorted(range(len(caps)), key=lambda i: (-wanted[i], i))
        chosen = [i for i in order if caps[i]][:total]
        return [int(i in chosen) for i in range(len(caps))]
    parts = [min(max(round(w), 1), cap) for w, cap in zip(wanted, caps, strict=True)]
    while (over := sum(parts) - total) > 0:
        largest = max((i for i in range(len(parts)) if parts[i] > 1), key=lambda i: parts[i])
        parts[largest] -= min(1, over)
    while sum(parts) < total:
        open_ = (i for i in range(len(parts)) if parts[i] < caps[i])
        parts[min(open_, key=lambda i: parts[i])] += 1
    return parts
