"""Pruning within each modality, before the first decoder layer (paper section 3.4).

Audio, in words: the tokens that the last layer of the audio encoder attends to most stay, 70 %.
Video, in words (temporal token merging, from DyCoke; nothing is averaged, tokens are dropped): in
each window of four frames the first stays whole, and of the others only the tokens least similar to
the token in the same place of a reference frame stay, 20 %; together (1 + 3 * 0.2) / 4 = 40 %.

The paper leaves open, and we chose:

- Audio: the encoder's *true* attention, in which each 2-second block sees only itself; received
  attention is the mean over heads and rows, then over pairs of frames, as the pooling pairs them
  (an odd last frame is dropped by the pooling, and here). The top int(0.7 n) of each block stay, 35
  of 50; a short last block follows the same rule, so one token alone does not survive. The peers
  take one softmax over the whole clip, an attention that the model never computed and that cannot
  be streamed: `whole_clip_audio_saliency`, for comparison only.
- Video: a frame is a temporal patch (two raw frames), a window four of them, aligned to the start
  of the epoch. Patch 1 is compared with 0, 2 with 0, 3 with 2, always as they were before pruning.
  int(0.2 n) stay (28 of 144: 39.6 % over a window). Ties go to the lower index; a short tail
  follows the same rule. A patch of another size starts a new window.
- Everything looks backwards only and is final on arrival: state is a `MergeCarry`, and a new epoch
  is `carry = None`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

WINDOW = 4  # temporal patches
_REFERENCE = (0, 0, 0, 2)  # of the patch at each place of a window; patch 0 itself stays whole


def block_attention(q: Tensor, k: Tensor, *, scale: float | None = None) -> Tensor:
    """The attention [H, T, T] in fp32 of one audio block, from its q and k [H, T, d]."""
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    return (q.float() * scale @ k.float().transpose(-1, -2)).softmax(dim=-1)


def audio_saliency(attn: Tensor) -> Tensor:
    """Scores [T // 2] of one block's audio tokens, from the block's attention [H, T, T]."""
    if attn.ndim != 3 or attn.shape[1] != attn.shape[2]:
        raise ValueError(
            f"attn is {list(attn.shape)}; allowed: [H, T, T], one block of the audio encoder"
        )
    return _pooled(attn.float().mean(dim=(0, 1)))


def whole_clip_audio_saliency(
    q: Tensor, k: Tensor, *, scale: float | None = None, block_rows: int = 512
) -> Tensor:
    """The peers' variant: scores [T // 2] by one softmax over all T frames of a clip.

    q and k are [H, T, d]. Not streamable, since each new second changes every old score. Rows go in
    blocks, for memory.
    """
    received = torch.zeros(k.shape[1], dtype=torch.float32, device=k.device)
    for start in range(0, q.shape[1], block_rows):
        rows = q[:, start : start + block_rows]
        received += block_attention(rows, k, scale=scale).sum(dim=(0, 1))
    return _pooled(received / (q.shape[0] * q.shape[1]))


def keep_salient(scores: Tensor, ratio: float = 0.7) -> Tensor:
    """Ascending indices of the int(ratio * n) highest of `scores` [n]."""
    keep = int(_checked_ratio("ratio", ratio) * scores.shape[0])
    return torch.argsort(scores, stable=True, descending=True)[:keep].sort().values


@dataclass(frozen=True, slots=True, eq=False)
class MergeCarry:
    """What the next patch needs to know: its place in the window, and its reference, unpruned."""

    position: int  # 1..3; after the last place of a window there is no carry
    reference: Tensor  # [n, d]; held, not copied: the caller must not write into it


def merge_patch(
    tokens: Tensor, carry: MergeCarry | None, keep_ratio: float = 0.2
) -> tuple[Tensor, MergeCarry | None]:
    """Prune one temporal patch [n, d]: (ascending indices that stay, carry for the next one)."""
    _check_patch(tokens)
    _checked_ratio("keep_ratio", keep_ratio)
    if carry is None or carry.reference.shape[0] != tokens.shape[0]:
        whole = torch.arange(tokens.shape[0], device=tokens.device)
        return whole, MergeCarry(position=1, reference=tokens)
    kept = _least_similar(tokens, carry.reference, keep_ratio)
    following = carry.position + 1
    if following == WINDOW:
        return kept, None
    # Patch 2 is patch 3's reference; until then patch 0 stays it.
    reference = tokens if _REFERENCE[following] == carry.position else carry.reference
    return kept, MergeCarry(position=following, reference=reference)


def merge_clip(patches: Sequence[Tensor], keep_ratio: float = 0.2) -> list[Tensor]:
    """The same for a whole clip at once: for each patch, the ascending indices that stay."""
    _checked_ratio("keep_ratio", keep_ratio)
    kept, start = list[Tensor](), 0
    for i, tokens in enumerate(patches):
        _check_patch(tokens)
        place = (i - start) % WINDOW
        reference = patches[i - place + _REFERENCE[place]]
        if place == 0 or reference.shape[0] != tokens.shape[0]:
            start = i
            kept.append(torch.arange(tokens.shape[0], device=tokens.device))
        else:
            kept.append(_least_similar(tokens, reference, keep_ratio))
    return kept


def _least_similar(tokens: Tensor, reference: Tensor, keep_ratio: float) -> Tensor:
    keep = int(keep_ratio * tokens.shape[0])
    similarity = cosine_similarity(tokens.float(), reference.float(), dim=-1)
    return torch.argsort(similarity, stable=True)[:keep].sort().values


def _pooled(received: Tensor) -> Tensor:
    """Mean of pairs: encoder frames [T] to tokens [T // 2], as the encoder's pooling does."""
    return received[: received.shape[0] // 2 * 2].view(-1, 2).mean(dim=1)


def _check_patch(tokens: Tensor) -> None:
    if tokens.ndim != 2:
        raise ValueError(
            f"a patch is {list(tokens.shape)}; allowed: [n, d], the tokens of one temporal patch"
        )


def _checked_ratio(name: str, ratio: float) -> float:
    if not 0.0 <= ratio <= 1.0:
        raise ValueError(f"{name} is {ratio}; allowed: 0 to 1, the share of tokens that stays")
    return ratio
