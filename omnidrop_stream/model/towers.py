"""A chunk through the audio and vision towers, and the pruning within each modality (section 3.4).

Both towers work block by block: vision attends within one temporal patch, audio within one 2-second
block, so a chunk's tokens do not depend on other chunks (tested: chunk by chunk equals one shot).
What does carry over is small and explicit: the log-mel floor and the merging window's reference
patch.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from omnidrop_stream.method import (
    MergeCarry,
    audio_saliency,
    block_attention,
    keep_salient,
    merge_patch,
)
from omnidrop_stream.model.mel import MelCarry, chunk_mel
from omnidrop_stream.model.pixels import PixelSettings, fit_size, patchify, resize_frames
from omnidrop_stream.model.rope import audio_offsets, video_offsets
from omnidrop_stream.types import CHUNK_SECONDS, Chunk, ChunkTokens, Modality

MIN_MEL_FRAMES = 3
"""Fewer frames give no token after the tower's convolution and pooling."""


@dataclass(frozen=True, slots=True)
class IntraSettings:
    """Shares that stay: of audio tokens by saliency, of a merged patch's video tokens by
    difference.
    """

    enabled: bool = True
    audio_keep: float = 0.7
    video_keep: float = 0.2


@dataclass(frozen=True, slots=True)
class EncodeSettings:
    """What is the same for every chunk, unless an overloaded stream lightens it."""

    intra: IntraSettings
    frame_tokens: int
    ids_per_second: float

    def lighter(self, pictures: float, merging: float) -> EncodeSettings:
        """With these shares of a picture's tokens and of the video tokens that merging keeps."""
        intra = replace(self.intra, video_keep=self.intra.video_keep * merging)
        return replace(self, intra=intra, frame_tokens=max(1, int(self.frame_tokens * pictures)))


@dataclass(frozen=True, slots=True)
class EncodeCarry:
    """What one chunk leaves for the next. Immutable, so a provisional chunk can use it without
    touching it.
    """

    epoch: int = 0
    next_chunk: int = 0
    mel: MelCarry = field(default_factory=MelCarry)
    merge: MergeCarry | None = None
    window: int = -1
    chunks_in_window: int = 0
    frame_size: tuple[int, int] | None = None
    fps: float = 0.0


@dataclass(frozen=True, slots=True)
class Encoded:
    """A chunk's tokens, its merging window and the carry for the next chunk."""

    tokens: ChunkTokens
    window: int
    carry: EncodeCarry


@dataclass(frozen=True, slots=True)
class _Part:
    embeds: torch.Tensor
    offsets: torch.Tensor
    n_unpruned: int
    last_id: tuple[int, int]


class Towers:
    """Drives a checkpoint's own audio and vision towers. Stateless: all state is in the carry."""

    def __init__(self, audio: Any, visual: Any, pixels: PixelSettings, n_mels: int) -> None:
        self._audio = audio
        self._visual = visual
        self._pixels = pixels
        self._n_mels = n_mels
        self._dtype: torch.dtype = next(visual.parameters()).dtype
        self._device: torch.device = next(visual.parameters()).device

    @torch.inference_mode()
    def encode(self, chunk: Chunk, carry: EncodeCarry, settings: EncodeSettings) -> Encoded:
        """Tokens of ``chunk`` after pruning within each modality; ``carry`` is not changed."""
        carry = self._opened(chunk, carry)
        parts: list[tuple[Modality, _Part]] = []
        if chunk.frames is not None and len(chunk.frames):
            video, merge = self._video(chunk, chunk.frames, carry.merge, settings)
            carry = replace(carry, merge=merge)
            parts.append((Modality.VIDEO, video))
        if chunk.audio is not None:
            mel, mel_carry = chunk_mel(
                chunk.audio, chunk.audio_left, chunk.audio_right, carry.mel, self._n_mels
            )
            carry = replace(carry, mel=mel_carry)
            if mel.shape[1] >= MIN_MEL_FRAMES:
                parts.append((Modality.AUDIO, self.audio_part(mel, settings.intra)))
        return Encoded(self._joined(parts), carry.window, carry)

    def _opened(self, chunk: Chunk, carry: EncodeCarry) -> EncodeCarry:
        """The carry as this chunk finds it: merging restarts after a gap, a new epoch or another
        frame size or rate; the mel floor forgets by time, whether sound came or not.
        """
        size = None if chunk.frames is None or not len(chunk.frames) else chunk.frames.shape[1:3]
        size = (int(size[0]), int(size[1])) if size is not None else carry.frame_size
        first = carry.window < 0 or chunk.epoch != carry.epoch
        if first:
            carry = EncodeCarry(epoch=chunk.epoch, window=carry.window)
        broken = first or (chunk.index, size, chunk.fps) != (
            carry.next_chunk,
            carry.frame_size,
            carry.fps,
        )
        # A short last chunk counts as a whole one.
        per_window = max(1, round(8.0 / (chunk.fps * CHUNK_SECONDS)))
        silent = chunk.index - carry.next_chunk + (chunk.audio is None)
        new_window = broken or carry.chunks_in_window >= per_window
        return replace(
            carry,
            next_chunk=chunk.index + 1,
            frame_size=size,
            fps=chunk.fps,
            mel=carry.mel if first else carry.mel.aged(silent),
            merge=None if new_window else carry.merge,
            window=carry.window + 1 if new_window else carry.window,
            chunks_in_window=1 if new_window else carry.chunks_in_window + 1,
        )

    def _video(
        self, chunk: Chunk, frames: np.ndarray, merge: MergeCarry | None, settings: EncodeSettings
    ) -> tuple[_Part, MergeCarry | None]:
        p = self._pixels
        size = fit_size(int(frames.shape[1]), int(frames.shape[2]), settings.frame_tokens, p.factor)
        patches = patchify(resize_frames(frames, size), p).to(self._device, self._dtype)
        rows, columns = size[0] // p.factor, size[1] // p.factor
        per_patch = rows * columns
        count = patches.shape[0] // (per_patch * p.merge_size**2)
        grid = torch.tensor(
            [[count, size[0] // p.patch_size, size[1] // p.patch_size]], device=self._device
        )
        embeds = self._visual(patches, grid_thw=grid).pooler_output
        ids_per_patch = settings.ids_per_second * p.temporal_patch_size / chunk.fps
        offsets = video_offsets(count, rows, columns, ids_per_patch)
        last = (int((count - 1) * ids_per_patch), max(rows, columns) - 1)
        if not settings.intra.enabled:
            return _Part(embeds, offsets, count * per_patch, last), None
        kept = []
        for number, patch in enumerate(embeds.split(per_patch)):
            stay, merge = merge_patch(patch, merge, settings.intra.video_keep)
            kept.append(stay.cpu() + number * per_patch)
        index = torch.cat(kept)
        part = _Part(embeds[index.to(embeds.device)], offsets[:, index], count * per_patch, last)
        return part, merge

    def audio_part(self, mel: torch.Tensor, intra: IntraSettings) -> _Part:
        """Tokens of one block's features [n_mels, frames <= 200], the least salient left out."""
        tower = self._audio
        x = mel[None].to(self._device, self._dtype)
        x = torch.nn.functional.gelu(tower.conv1(x))
        x = torch.nn.functional.gelu(tower.conv2(x)).transpose(1, 2)[0]
        x = x + tower.positional_embedding.positional_embedding[: x.shape[0]].to(x.dtype)
        bounds = torch.tensor([0, x.shape[0]], dtype=torch.int32, device=x.device)
        for layer in tower.layers[:-1]:
            x = layer(x, cu_seqlens=bounds, max_seqlen=x.shape[0])[0]
        saliency = self._saliency(tower.layers[-1], x)
        x = tower.layers[-1](x, cu_seqlens=bounds, max_seqlen=x.shape[0])[0]
        pairs = x[: x.shape[0] // 2 * 2].view(-1, 2, x.shape[1])
        embeds = tower.proj(tower.ln_post((pairs[:, 0] + pairs[:, 1]) / 2))
        n = int(embeds.shape[0])
        offsets = audio_offsets(n)
        if not intra.enabled:
            return _Part(embeds, offsets, n, (n - 1, -1))
        stay = keep_salient(saliency, intra.audio_keep)
        return _Part(embeds[stay], offsets[:, stay.cpu()], n, (n - 1, -1))

    @staticmethod
    def _saliency(layer: Any, x: torch.Tensor) -> torch.Tensor:
        """Received attention of each token in the last layer's true block attention."""
        attention = layer.self_attn
        normed = layer.self_attn_layer_norm(x)
        heads, length = attention.num_heads, x.shape[0]
        q = attention.q_proj(normed).view(length, heads, -1).transpose(0, 1)
        k = attention.k_proj(normed).view(length, heads, -1).transpose(0, 1)
        return audio_saliency(block_attention(q, k, scale=attention.scaling))

    def _joined(self, parts: list[tuple[Modality, _Part]]) -> ChunkTokens:
        device = self._device
        if not parts:
            width = int(self._audio.proj.out_features)
            empty = torch.zeros(0, width, dtype=self._dtype, device=device)
            none = torch.zeros(0, dtype=torch.uint8, device=device)
            offsets = torch.zeros(3, 0, dtype=torch.long, device=device)
            return ChunkTokens(empty, none, offsets, 0, 0)
        kinds = [torch.full((p.embeds.shape[0],), int(m), dtype=torch.uint8) for m, p in parts]
        return ChunkTokens(
            embeds=torch.cat([p.embeds for _, p in parts]),
            modality=torch.cat(kinds).to(device),
            offsets=torch.cat([p.offsets for _, p in parts], dim=1).to(device),
            n_unpruned=sum(p.n_unpruned for _, p in parts),
            n_unpruned_video=sum(p.n_unpruned for m, p in parts if m is Modality.VIDEO),
            last_id=parts[-1][1].last_id,
        )
