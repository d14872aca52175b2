"""`OmniModel`: what a stream needs of a model, and the states that pass between them."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch

from omnidrop_stream.cache import HiddenRows, Paged, Segment, Storage
from omnidrop_stream.method import PruningPolicy
from omnidrop_stream.model.fork import Fork
from omnidrop_stream.model.pixels import PixelSettings
from omnidrop_stream.model.template import Tokenizer
from omnidrop_stream.model.towers import EncodeCarry, Encoded, EncodeRequest, EncodeSettings
from omnidrop_stream.model.watch_words import WatchTemplates
from omnidrop_stream.types import Chunk, ChunkTokens


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Sizes and limits of a checkpoint."""

    name: str
    n_layers: int
    hidden_size: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    vocabulary: int
    max_positions: int
    ids_per_second: float
    seconds_per_chunk: float
    eos_ids: tuple[int, ...]
    pixels: PixelSettings
    frame_tokens: int
    """Default token budget of a temporal patch."""
    dtype: str
    device: str
    watch: WatchTemplates = field(default_factory=WatchTemplates)
    """How standing questions are put to this checkpoint."""
    weights: str = "auto"
    """``int8`` or ``int4`` where the decoder's linears are quantised; they are no plain tensors."""
    compiled: bool = False
    """Whether torch compiles the feed-forward networks."""

    @property
    def ids_per_chunk(self) -> int:
        """Position ids a slot takes: 50 for Qwen2.5-Omni."""
        return int(self.ids_per_second * self.seconds_per_chunk)


@dataclass(frozen=True, slots=True)
class Prompt:
    """The states of what stands before the block: keys (un-rotated) and values [L, H_kv, P, hd].

    positions i64 [3, P]; ``base`` is the block's first id.
    """

    keys: torch.Tensor
    values: torch.Tensor
    positions: torch.Tensor
    base: int
    rows: torch.Tensor | None = None
    """The fast engine's: keys rotated and values, [L, 2, H_kv, P, hd]."""

    @property
    def count(self) -> int:
        """Prompt tokens, P."""
        return int(self.keys.shape[2])


@dataclass(frozen=True, slots=True)
class States:
    """What ``extend`` made of n new tokens: keys (un-rotated), values [layers, H_kv, n, hd], hidden
    [n, d]. Where they are in an arena keys and values have no n.
    """

    keys: torch.Tensor
    values: torch.Tensor
    hidden: torch.Tensor
    paged: Paged | None = None
    hidden_rows: HiddenRows | None = None
    """Where ``hidden`` lies, if in an arena."""


@dataclass(frozen=True, slots=True)
class Question:
    """What a prefill needs to know: rows after the block and how tokens are pruned."""

    ids: list[int]
    markers: int
    guidance: tuple[int, ...]
    """Rows of ``ids`` whose attention scores the audiovisual tokens."""
    policy: PruningPolicy
    entering: tuple[int, ...]
    """Audiovisual tokens that enter each layer."""
    depth: int
    max_new_tokens: int


@dataclass(frozen=True, slots=True)
class Place:
    """Where the states of a chunk go that has passed ``below`` already: into the stream's arenas,
    or (no ``storage``) into one of their own.
    """

    storage: Storage | None = None
    provisional: bool = False
    """For one answer alone."""
    below: Paged | None = None


LOOSE = Place()


@dataclass(frozen=True, slots=True)
class ExtendRequest:
    """What `OmniModel.extend` takes: ``layers`` over one chunk's tokens behind ``past``."""

    prompt: Prompt
    past: Sequence[Segment]
    past_slots: Sequence[int]
    tokens: ChunkTokens
    slot: int
    hidden: torch.Tensor
    layers: range
    place: Place = LOOSE


@dataclass(frozen=True, slots=True)
class DecodeRequest:
    """One more token of an answer; its fork is changed."""

    fork: Fork
    token: int


class OmniModel(Protocol):
    """A model that can be fed chunk by chunk and asked at any time. Holds weights, no stream's
    state.
    """

    @property
    def spec(self) -> ModelSpec:
        """Sizes and limits."""

    @property
    def tokenizer(self) -> Tokenizer:
        """The checkpoint's tokenizer."""

    def encode(self, chunk: Chunk, carry: EncodeCarry, settings: EncodeSettings) -> Encoded:
        """Towers and pruning within each modality."""

    def encode_batch(self, requests: Sequence[EncodeRequest]) -> list[Encoded]:
        """`encode` for chunks of several streams, each tower once over all of them."""

    def encoded(self) -> bool:
        """Whether all that was encoded is there; what takes it before waits on the device."""

    def prefill_prompt(self, ids: list[int], markers: int) -> Prompt:
        """All layers over the prompt; its last ``markers`` tokens share a position."""

    def extend(
        self,
        prompt: Prompt,
        past: Sequence[Segment],
        past_slots: Sequence[int],
        tokens: ChunkTokens,
        slot: int,
        hidden: torch.Tensor,
        layers: range,
        place: Place = LOOSE,
    ) -> Generator[None, None, States]:
        """Run ``layers`` over one chunk's tokens after ``past``; yields after each layer.

        ``place``: where the fast engine puts the new states.
        """

    def extend_batch(
        self, requests: Sequence[ExtendRequest]
    ) -> Generator[None, None, list[States]]:
        """`extend` for chunks of several streams together; yields after each layer."""

    def pruned_prefill(
        self, prompt: Prompt, segments: Sequence[Segment], slots: Sequence[int], question: Question
    ) -> Generator[None, None, Fork]:
        """The question's pass with layer-wise pruning; yields after each layer."""

    def decode_step(self, fork: Fork, token: int) -> torch.Tensor:
        """Append one token to the answer: logits f32 [vocabulary] of the next, valid until its next
        step. Mutates ``fork``.
        """

    def decode_batch(self, requests: Sequence[DecodeRequest]) -> list[torch.Tensor]:
        """`decode_step` for several answers together. Mutates their forks."""
