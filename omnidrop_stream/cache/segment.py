"""What the cache keeps of one chunk: an immutable segment of states.

The plain engine's keys are kept before rotation; it happens at use, so a segment can move to
another slot (design 5). The fast engine's lie in an arena (``cache/arena.py``). A snapshot is a
tuple of segments; it is free, needs no lock and is not disturbed by chunks that arrive or leave.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from omnidrop_stream.cache.arena import Paged
from omnidrop_stream.cache.hidden import HiddenRows
from omnidrop_stream.types import ChunkFlags, ChunkTokens


def tensor_bytes(*tensors: torch.Tensor | None) -> int:
    """Bytes of the given tensors' elements."""
    return sum(t.numel() * t.element_size() for t in tensors if t is not None)


@dataclass(frozen=True, slots=True)
class Segment:
    """The trunk's state of one chunk after ``depth`` decoder layers.

    keys, values: [depth, H_kv, n, head_dim], keys un-rotated (without any n where they are in an
    arena); hidden [n, d] enters layer ``depth`` (None where every layer is done). tokens.embeds is
    kept so that the depth can change later.
    """

    chunk: int
    epoch: int
    window: int
    """Ordinal of its merging window; windows leave whole."""
    start_s: float
    end_s: float
    wall_time_s: float | None
    flags: ChunkFlags
    tokens: ChunkTokens
    keys: torch.Tensor
    values: torch.Tensor
    hidden: torch.Tensor | None
    seen_from: int
    """Oldest chunk that was held when these states were made."""
    paged: Paged | None = None
    """Where the fast engine's keys and values are; holding it pins their pages."""
    hidden_rows: HiddenRows | None = None
    """Where ``hidden`` lies, if in an arena."""
    thinned: bool = False
    """Whether some of its tokens were evicted; later states still remember them."""

    @property
    def depth(self) -> int:
        """Decoder layers done on arrival."""
        return int(self.keys.shape[0])

    @property
    def count(self) -> int:
        """Tokens held, n."""
        return self.tokens.count

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors, those shared between fields counted once."""
        hidden = None if self.hidden is self.tokens.embeds else self.hidden
        t = self.tokens
        own = _own_bytes(t) + tensor_bytes(self.keys, self.values, hidden)
        return own + (self.paged.nbytes if self.paged else 0)

    def bare(self) -> Segment:
        """The same at depth 0: its embeddings only, which remember nothing that has left."""
        none = self.keys[:0, :, :0]
        return replace(
            self,
            keys=none,
            values=none,
            hidden=self.tokens.embeds,
            seen_from=self.chunk,
            paged=None,
            hidden_rows=None,
        )

    def only(self, kept: torch.Tensor) -> Segment:
        """The same with the tokens in ``kept`` (bool [n]) alone; their states stay what they were,
        and what follows the chunk keeps its place.
        """
        tokens = replace(
            self.tokens,
            embeds=self.tokens.embeds[kept],
            modality=self.tokens.modality[kept],
            offsets=self.tokens.offsets[:, kept],
            saliency=None if self.tokens.saliency is None else self.tokens.saliency[kept],
            n_video=None,
        )
        bare = self.hidden is self.tokens.embeds
        loose = self.depth > 0 and self.paged is None  # at depth 0 there are no states at all
        return replace(
            self,
            tokens=tokens,
            keys=self.keys[:, :, kept] if loose else self.keys,
            values=self.values[:, :, kept] if loose else self.values,
            paged=self.paged.only(kept, self.tokens.modality) if self.paged else None,
            hidden=tokens.embeds if bare else None if self.hidden is None else self.hidden[kept],
            hidden_rows=None,
        )


def _own_bytes(tokens: ChunkTokens) -> int:
    return tensor_bytes(tokens.embeds, tokens.modality, tokens.offsets, tokens.saliency)


def expected_bytes(tokens: ChunkTokens, depth: int, n_layers: int, kv_width: int) -> int:
    """``nbytes`` of a segment of ``tokens`` after ``depth`` layers, before its states exist.

    kv_width: numbers that a token's key has in one layer (key heads times their width).
    """
    own = _own_bytes(tokens)
    states = 2 * depth * tokens.count * kv_width * tokens.embeds.element_size()
    return own + states + (tensor_bytes(tokens.embeds) if 0 < depth < n_layers else 0)


def slots_of(segments: tuple[Segment, ...]) -> list[int]:
    """Window-relative slot of each segment: its ordinal; a hole before it takes one empty slot."""
    slots: list[int] = []
    slot = -1
    previous: Segment | None = None
    for segment in segments:
        slot += 1
        if previous is not None and (
            segment.chunk != previous.chunk + 1 or segment.epoch != previous.epoch
        ):
            slot += 1
        slots.append(slot)
        previous = segment
    return slots


def largest_id(
    segments: tuple[Segment, ...], slots: list[int], base: int, ids_per_chunk: int
) -> int:
    """Largest position id used by the block's last piece; ``base - 1`` for an empty block."""
    if not segments:
        return base - 1
    moving, anchored = segments[-1].tokens.last_id
    if moving < 0 and anchored < 0:
        return base + slots[-1] * ids_per_chunk - 1
    return base + max(slots[-1] * ids_per_chunk + moving, anchored)
