"""A question's pass as one launch: CUDA graphs (``model.graphs``) at full depth.

At full depth only the text runs through the layers, and how many tokens each layer sees is known
before the first one runs. So a pass has a *shape*, and passes of one shape are the same operations
on other values: they are recorded once, over memory of their own, and replayed. A question's way
there is then: the window's states are copied to that memory as they lie, a copy for each layer, a
few numbers are sent, one launch, and what the answer needs is copied out, which the next question
overwrites.

Text rows come in buckets; the rows that fill one up stand behind the others, which never see them.
Tokens have no buckets, because which tokens leave depends on how many there are: a full window at a
chunk's end has the same shape again and again (a standing question's two chunks nearly always), one
that is growing or sees an open chunk has another one each time and runs layer by layer.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from omnidrop_stream.cache import Segment, largest_id
from omnidrop_stream.method import IntraOnly, KeepAll, LastToken, OmniDrop, PruningPolicy
from omnidrop_stream.model.base import ModelSpec, Prompt, Question
from omnidrop_stream.model.copies import moved
from omnidrop_stream.model.decoder import Angles, Decoder
from omnidrop_stream.model.fast_prefill import guides, staying
from omnidrop_stream.model.fork import Fork, LayerStore
from omnidrop_stream.model.graphs import Capture, taken, with_room
from omnidrop_stream.model.partial import Piece, attend, grouped
from omnidrop_stream.model.prefill import tail_positions
from omnidrop_stream.model.rope import rotate
from omnidrop_stream.types import Modality

TEXT_ROWS = 16
"""Text rows are filled up to a multiple of it."""
EAGER_PASSES = 2
"""Passes of one shape before it is recorded, which costs as much as some passes: two are soon asked
of a window that is growing, whose shape never comes again.
"""
MOST_SCORES = 2**20
"""Text rows times tokens of the window. A record scores all rows in fp32; with more than these (a
long history before a long window) that may cost more than the launches that it saves.
"""
KEPT_SHAPES = 64
KEPT_RECORDS = 8
ROOMY = 1.125
"""How much larger the memory is than the first shape that it is made for: the next may be a little
larger, and new memory is the end of all records.
"""
ON_DEVICE = (OmniDrop, LastToken, IntraOnly, KeepAll)
"""Policies whose choice the host has no part in."""


@dataclass(frozen=True, slots=True)
class PassShape:
    """All that one record takes for granted."""

    prompt: int
    entering: tuple[int, ...]
    """Audiovisual tokens that enter each layer."""
    rows: int
    """Text rows, with those that fill the bucket up."""
    max_new_tokens: int
    policy: PruningPolicy

    @property
    def rooms(self) -> list[int]:
        """Positions of each layer's store."""
        return [self.prompt + n + self.rows + self.max_new_tokens for n in self.entering]


def shape_of(prompt: Prompt, question: Question, spec: ModelSpec) -> PassShape | None:
    """None where a question is not recorded: not at full depth, its policy asks the host, or it is
    long for such a window.
    """
    policy = question.policy
    whole = question.depth >= spec.n_layers and len(question.entering) == spec.n_layers
    if not (whole and question.entering[0] and isinstance(policy, ON_DEVICE)):
        return None
    rows = -(-len(question.ids) // TEXT_ROWS) * TEXT_ROWS
    if rows * question.entering[0] > MOST_SCORES:
        return None
    return PassShape(prompt.count, question.entering, rows, question.max_new_tokens, policy)


class KeptTrunk(Protocol):
    """A snapshot that can be copied out as it is kept."""

    @property
    def prompt(self) -> Prompt:
        """What stands before the block."""

    @property
    def placing(self) -> Angles:
        """Angles f32 [N, hd] that turn kept keys to their tokens' slots in the window."""

    def copy_block(self, out: torch.Tensor) -> None:
        """Put the block's keys, as they are kept, and values in ``out`` [L, 2, H_kv, N, hd]."""

    def prompt_states(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Rotated keys and values [L, H_kv, P, hd] of the prompt."""


class Workspace:
    """The memory that all records work on, in turn. What a question leaves in it no other one
    reads, also after its stream has forgotten; it stays until it is overwritten.
    """

    def __init__(self, decoder: Decoder, block: int, stores: int) -> None:
        """Room for so many numbers of the model's dtype."""
        like = decoder.embed.weight
        self.block = torch.empty(block, dtype=like.dtype, device=like.device)
        self.stores = torch.empty(stores, dtype=like.dtype, device=like.device)

    def holds(self, block: int, stores: int) -> bool:
        """Whether so many numbers have room."""
        return block <= self.block.numel() and stores <= self.stores.numel()


class RecordedPass:
    """`OmniModel.pruned_prefill` for questions of one shape."""

    def __init__(
        self,
        decoder: Decoder,
        spec: ModelSpec,
        shape: PassShape,
        workspace: Workspace,
        capture: Capture,
    ) -> None:
        """Raises ModelError where the pass cannot be recorded."""
        self._spec, self._shape = spec, shape
        self._device = device = decoder.device
        n, rows, layers = shape.entering[0], shape.rows, spec.n_layers
        heads, width = spec.n_kv_heads, spec.head_dim
        self._groups = spec.n_heads // heads
        block, stores = numbers_of(shape, spec)
        self._block = workspace.block[:block].view(layers, 2, heads, n, width)
        self._flat = workspace.stores[:stores]
        self._stores = _views(self._flat, shape, spec)
        like = self._block
        self._prompt = like.new_zeros(layers, 2, heads, shape.prompt, width)
        self._placing = torch.zeros(2, n, width, device=device)
        self._numbers = torch.zeros(4 * rows + 1, dtype=torch.long, device=device)
        self._weights = torch.zeros(2, self._groups * rows, device=device)
        self._chunk = torch.zeros(n, dtype=torch.long, device=device)
        self._modality = torch.zeros(n, dtype=torch.long, device=device)
        self._heard = torch.zeros(layers, dtype=torch.long, device=device)
        self._evidence = torch.zeros(n, device=device)
        self._logits = torch.zeros(decoder.head.out_features, device=device)
        tril = torch.ones(rows, rows, dtype=torch.bool, device=device).tril()
        self._causal = tril.repeat(self._groups, 1)
        self._block.zero_()
        self._replay = taken(capture, lambda: self._run(decoder), "a question's pass")

    def ask(
        self,
        trunk: KeptTrunk,
        segments: Sequence[Segment],
        slots: Sequence[int],
        question: Question,
    ) -> Fork:
        """The fork of ``question``, which owns all that it holds."""
        base, ids = trunk.prompt.base, self._spec.ids_per_chunk
        start = largest_id(tuple(segments), list(slots), base, ids) + 1
        positions = tail_positions(start, question.markers, len(question.ids))
        self._send(question, positions)
        self._receive(trunk, segments)
        self._replay()
        held, shape, text = self._flat.clone(), self._shape, len(question.ids)
        stores = [
            _store(states, shape.prompt + n + text, shape.max_new_tokens)
            for states, n in zip(_views(held, shape, self._spec), shape.entering, strict=True)
        ]
        audio = self._heard.tolist()
        video = [n - heard for n, heard in zip(shape.entering, audio, strict=True)]
        after = int(positions[0, -1]) + 1
        return Fork(stores, after, self._logits.clone(), video, audio, self._evidence.clone())

    def _send(self, question: Question, positions: torch.Tensor) -> None:
        """The question's numbers: ids, positions, its last row; and which rows guide how much."""
        text, rows, device = len(question.ids), self._shape.rows, self._device
        numbers = torch.zeros(4, rows, dtype=torch.long)
        numbers[0, :text] = torch.tensor(question.ids)
        numbers[1:, :text] = positions
        last = torch.tensor([text - 1])
        self._numbers.copy_(moved(torch.cat([numbers.flatten(), last]), device))
        weights = torch.zeros(2, rows)
        for row, chosen in zip(weights, (list(question.guidance), [text - 1]), strict=True):
            row[chosen] = 1.0 / (len(chosen) * self._spec.n_heads)
        self._weights.copy_(moved(weights.repeat(1, self._groups), device))

    def _receive(self, trunk: KeptTrunk, segments: Sequence[Segment]) -> None:
        trunk.copy_block(self._block)
        for place, states in zip(self._prompt.unbind(1), trunk.prompt_states(), strict=True):
            place.copy_(states)
        for place, angles in zip(self._placing, trunk.placing, strict=True):
            place.copy_(angles)
        counts = torch.tensor([s.count for s in segments])
        chunk = torch.repeat_interleave(torch.arange(len(segments)), counts)
        self._chunk.copy_(moved(chunk, self._device))
        self._modality.copy_(torch.cat([s.tokens.modality for s in segments]))

    def _run(self, decoder: Decoder) -> None:
        """What is recorded: all layers, from the memory that a question fills to its own."""
        rows, shape, layers = self._shape.rows, self._shape, decoder.n_layers
        angles = decoder.rotary.exact_angles(self._numbers[rows : 4 * rows].view(3, rows))
        text = decoder.embed(self._numbers[:rows])
        last = self._numbers[4 * rows :]
        visible = torch.arange(shape.entering[0], device=self._device)
        sound = (self._modality == int(Modality.AUDIO)).long()
        self._evidence.zero_()
        for layer, n in enumerate(shape.entering):
            self._heard[layer].copy_(sound[visible].sum())
            new = decoder.project(layer, text, angles)
            own = self._stored(layer, visible, rotate(new.k, angles), new.v)
            weights, late = self._wanted(layer)
            out, received = attend([self._piece(new.q, own)], weights)
            attended = out.reshape(new.q.shape)
            if layer + 1 == layers:
                text, attended = text[last], attended[:, last]
            text = decoder.finish(layer, text, attended)
            columns = received[0][:, shape.prompt : shape.prompt + n] if received else None
            if late and columns is not None:
                self._evidence.index_add_(0, visible, columns[0])
            leaving = self._leaving(layer)
            if leaving:
                gone = shape.policy.drop(
                    layer,
                    layers,
                    None if columns is None else columns[-1],
                    self._chunk[visible],
                    self._modality[visible],
                    leaving,
                )
                visible = visible[staying(gone, n, leaving)]
        self._logits.copy_(decoder.logits(text))

    def _stored(
        self, layer: int, visible: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
    ) -> torch.Tensor:
        """The layer's store, filled: prompt, visible tokens, text; a view [2, H_kv, .., hd]."""
        first, n = self._shape.prompt, len(visible)
        stop = first + n + self._shape.rows
        store = self._stores[layer][:, :, :stop]
        store[:, :, :first] = self._prompt[layer]
        block = self._block[layer].index_select(2, visible)
        cos, sin = self._placing[0][visible], self._placing[1][visible]
        store[0, :, first : first + n] = rotate(block[0].float(), (cos, sin))
        store[1, :, first : first + n] = block[1]
        store[0, :, first + n :] = keys
        store[1, :, first + n :] = values
        return store

    def _piece(self, q: torch.Tensor, store: torch.Tensor) -> Piece:
        """All text rows see prompt and block, and of the text what stands before them."""
        seen = self._causal.new_ones(self._causal.shape[0], store.shape[2])
        seen[:, store.shape[2] - self._shape.rows :] = self._causal
        return Piece(grouped(q, self._spec.n_kv_heads), store[0], store[1], seen)

    def _wanted(self, layer: int) -> tuple[torch.Tensor | None, bool]:
        """Rows of Eq. 5's weights: for the evidence first, for the policy last; and whether the
        layer counts for the evidence.
        """
        late = layer >= self._spec.n_layers // 2
        chosen = guides(self._shape.policy.guidance, self._leaving(layer), late)
        if not chosen:
            return None, late
        return torch.stack([self._weights[int(who == "last")] for who in chosen]), late

    def _leaving(self, layer: int) -> int:
        entering = self._shape.entering
        return entering[layer] - entering[min(layer + 1, len(entering) - 1)]


class RecordedPasses:
    """The records of one model, and the shapes that were met once. For one thread."""

    def __init__(self, decoder: Decoder, spec: ModelSpec, capture: Capture) -> None:
        self._decoder, self._spec, self._capture = decoder, spec, capture
        self._met: OrderedDict[PassShape, int] = OrderedDict()
        self._records: OrderedDict[PassShape, RecordedPass] = OrderedDict()
        self._workspace: Workspace | None = None
        self._off = False

    @torch.inference_mode()
    def wanted(self, prompt: Prompt, question: Question) -> RecordedPass | None:
        """The record for a question; None where there is none, or none yet. Raises ModelError."""
        shape = None if self._off else shape_of(prompt, question, self._spec)
        if shape is None:
            return None
        record = self._records.get(shape)
        if record is None and self._meets(shape) > EAGER_PASSES:
            record = with_room(lambda: self._made(shape), "questions' passes")
            if record is None:
                self._give_up()
        if record is None:
            return None
        self._records[shape] = record
        self._records.move_to_end(shape)
        if len(self._records) > KEPT_RECORDS:
            self._records.popitem(last=False)
        return record

    def _give_up(self) -> None:
        """From now on none is recorded, of no stream: memory is short, and theirs is given back."""
        self._off = True
        self._records.clear()
        self._workspace = None

    def _meets(self, shape: PassShape) -> int:
        """How often it was met, now included."""
        met = self._met.pop(shape, 0) + 1
        self._met[shape] = met
        if len(self._met) > KEPT_SHAPES:
            self._met.popitem(last=False)
        return met

    def _made(self, shape: PassShape) -> RecordedPass:
        block, stores = numbers_of(shape, self._spec)
        if self._workspace is None or not self._workspace.holds(block, stores):
            self._records.clear()  # they work on the one that is too small
            self._workspace = None
            sizes = (int(numbers * ROOMY) for numbers in (block, stores))
            self._workspace = Workspace(self._decoder, *sizes)
        return RecordedPass(self._decoder, self._spec, shape, self._workspace, self._capture)


def numbers_of(shape: PassShape, spec: ModelSpec) -> tuple[int, int]:
    """Numbers that a pass needs for the block and for the stores."""
    width = 2 * spec.n_kv_heads * spec.head_dim
    return width * spec.n_layers * shape.entering[0], width * sum(shape.rooms)


def _views(flat: torch.Tensor, shape: PassShape, spec: ModelSpec) -> list[torch.Tensor]:
    """Each layer's part of ``flat``, [2, H_kv, room, hd]."""
    sizes = [(2, spec.n_kv_heads, room, spec.head_dim) for room in shape.rooms]
    parts = torch.split(flat, [math.prod(size) for size in sizes])
    return [part.view(size) for part, size in zip(parts, sizes, strict=True)]


def _store(states: torch.Tensor, count: int, spare: int) -> LayerStore:
    keys, values = states[:, :, : count + spare]
    return LayerStore.over(keys, values, count, ())
