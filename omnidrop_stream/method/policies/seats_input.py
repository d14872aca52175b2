"""SEATS whole: its selection before the decoder, then its rule inside (`seats`), re-implemented.

In words. Before the decoder, in every window of two patches and in every two seconds of sound,
tokens stay that are far from each other: first the one whose nearest neighbour is farthest, then
again and again the one farthest from all chosen so far; a distance is 1 - cos, times the attention
that the token to be chosen received in its encoder. So about 1.4 times the target stays, and what
is too much leaves in the three cuts and the late removal inside the decoder, which brings the mean
over the layers to the target.

The sources leave open, or do otherwise, and we chose:

- Pictures are chosen by distance alone, as the repository does where it is given no attention: our
  vision tower gives none.
- Where a depth cannot bring 1.4 times the target down to it (12 layers want 1.399), the nearest
  factor that it can.
- A window is a chunk, and the count asked for is met exactly (`inputs.apportion`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from omnidrop_stream.method.policies.base import Guidance, Pace, check_counts
from omnidrop_stream.method.policies.inputs import apportion, cosine, in_order
from omnidrop_stream.method.policies.seats import SeatsInLayer, stage_counts, stage_range
from omnidrop_stream.method.policies.window import InputStage, Selection, Window

ENTERING = 1.4  # of the target retention, by the source's configuration


def spread_out(tokens: Tensor, weight: Tensor | None, count: int) -> Tensor:
    """Ascending indices of `count` tokens [n, d] far from each other, weight [n] favouring some."""
    n = tokens.shape[0]
    if count >= n:
        return torch.arange(n, device=tokens.device)
    if count == 0:
        return torch.empty(0, dtype=torch.long, device=tokens.device)
    distance = 1.0 - cosine(tokens, tokens)
    if weight is not None:
        distance = distance * weight.float()  # of the token to be chosen: by column
    # The second smallest of a column, because the smallest is the token itself.
    nearest = distance.topk(2, dim=0, largest=False).values[1]
    chosen = [_first_largest(nearest)]
    apart = distance[chosen[0]].clone()
    for _ in range(count - 1):
        apart[chosen[-1]] = -1.0
        chosen.append(_first_largest(apart))
        apart = torch.minimum(apart, distance[chosen[-1]])
    return torch.tensor(sorted(chosen), device=tokens.device)


@dataclass(frozen=True, slots=True)
class Diverse:
    """The same share of every window and modality, far from each other."""

    def least(self, n_audio: int, sizes: Sequence[int]) -> int:
        """None at all."""
        return 0

    def select(self, window: Window, keep: int) -> Selection:
        """Exactly `keep` tokens."""
        groups = list[tuple[Tensor, bool]]()
        for indices, sound in ((window.video, False), (window.audio, True)):
            _, sizes = torch.unique_consecutive(window.chunk[indices], return_counts=True)
            groups += [(part, sound) for part in torch.split(indices, sizes.tolist())]
        caps = [len(part) for part, _ in groups]
        share = keep / max(1, sum(caps))
        counts = apportion([share * cap for cap in caps], caps, keep)
        kept = [
            part[spread_out(window.embeds[part], window.saliency[part] if sound else None, count)]
            for (part, sound), count in zip(groups, counts, strict=True)
        ]
        return Selection(in_order(kept, window.embeds.device))


@dataclass(frozen=True, slots=True)
class Seats:
    """Diverse tokens before the decoder, three cuts by the last text token, then none."""

    name: ClassVar[str] = "seats"
    guidance: ClassVar[Guidance] = "last"
    intra: ClassVar[bool] = False
    requires_depth_zero: ClassVar[bool] = True
    paced_by: ClassVar[Pace] = "retention"
    forgets: ClassVar[bool] = True

    retention: float = 0.3
    input_stage: InputStage = field(default_factory=Diverse)

    def counts(self, n0: int, n_layers: int, n_unpruned: int) -> tuple[int, ...]:
        """About 1.4 times the target enters; its mean is the target."""
        check_counts(n0, n_unpruned)
        low, high = stage_range(n_layers)  # of the mean, for 1 that enters
        factor = min(max(ENTERING, 1.0 / high), 1.0 / low)
        entering = min(n0, round(factor * self.retention * n_unpruned))
        return stage_counts(self.retention, entering, n_layers, n_unpruned)

    def drop(
        self, layer: int, n_layers: int, S: Tensor | None, chunk: Tensor, modality: Tensor, k: int
    ) -> Tensor:
        """As `SeatsInLayer`."""
        rule = SeatsInLayer(self.retention, name=self.name)
        return rule.drop(layer, n_layers, S, chunk, modality, k)


def _first_largest(values: Tensor) -> int:
    """Index of the largest; the lower one where several are."""
    return int((values == values.max()).nonzero()[0, 0])
