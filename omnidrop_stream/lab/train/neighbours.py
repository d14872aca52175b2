"""A side task for order: each item's own tokens know what came before it in the same sense.

Thrown away after training. Only the item's tokens are taught, so evidence stays where it is.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from omnidrop_stream.lab.train.batches import N_COLOUR, N_KIND, N_SOUND, N_WORD, Streams

Tensor = torch.Tensor


def previous_index(present: Tensor) -> Tensor:
    """present bool [B, m] -> index of the last present chunk before each, -1 if none [B, m]."""
    at = torch.where(present, torch.arange(present.shape[1]), -1)
    last = at.cummax(1).values
    return torch.cat([torch.full_like(last[:, :1], -1), last[:, :-1]], 1)


def _labels(values: Tensor, present: Tensor, none: int) -> Tensor:
    before = previous_index(present)
    return torch.where(before < 0, none, values.gather(1, before.clamp(min=0)))


class Neighbours(nn.Module):
    """Linear heads that name the previous thing (at a thing) and the previous word (at a sound)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.thing = nn.Linear(width, N_COLOUR + N_KIND + 2)
        self.word = nn.Linear(width, N_SOUND + 1)

    def loss(self, states: Tensor, streams: Streams, items: Tensor) -> Tensor:
        """Cross entropy. states [B, N, d] of the block; items [B, m, 2]: where thing and sound
        stand.
        """
        width = states.shape[-1]

        def at(which: int) -> Tensor:
            return states.gather(1, items[..., which][..., None].expand(-1, -1, width))

        seen, heard = streams.colour < N_COLOUR, streams.sound < N_SOUND
        out = self.thing(at(0))[seen]
        colour = _labels(streams.colour, seen, N_COLOUR)[seen]
        kind = _labels(streams.kind, seen, N_KIND)[seen]
        total = F.cross_entropy(out[:, : N_COLOUR + 1], colour)
        total = total + F.cross_entropy(out[:, N_COLOUR + 1 :], kind)
        word = _labels(streams.sound, streams.sound < N_WORD, N_SOUND)[heard]
        return total + F.cross_entropy(self.word(at(1))[heard], word)
