"""Which tokens leave, spread over time: Algorithm 1, the temporal diversity score (section 3.3).

In words. The chunk of the highest-scored token is the key chunk (line 1). Of the 2k lowest-scored
tokens (line 2), each gains div_weight times its distance from the key chunk, as a share of the
largest chunk index (lines 3, 4), and the k lowest of the sums leave (line 5).

The paper leaves open, and we chose:

- Chunk indices are relative to the window (0..m-1 over the chunks held). With one chunk max(C) = 0;
  then D = 0, and the rule is "the k lowest S".
- The buffer is min(2k, n). Ties go to the lower index, everywhere.
- The sums are formed in fp64: S of a long window is about 1e-4 and would vanish beside D in fp32.
- The scale. As printed, one chunk of distance outweighs all of S, so that inside the buffer the
  order is "nearest to the key chunk leaves first", and where the buffer covers everything (p_l near
  0.5) nearly the whole key chunk goes. Two separate settings, off by default:
  `normalise` divides S by its max or mean before line 4; `guard_key_chunk` lets a key-chunk token
  leave only if S alone would have dropped it, i.e. it is among the k lowest S. The guard never
  runs out of tokens (the k lowest S themselves are always allowed) and gives the key chunk no more
  than S gives it.
"""

from typing import Literal

import torch
from torch import Tensor

Normalisation = Literal["none", "max", "mean"]


def temporal_diversity_prune(
    S: Tensor,
    chunk: Tensor,
    k: int,
    div_weight: float,
    normalise: Normalisation = "none",
    guard_key_chunk: bool = False,
) -> Tensor:
    """Ascending indices [k] of the tokens to prune, from S [n] and chunk indices [n]."""
    check_prune(S, k)
    n = S.shape[0]
    if chunk.shape != S.shape:
        raise ValueError(
            f"chunk is {list(chunk.shape)}; allowed: {[n]}, one chunk index for each score"
        )
    if k == 0:
        return torch.empty(0, dtype=torch.long, device=S.device)
    # Line 1: the key chunk. `where` rather than argmax, whose choice among equals is unspecified.
    index = torch.arange(n, device=S.device)
    # (`chunk[scalar]` would have the host wait for the device.)
    c_max = chunk.index_select(0, torch.where(S.max() == S, index, n).min()[None])
    # Line 2: the candidate buffer, then in index order, so that ties below go to the lower index.
    by_score = torch.argsort(S, stable=True)
    candidates = by_score[: 2 * k].sort().values
    # Line 3: D = |c_max - c_i| / max(C); the clamp makes 0 / 0 of a single chunk 0.
    distance = (chunk[candidates] - c_max).abs().double() / chunk.max().clamp(min=1)
    # Line 4: the augmented score.
    augmented = _normalised(S.double(), normalise)[candidates] + div_weight * distance
    if guard_key_chunk:
        allowed = torch.zeros(n, dtype=torch.bool, device=S.device)
        allowed.index_fill_(0, by_score[:k], True)
        guarded = (chunk[candidates] == c_max) & ~allowed[candidates]
        augmented = augmented.masked_fill(guarded, float("inf"))
    # Lines 5 and 6: the k lowest leave.
    return candidates[torch.argsort(augmented, stable=True)[:k]].sort().values


def lowest_prune(S: Tensor, k: int) -> Tensor:
    """Ascending indices [k] of the k lowest scores: section 3.2's rule, without Algorithm 1."""
    check_prune(S, k)
    return torch.argsort(S, stable=True)[:k].sort().values


def check_prune(S: Tensor, k: int) -> None:
    """Refuse scores that are not a vector and a count that it does not hold."""
    if S.ndim != 1:
        raise ValueError(f"S is {list(S.shape)}; allowed: [n], one score for each token")
    if not 0 <= k <= S.shape[0]:
        raise ValueError(f"k is {k}; allowed: 0 to {S.shape[0]}, the tokens that are left")


def _normalised(S: Tensor, normalise: Normalisation) -> Tensor:
    tiny = torch.finfo(S.dtype).tiny  # all-zero scores stay zero
    match normalise:
        case "none":
            return S
        case "max":
            return S / S.max().clamp(min=tiny)
        case "mean":
            return S / S.mean().clamp(min=tiny)
    raise ValueError(f"normalise is {normalise!r}; allowed: none, max, mean")
