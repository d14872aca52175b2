"""How much the guidance attends to each audiovisual token: Eq. 5 (paper section 3.2).

In words. S of an audiovisual token is the attention that it receives from the text tokens, averaged
over them: S = 1 / n_T * sum over q of Attn(q -> {V, A}).

The paper leaves open, and we chose:

- Heads are averaged (Eq. 5 has no head index). With grouped queries every query head counts once.
- The softmax runs over *all* keys that the row can see (prompt, audiovisual, text up to the row
  itself), in fp32, from the keys and queries as the layer used them, i.e. already rotated. S
  therefore sums to less than 1; it is not renormalised over the audiovisual tokens.
- Only the guidance rows are computed (n_T x N), never an n x n map, and those in blocks, so that
  memory has a bound whatever the number of rows. The bound is `max_elements` fp32 numbers for the
  scores and as many for their softmax.
- Which rows guide is the caller's: `query_importance` takes any, `last_token_importance` is FastV's
  rule, `audio_guided_importance` the ablation of section 4.2: its rows are the audio tokens. Each
  sees only what precedes it, so late tokens are seen by few rows; the mean is still over all.
"""

import torch
from torch import Tensor

_MAX_ELEMENTS = 2**24  # 64 MiB of fp32 scores


def query_importance(
    q: Tensor,
    k: Tensor,
    av: slice | Tensor,
    *,
    rows: Tensor | None = None,
    scale: float | None = None,
    max_elements: int = _MAX_ELEMENTS,
) -> Tensor:
    """S [n_av] in fp32: attention received from the guidance rows, mean over rows and heads.

    q [H, n_T, d] are the guidance tokens' rotated queries, k [H_kv, N, d] all rotated keys, `av`
    the audiovisual columns of N (a slice or an index tensor). rows [n_T] is each guidance token's
    own index among the N keys: row i sees keys 0..rows[i]. Default: they are the last n_T keys.
    """
    _check(q, k, rows)
    n_rows, n_keys = q.shape[1], k.shape[1]
    if rows is None:
        rows = torch.arange(n_keys - n_rows, n_keys, device=k.device)
    rows = rows.to(k.device)
    scale = q.shape[2] ** -0.5 if scale is None else scale
    n_heads, n_kv_heads = q.shape[0], k.shape[0]
    # The heads that share a key head become more rows of it, so keys are never repeated.
    grouped = q.view(n_kv_heads, n_heads // n_kv_heads, n_rows, q.shape[2])
    keys = k.float().transpose(1, 2)  # [H_kv, d, N]
    columns = torch.arange(n_keys, device=k.device)
    total = torch.zeros(n_keys, dtype=torch.float32, device=k.device)
    block = max(1, max_elements // (n_heads * n_keys))
    for start in range(0, n_rows, block):
        part = grouped[:, :, start : start + block].float() * scale  # [H_kv, G, b, d]
        scores = (part.flatten(1, 2) @ keys).view(*part.shape[:3], n_keys)  # [H_kv, G, b, N]
        hidden = columns > rows[start : start + block, None]  # [b, N]: keys after the row itself
        scores.masked_fill_(hidden, float("-inf"))
        total += scores.softmax(dim=-1).sum(dim=(0, 1, 2))
    return total[av] / (n_heads * n_rows)  # Eq. 5


def last_token_importance(
    q: Tensor,
    k: Tensor,
    av: slice | Tensor,
    *,
    rows: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """FastV's rule: Eq. 5 with the last of the rows alone. Arguments as `query_importance`."""
    _check(q, k, rows)
    return query_importance(q[:, -1:], k, av, rows=None if rows is None else rows[-1:], scale=scale)


def audio_guided_importance(
    q: Tensor,
    k: Tensor,
    av: slice | Tensor,
    *,
    rows: Tensor,
    scale: float | None = None,
    max_elements: int = _MAX_ELEMENTS,
) -> Tensor:
    """Section 4.2's ablation: Eq. 5 with the audio tokens as guidance.

    q [H, n_A, d] are the audio tokens' rotated queries and rows [n_A] their indices among the keys,
    given always because they do not stand at the end. Needs the audio queries of every layer, so
    it is only possible where no layer ran before the question (prefill_depth 0).
    """
    if q.shape[1] == 0:
        raise ValueError(
            "audio guidance has 0 audio tokens; allowed: a stream with sound; "
            "use the omnidrop policy for a silent one"
        )
    return query_importance(q, k, av, rows=rows, scale=scale, max_elements=max_elements)


def _check(q: Tensor, k: Tensor, rows: Tensor | None) -> None:
    if q.ndim != 3 or k.ndim != 3 or q.shape[2] != k.shape[2] or q.shape[0] % k.shape[0]:
        raise ValueError(
            f"q is {list(q.shape)} and k is {list(k.shape)}; allowed: [H, n_T, d] and [H_kv, N, d] "
            "with the same d and H a multiple of H_kv"
        )
    if q.shape[1] == 0:
        raise ValueError(
            "there are 0 guidance tokens; allowed: 1 or more; pass the question's rows"
        )
    if rows is not None and rows.shape != (q.shape[1],):
        raise ValueError(
            f"rows is {list(rows.shape)}; allowed: [{q.shape[1]}], one key index for each row of q"
        )
    if rows is None and q.shape[1] > k.shape[1]:
        raise ValueError(
            f"there are {q.shape[1]} guidance rows but {k.shape[1]} keys; allowed: at most one row "
            "for each key; pass rows where they are not the last keys"
        )
