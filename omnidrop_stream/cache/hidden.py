"""Where the fast engine keeps the states that enter the first layer not run on arrival: rows of one
preallocated tensor, in the stream's order, so that a question that catches up copies what it reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

from omnidrop_stream.cache.arena import PROVISIONAL_ROWS
from omnidrop_stream.cache.pages import Extent, PagePool

TRUNK, APART = 0, 1
"""Lanes: what the trunk holds, and what one answer alone reads."""


class HiddenArena:
    """Rows [rows, d], and the pages they lie on. It grows where there are too few."""

    def __init__(self, like: torch.Tensor, rows: int) -> None:
        """Room for ``rows`` rows like those of ``like`` [n, d]."""
        apart = 1.0 - min(0.25, PROVISIONAL_ROWS / max(1, rows))
        self._pool = PagePool(rows, [(0.0, apart), (apart, 1.0)])
        self.tensor = like.new_empty(self._pool.rows, like.shape[1])

    @torch.inference_mode()
    def put(self, states: torch.Tensor, provisional: bool = False) -> HiddenRows:
        """A copy of ``states`` [n, d] in rows of their own."""
        extent = self._pool.take(states.shape[0], APART if provisional else TRUNK)
        old = self.tensor
        if self._pool.rows > old.shape[0]:
            self.tensor = old.new_empty(self._pool.rows, old.shape[1])
            self.tensor[: old.shape[0]] = old
        self.tensor[extent.start : extent.stop] = states
        return HiddenRows(self, extent)


@dataclass(frozen=True, slots=True)
class HiddenRows:
    """One chunk's rows; holding it pins them."""

    arena: HiddenArena
    extent: Extent

    @property
    def states(self) -> torch.Tensor:
        """They themselves, [n, d]."""
        return self.arena.tensor[self.extent.start : self.extent.stop]


def joined(rows: Sequence[HiddenRows], visible: torch.Tensor) -> torch.Tensor | None:
    """The ``visible`` tokens [k] of all chunks, [k, d]: where they lie if they lie together and all
    are seen, else copied once. None where they are in several arenas.
    """
    arenas = {id(one.arena): one.arena for one in rows}
    if len(arenas) != 1:
        return None
    (arena,) = arenas.values()
    extents = [one.extent for one in rows if one.extent.count]
    if all(a.stop == b.start for a, b in pairwise(extents)):
        whole = arena.tensor[extents[0].start : extents[-1].stop] if extents else arena.tensor[:0]
        return whole if len(whole) == len(visible) else whole.index_select(0, visible)
    numbers = torch.cat([torch.arange(e.start, e.stop) for e in extents])
    return arena.tensor.index_select(0, numbers.to(visible.device)[visible])
