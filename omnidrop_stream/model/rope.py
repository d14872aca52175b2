"""TMRoPE: three-axis positions of a stream, and rotation.

A prompt ``<system> <user header> <bos>`` has plain ids 0..s; the audiovisual block's ids count from
``base = s + 1`` at 25 a second (50 for a chunk). A chunk sits in a *slot*: its ordinal among the
chunks held, a gap taking one empty slot (design 5). Inside a block audio moves with its slot on all
three axes, video only on the temporal one; its height and width stay anchored at the block's start.
So every id is a closed form of (base, slot, offset). Angles are fp32, whatever the model's dtype
(as in transformers' ``Qwen2_5OmniRotaryEmbedding``).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from omnidrop_stream.model.copies import moved
from omnidrop_stream.types import Modality


@dataclass(frozen=True, slots=True)
class Rotary:
    """A checkpoint's rotation: inv_freq f32 [head_dim / 2] and the axes' section lengths."""

    inv_freq: torch.Tensor
    sections: tuple[int, ...]
    scaling: float = 1.0

    def exact_angles(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """``angles`` computed in fp64, as good after a year as at the start: f32 [n, head_dim]."""
        double = Rotary(self.inv_freq.double(), self.sections, self.scaling)
        cos, sin = double.angles(positions)
        return cos.float(), sin.float()

    def angles(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosine and sine f32 [n, head_dim] of ``positions`` i64 [3, n]."""
        dtype = torch.float64 if self.inv_freq.dtype == torch.float64 else torch.float32
        freqs = (
            moved(positions, self.inv_freq.device)[..., None].to(dtype) * self.inv_freq
        )  # [3, n, hd/2]
        cuts = torch.split(freqs, list(self.sections), dim=-1)
        parts = [part[i % 3] for i, part in enumerate(cuts)]
        half = torch.cat(parts, dim=-1)
        full = torch.cat([half, half], dim=-1)
        return full.cos() * self.scaling, full.sin() * self.scaling


def rotate(x: torch.Tensor, angles: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Rotate ``x`` [heads, n, head_dim] by the angles of its n positions."""
    cos, sin = angles[0].to(x.dtype), angles[1].to(x.dtype)
    left, right = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-right, left), dim=-1) * sin


def video_offsets(patches: int, rows: int, columns: int, ids_per_patch: float) -> torch.Tensor:
    """Offsets i64 [3, patches * rows * columns] of a chunk's video tokens from the block's first
    id.
    """
    time = (torch.arange(patches) * ids_per_patch).long()
    grid = torch.meshgrid(time, torch.arange(rows), torch.arange(columns), indexing="ij")
    return torch.stack([axis.reshape(-1) for axis in grid])


def audio_offsets(tokens: int) -> torch.Tensor:
    """Offsets i64 [3, tokens] of a chunk's audio tokens from its slot's first id."""
    return torch.arange(tokens).expand(3, -1).clone()


def block_positions(
    offsets: torch.Tensor, modality: torch.Tensor, slot: int, base: int, ids_per_chunk: int
) -> torch.Tensor:
    """Absolute ids i64 [3, n] of a chunk's tokens in ``slot``."""
    shift = slot * ids_per_chunk
    moved = offsets + base
    moved[0] += shift
    audio = (modality == int(Modality.AUDIO)).to(moved.dtype)
    moved[1] += audio * shift
    moved[2] += audio * shift
    return moved


def text_positions(start: int, count: int) -> torch.Tensor:
    """Plain ids i64 [3, count] from ``start`` on."""
    return torch.arange(start, start + count).expand(3, -1)
