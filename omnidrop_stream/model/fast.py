"""The fast engine: chunks and questions over arenas. The plain one is its oracle."""

from __future__ import annotations

from collections.abc import Generator, Sequence

import torch

from omnidrop_stream.cache import HiddenArena, HiddenRows, Paged, RowShape, Segment, lease
from omnidrop_stream.model.base import ExtendRequest, ModelSpec, Prompt, Question, States
from omnidrop_stream.model.batch import Rows
from omnidrop_stream.model.decoder import Decoder
from omnidrop_stream.model.fast_prefill import FastPrefill
from omnidrop_stream.model.fork import Fork, Read
from omnidrop_stream.model.paged import PagedTrunk
from omnidrop_stream.model.partial import merge, partial_attention
from omnidrop_stream.model.rope import block_positions, rotate
from omnidrop_stream.types import Modality


class FastRunning:
    """A chunk on its way through the layers; its keys and values go to rows leased for them."""

    def __init__(self, decoder: Decoder, spec: ModelSpec, request: ExtendRequest) -> None:
        prompt, tokens = request.prompt, request.tokens
        self.layers = request.layers
        self.hidden = request.hidden
        self._paged = _leased(spec, request)
        self._trunk = PagedTrunk(decoder.rotary, spec, prompt, request.past, request.past_slots)
        here, stored = (
            block_positions(tokens.offsets, tokens.modality, slot, prompt.base, spec.ids_per_chunk)
            for slot in (request.slot, self._paged.slot)
        )
        self.angles = decoder.rotary.exact_angles(here)
        self._stored = decoder.rotary.exact_angles(stored)
        shape = (len(self.layers), spec.n_kv_heads, 0, spec.head_dim)
        self._none = self.hidden.new_empty(shape)
        self._request = request
        self._open = request.layers.stop < spec.n_layers

    def attend(
        self, layer: int, q: torch.Tensor, k: torch.Tensor, rotated: torch.Tensor, v: torch.Tensor
    ) -> torch.Tensor:
        """See `Running.attend`."""
        self._paged.band(layer).write(layer, rotate(k, self._stored), v)
        if not q.shape[1]:
            return q
        groups = q.shape[0] // k.shape[0]
        own_keys, own_values = (t.repeat_interleave(groups, dim=0) for t in (rotated, v))
        parts = [partial_attention(q, own_keys, own_values, causal=True)]
        for read in (Read(*self._trunk.prompt_layer(layer)), *self._trunk.reads(layer)):
            piece = read.piece(q)
            out, lse = partial_attention(piece.q, piece.k, piece.v)
            parts.append((out.reshape(q.shape), lse.reshape(q.shape[:2])))
        return merge([out for out, _ in parts], [lse for _, lse in parts])

    @staticmethod
    def attend_each(layer: int, several: Sequence[Rows]) -> list[torch.Tensor]:
        """See `Running.attend_each`: one after the other, where each one's keys lie."""
        return [one.attend(layer, *states) for one, *states in several]

    def states(self) -> States:
        """What came out, after the last layer."""
        if not self.layers:
            return States(self._none, self._none, self.hidden, self._request.place.below)
        rows = _hidden_rows(self._request, self.hidden) if self._open else None
        hidden = self.hidden if rows is None else rows.states
        return States(self._none, self._none, hidden, self._paged, rows)


def _hidden_rows(request: ExtendRequest, hidden: torch.Tensor) -> HiddenRows | None:
    """``hidden`` in the arena of its neighbour, or where there is none in a new one."""
    place, newest = request.place, request.past[-1] if request.past else None
    beside = newest.hidden_rows if newest and newest.depth == request.layers.stop else None
    if place.storage is None or (place.provisional and beside is None):
        return None
    arena = beside.arena if beside is not None else HiddenArena(hidden, place.storage.rows)
    return arena.put(hidden, place.provisional)


def _leased(spec: ModelSpec, request: ExtendRequest) -> Paged:
    """The rows of a chunk that is to be run through ``layers``, behind those it has already."""
    past, place, tokens, layers = request.past, request.place, request.tokens, request.layers
    beside = past[-1].paged if past else None
    if place.below is not None:
        running, bands = place.below.slot, place.below.upto(layers.start)
    else:
        shift = beside.slot - request.past_slots[-1] if beside is not None else 0
        running, bands = request.slot + shift, ()
    if not layers:
        return Paged(running, bands)
    like = tokens.embeds
    shape = RowShape(spec.n_kv_heads, spec.head_dim, like.dtype, like.device)
    video, audio = (tokens.of(medium) for medium in (Modality.VIDEO, Modality.AUDIO))
    rows = lease(layers, shape, video, audio, place.storage, beside, place.provisional)
    return Paged(running, (*bands, *rows))


class FastEngine:
    """Asks questions of trunks that lie in arenas. Holds no state."""

    def __init__(self, decoder: Decoder, spec: ModelSpec) -> None:
        self._decoder = decoder
        self._spec = spec

    @torch.inference_mode()
    def prompt_rows(
        self, keys: torch.Tensor, values: torch.Tensor, positions: torch.Tensor
    ) -> torch.Tensor:
        """Keys (un-rotated) and values [L, H_kv, P, hd] as rows [L, 2, H_kv, P, hd], rotated."""
        angles = self._decoder.rotary.exact_angles(positions)
        return torch.stack([rotate(keys, angles), values], dim=1)

    def pruned_prefill(
        self, prompt: Prompt, segments: Sequence[Segment], slots: Sequence[int], question: Question
    ) -> Generator[None, None, Fork]:
        """`OmniModel.pruned_prefill`."""
        with torch.inference_mode():
            prefill = FastPrefill(self._decoder, self._spec, prompt, segments, slots, question)
        return (yield from prefill.run())
