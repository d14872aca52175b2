"""Many questions about one stream in one pass: the stream is computed once, each question sees it
and itself.

Drives the stock language model's own layers; a test holds it equal to the stock forward.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F

Tensor = torch.Tensor


@dataclass(slots=True)
class Watch:
    """Collects what enters some layers, so that their attention can be recomputed with gradients.

    words [B, Q]: how many rows of each question count. The pass fills in the rest.
    """

    layers: tuple[int, ...]
    words: Tensor
    inputs: dict[int, Tensor] = field(default_factory=dict)
    angles: tuple[Tensor, Tensor] | None = None
    mask: Tensor | None = None
    prefix: int = 0


def watched_scores(language: Any, watch: Watch, layer: int) -> Tensor:
    """Attention that each prefix token gets in a watched layer, mean over heads and words [B, Q,
    P].
    """
    assert watch.angles is not None
    assert watch.mask is not None
    x, (cos, sin), size = watch.inputs[layer], watch.angles, watch.prefix
    attn = language.layers[layer].self_attn
    h = language.layers[layer].input_layernorm(x)
    batch, questions = watch.words.shape
    q = attn.q_proj(h[:, size:]).view(batch, h.shape[1] - size, -1, attn.head_dim).transpose(1, 2)
    k = attn.k_proj(h).view(batch, h.shape[1], -1, attn.head_dim).transpose(1, 2)
    q = q * cos[:, :, size:] + half_turn(q) * sin[:, :, size:]
    k = k * cos + half_turn(k) * sin
    k = k.repeat_interleave(q.shape[1] // k.shape[1], 1)
    logits = q @ k.transpose(2, 3) / attn.head_dim**0.5
    weights = logits.masked_fill(~watch.mask, float("-inf")).softmax(-1).mean(1)[:, :, :size]
    rows = weights.view(batch, questions, -1, size)
    use = (torch.arange(rows.shape[2]) < watch.words[..., None]).float()
    total: Tensor = (rows * use[..., None]).sum(2)
    return total / use.sum(-1, keepdim=True)


def evidence_loss(scores: Tensor, tokens: Tensor, evidence: Tensor) -> Tensor:
    """Mean over events of -log of the attention their tokens receive.

    scores [B, Q, N]: mean over heads and question words; tokens bool [B, N, m, 2]: which chunk's
    item a token shows; evidence bool [B, Q, m, 2]: what the answer rests on.
    """
    mass = torch.einsum("bqn,bnme->bqme", scores, tokens.float())
    on = evidence & tokens.any(1)[:, None]
    if not on.any():
        return scores.sum() * 0.0
    return -torch.log(mass[on].clamp(min=1e-6)).mean()


def naming_loss(scores: Tensor, cell: Tensor, evidence: Tensor) -> Tensor:
    """Mean over events of -log of their cell's share of all attention to the stream.

    A cell is a chunk's pictures or its sound, as evidence is named. scores [B, Q, N] as above; cell
    [N]: each token's 2 * chunk + modality; evidence bool [B, Q, m, 2]. Unlike `evidence_loss` it
    asks words that cannot know yet to look away from the stream, not at all of it.
    """
    if not evidence.any():
        return scores.sum() * 0.0
    cells = scores.new_zeros(*scores.shape[:2], evidence[0, 0].numel()).index_add(2, cell, scores)
    shares = (cells / cells.sum(-1, keepdim=True)).view(evidence.shape)
    return -torch.log(shares[evidence].clamp(min=1e-6)).mean()


def aside_loss(scores: Tensor) -> Tensor:
    """-log of the attention that does not go to the stream, of all questions together.

    Without it a layer that spends everything on the stream has no gradient that leads away.
    """
    return -torch.log((1.0 - scores.sum(-1).mean()).clamp(min=1e-6))


def rotary_angles(language: Any, positions: Tensor) -> tuple[Tensor, Tensor]:
    """positions [3, B, n] -> cosine and sine [B, 1, n, head_dim]."""
    rotary = language.rotary_emb
    freqs = positions[..., None].float() * rotary.inv_freq
    parts = freqs.split(list(rotary.mrope_section), -1)
    half = torch.cat([part[i % 3] for i, part in enumerate(parts)], -1)
    full = torch.cat([half, half], -1)[:, None]
    return full.cos(), full.sin()


def question_mask(prefix: int, questions: int, length: int, hidden: Tensor | None) -> Tensor:
    """What question rows may see -> bool [questions * length, prefix + questions * length].

    `hidden` names columns of the prefix that they may not see.
    """
    own = torch.kron(torch.eye(questions), torch.ones(length, length).tril()).bool()
    mask = torch.cat([torch.ones(questions * length, prefix, dtype=torch.bool), own], 1)
    if hidden is not None:
        mask[:, hidden] = False
    return mask


def packed_forward(
    language: Any,
    prefix: Tensor,
    prefix_positions: Tensor,
    questions: Tensor,
    start: Tensor,
    hidden: Tensor | None = None,
    tap: int = -1,
    drop: tuple[int, Tensor] | None = None,
    watch: Watch | None = None,
    until: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Last hidden states of the questions [B, Q, length, d], and the prefix after layer `tap`.

    prefix [B, P, d] embeddings; prefix_positions [3, B, P]; questions [B, Q, length] ids; start
    [B]: the position of each question's first token; drop: a layer, and the columns of the prefix
    bool [B, P] that nobody sees in the layers after it; until: the layer in which the pass ends
    early, for what is watched there.
    """
    batch, count, length = questions.shape
    size = prefix.shape[1]
    text = F.embedding(questions, language.embed_tokens.weight).view(batch, count * length, -1)
    x = torch.cat([prefix, text], 1)
    ids = (start[:, None] + torch.arange(length)).repeat(1, count)
    cos, sin = rotary_angles(language, torch.cat([prefix_positions, ids.expand(3, -1, -1)], 2))
    mask = question_mask(size, count, length, hidden)
    tapped = prefix
    if watch is not None:
        watch.angles, watch.mask, watch.prefix = (cos, sin), mask, size
    for number, layer in enumerate(language.layers):
        if watch is not None and number in watch.layers:
            watch.inputs[number] = x
        if number == until:
            break
        attn = layer.self_attn
        h = layer.input_layernorm(x)
        q, k, v = (
            p(h).view(batch, x.shape[1], -1, attn.head_dim).transpose(1, 2)
            for p in (attn.q_proj, attn.k_proj, attn.v_proj)
        )
        q, k = q * cos + half_turn(q) * sin, k * cos + half_turn(k) * sin
        groups = q.shape[1] // k.shape[1]
        if groups > 1:
            k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        early, late = q[:, :, :size], q[:, :, size:]
        if drop is not None and number > drop[0]:
            seen = ~drop[1][:, None, None, :]
            causal = torch.ones(size, size, dtype=torch.bool).tril() & (
                seen | torch.eye(size).bool()
            )
            own = torch.ones(batch, 1, 1, mask.shape[0], dtype=torch.bool)
            stream = F.scaled_dot_product_attention(
                early, k[:, :, :size], v[:, :, :size], attn_mask=causal
            )
            asked = F.scaled_dot_product_attention(
                late, k, v, attn_mask=mask & torch.cat([seen, own], 3)
            )
        else:
            stream = F.scaled_dot_product_attention(
                early, k[:, :, :size], v[:, :, :size], is_causal=True
            )
            asked = F.scaled_dot_product_attention(late, k, v, attn_mask=mask)
        out = torch.cat([stream, asked], 2).transpose(1, 2).reshape(batch, x.shape[1], -1)
        x = x + attn.o_proj(out)
        x = x + layer.mlp(layer.post_attention_layernorm(x))
        tapped = x[:, :size] if number == tap else tapped
    final = language.norm(x[:, size:])
    assert isinstance(final, Tensor)
    return final.view(batch, count, length, -1), tapped


def half_turn(x: Tensor) -> Tensor:
    """The other part of a rotation by halves."""
    a, b = x.chunk(2, -1)
    return torch.cat((-b, a), -1)
