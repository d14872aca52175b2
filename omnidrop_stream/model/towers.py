"""A chunk through the audio and vision towers, and the pruning within each modality (section 3.4).

Both towers work block by block: vision attends within one temporal patch, audio within one 2-second
block, so a chunk's tokens do not depend on other chunks (tested: chunk by chunk equals one shot).
What does carry over is small and explicit: the log-mel floor and the merging window's reference
patch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from transformers.utils.generic import is_flash_attention_requested

from omnidrop_stream.method import (
    MergeCarry,
    audio_saliency,
    block_attention,
    keep_salient,
    merge_patch,
)
from omnidrop_stream.model.copies import moved
from omnidrop_stream.model.grids import Grid, Grids
from omnidrop_stream.model.mel import MelCarry, chunk_mel
from omnidrop_stream.model.patch_product import with_patch_product
from omnidrop_stream.model.pixels import PixelSettings, fit_size, patchify, resize_frames
from omnidrop_stream.model.rope import audio_offsets, video_offsets
from omnidrop_stream.model.tower_attention import joint_sound_layers, with_joint_pictures
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
class EncodeRequest:
    """One chunk to encode, with what its stream carried over."""

    chunk: Chunk
    carry: EncodeCarry
    settings: EncodeSettings


@dataclass(frozen=True, slots=True)
class _Part:
    embeds: torch.Tensor
    offsets: torch.Tensor
    n_unpruned: int
    last_id: tuple[int, int]
    saliency: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class _Pixels:
    """A chunk's pictures, ready for the tower: patches [count * rows * columns * merge^2, p]."""

    patches: torch.Tensor
    count: int
    """Temporal patches."""
    rows: int
    columns: int
    """Of tokens."""

    @property
    def tokens(self) -> int:
        return self.count * self.rows * self.columns


class Towers:
    """Drives a checkpoint's own audio and vision towers. Stateless: all state is in the carry."""

    def __init__(self, audio: Any, visual: Any, pixels: PixelSettings, n_mels: int) -> None:
        # Flash attention takes blocks of any lengths at once, as the stock layers call it.
        self._flash: bool = is_flash_attention_requested(visual.config)
        self._audio = audio
        self._layers = list(audio.layers) if self._flash else joint_sound_layers(audio)
        patched = with_patch_product(visual)
        self._visual = patched if self._flash else with_joint_pictures(patched)
        self._grids = Grids(visual, self._flash)
        self._pixels = pixels
        self._n_mels = n_mels
        self._dtype: torch.dtype = next(visual.parameters()).dtype
        self._device: torch.device = next(visual.parameters()).device

    def encode(self, chunk: Chunk, carry: EncodeCarry, settings: EncodeSettings) -> Encoded:
        """Tokens of ``chunk`` after pruning within each modality; ``carry`` is not changed."""
        return self.encode_batch([EncodeRequest(chunk, carry, settings)])[0]

    @torch.inference_mode()
    def encode_batch(self, requests: Sequence[EncodeRequest]) -> list[Encoded]:
        """The same for chunks of several streams, each tower once over all of them; equal to
        `encode` of each within rounding.
        """
        carries = [self._opened(r.chunk, r.carry) for r in requests]
        parts: list[list[tuple[Modality, _Part]]] = [[] for _ in requests]
        shown = [n for n, r in enumerate(requests) if _pictures(r.chunk) is not None]
        pixels = [self._prepared(requests[n]) for n in shown]
        for n, one, embeds in zip(shown, pixels, self._look(pixels), strict=True):
            merge = carries[n].merge
            video, merge = self._video(requests[n], one, embeds, merge)
            carries[n] = replace(carries[n], merge=merge)
            parts[n].append((Modality.VIDEO, video))
        heard: list[int] = []
        mels: list[torch.Tensor] = []
        for n, request in enumerate(requests):
            chunk = request.chunk
            if chunk.audio is None:
                continue
            mel, mel_carry = chunk_mel(
                chunk.audio, chunk.audio_left, chunk.audio_right, carries[n].mel, self._n_mels
            )
            carries[n] = replace(carries[n], mel=mel_carry)
            if mel.shape[1] >= MIN_MEL_FRAMES:
                heard.append(n)
                mels.append(mel)
        for n, (embeds, saliency) in zip(heard, self._hear(mels), strict=True):
            sound = _audio(embeds, saliency, requests[n].settings.intra)
            parts[n].append((Modality.AUDIO, sound))
        return [
            Encoded(self._joined(found), carry.window, carry)
            for found, carry in zip(parts, carries, strict=True)
        ]

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

    def _moved(self, values: torch.Tensor) -> torch.Tensor:
        """``values`` on the towers' device in their type."""
        return moved(values, self._device, self._dtype)

    # -- vision

    def _prepared(self, request: EncodeRequest) -> _Pixels:
        p, frames = self._pixels, _pictures(request.chunk)
        if frames is None:
            raise ValueError("a chunk without pictures has none to prepare")
        tokens = request.settings.frame_tokens
        size = fit_size(int(frames.shape[1]), int(frames.shape[2]), tokens, p.factor)
        patches = self._moved(patchify(resize_frames(frames, size), p))
        rows, columns = size[0] // p.factor, size[1] // p.factor
        return _Pixels(
            patches, patches.shape[0] // (rows * columns * p.merge_size**2), rows, columns
        )

    def _look(self, pixels: Sequence[_Pixels]) -> list[torch.Tensor]:
        """Embeddings [tokens, d] of each. Temporal patches do not see each other, so those of one
        size are one long clip, and clips of several sizes one packed row.
        """
        if not pixels:
            return []
        order = sorted(range(len(pixels)), key=lambda n: (pixels[n].rows, pixels[n].columns))
        side = self._pixels.merge_size
        grids: list[Grid] = []
        for n in order:
            one = pixels[n]
            count, size = one.count, (one.rows * side, one.columns * side)
            if grids and grids[-1][1:] == size:
                count += grids.pop()[0]
            grids.append((count, *size))
        patches = torch.cat([pixels[n].patches for n in order])
        embeds = self._visual(patches, **self._grids.layout(tuple(grids))).pooler_output
        split = torch.split(embeds, [pixels[n].tokens for n in order])
        found = dict(zip(order, split, strict=True))
        return [found[n] for n in range(len(pixels))]

    def _video(
        self,
        request: EncodeRequest,
        pixels: _Pixels,
        embeds: torch.Tensor,
        merge: MergeCarry | None,
    ) -> tuple[_Part, MergeCarry | None]:
        settings, count = request.settings, pixels.count
        per_patch = pixels.rows * pixels.columns
        ids = settings.ids_per_second * self._pixels.temporal_patch_size / request.chunk.fps
        offsets = moved(video_offsets(count, pixels.rows, pixels.columns, ids), self._device)
        last = (int((count - 1) * ids), max(pixels.rows, pixels.columns) - 1)
        if not settings.intra.enabled:
            return _Part(embeds, offsets, count * per_patch, last), None
        kept = []
        for number, patch in enumerate(torch.split(embeds, per_patch)):
            stay, merge = merge_patch(patch, merge, settings.intra.video_keep)
            kept.append(stay + number * per_patch)
        index = torch.cat(kept)
        part = _Part(embeds[index], offsets[:, index], count * per_patch, last)
        return part, _owned(merge)

    # -- sound

    def audio_part(self, mel: torch.Tensor, intra: IntraSettings) -> _Part:
        """Tokens of one block's features [n_mels, frames <= 200], the least salient left out."""
        ((embeds, saliency),) = self._hear([mel])
        return _audio(embeds, saliency, intra)

    def _hear(self, mels: Sequence[torch.Tensor]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Embeddings [tokens, d] and saliency [tokens] of each block; those of one length go
        through the tower together.
        """
        found: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        lengths = [int(mel.shape[1]) for mel in mels]
        for length in dict.fromkeys(lengths):
            same = [n for n, other in enumerate(lengths) if other == length]
            found.update(zip(same, self._blocks(torch.stack([mels[n] for n in same])), strict=True))
        return [found[n] for n in range(len(mels))]

    def _blocks(self, mels: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """The same for blocks of one length, mels [B, n_mels, frames]."""
        tower = self._audio
        x = torch.nn.functional.gelu(tower.conv1(self._moved(mels)))
        x = torch.nn.functional.gelu(tower.conv2(x)).transpose(1, 2)
        blocks, length, width = x.shape
        x = x + tower.positional_embedding.positional_embedding[:length].to(x.dtype)
        x = x.reshape(blocks * length, width)
        within = self._within(blocks, length)
        for layer in self._layers[:-1]:
            x = layer(x, **within)[0]
        saliency = self._saliency(tower.layers[-1], x, blocks)
        x = self._layers[-1](x, **within)[0]
        pairs = x.view(blocks, length, width)[:, : length // 2 * 2].unflatten(1, (-1, 2))
        embeds = tower.proj(tower.ln_post((pairs[:, :, 0] + pairs[:, :, 1]) / 2))
        return list(zip(embeds, saliency, strict=True))

    def _within(self, blocks: int, length: int) -> dict[str, Any]:
        """Where a layer's attention ends, as its kind wants it."""
        if not self._flash:
            return {"cu_seqlens": None, "blocks": blocks}
        ends = torch.arange(0, blocks * length + 1, length, dtype=torch.int32, device=self._device)
        return {"cu_seqlens": ends, "max_seqlen": length}

    @staticmethod
    def _saliency(layer: Any, x: torch.Tensor, blocks: int) -> list[torch.Tensor]:
        """Received attention of each block's tokens in the last layer's true block attention."""
        attention = layer.self_attn
        normed = layer.self_attn_layer_norm(x)
        shape = (blocks, x.shape[0] // blocks, attention.num_heads, -1)
        q = attention.q_proj(normed).view(shape).transpose(1, 2)
        k = attention.k_proj(normed).view(shape).transpose(1, 2)
        return [
            audio_saliency(block_attention(q[n], k[n], scale=attention.scaling))
            for n in range(blocks)
        ]

    def _joined(self, parts: list[tuple[Modality, _Part]]) -> ChunkTokens:
        device = self._device
        if not parts:
            width = int(self._audio.proj.out_features)
            empty = torch.zeros(0, width, dtype=self._dtype, device=device)
            none = torch.zeros(0, dtype=torch.uint8, device=device)
            offsets = torch.zeros(3, 0, dtype=torch.long, device=device)
            return ChunkTokens(empty, none, offsets, 0, 0)
        kinds = [torch.full((p.embeds.shape[0],), int(m), dtype=torch.uint8) for m, p in parts]
        saliency = [
            p.embeds.new_zeros(p.embeds.shape[0], dtype=torch.float32)
            if p.saliency is None
            else p.saliency
            for _, p in parts
        ]
        return ChunkTokens(
            embeds=torch.cat([p.embeds for _, p in parts]),
            modality=moved(torch.cat(kinds), device),
            offsets=torch.cat([p.offsets for _, p in parts], dim=1),
            n_unpruned=sum(p.n_unpruned for _, p in parts),
            n_unpruned_video=sum(p.n_unpruned for m, p in parts if m is Modality.VIDEO),
            last_id=parts[-1][1].last_id,
            saliency=torch.cat(saliency),
            n_video=sum(p.embeds.shape[0] for m, p in parts if m is Modality.VIDEO),
        )


def _pictures(chunk: Chunk) -> np.ndarray | None:
    return chunk.frames if chunk.frames is not None and len(chunk.frames) else None


def _audio(embeds: torch.Tensor, saliency: torch.Tensor, intra: IntraSettings) -> _Part:
    n = int(embeds.shape[0])
    offsets = moved(audio_offsets(n), embeds.device)
    if not intra.enabled:
        return _Part(embeds, offsets, n, (n - 1, -1), saliency)
    stay = keep_salient(saliency, intra.audio_keep)
    return _Part(embeds[stay], offsets[:, stay], n, (n - 1, -1), saliency[stay])


def _owned(merge: MergeCarry | None) -> MergeCarry | None:
    """The carry with a reference of its own: a view would keep the whole batch alive."""
    return None if merge is None else replace(merge, reference=merge.reference.clone())
