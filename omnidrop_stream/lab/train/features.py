"""Pools of rendered chunks with per-token labels, and log-mel / pixel features as the runtime
makes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from omnidrop_stream.model.mel import MelCarry, chunk_mel
from omnidrop_stream.model.pixels import PixelSettings, patchify
from omnidrop_stream.types import CHUNK_SAMPLES, LEFT_CONTEXT_SAMPLES, RIGHT_CONTEXT_SAMPLES
from omnidrop_stream.world.items import CHUNK_S, COLOUR_NAMES, KINDS, SOUNDS, Split
from omnidrop_stream.world.stream import World

Tensor = torch.Tensor
IGNORE = -100
AUDIO_TOKENS = 50


@dataclass(frozen=True, slots=True)
class Labels:
    """Per-token truth: sound [N, 50], colour and kind [N, 2, cells]; last class = nothing, -100 =
    ignore.

    The chunk's own truth: thing_colour, thing_kind, heard [N] with the same "nothing" class.
    """

    sound: Tensor
    colour: Tensor
    kind: Tensor
    thing_colour: Tensor
    thing_kind: Tensor
    heard: Tensor


def stream_mel(audio: np.ndarray) -> Tensor:
    """A whole epoch of sound f32[m * 32000] -> log-mel [m, 200, 128], chunk by chunk as the
    runtime does it.
    """
    left = np.zeros(LEFT_CONTEXT_SAMPLES, np.float32)
    padded = np.concatenate([left, audio, np.zeros(RIGHT_CONTEXT_SAMPLES, np.float32)])
    carry, out = MelCarry(), []
    for start in range(0, len(audio), CHUNK_SAMPLES):
        middle = start + LEFT_CONTEXT_SAMPLES
        end = middle + CHUNK_SAMPLES
        mel, carry = chunk_mel(
            padded[middle:end],
            padded[start:middle],
            padded[end : end + RIGHT_CONTEXT_SAMPLES],
            carry,
        )
        out.append(mel.t())
    return torch.stack(out)


def patches(frames: Tensor, patch: int) -> Tensor:
    """u8 [N, 4, H, W, 3] -> normalised [N * 2, cells, 3 * 2 * p * p] in the stock order (merge
    size 1).
    """
    rows = patchify(frames.flatten(0, 1).permute(0, 3, 1, 2), PixelSettings(patch, merge_size=1))
    return rows.view(frames.shape[0] * 2, -1, rows.shape[-1])


def token_labels(world: World, indices: Sequence[int], grid: int) -> Labels:
    """Per-token truth of the chunks of a world."""
    truths = [world.truth(i) for i in indices]
    none_c, none_k, none_s = len(COLOUR_NAMES), len(KINDS), len(SOUNDS)
    colour = torch.tensor([none_c if t.colour is None else t.colour for t in truths])
    kind = torch.tensor([none_k if t.kind is None else t.kind for t in truths])
    heard = torch.tensor([none_s if t.sound is None else t.sound for t in truths])
    cell = world.size // grid
    share = np.stack([world.cover(i) for i in indices])
    share = share.reshape(len(truths), 2, 2, grid, cell, grid, cell).mean((2, 4, 6))
    part = torch.from_numpy(share.reshape(len(truths), 2, grid * grid))
    cells = []
    for value, none in ((colour, none_c), (kind, none_k)):
        y = torch.where(part > 0.12, value[:, None, None], torch.tensor(none))
        cells.append(y.masked_fill((part > 0.002) & (part <= 0.12), IGNORE))
    sound = torch.full((len(truths), AUDIO_TOKENS), none_s)
    for row, (i, truth) in enumerate(zip(indices, truths, strict=True)):
        if truth.heard is not None and truth.sound is not None:
            a = (truth.heard.from_s - i * CHUNK_S) * 25
            b = (truth.heard.to_s - i * CHUNK_S) * 25
            sound[row, max(0, int(a)) : int(np.ceil(b))] = IGNORE
            sound[row, int(np.ceil(a - 0.3)) : max(int(b + 0.3), int(np.ceil(a)) + 1)] = truth.sound
    return Labels(sound, cells[0], cells[1], colour, kind, heard)


def render_pool(
    split: Split, seeds: Sequence[int], chunks: int, things: float, sounds: float, grid: int
) -> tuple[Tensor, Tensor, Labels]:
    """Streams of `chunks` chunks, one for each seed -> frames u8 [N,4,H,W,3], mel f16 [N,200,128],
    labels.
    """
    frames, mels, labels = [], [], []
    for seed in seeds:
        world = World(seed, split, things=things, sounds=sounds)
        drawn = [world.chunk(i) for i in range(chunks)]
        frames.append(torch.from_numpy(np.stack([c.frames for c in drawn])))
        mels.append(stream_mel(np.concatenate([c.audio for c in drawn])).half())
        labels.append(token_labels(world, range(chunks), grid))
    names = Labels.__slots__
    joined = Labels(*(torch.cat([getattr(one, name) for one in labels]) for name in names))
    return torch.cat(frames), torch.cat(mels), joined
