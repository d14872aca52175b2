"""What one more token of an answer costs, beside what it must read: the weights once, and all keys
and values that the answer sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from omnidrop_stream.config import DecodeConfig
from omnidrop_stream.lab.bench_cost import Ratio, Spread, Stopwatch
from omnidrop_stream.model.base import ModelSpec
from omnidrop_stream.model.fork import SETTLED_AFTER
from omnidrop_stream.model.graphs import EAGER_STEPS
from omnidrop_stream.stream import OmniStream
from omnidrop_stream.types import Delta, Query, Step

LATER = 18
"""Tokens of an answer that are taken as its later ones."""
ANSWERS = 3


@dataclass(frozen=True, slots=True)
class DecodeRow:
    """One engine's token behind one window; processor time on a CPU, wall time on a GPU."""

    window: int
    engine: str
    early_ms: Spread
    """A token while the answer's layers settle, or before its step is recorded."""
    token_ms: Spread
    """A later one, from one token to the next: the step, the choice, the text."""
    faster: Ratio
    """Times less than plain at this window."""
    read_bytes: int
    """What a token must read."""
    floor_ms: float
    """What this takes as fast as a copy reads."""


def early_tokens(n_layers: int) -> int:
    """Tokens of an answer that come before its later ones: of the prefill, while its layers settle
    (one with each token on a processor), until its step is recorded.
    """
    return max(SETTLED_AFTER + n_layers, EAGER_STEPS) + 2


def token_times(
    stream: OmniStream, query: Query, decode: DecodeConfig, watch: Stopwatch
) -> tuple[list[float], list[float]]:
    """Milliseconds of each token of one answer: of the early ones but for the first, which comes of
    the prefill, and of ``LATER`` later ones.
    """
    early = early_tokens(stream.model.spec.n_layers)
    tokens = early + LATER
    whole = decode.model_copy(update={"max_tokens": tokens, "min_tokens": tokens})
    turns = stream.ask_steps(query, decode=whole)
    spent: list[float] = []
    while True:
        event, cost = watch.time(lambda: next(turns, None))
        if event is None:
            return spent[1:early], spent[early:]
        if isinstance(event, Delta) or event is Step.DECODE:
            spent.append(cost.cpu_ms or cost.wall_ms)


def token_bytes(
    weights: int, spec: ModelSpec, entering: Sequence[int], text: int, itemsize: int
) -> int:
    """Bytes that a token in the middle of an answer must read: ``weights``, and in each layer keys
    and values of its audiovisual tokens (``entering``) and of ``text`` positions.
    """
    layers = len(entering)
    positions = sum(entering) + layers * (text + early_tokens(layers) + LATER // 2)
    return weights + positions * 2 * spec.n_kv_heads * spec.head_dim * itemsize
