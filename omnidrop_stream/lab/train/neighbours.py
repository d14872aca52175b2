"""Side tasks for binding and order: each item's own tokens know what stands around it.

Thrown away after training. Only the item's tokens are taught, so evidence stays where it is.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from omnidrop_stream.lab.train.batches import N_COLOUR, N_KIND, N_SOUND, N_WORD, Streams

Tensor = torch.Tensor
COUNTED = 4
"""Classes of the running count: none, one, two, more earlier things of this colour."""


def previous_index(present: Tensor) -> Tensor:
    """present bool [B, m] -> index of the last present chunk before each, -1 if none [B, m]."""
    at = torch.where(present, torch.arange(present.shape[1]), -1)
    last = at.cummax(1).values
    return torch.cat([torch.full_like(last[:, :1], -1), last[:, :-1]], 1)


def earlier_alike(colour: Tensor) -> Tensor:
    """colour [B, m] -> how many earlier chunks show the same, at most 3 [B, m]."""
    m = colour.shape[1]
    alike = (colour[:, :, None] == colour[:, None, :]) & torch.ones(m, m).tril(-1).bool()
    return alike.sum(2).clamp(max=COUNTED - 1)


def _labels(values: Tensor, present: Tensor, none: int) -> Tensor:
    before = previous_index(present)
    return torch.where(before < 0, none, values.gather(1, before.clamp(min=0)))


class Neighbours(nn.Module):
    """Linear heads: at a thing's tokens the thing before it and how many before it had its colour;
    at a sound's tokens the word before it and the thing shown with it.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.thing = nn.Linear(width, N_COLOUR + N_KIND + 2)
        self.count = nn.Linear(width, COUNTED)
        self.word = nn.Linear(width, N_SOUND + 1)
        self.shown = nn.Linear(width, N_COLOUR + N_KIND + 2)

    def parts(
        self, states: Tensor, streams: Streams, tokens: Tensor
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Logits and labels of each task, one row for each token that shows an item.

        states [B, N, d] of the block; tokens bool [B, N, m, 2]: which chunk's thing and sound a
        token shows.
        """
        at_thing, at_sound = (tokens[..., i].any(2) for i in (0, 1))
        row, chunk = at_thing.nonzero()[:, 0], tokens[..., 0].int().argmax(2)[at_thing]
        seen = streams.colour < N_COLOUR
        colour = _labels(streams.colour, seen, N_COLOUR)
        kind = _labels(streams.kind, seen, N_KIND)
        things = states[at_thing]
        before, count = self.thing(things), self.count(things)
        out = {
            "colour_before": (before[:, : N_COLOUR + 1], colour[row, chunk]),
            "kind_before": (before[:, N_COLOUR + 1 :], kind[row, chunk]),
            "count": (count, earlier_alike(streams.colour)[row, chunk]),
        }
        row, chunk = at_sound.nonzero()[:, 0], tokens[..., 1].int().argmax(2)[at_sound]
        word = _labels(streams.sound, streams.sound < N_WORD, N_SOUND)
        sounds = states[at_sound]
        shown = self.shown(sounds)
        out["word_before"] = (self.word(sounds), word[row, chunk])
        out["colour_shown"] = (shown[:, : N_COLOUR + 1], streams.colour[row, chunk])
        out["kind_shown"] = (shown[:, N_COLOUR + 1 :], streams.kind[row, chunk])
        return out

    def loss(
        self, states: Tensor, streams: Streams, tokens: Tensor
    ) -> tuple[Tensor, dict[str, float]]:
        """Sum of the mean cross entropies, and the share right of each task."""
        total, right = states.new_zeros(()), {}
        for name, (logits, labels) in self.parts(states, streams, tokens).items():
            if len(labels):
                total = total + F.cross_entropy(logits, labels)
                right[name] = float((logits.argmax(1) == labels).float().mean())
        return total, right
