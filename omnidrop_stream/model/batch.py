"""Several streams at once: each layer's weights are read once for all of them.

The linear layers of a decoder layer (projections, MLP, norms) do not care whose rows they are
given, so the rows of several chunks, or the newest tokens of several answers, run through them
together; attention is each stream's own, over its own past, in one call where the kernel takes
several (``model/varlen.py``). Equal to one stream after the other within rounding
(``tests/model/test_batch.py``).
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import NamedTuple, Protocol

import torch

from omnidrop_stream.model.attention import Qkv
from omnidrop_stream.model.base import DecodeRequest, ExtendRequest, ModelSpec, States
from omnidrop_stream.model.decoder import Angles, Decoder
from omnidrop_stream.model.fork import attend_stores
from omnidrop_stream.model.prefill import Trunk
from omnidrop_stream.model.rope import block_positions, rotate, text_positions


class Running(Protocol):
    """One request on its way through the layers, however its stream's states are stored."""

    layers: range
    hidden: torch.Tensor
    """[n, d], entering the next layer."""
    angles: Angles

    def attend(
        self, layer: int, q: torch.Tensor, k: torch.Tensor, rotated: torch.Tensor, v: torch.Tensor
    ) -> torch.Tensor:
        """Its rows' queries [H, n, hd] (rotated) over its past and themselves: [H, n, hd]. Their
        states are kept: k as it is, ``rotated`` k in its place, v, each [H_kv, n, hd].
        """

    @staticmethod
    def attend_each(layer: int, several: Sequence[Rows]) -> list[torch.Tensor]:
        """`attend` for each of several of the same engine."""

    def states(self) -> States:
        """What came out, after the last layer."""


class Rows(NamedTuple):
    """What `Running.attend` takes, of one of several."""

    running: Running
    q: torch.Tensor
    k: torch.Tensor
    rotated: torch.Tensor
    v: torch.Tensor


class PlainRunning:
    """The same over segments: keys are kept before rotation, and the past is rotated at use."""

    def __init__(self, decoder: Decoder, spec: ModelSpec, request: ExtendRequest) -> None:
        tokens, hidden, prompt = request.tokens, request.hidden, request.prompt
        positions = block_positions(
            tokens.offsets, tokens.modality, request.slot, prompt.base, spec.ids_per_chunk
        )
        self.layers = request.layers
        self.hidden = hidden
        self.angles = decoder.rotary.angles(positions)
        self._past = Trunk.of(decoder, spec, prompt, request.past, request.past_slots)
        self._attention = decoder.attention
        shape = (len(request.layers), spec.n_kv_heads, hidden.shape[0], spec.head_dim)
        self._keys, self._values = hidden.new_empty(shape), hidden.new_empty(shape)

    def attend(
        self, layer: int, q: torch.Tensor, k: torch.Tensor, rotated: torch.Tensor, v: torch.Tensor
    ) -> torch.Tensor:
        """See `Running.attend`."""
        return self._attention.of(*self._joined(layer, q, k, rotated, v))

    @staticmethod
    def attend_each(layer: int, several: Sequence[Rows]) -> list[torch.Tensor]:
        """See `Running.attend_each`."""
        plain = [(one, rest) for one, *rest in several if isinstance(one, PlainRunning)]
        attention = plain[0][0]._attention
        return attention.of_each([one._joined(layer, *rest) for one, rest in plain])

    def _joined(
        self, layer: int, q: torch.Tensor, k: torch.Tensor, rotated: torch.Tensor, v: torch.Tensor
    ) -> Qkv:
        """The queries with all keys and values that they see; the new ones are kept."""
        number = layer - self.layers.start
        self._keys[number], self._values[number] = k, v
        front_keys, front_values = self._past.prompt_layer(layer)
        block_keys, block_values = self._past.block_layer(layer)
        keys = torch.cat([front_keys, block_keys, rotated], dim=1)
        values = torch.cat([front_values, block_values, v], dim=1)
        return q, keys, values

    def states(self) -> States:
        """What came out, after the last layer."""
        return States(self._keys, self._values, self.hidden)


def extend_batch(
    decoder: Decoder, running: Sequence[Running]
) -> Generator[None, None, list[States]]:
    """`OmniModel.extend` for all requests at once; their layers may differ. Yields after each
    layer.
    """
    for layer in sorted({layer for one in running for layer in one.layers}):
        with torch.inference_mode():
            _one_layer(decoder, layer, [one for one in running if layer in one.layers])
        yield
    return [one.states() for one in running]


def _one_layer(decoder: Decoder, layer: int, running: Sequence[Running]) -> None:
    counts = [one.hidden.shape[0] for one in running]
    hidden = torch.cat([one.hidden for one in running])
    cosines, sines = zip(*(one.angles for one in running), strict=True)
    angles = (torch.cat(cosines), torch.cat(sines))
    new = decoder.project(layer, hidden, angles)
    states = (new.q, new.k, rotate(new.k, angles), new.v)
    split = zip(running, *(torch.split(t, counts, dim=1) for t in states), strict=True)
    attended = running[0].attend_each(layer, [Rows(*one) for one in split])
    done = decoder.finish(layer, hidden, torch.cat(attended, dim=1))
    for one, rows in zip(running, torch.split(done, counts), strict=True):
        one.hidden = rows


@torch.inference_mode()
def decode_batch(decoder: Decoder, requests: Sequence[DecodeRequest]) -> list[torch.Tensor]:
    """`OmniModel.decode_step` for the forks of several answers: logits f32 [vocabulary] of each."""
    forks = [request.fork for request in requests]
    positions = torch.cat([text_positions(fork.next_position, 1) for fork in forks], dim=1)
    angles = decoder.rotary.angles(positions)
    ids = torch.tensor([request.token for request in requests], device=decoder.device)
    hidden = decoder.embed(ids)
    for layer in range(decoder.n_layers):
        new = decoder.project(layer, hidden, angles)
        rotated = rotate(new.k, angles)
        split = (torch.split(t, 1, dim=1) for t in (new.q, rotated, new.v))
        several = zip((fork.layers[layer] for fork in forks), *split, strict=True)
        attended = attend_stores(decoder.attention, list(several))
        hidden = decoder.finish(layer, hidden, torch.cat(attended, dim=1))
    logits: torch.Tensor = decoder.head(decoder.norm(hidden))
    found = list(logits.float())
    for fork, own_logits in zip(forks, found, strict=True):
        fork.advance(own_logits)
    return found
