"""Where the fast engine keeps a trunk's keys and values: arenas of pages, a tensor for each layer.

Keys are rotated once, when they are made, at their chunk's *running slot*, which no eviction moves;
it is the question that is turned to meet them (``model/paged.py``). So nothing in an arena ever
changes while somebody holds it, a snapshot needs no copy, and no rounding adds up over time.

A chunk's pictures and its sound lie apart (two lanes of one page pool), because their keys meet
other rotations of the same query: a rolling window is a few contiguous stretches of rows. The rows
of each key head lie together, and keys apart from values: attention walks one head's keys and then
its values, and a stretch of memory is read faster than what lies a few kilobytes apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

from omnidrop_stream.cache.pages import PAGE_ROWS, Extent, PagePool
from omnidrop_stream.types import Modality

VIDEO, AUDIO, PROVISIONAL = 0, 1, 2
"""Lanes of an arena. What one answer alone reads is provisional: out of the others' way."""
PROVISIONAL_ROWS = 16 * PAGE_ROWS
SLACK_ROWS = 32 * PAGE_ROWS


@dataclass(frozen=True, slots=True)
class RowShape:
    """What one token has in one layer: a key and a value of ``heads`` times ``width`` numbers."""

    heads: int
    width: int
    dtype: torch.dtype
    device: torch.device

    @property
    def nbytes(self) -> int:
        """Bytes of a row."""
        return 2 * self.heads * self.width * self.dtype.itemsize


class Arena:
    """Rows [2, H_kv, rows, hd] (keys, values) of each of some layers, and the pages they lie on."""

    def __init__(self, layers: range, shape: RowShape, rows: int, video_share: float = 1.0) -> None:
        """Room for ``rows`` tokens in each of ``layers``; it grows where that is too little."""
        apart = 1.0 - min(0.25, PROVISIONAL_ROWS / max(1, rows))
        split = video_share * apart
        self.layers = layers
        self.shape = shape
        self._pool = PagePool(rows, [(0.0, split), (split, apart), (apart, 1.0)])
        self._tensors = [self._empty(self._pool.rows) for _ in layers]

    def _empty(self, rows: int) -> torch.Tensor:
        s = self.shape
        return torch.empty(2, s.heads, rows, s.width, dtype=s.dtype, device=s.device)

    @torch.inference_mode()
    def take(self, count: int, lane: int) -> Extent:
        """Rows for ``count`` tokens in all layers; who read an arena before it grew keeps reading
        the tensor of then.
        """
        extent = self._pool.take(count, lane)
        if self._pool.rows > self._tensors[0].shape[2]:
            for number, old in enumerate(self._tensors):
                grown = self._empty(self._pool.rows)
                grown[:, :, : old.shape[2]] = old
                self._tensors[number] = grown
        return extent

    def layer(self, layer: int) -> torch.Tensor:
        """All rows [2, H_kv, rows, hd] of ``layer``, written or not."""
        return self._tensors[layer - self.layers.start]

    @property
    def reserved_bytes(self) -> int:
        """Bytes of the tensors."""
        return len(self._tensors) * self._pool.rows * self.shape.nbytes

    @property
    def pinned_bytes(self) -> int:
        """Bytes of the pages that somebody holds."""
        return len(self._tensors) * self._pool.pinned_pages * PAGE_ROWS * self.shape.nbytes


@dataclass(frozen=True, slots=True)
class Band:
    """One chunk's rows in one arena: its pictures' and its sound's, for all layers of the arena."""

    arena: Arena
    video: Extent
    audio: Extent

    @property
    def layers(self) -> range:
        """The layers that it has states of."""
        return self.arena.layers

    @property
    def count(self) -> int:
        """Tokens."""
        return self.video.count + self.audio.count

    @torch.inference_mode()
    def write(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Put the chunk's rotated keys and values [H_kv, n, hd] (pictures first) in their rows."""
        rows, split = self.arena.layer(layer), self.video.count
        for extent, part in ((self.video, slice(None, split)), (self.audio, slice(split, None))):
            place = rows[:, :, extent.start : extent.stop]
            place[0] = keys[:, part]
            place[1] = values[:, part]

    def read(self, layer: int) -> torch.Tensor:
        """A copy of the chunk's rows [2, H_kv, n, hd] in its tokens' order."""
        rows = self.arena.layer(layer)
        return torch.cat([rows[:, :, e.start : e.stop] for e in (self.video, self.audio)], dim=2)

    @torch.inference_mode()
    def only(self, kept: torch.Tensor, video: int) -> Band:
        """A copy of the tokens in ``kept`` (bool [n], ``video`` of them pictures) in the same
        arena.
        """
        band = _band(self.arena, video, int(kept.sum()) - video, provisional=False)
        for layer in self.layers:
            keys, values = self.read(layer)[:, :, kept]
            band.write(layer, keys, values)
        return band


@dataclass(frozen=True, slots=True)
class Paged:
    """The states of a chunk in arenas: bands of consecutive layers, from layer 0 up."""

    slot: int
    """Running slot at which its keys are rotated."""
    bands: tuple[Band, ...]

    @property
    def depth(self) -> int:
        """Layers that it has states of."""
        return self.bands[-1].layers.stop if self.bands else 0

    @property
    def nbytes(self) -> int:
        """Bytes of its rows."""
        return sum(len(b.layers) * b.count * b.arena.shape.nbytes for b in self.bands)

    def band(self, layer: int) -> Band:
        """The band that has ``layer``; raises IndexError where none has."""
        for band in self.bands:
            if layer in band.layers:
                return band
        raise IndexError(f"layer {layer} was not run on arrival, only {self.depth} were")

    def layer(self, layer: int) -> torch.Tensor:
        """A copy of the chunk's rows of ``layer``, [2, H_kv, n, hd] in its tokens' order."""
        return self.band(layer).read(layer)

    def upto(self, layer: int) -> tuple[Band, ...]:
        """The bands below ``layer``, where they end there."""
        below = tuple(b for b in self.bands if b.layers.start < layer)
        if below and below[-1].layers.stop != layer:
            raise ValueError(f"layer {layer} lies inside of a band, {below[-1].layers}")
        return below

    def only(self, kept: torch.Tensor, modality: torch.Tensor) -> Paged:
        """The same with the tokens in ``kept`` alone, in rows of their own."""
        video = int((modality[kept] == int(Modality.VIDEO)).sum())
        return Paged(self.slot, tuple(band.only(kept, video) for band in self.bands))


@dataclass(frozen=True, slots=True)
class Storage:
    """How large a stream's arenas are made: tokens in its budget and the pictures' share of them.

    It holds no memory: an arena lives as long as a chunk that lies in it.
    """

    tokens: int
    video_share: float

    def arena(self, layers: range, shape: RowShape) -> Arena:
        """A new arena for a whole window of ``layers``."""
        return Arena(layers, shape, self.rows, self.video_share)

    @property
    def rows(self) -> int:
        """Rows of an arena."""
        return int(self.tokens * GENEROUS) + SLACK_ROWS


GENEROUS = 1.1
"""Rows for each token of the budget: a ring that is never quite full wraps around once only."""


def lease(
    layers: range,
    shape: RowShape,
    video: int,
    audio: int,
    storage: Storage | None = None,
    beside: Paged | None = None,
    provisional: bool = False,
) -> tuple[Band, ...]:
    """Rows for a chunk's pictures and sound in ``layers``: in the arenas of its neighbour
    ``beside`` where those have just these layers, else in a new one (without ``storage`` just large
    enough).
    """
    near = [b.arena for b in beside.bands if b.layers.start in layers] if beside else []
    if storage is not None and _covers(near, layers):
        return tuple(_band(arena, video, audio, provisional) for arena in near)
    if storage is None or provisional:
        arena = Arena(layers, shape, _whole_pages(video) + _whole_pages(audio))
    else:
        arena = storage.arena(layers, shape)
    return (_band(arena, video, audio, provisional),)


def _band(arena: Arena, video: int, audio: int, provisional: bool) -> Band:
    lanes = (PROVISIONAL, PROVISIONAL) if provisional else (VIDEO, AUDIO)
    return Band(arena, arena.take(video, lanes[0]), arena.take(audio, lanes[1]))


def _covers(arenas: Sequence[Arena], layers: range) -> bool:
    joined = all(a.layers.stop == b.layers.start for a, b in pairwise(arenas))
    return (
        bool(arenas)
        and joined
        and (arenas[0].layers.start, arenas[-1].layers.stop)
        == (
            layers.start,
            layers.stop,
        )
    )


def _whole_pages(rows: int) -> int:
    return -(-rows // PAGE_ROWS) * PAGE_ROWS
