"""The stock path: the checkpoint's own forward over a whole unpruned window at question time.

What a plain use of transformers does, and the kindest reading of it: pictures and sound are already
cut into patches and log-mel frames, positions are given, only the last position goes through the
head. ``as_shipped`` is the unchanged ``forward`` beside it (all positions through the head).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from omnidrop_stream.lab.bench_feed import QUESTION
from omnidrop_stream.model.mel import MelCarry, chunk_mel
from omnidrop_stream.model.parts import parts_of
from omnidrop_stream.model.pixels import fit_size, patchify, resize_frames
from omnidrop_stream.model.prefill import tail_positions
from omnidrop_stream.model.qwen_omni import QwenOmni
from omnidrop_stream.model.rope import audio_offsets, block_positions, text_positions, video_offsets
from omnidrop_stream.model.template import ChatTemplate
from omnidrop_stream.types import Chunk, Modality, StreamKind

TOKENS_PER_MEL_FRAME = 1 / 4


class StockWindow:
    """One window and one question, made ready for the stock model on its device."""

    def __init__(
        self, model: QwenOmni, chunks: Sequence[Chunk], system: str, frame_tokens: int
    ) -> None:
        self._thinker = model.thinker
        self._spec = spec = model.spec
        self._template = ChatTemplate(model.tokenizer, StreamKind.AV)
        prompt, markers = self._template.prompt(system)
        tail = self._template.tail(QUESTION)
        base = len(prompt) - markers + 1
        before = text_positions(0, len(prompt)).clone()
        before[:, base:] = base - 1
        ids, positions = list(prompt), [before]
        pixels, mels = [], []
        carry, patches, size = MelCarry(), 0, (0, 0)
        for slot, chunk in enumerate(chunks):
            if chunk.frames is None or chunk.audio is None:
                raise ValueError("the stock window is built of chunks with frames and audio")
            height, width = int(chunk.frames.shape[1]), int(chunk.frames.shape[2])
            size = fit_size(height, width, frame_tokens, spec.pixels.factor)
            pixels.append(patchify(resize_frames(chunk.frames, size), spec.pixels))
            mel, carry = chunk_mel(
                chunk.audio, chunk.audio_left, chunk.audio_right, carry, int(self._n_mels)
            )
            mels.append(mel)
            count = -(-len(chunk.frames) // spec.pixels.temporal_patch_size)
            patches += count
            sound = int(mel.shape[1] * TOKENS_PER_MEL_FRAME)
            piece = self._piece(size, count, sound, chunk.fps, slot, base)
            positions.append(piece)
            pictures = piece.shape[1] - sound
            ids += [self._id("<|VIDEO|>")] * pictures + [self._id("<|AUDIO|>")] * sound
        self.tokens = len(ids) - len(prompt)
        positions.append(
            tail_positions(int(positions[-1][:, -1].max()) + 1, tail.markers, len(tail.ids))
        )
        ids += tail.ids
        self._place(ids, torch.cat(positions, dim=1), torch.cat(pixels), torch.cat(mels, dim=1))
        side = spec.pixels.patch_size
        self._grid = torch.tensor(
            [[patches, size[0] // side, size[1] // side]], device=self._ids.device
        )

    @property
    def _n_mels(self) -> int:
        return int(parts_of(self._thinker).audio.num_mel_bins)

    def _id(self, token: str) -> int:
        return self._template.special(token)

    def _piece(
        self, size: tuple[int, int], patches: int, sound: int, fps: float, slot: int, base: int
    ) -> torch.Tensor:
        """Ids i64 [3, n] of a chunk's unpruned tokens."""
        p = self._spec.pixels
        pictures = video_offsets(
            patches,
            size[0] // p.factor,
            size[1] // p.factor,
            self._spec.ids_per_second * p.temporal_patch_size / fps,
        )
        kinds = [torch.full((pictures.shape[1],), int(Modality.VIDEO))]
        kinds.append(torch.full((sound,), int(Modality.AUDIO)))
        offsets = torch.cat([pictures, audio_offsets(sound)], dim=1)
        return block_positions(offsets, torch.cat(kinds), slot, base, self._spec.ids_per_chunk)

    def _place(
        self, ids: list[int], positions: torch.Tensor, pixels: torch.Tensor, mel: torch.Tensor
    ) -> None:
        weight = self._thinker.lm_head.weight
        device, dtype = weight.device, weight.dtype
        self._ids = torch.tensor([ids], device=device)
        self._positions = positions[:, None].to(device)
        self._pixels = pixels.to(device, dtype)
        self._mel = mel[None].to(device, dtype)
        self._mel_mask = torch.ones(1, mel.shape[1], dtype=torch.long, device=device)

    @torch.inference_mode()
    def towers(self) -> torch.Tensor:
        """Both encoders over the whole window, placed among the text: embeddings [1, N, d]."""
        pictures = self._thinker.get_video_features(self._pixels, self._grid).pooler_output
        sound = self._thinker.get_audio_features(
            self._mel, feature_attention_mask=self._mel_mask
        ).last_hidden_state
        embeds: torch.Tensor = self._thinker.get_input_embeddings()(self._ids)
        embeds[self._ids == self._id("<|VIDEO|>")] = torch.cat(list(pictures)).to(embeds.dtype)
        embeds[self._ids == self._id("<|AUDIO|>")] = sound.to(embeds.dtype)
        return embeds

    @torch.inference_mode()
    def layers(self, embeds: torch.Tensor) -> torch.Tensor:
        """All decoder layers over the window, the last position through the head: [vocabulary]."""
        out = parts_of(self._thinker).text(
            inputs_embeds=embeds, position_ids=self._positions, use_cache=True
        )
        logits: torch.Tensor = self._thinker.lm_head(out.last_hidden_state[:, -1:])
        return logits[0, -1].float()

    @torch.inference_mode()
    def as_shipped(self) -> torch.Tensor:
        """The stock ``forward`` with everything in it; logits [vocabulary] of the last position."""
        out = self._thinker(
            input_ids=self._ids,
            attention_mask=torch.ones_like(self._ids),
            pixel_values_videos=self._pixels,
            video_grid_thw=self._grid,
            video_second_per_grid=torch.tensor([1.0]),
            input_features=self._mel,
            feature_attention_mask=self._mel_mask,
            use_audio_in_video=True,
            use_cache=True,
        )
        logits: torch.Tensor = out.logits
        return logits[0, -1].float()
