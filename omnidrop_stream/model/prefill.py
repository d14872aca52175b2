"""The question's pass: layer by layer over a snapshot of the trunk, tokens leaving as the policy
says.

Below ``depth`` the audiovisual states exist already, so only the text rows run, reading the trunk's
keys and values; from ``depth`` on the surviving audiovisual rows run along. A policy scores with
rows of the question only (Eq. 5), after the layer's attention, and its choice is what the next
layer sees (design 3.1, section 4).
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from omnidrop_stream.cache import Segment, largest_id
from omnidrop_stream.method import audio_guided_importance, query_importance
from omnidrop_stream.model.base import ModelSpec, Prompt, Question
from omnidrop_stream.model.decoder import Angles, Decoder, Projected
from omnidrop_stream.model.fork import Fork, LayerStore
from omnidrop_stream.model.rope import block_positions, rotate, text_positions
from omnidrop_stream.types import Modality


def positions_of(
    segments: Sequence[Segment],
    slots: Sequence[int],
    base: int,
    ids_per_chunk: int,
    device: torch.device,
) -> torch.Tensor:
    """Ids i64 [3, N] of all tokens of ``segments`` in their slots."""
    parts = [
        block_positions(s.tokens.offsets, s.tokens.modality, slot, base, ids_per_chunk)
        for s, slot in zip(segments, slots, strict=True)
    ]
    return torch.cat(parts, dim=1) if parts else torch.zeros(3, 0, dtype=torch.long, device=device)


def tail_positions(start: int, markers: int, count: int) -> torch.Tensor:
    """Ids i64 [3, count] after the block: the closing markers share ``start``, text follows."""
    text = text_positions(start + 1, count - markers)
    return torch.cat([torch.full((3, markers), start, dtype=torch.long), text], dim=1)


@dataclass(frozen=True, slots=True)
class Trunk:
    """A snapshot with its angles: prompt and block, keys rotated at use."""

    decoder: Decoder
    prompt: Prompt
    segments: Sequence[Segment]
    prompt_angles: Angles
    block_angles: Angles

    @classmethod
    def of(
        cls,
        decoder: Decoder,
        spec: ModelSpec,
        prompt: Prompt,
        segments: Sequence[Segment],
        slots: Sequence[int],
    ) -> Trunk:
        """The snapshot's positions in its slots, as angles."""
        device = decoder.device
        block = positions_of(segments, slots, prompt.base, spec.ids_per_chunk, device)
        rotary = decoder.rotary
        return cls(decoder, prompt, segments, rotary.angles(prompt.positions), rotary.angles(block))

    def prompt_layer(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Rotated keys and values [H_kv, P, hd] of the prompt."""
        return rotate(self.prompt.keys[layer], self.prompt_angles), self.prompt.values[layer]

    def block_layer(
        self, layer: int, visible: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Rotated keys and values [H_kv, N, hd] of the block (or of its ``visible`` tokens), for
        layers below its depth.
        """
        if not self.segments:
            empty = self.prompt.keys[layer][:, :0]
            return empty, empty
        keys = torch.cat([s.keys[layer] for s in self.segments], dim=1)
        values = torch.cat([s.values[layer] for s in self.segments], dim=1)
        if visible is None or visible.shape[0] == keys.shape[1]:
            return rotate(keys, self.block_angles), values
        cos, sin = self.block_angles
        return rotate(keys[:, visible], (cos[visible], sin[visible])), values[:, visible]

    @property
    def placing(self) -> Angles:
        """See `KeptTrunk`."""
        return self.block_angles

    def copy_block(self, out: torch.Tensor) -> None:
        """See `KeptTrunk`."""
        torch.cat([s.keys for s in self.segments], dim=2, out=out[:, 0])
        torch.cat([s.values for s in self.segments], dim=2, out=out[:, 1])

    def prompt_states(self) -> tuple[torch.Tensor, torch.Tensor]:
        """See `KeptTrunk`."""
        return rotate(self.prompt.keys, self.prompt_angles), self.prompt.values


class AnyTrunk(Protocol):
    """What a question's pass wants of a snapshot, whichever engine keeps it."""

    @property
    def prompt(self) -> Prompt:
        """What stands before the block."""

    @property
    def segments(self) -> Sequence[Segment]:
        """The block."""

    @property
    def block_angles(self) -> Angles:
        """Angles of the block's tokens in their slots."""

    def prompt_layer(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Rotated keys and values [H_kv, P, hd] of the prompt."""

    def block_layer(
        self, layer: int, visible: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Rotated keys and values of the block or of its ``visible`` tokens, below its depth."""


class PrunedPrefill:
    """The state of one question's pass; ``run`` yields after each layer."""

    def __init__(
        self,
        decoder: Decoder,
        spec: ModelSpec,
        prompt: Prompt,
        segments: Sequence[Segment],
        slots: Sequence[int],
        question: Question,
    ) -> None:
        self._decoder = decoder
        self._question = question
        self._trunk = self._opened(decoder, spec, prompt, segments, slots)
        device = decoder.device
        counts = torch.tensor([s.count for s in segments], dtype=torch.long)
        self._modality = (
            torch.cat([s.tokens.modality for s in segments]) if segments else torch.zeros(0)
        )
        self._modality = self._modality.to(device)
        self._chunk = torch.repeat_interleave(torch.arange(len(segments)), counts).to(device)
        self._visible = torch.arange(int(counts.sum()), device=device)
        self._evidence = torch.zeros(int(counts.sum()), device=device)
        start = largest_id(tuple(segments), list(slots), prompt.base, spec.ids_per_chunk) + 1
        self._positions = positions = tail_positions(start, question.markers, len(question.ids))
        self._next_position = int(positions[0, -1]) + 1
        self._text_angles = decoder.rotary.angles(positions)
        self._text = decoder.embed(torch.tensor(question.ids, device=device))
        self._block: torch.Tensor | None = None
        self._guidance = torch.tensor(question.guidance, dtype=torch.long, device=device)
        self._stores: list[LayerStore] = []
        self._video: list[int] = []
        self._audio: list[int] = []

    def _opened(
        self,
        decoder: Decoder,
        spec: ModelSpec,
        prompt: Prompt,
        segments: Sequence[Segment],
        slots: Sequence[int],
    ) -> AnyTrunk:
        return Trunk.of(decoder, spec, prompt, segments, slots)

    def run(self) -> Generator[None, None, Fork]:
        """All layers; the fork at the end holds what each of them saw."""
        for layer in range(self._decoder.n_layers):
            self._layer(layer)
            yield
        return self._fork()

    @torch.inference_mode()
    def _fork(self) -> Fork:
        logits = self._decoder.logits(self._text)
        return Fork(
            self._stores, self._next_position, logits, self._video, self._audio, self._evidence
        )

    @torch.inference_mode()
    def _layer(self, layer: int) -> None:
        n = int(self._visible.shape[0])
        self._count(n)
        leaving = n - self._next_count(layer)
        score = self._read(layer, n, leaving)
        if leaving:
            self._drop(layer, score, leaving)

    def _count(self, n: int) -> None:
        audio = int((self._modality[self._visible] == int(Modality.AUDIO)).sum())
        self._video.append(n - audio)
        self._audio.append(audio)

    def _read(self, layer: int, n: int, leaving: int) -> torch.Tensor | None:
        """The layer itself; S [n] where it is wanted."""
        new, keys, values = self._attend(layer)
        self._stores.append(LayerStore(keys, values, self._question.max_new_tokens))
        return self._score(layer, new, keys, n, leaving)

    def _attend(self, layer: int) -> tuple[Projected, torch.Tensor, torch.Tensor]:
        decoder = self._decoder
        past_keys, past_values = self._trunk.prompt_layer(layer)
        if layer < self._question.depth:
            rows, angles = self._text, self._text_angles
            block_keys, block_values = self._trunk.block_layer(layer, self._visible)
            past_keys = torch.cat([past_keys, block_keys], dim=1)
            past_values = torch.cat([past_values, block_values], dim=1)
        else:
            rows, angles = self._entering_rows()
        new = decoder.project(layer, rows, angles)
        keys = torch.cat([past_keys, rotate(new.k, angles)], dim=1)
        values = torch.cat([past_values, new.v], dim=1)
        self._finish(layer, rows, decoder.attention.of(new.q, keys, values))
        return new, keys, values

    def _finish(self, layer: int, rows: torch.Tensor, attended: torch.Tensor) -> None:
        """The rest of ``layer``, after attention of all rows that run."""
        hidden = self._decoder.finish(layer, rows, attended)
        self._text = hidden[-len(self._question.ids) :]
        if layer >= self._question.depth:
            self._block = hidden[: -len(self._question.ids)]

    def _entering_rows(self) -> tuple[torch.Tensor, Angles]:
        """Block and text as they enter a layer that both run through."""
        cos, sin = self._trunk.block_angles
        angles = (
            torch.cat([cos[self._visible], self._text_angles[0]]),
            torch.cat([sin[self._visible], self._text_angles[1]]),
        )
        return torch.cat([self._entering_block(), self._text]), angles

    def _entering_block(self) -> torch.Tensor:
        if self._block is None:
            hidden = [s.hidden for s in self._trunk.segments if s.hidden is not None]
            self._block = torch.cat(hidden)[self._visible] if hidden else self._text[:0]
        return self._block

    def _next_count(self, layer: int) -> int:
        entering = self._question.entering
        return entering[layer + 1] if layer + 1 < len(entering) else entering[layer]

    def _score(
        self, layer: int, new: Projected, keys: torch.Tensor, n: int, leaving: int
    ) -> torch.Tensor | None:
        """S [n] as the policy's guidance wants it; the question's own S is added to the evidence on
        the way.
        """
        if n == 0:
            return None
        first = self._trunk.prompt.count
        columns = slice(first, first + n)
        text = keys.shape[1] - len(self._question.ids) + self._guidance
        queries = new.q[:, -len(self._question.ids) :][:, self._guidance]
        guidance = self._question.policy.guidance
        late = layer >= self._decoder.n_layers // 2
        score = None
        if late or (leaving and guidance == "question"):
            score = query_importance(queries, keys, columns, rows=text)
        if late and score is not None:
            self._evidence[self._visible] += score
        if not leaving or guidance == "question":
            return score
        if guidance == "last":
            return query_importance(new.q[:, -1:], keys, columns)
        if guidance == "audio":
            sound = (self._modality[self._visible] == int(Modality.AUDIO)).nonzero()[:, 0]
            if not len(sound):  # none came, or none is left: the question guides
                return query_importance(queries, keys, columns, rows=text)
            return audio_guided_importance(new.q[:, sound], keys, columns, rows=sound + first)
        return None

    def _drop(self, layer: int, score: torch.Tensor | None, leaving: int) -> None:
        seen = self._visible
        chunk, modality = self._chunk[seen], self._modality[seen]
        gone = self._question.policy.drop(
            layer, self._decoder.n_layers, score, chunk, modality, leaving
        )
        stay = self._staying(gone, leaving)
        self._visible = seen[stay]
        if self._block is not None:
            self._block = self._block[stay]

    def _staying(self, gone: torch.Tensor, leaving: int) -> torch.Tensor:
        """Which of the visible tokens stay, as an index."""
        stay = torch.ones(self._visible.shape[0], dtype=torch.bool, device=gone.device)
        stay[gone] = False
        return stay
