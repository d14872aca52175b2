"""Several streams at once: each layer's weights are read once for all of them.

The linear layers of a decoder layer (projections, MLP, norms) do not care whose rows they are
given, so the rows of several chunks, or the newest tokens of several answers, run through them
together; attention is each stream's own, over its own past. Equal to one stream after the other
within rounding (``tests/model/test_batch.py``).
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Protocol

import torch

from omnidrop_stream.model.attention import causal_attention
from omnidrop_stream.model.base import DecodeRequest, ExtendRequest, ModelSpec, States
from omnidrop_stream.model.decoder import Angles, Decoder
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

    def states(self) -> States:
        """What came out, after the last layer."""


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
        shape = (len(request.layers), spec.n_kv_heads, hidden.shape[0], spec.head_dim)
        self._keys, self._values = hidden.new_empty(shape), hidden.new_empty(shape)

    def attend(
        self, layer: int, q: torch.Tensor, k: torch.Tensor, rotated: torch.Tensor, v: torch.Tensor
    ) -> torch.Tensor:
        """See `Running.attend`."""
        number = layer - self.layers.start
        self._keys[number], self._values[number] = k, v
        front_keys, front_values = self._past.prompt_layer(layer)
        block_keys, block_values = self._past.block_layer(layer)
        keys = torch.cat([front_keys, block_keys, rotated], dim=1)
        values = torch.cat([front_values, block_values, v], dim=1)
        return causal_attention(q, keys, values)

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
    split = zip(
        running,
        torch.split(new.q, counts, dim=1),
        torch.split(new.k, counts, dim=1),
        torch.split(rotate(new.k, angles), counts, dim=1),
        torch.split(new.v, counts, dim=1),
        strict=True,
    )
    attended = torch.cat([one.attend(layer, q, k, r, v) for one, q, k, r, v in split], dim=1)
    done = decoder.finish(layer, hidden, attended)
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
        attended = []
        for row, fork in enumerate(forks):
            own = slice(row, row + 1)
            store = fork.layers[layer]
            attended.append(store.attend(new.q[:, own], rotated[:, own], new.v[:, own]))
        hidden = decoder.finish(layer, hidden, torch.cat(attended, dim=1))
    logits: torch.Tensor = decoder.head(decoder.norm(hidden))
    found = list(logits.float())
    for fork, own_logits in zip(forks, found, strict=True):
        fork.next_position += 1
        fork.logits = own_logits
    return found
