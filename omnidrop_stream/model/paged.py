"""A snapshot whose keys lie in arenas, rotated once and for all: the query is turned to meet them.

A key is rotated at its chunk's running slot, and a question thinks in window-relative slots, which
begin with the oldest chunk held (design 5). The two differ by a *shift* that grows with every
eviction: of all three axes for sound, of the temporal one alone for pictures, whose height and
width stay anchored at the block's start. Rotations compose, so it is the same to shift the query
instead: one copy of it for the prompt, one for the pictures' keys, one for the sound's. Angles are
computed in fp64, so that a stream may run for years.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import torch

from omnidrop_stream.cache import Arena, Band, Extent, Segment
from omnidrop_stream.model.base import ModelSpec, Prompt
from omnidrop_stream.model.copies import moved
from omnidrop_stream.model.decoder import Angles
from omnidrop_stream.model.fork import Read
from omnidrop_stream.model.prefill import positions_of
from omnidrop_stream.model.rope import Rotary, rotate

FEW_GONE = 0.25
"""Share of the block that may be gone from a layer which a processor still reads where it lies: the
products with these keys cost less than a copy of the others.
"""
UNTURNED = (0, 0)
Turn = tuple[int, int]
"""Ids that a query is shifted by to meet some keys: on the temporal axis, on the other two."""


@dataclass(frozen=True, slots=True)
class Run:
    """A stretch of an arena's rows whose keys want the same turn of a query."""

    arena: Arena
    start: int
    stop: int
    turn: Turn
    pins: tuple[Extent, ...]
    """Whose rows they are; holding them keeps the rows."""

    def layer(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Rotated keys and values of ``layer``, views [H_kv, n, hd]."""
        keys, values = self.arena.layer(layer)[:, :, self.start : self.stop]
        return keys, values


@dataclass(frozen=True)
class Section:
    """Consecutive layers whose rows lie alike."""

    layers: range
    runs: list[Run]
    bands: list[tuple[Band, int]]
    """Of each segment, with its shift."""

    @cached_property
    def arena(self) -> Arena | None:
        """The one arena that all rows lie in; None where there are several."""
        arenas = {id(band.arena): band.arena for band, _ in self.bands}
        return next(iter(arenas.values())) if len(arenas) == 1 else None

    @cached_property
    def rows(self) -> torch.Tensor:
        """For each token, in the stream's order, its row in its arena: i64 [n] on the host."""
        spans = [e for band, _ in self.bands for e in (band.video, band.audio)]
        return _aranges([(e.start, e.stop) for e in spans])

    @cached_property
    def order(self) -> torch.Tensor:
        """For each token, in the stream's order, its place among the keys of all ``runs``."""
        begins: dict[int, int] = {}
        at = 0
        for run in self.runs:
            for extent in run.pins:
                begins[id(extent)] = at + extent.start - run.start
            at += run.stop - run.start
        spans = [
            (begins[id(e)], begins[id(e)] + e.count)
            for band, _ in self.bands
            for e in (band.video, band.audio)
            if e.count
        ]
        return _aranges(spans)


def turn_keys(keys: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> None:
    """Rotate ``keys`` [H_kv, n, hd] in place by the angles f32 [n, hd]."""
    keys.copy_(rotate(keys.float(), (cos, sin)))


def _aranges(spans: Sequence[tuple[int, int]]) -> torch.Tensor:
    """The numbers of all spans, one after the other: i64."""
    starts = torch.tensor([a for a, _ in spans], dtype=torch.long)
    counts = torch.tensor([b - a for a, b in spans], dtype=torch.long)
    before = counts.cumsum(0) - counts
    return torch.arange(int(counts.sum())) + (starts - before).repeat_interleave(counts)


class PagedTrunk:
    """Prompt and segments in their slots, as the layers read them."""

    def __init__(
        self,
        rotary: Rotary,
        spec: ModelSpec,
        prompt: Prompt,
        segments: Sequence[Segment],
        slots: Sequence[int],
    ) -> None:
        self.prompt = prompt
        self.segments = segments
        self._rotary = rotary
        self._slots = slots
        self._ids = ids = spec.ids_per_chunk
        self._shifts = [
            0 if s.paged is None else (s.paged.slot - slot) * ids
            for s, slot in zip(segments, slots, strict=True)
        ]
        self._count = sum(s.count for s in segments)
        self._sections = list(self._cut())

    def section(self, layer: int) -> Section:
        """How the rows of ``layer`` lie; raises IndexError where it was not run on arrival."""
        for section in self._sections:
            if layer in section.layers:
                return section
        raise IndexError(f"layer {layer} was not run on arrival by every chunk")

    def reads(self, layer: int) -> list[Read]:
        """All that ``layer`` reads of the block, in no particular order."""
        if not self.segments:
            return []
        runs = self.section(layer).runs
        return [Read(*run.layer(layer), self._turns.get(run.turn), run.pins) for run in runs]

    @cached_property
    def block_angles(self) -> Angles:
        """Angles of the block's tokens in the window's slots."""
        device = self._rotary.inv_freq.device
        base = self.prompt.base
        ids = positions_of(self.segments, self._slots, base, self._ids, device)
        return self._rotary.exact_angles(ids)

    def prompt_layer(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Rotated keys and values [H_kv, P, hd] of the prompt."""
        keys, values = self.prompt_rows(layer)
        return keys, values

    def block_layer(
        self, layer: int, visible: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values [H_kv, N, hd] of the block (or of its ``visible`` tokens), copied, the
        keys turned to the window's slots.
        """
        if visible is None:
            visible = torch.arange(self._count, device=self._rotary.inv_freq.device)
        if not self._count:
            empty = self.prompt_layer(layer)[0][:, :0]
            return empty, empty
        read = self._copied(layer, visible, None)
        if any(self._shifts):
            cos, sin = self._back
            turn_keys(read.keys, cos[self._kinds[visible]], sin[self._kinds[visible]])
        return read.keys, read.values

    def prompt_rows(self, layer: int) -> torch.Tensor:
        """The prompt's rotated keys and values [2, H_kv, P, hd]."""
        return self._own_prompt[layer]

    @property
    def _own_prompt(self) -> torch.Tensor:
        if self.prompt.rows is None:
            raise ValueError("the prompt was made by the plain engine; open the stream with fast")
        return self.prompt.rows

    def prompt_states(self) -> tuple[torch.Tensor, torch.Tensor]:
        """See `KeptTrunk`."""
        keys, values = self._own_prompt.unbind(1)
        return keys, values

    @property
    def placing(self) -> Angles:
        """See `KeptTrunk`."""
        cos, sin = self._back
        return cos[self._kinds], sin[self._kinds]

    def copy_block(self, out: torch.Tensor) -> None:
        """See `KeptTrunk`."""
        sent: dict[int, torch.Tensor] = {}
        for layer, place in enumerate(out):
            section = self.section(layer)
            if section.arena is None:
                chunks = [band.read(layer) for band, _ in section.bands]
                torch.cat(chunks, dim=2, out=place)
                continue
            first = section.layers.start
            if first not in sent:
                sent[first] = moved(section.rows, out.device)
            torch.index_select(section.arena.layer(layer), 2, sent[first], out=place)

    @cached_property
    def _turns(self) -> dict[Turn, Angles]:
        """Angles f32 [1, hd] of every turn that some keys want, but for none at all."""
        turns = {run.turn for section in self._sections for run in section.runs} - {UNTURNED}
        ids = {turn: torch.tensor([[turn[0]], [turn[1]], [turn[1]]]) for turn in turns}
        return {turn: self._rotary.exact_angles(own) for turn, own in ids.items()}

    def seen(self, layer: int, visible: torch.Tensor) -> tuple[list[Read], torch.Tensor | None]:
        """The ``visible`` tokens [k] of ``layer``, and for each the place that its key has among
        those of all reads (None: their order is kept): where they lie, or a copy.
        """
        section, whole, left = self.section(layer), self._count, visible.shape[0]
        gone = whole - left
        near = visible.device.type == "cpu" and gone <= FEW_GONE * whole
        if gone and not near:
            return self._gathered(layer, visible)
        order = section.order.to(visible.device)
        if not gone:
            return self.reads(layer), order
        unseen = torch.ones(whole, dtype=torch.bool)
        unseen[order[visible]] = False
        parts = torch.split(unseen, [run.stop - run.start for run in section.runs])
        reads = zip(self.reads(layer), parts, strict=True)
        return [replace(read, gone=part.nonzero()[:, 0]) for read, part in reads], order[visible]

    def _gathered(
        self, layer: int, visible: torch.Tensor
    ) -> tuple[list[Read], torch.Tensor | None]:
        """Copies of the ``visible`` tokens.

        On a processor the tokens are sorted by the turn that their keys want; on other devices,
        where to count them would be to wait, their keys are turned to the window's slots instead.
        """
        if not any(self._shifts):
            return [self._copied(layer, visible, None)], None
        if visible.device.type != "cpu":
            return [Read(*self.block_layer(layer, visible))], None
        kinds = self._kinds[visible]
        reads, places = [], []
        for kind, turn in enumerate(self._wanted):
            place = (kinds == kind).nonzero()[:, 0]
            if len(place):
                angles = self._turns.get(turn)
                reads.append(self._copied(layer, visible[place], angles))
                places.append(place)
        order = torch.empty_like(visible)
        order[torch.cat(places)] = torch.arange(visible.shape[0])
        return reads, order

    def _copied(self, layer: int, visible: torch.Tensor, turn: Angles | None) -> Read:
        section = self.section(layer)
        if section.arena is not None:
            rows = section.rows.to(visible.device)[visible]
            keys, values = section.arena.layer(layer).index_select(2, rows)
        else:
            chunks = [band.read(layer) for band, _ in section.bands]
            keys, values = torch.cat(chunks, dim=2).index_select(2, visible)
        return Read(keys, values, turn)

    @cached_property
    def _wanted(self) -> list[Turn]:
        """The turn that each of ``_kinds`` wants of a query."""
        shifts = sorted(set(self._shifts))
        return [(s, 0) for s in shifts] + [(s, s) for s in shifts]

    @cached_property
    def _back(self) -> Angles:
        """Angles f32 [kinds, hd] that take a key back to its window-relative slot."""
        ids = [(-temporal, -spatial, -spatial) for temporal, spatial in self._wanted]
        return self._rotary.exact_angles(torch.tensor(ids).T)

    @cached_property
    def _kinds(self) -> torch.Tensor:
        """For each token the row of ``_back`` that is its own."""
        shifts = sorted(set(self._shifts))
        own = torch.tensor([shifts.index(s) for s in self._shifts])
        counts = torch.tensor([s.count for s in self.segments])
        modality = torch.cat([s.tokens.modality for s in self.segments])
        return moved(own.repeat_interleave(counts), modality.device) + modality * len(shifts)

    def _cut(self) -> list[Section]:
        paged = [s.paged for s in self.segments if s.paged is not None]
        if not paged or len(paged) < len(self.segments):
            return []
        edges = sorted({0, *(b.layers.stop for p in paged for b in p.bands)})
        depth = min(p.depth for p in paged)
        return [self._section(range(a, b)) for a, b in pairwise(edges) if b <= depth]

    def _section(self, layers: range) -> Section:
        bands = [
            (s.paged.band(layers.start), shift)
            for s, shift in zip(self.segments, self._shifts, strict=True)
            if s.paged is not None
        ]
        numbers: dict[int, int] = {}  # by first appearance, so that sums have one order
        spans = []
        for band, shift in bands:
            number = numbers.setdefault(id(band.arena), len(numbers))
            for extent, turn in ((band.video, (shift, 0)), (band.audio, (shift, shift))):
                if extent.count:
                    spans.append((turn, number, extent.start, band.arena, extent))
        runs: list[Run] = []
        for turn, _, start, arena, extent in sorted(spans, key=lambda span: span[:3]):
            last = runs[-1] if runs else None
            if last and (last.turn, last.arena, last.stop) == (turn, arena, start):
                runs[-1] = Run(arena, last.start, extent.stop, turn, (*last.pins, extent))
            else:
                runs.append(Run(arena, start, extent.stop, turn, (extent,)))
        return Section(layers, runs, bands)
