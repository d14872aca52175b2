"""What one more token of an answer costs, beside what it must read: the weights once, and all keys
and values that the answer sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from omnidrop_stream.config import DecodeConfig
from omnidrop_stream.lab.bench_cost import Ratio, Spread, Stopwatch
from omnidrop_stream.model.base import ModelSpec
from omnidrop_stream.model.graphs import EAGER_STEPS
from omnidrop_stream.stream import OmniStream
from omnidrop_stream.types import Delta, Query, Step

TOKENS = 24
SKIPPED = EAGER_STEPS + 2
"""Tokens whose cost is not taken: the first comes of the prefill, and of a recorded step the record
itself is none of a token's cost.
"""
ANSWERS = 3


@dataclass(frozen=True, slots=True)
class DecodeRow:
    """One engine's token behind one window; processor time on a CPU, wall time on a GPU."""

    window: int
    engine: str
    token_ms: Spread
    """From one token to the next: the step, the choice, the text."""
    faster: Ratio
    """Times less than plain at this window."""
    read_bytes: int
    """What a token must read."""
    floor_ms: float
    """What this takes as fast as a copy reads."""


def token_times(
    stream: OmniStream, query: Query, decode: DecodeConfig, watch: Stopwatch
) -> list[float]:
    """Milliseconds of each token of one answer behind the first ``SKIPPED``."""
    whole = decode.model_copy(update={"max_tokens": TOKENS, "min_tokens": TOKENS})
    turns = stream.ask_steps(query, decode=whole)
    spent: list[float] = []
    while True:
        event, cost = watch.time(lambda: next(turns, None))
        if event is None:
            return spent[SKIPPED:]
        if isinstance(event, Delta) or event is Step.DECODE:
            spent.append(cost.cpu_ms or cost.wall_ms)


def token_bytes(
    weights: int, spec: ModelSpec, entering: Sequence[int], text: int, itemsize: int
) -> int:
    """Bytes that a token in the middle of an answer must read: ``weights``, and in each layer keys
    and values of its audiovisual tokens (``entering``) and of ``text`` positions.
    """
    positions = sum(entering) + len(entering) * (text + TOKENS // 2)
    return weights + positions * 2 * spec.n_kv_heads * spec.head_dim * itemsize
