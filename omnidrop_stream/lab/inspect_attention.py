"""Where a question's words look, layer by layer, with nothing dropped.

A plain pass over prompt, block and question from the embeddings up, apart from the prefill that
answers: that one scores only where it needs to. The two agree (``tests/lab/test_inspect.py``).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from omnidrop_stream.cache import Segment, largest_id, slots_of
from omnidrop_stream.method import query_importance
from omnidrop_stream.model.attention import causal_attention
from omnidrop_stream.model.prefill import positions_of, tail_positions
from omnidrop_stream.model.qwen_omni import QwenOmni
from omnidrop_stream.model.rope import rotate
from omnidrop_stream.model.template import ChatTemplate
from omnidrop_stream.types import Modality, StreamKind

TOP = 0.2
"""The paper's share of strongest values."""


@torch.inference_mode()
def attention_scores(
    model: QwenOmni, kind: StreamKind, system: str, segments: Sequence[Segment], question: str
) -> torch.Tensor:
    """S f32 [layers, n] of the block's n tokens for the question's own words (Eq. 5), on the CPU.

    The softmax is over all that a word sees, the prompt too, so a layer's scores add up to less
    than 1.
    """
    decoder, spec = model.decoder, model.spec
    template = ChatTemplate(model.tokenizer, kind)
    prompt = model.prefill_prompt(*template.prompt(system))
    tail = template.tail(question)
    held, slots = tuple(segments), slots_of(tuple(segments))
    ids = spec.ids_per_chunk
    block = positions_of(held, slots, prompt.base, ids, decoder.device)
    after = tail_positions(
        largest_id(held, slots, prompt.base, ids) + 1, tail.markers, len(tail.ids)
    )
    angles = decoder.rotary.angles(torch.cat([block.cpu(), after], dim=1))
    front = decoder.rotary.angles(prompt.positions)
    text = decoder.embed(torch.tensor(tail.ids, device=decoder.device))
    rows = torch.cat([*(s.tokens.embeds for s in held), text])
    count = rows.shape[0] - len(tail.ids)
    words = torch.arange(tail.question.start, tail.question.stop, device=decoder.device) + count
    columns = slice(prompt.count, prompt.count + count)
    scores = []
    for layer in range(decoder.n_layers):
        new = decoder.project(layer, rows, angles)
        keys = torch.cat([rotate(prompt.keys[layer], front), rotate(new.k, angles)], dim=1)
        values = torch.cat([prompt.values[layer], new.v], dim=1)
        s = query_importance(new.q[:, words], keys, columns, rows=words + prompt.count)
        scores.append(s.cpu())
        rows = decoder.finish(layer, rows, causal_attention(new.q, keys, values))
    return torch.stack(scores)


def chunk_means(scores: torch.Tensor, chunk: torch.Tensor, chunks: int) -> torch.Tensor:
    """Mean S f32 [layers, chunks] of the tokens of each chunk; NaN where it has none.

    scores f32 [layers, n], chunk i64 [n].
    """
    counts = torch.bincount(chunk, minlength=chunks)
    sums = torch.zeros(scores.shape[0], chunks).index_add_(1, chunk, scores.float())
    return sums / counts.where(counts > 0, torch.tensor(float("nan")))


def top_recall(scores: torch.Tensor, share: float = TOP) -> torch.Tensor:
    """Share f32 [layers] of each layer's attention that the top ``share`` of its tokens holds
    (at least one token). scores f32 [layers, n], n > 0.
    """
    strongest = max(1, int(share * scores.shape[1]))
    return scores.topk(strongest, dim=1).values.sum(dim=1) / scores.sum(dim=1)


def of_medium(scores: torch.Tensor, modality: torch.Tensor, medium: Modality) -> torch.Tensor:
    """The columns f32 [layers, n'] of one medium's tokens."""
    return scores[:, modality == int(medium)]
