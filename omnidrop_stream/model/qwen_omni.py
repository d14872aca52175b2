"""A Qwen2.5-Omni thinker behind `OmniModel`: encode, extend, pruned prefill, decode."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch

from omnidrop_stream.cache import Segment
from omnidrop_stream.model.attention import Attention
from omnidrop_stream.model.base import (
    LOOSE,
    DecodeRequest,
    ExtendRequest,
    ModelSpec,
    Place,
    Prompt,
    Question,
    States,
)
from omnidrop_stream.model.batch import PlainRunning, Running, decode_batch, extend_batch
from omnidrop_stream.model.beside import Beside, InTurn
from omnidrop_stream.model.decoder import Decoder
from omnidrop_stream.model.fast import FastEngine, FastRunning
from omnidrop_stream.model.fork import Fork
from omnidrop_stream.model.graphs import Capture, RecordedStep, with_room, worth_recording
from omnidrop_stream.model.paged import PagedTrunk
from omnidrop_stream.model.parts import parts_of
from omnidrop_stream.model.prefill import PrunedPrefill, Trunk
from omnidrop_stream.model.recorded_prefill import KeptTrunk, RecordedPasses
from omnidrop_stream.model.rope import Rotary, block_positions, rotate, text_positions
from omnidrop_stream.model.template import Tokenizer
from omnidrop_stream.model.towers import (
    EncodeCarry,
    Encoded,
    EncodeRequest,
    EncodeSettings,
    Towers,
)
from omnidrop_stream.types import Chunk, ChunkTokens

Engine = Literal["plain", "fast"]


@dataclass(frozen=True, slots=True)
class Ways:
    """How a model computes; what comes out is the same within rounding.

    attention: the decoder's; None for torch's own kernels. capture: records an answer's steps
    (``model/graphs.py``) and questions' passes (``model/recorded_prefill.py``); None: they are
    launched kernel by kernel. beside: where the towers' work goes.
    """

    engine: Engine = "plain"
    attention: Attention | None = None
    capture: Capture | None = None
    beside: Beside = field(default_factory=InTurn)


PLAIN = Ways()


class QwenOmni:
    """Drives the modules of a stock ``Qwen2_5OmniThinkerForConditionalGeneration``; holds weights
    only.
    """

    def __init__(
        self, thinker: Any, tokenizer: Tokenizer, spec: ModelSpec, ways: Ways = PLAIN
    ) -> None:
        self._thinker = thinker
        self._tokenizer = tokenizer
        self._spec = spec
        parts = parts_of(thinker)
        text = parts.text
        rotary = text.rotary_emb
        self._decoder = Decoder(
            layers=list(text.layers),
            embed=text.embed_tokens,
            norm=text.norm,
            head=thinker.lm_head,
            rotary=Rotary(
                rotary.inv_freq.float(),
                tuple(rotary.mrope_section),
                float(rotary.attention_scaling),
            ),
            compiled=spec.compiled,
            attention=ways.attention,
        )
        self._ways = ways
        self._fast = FastEngine(self._decoder, spec) if ways.engine == "fast" else None
        capture = ways.capture
        self._passes = RecordedPasses(self._decoder, spec, capture) if capture else None
        self._towers = Towers(parts.audio, parts.visual, spec.pixels, parts.audio.num_mel_bins)

    @property
    def spec(self) -> ModelSpec:
        """Sizes and limits."""
        return self._spec

    @property
    def tokenizer(self) -> Tokenizer:
        """The checkpoint's tokenizer."""
        return self._tokenizer

    @property
    def engine(self) -> Engine:
        """How trunks are kept and read."""
        return self._ways.engine

    @property
    def ways(self) -> Ways:
        """How it computes."""
        return self._ways

    def with_ways(self, ways: Ways) -> QwenOmni:
        """The same weights, computing another way."""
        return QwenOmni(self._thinker, self._tokenizer, self._spec, ways)

    def with_engine(self, engine: Engine) -> QwenOmni:
        """The same weights under another engine."""
        return self.with_ways(replace(self._ways, engine=engine))

    @property
    def thinker(self) -> Any:
        """The stock model, for comparison (`lab.bench`, tests)."""
        return self._thinker

    @property
    def decoder(self) -> Decoder:
        """The language model's layers."""
        return self._decoder

    @property
    def towers(self) -> Towers:
        """The audio and vision towers."""
        return self._towers

    def encode(self, chunk: Chunk, carry: EncodeCarry, settings: EncodeSettings) -> Encoded:
        """Towers and pruning within each modality."""
        return self._ways.beside.run(lambda: self._towers.encode(chunk, carry, settings))

    def encode_batch(self, requests: Sequence[EncodeRequest]) -> list[Encoded]:
        """`encode` for chunks of several streams, each tower once over all of them."""
        return self._ways.beside.run(lambda: self._towers.encode_batch(requests))

    def encoded(self) -> bool:
        """Whether all that was encoded is there."""
        return self._ways.beside.done()

    @torch.inference_mode()
    def prefill_prompt(self, ids: list[int], markers: int) -> Prompt:
        """All layers over the prompt; its last ``markers`` tokens share a position."""
        decoder = self._decoder
        positions = text_positions(0, len(ids)).clone()
        positions[:, len(ids) - markers :] = len(ids) - markers
        angles = decoder.rotary.angles(positions)
        hidden = decoder.embed(torch.tensor(ids, device=decoder.device))
        keys, values = [], []
        for layer in range(decoder.n_layers):
            new = decoder.project(layer, hidden, angles)
            attended = decoder.attention.of(new.q, rotate(new.k, angles), new.v)
            hidden = decoder.finish(layer, hidden, attended)
            keys.append(new.k)
            values.append(new.v)
        made, base = (torch.stack(keys), torch.stack(values)), len(ids) - markers + 1
        rows = self._fast.prompt_rows(*made, positions) if self._fast is not None else None
        return Prompt(*made, positions, base, rows)

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
        """Run ``layers`` over one chunk's tokens after ``past``; yields after each layer."""
        self._ways.beside.join()
        if self._fast is not None:
            request = ExtendRequest(prompt, past, past_slots, tokens, slot, hidden, layers, place)
            (states,) = yield from self.extend_batch([request])
            return states
        decoder = self._decoder
        spec = self._spec
        with torch.inference_mode():
            trunk = Trunk.of(decoder, spec, prompt, past, past_slots)
            positions = block_positions(
                tokens.offsets, tokens.modality, slot, prompt.base, spec.ids_per_chunk
            )
            angles = decoder.rotary.angles(positions)
            keys = hidden.new_empty(len(layers), spec.n_kv_heads, hidden.shape[0], spec.head_dim)
            values = torch.empty_like(keys)
        for number, layer in enumerate(layers):
            with torch.inference_mode():
                front_keys, front_values = trunk.prompt_layer(layer)
                block_keys, block_values = trunk.block_layer(layer)
                hidden, keys[number], values[number] = decoder.extend_layer(
                    layer,
                    hidden,
                    angles,
                    torch.cat([front_keys, block_keys], dim=1),
                    torch.cat([front_values, block_values], dim=1),
                )
            yield
        return States(keys, values, hidden)

    def running(self, request: ExtendRequest) -> Running:
        """A chunk ready to go through the layers, as this engine stores it."""
        kind = PlainRunning if self._fast is None else FastRunning
        return kind(self._decoder, self._spec, request)

    def extend_batch(
        self, requests: Sequence[ExtendRequest]
    ) -> Generator[None, None, list[States]]:
        """`extend` for chunks of several streams together; yields after each layer."""
        self._ways.beside.join()
        with torch.inference_mode():
            running = [self.running(one) for one in requests]
        return (yield from extend_batch(self._decoder, running))

    def pruned_prefill(
        self, prompt: Prompt, segments: Sequence[Segment], slots: Sequence[int], question: Question
    ) -> Generator[None, None, Fork]:
        """The question's pass with layer-wise pruning; yields after each layer, or once where it is
        a record's.
        """
        recorded = self._passes.wanted(prompt, question) if self._passes is not None else None
        if recorded is not None:
            with torch.inference_mode():
                fork = recorded.ask(
                    self._kept_trunk(prompt, segments, slots), segments, slots, question
                )
            yield
            return fork
        if self._fast is not None:
            return (yield from self._fast.pruned_prefill(prompt, segments, slots, question))
        with torch.inference_mode():
            prefill = PrunedPrefill(self._decoder, self._spec, prompt, segments, slots, question)
        return (yield from prefill.run())

    def _kept_trunk(
        self, prompt: Prompt, segments: Sequence[Segment], slots: Sequence[int]
    ) -> KeptTrunk:
        if self._fast is not None:
            return PagedTrunk(self._decoder.rotary, self._spec, prompt, segments, slots)
        return Trunk.of(self._decoder, self._spec, prompt, segments, slots)

    @torch.inference_mode()
    def decode_step(self, fork: Fork, token: int) -> torch.Tensor:
        """Append one token to the answer: logits f32 [vocabulary] of the next, which a recorded
        step overwrites the next time. Mutates ``fork``.
        """
        decoder = self._decoder
        capture = self._ways.capture
        if capture is not None and fork.recorded is None and worth_recording(fork):
            of = (decoder, fork.layers, fork.next_position, capture)
            fork.recorded = with_room(lambda: RecordedStep(*of), "an answer's step")
            fork.unrecorded = fork.recorded is None
        if fork.recorded is not None:
            fork.advance(fork.recorded(token, fork.next_position))
            return fork.logits
        angles = decoder.rotary.angles(text_positions(fork.next_position, 1))
        hidden = decoder.embed(torch.tensor([token], device=decoder.device))
        for layer, store in enumerate(fork.layers):
            new = decoder.project(layer, hidden, angles)
            rotated = rotate(new.k, angles)
            attended = store.attend(decoder.attention, new.q, rotated, new.v)
            hidden = decoder.finish(layer, hidden, attended)
        fork.advance(decoder.logits(hidden))
        return fork.logits

    def decode_batch(self, requests: Sequence[DecodeRequest]) -> list[torch.Tensor]:
        """`decode_step` for several answers together, never by their records. Mutates their
        forks.
        """
        return decode_batch(self._decoder, requests)
