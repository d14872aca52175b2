"""What one question's prefill costs, counted and not measured: a pure function of sizes and counts.

A multiplication and an addition are two operations, as ``torch.utils.flop_counter`` counts. Counted
are the matrix products: projections, attention over the keys that each row really sees (a causal
kernel may compute more), the feed-forward network, the guidance's scores and the last position's
head. Norms, rotations and softmax are not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DecoderSizes:
    """A decoder's widths: numbers, not bytes."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    inner: int
    """Width inside the feed-forward network, three matrices of which have it on one side."""
    vocabulary: int

    @property
    def row(self) -> int:
        """FLOPs of one row in one layer without attention: q, k, v, o and the gated network."""
        attention = 2 * self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        return attention + 2 * 3 * self.hidden * self.inner

    def attended(self, rows: int, before: int) -> int:
        """FLOPs of ``rows`` new rows that see ``before`` keys, themselves and those between."""
        seen = rows * before + rows * (rows + 1) // 2
        return 2 * 2 * self.heads * self.head_dim * seen


@dataclass(frozen=True, slots=True)
class PrefillFlops:
    """Of one question over one window. ``on_question`` is what waits for the question."""

    on_arrival: int
    """The prompt, and the audiovisual rows of the layers that ran before the question."""
    on_question: int

    @property
    def total(self) -> int:
        """Both."""
        return self.on_arrival + self.on_question


def prefill_flops(
    sizes: DecoderSizes,
    prompt: int,
    entering: Sequence[int],
    text: int,
    depth: int,
    guidance: int = 0,
    scored: Sequence[int] = (),
) -> PrefillFlops:
    """FLOPs of a prefill in which ``entering[l]`` of the audiovisual tokens enter layer l.

    prompt: rows before the block; text: rows after it; depth: layers that every audiovisual token
    passed on arrival; guidance: rows that score the block in the layers ``scored``. Raises
    ValueError where there is not one count for each layer.
    """
    if len(entering) != sizes.layers or not 0 <= depth <= sizes.layers:
        raise ValueError(
            f"{len(entering)} counts and depth {depth} do not fit {sizes.layers} layers; give one "
            "count for each layer and a depth of 0 to that many"
        )
    arrival = sizes.layers * (prompt * sizes.row + sizes.attended(prompt, 0))
    question = 2 * sizes.hidden * sizes.vocabulary
    for layer, count in enumerate(entering):
        if layer < depth:
            # On arrival all of them ran, also where later ones read fewer.
            arrival += entering[0] * sizes.row + sizes.attended(entering[0], prompt)
        else:
            question += count * sizes.row + sizes.attended(count, prompt)
        question += text * sizes.row + sizes.attended(text, prompt + count)
    for layer in scored:
        keys = prompt + entering[layer] + text
        question += 2 * guidance * keys * sizes.heads * sizes.head_dim
    return PrefillFlops(arrival, question)


def token_flops(sizes: DecoderSizes, prompt: int, entering: Sequence[int], text: int) -> int:
    """FLOPs without which a question at full depth has no first token: ``text`` rows that see
    ``prompt`` rows and ``entering[l]`` kept ones; of the last layer all keys and values, but of
    the rest one row alone. What scores the block for the evidence is not in it.
    """
    *before, last = entering
    total = sum(text * sizes.row + sizes.attended(text, prompt + count) for count in before)
    kept = 2 * sizes.hidden * sizes.head_dim * 2 * sizes.kv_heads
    total += text * kept + (sizes.row - kept) + sizes.attended(1, prompt + last + text - 1)
    return total + 2 * sizes.hidden * sizes.vocabulary


def scored_layers(entering: Sequence[int], guided: bool) -> tuple[int, ...]:
    """Layers in which the question's rows score the block: where a guided policy drops, and from
    the middle on, where the evidence is summed.
    """
    layers = len(entering)
    drops = {n for n in range(layers - 1) if guided and entering[n + 1] < entering[n]}
    return tuple(sorted(drops | set(range(layers // 2, layers))))
