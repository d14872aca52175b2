"""How the next token is chosen."""

from __future__ import annotations

import torch

COLDEST = 1e-5
"""Below it, dividing by the temperature would overflow; the choice is greedy there anyway."""


def pick_token(
    logits: torch.Tensor, temperature: float, top_p: float, generator: torch.Generator | None
) -> int:
    """One token id from ``logits`` f32 [vocabulary]; greedy at temperature 0, else nucleus sampling
    (top-p).
    """
    if temperature < COLDEST:
        return int(logits.argmax())
    probabilities = torch.softmax(logits.cpu() / temperature, dim=-1)
    ordered, ids = probabilities.sort(descending=True)
    kept = ordered.cumsum(0) - ordered < top_p  # the first is always kept
    choice = torch.multinomial(ordered * kept, 1, generator=generator)
    return int(ids[choice])
