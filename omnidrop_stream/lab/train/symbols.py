"""Symbolic streams: a chunk's few tokens are text embeddings of what it holds. Binding is learnt
on these first.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from omnidrop_stream.lab.train.batches import N_COLOUR, N_SOUND, Streams, draw_streams
from omnidrop_stream.lab.train.language import Block

Tensor = torch.Tensor


class Symbols(nn.Module):
    """Embeds streams as `video_tokens` + `audio_tokens` a chunk; one or more of each hold the item,
    the rest background.

    `video_base` and `audio_base` are the background vectors, which the projections later learn to
    reproduce.
    """

    def __init__(
        self, width: int, names: tuple[list[int], list[int], list[int]], generator: torch.Generator
    ) -> None:
        super().__init__()
        self.video_base = nn.Parameter(torch.randn(width, generator=generator) * 0.3)
        self.audio_base = nn.Parameter(torch.randn(width, generator=generator) * 0.3)
        colour, kind, sound = (torch.tensor(n) for n in names)
        self.colour_ids, self.kind_ids, self.sound_ids = colour, kind, sound

    def thing(self, embed: Tensor, colour: Tensor, kind: Tensor) -> Tensor:
        """What a token that shows the thing should be; the background where there is none [...,
        d].
        """
        none = colour >= len(self.colour_ids)
        c = embed[self.colour_ids[colour.clamp(max=len(self.colour_ids) - 1)]]
        k = embed[self.kind_ids[kind.clamp(max=len(self.kind_ids) - 1)]]
        return torch.where(none[..., None], self.video_base, c + k)

    def heard(self, embed: Tensor, sound: Tensor) -> Tensor:
        """What a token in which the sound is heard should be [..., d]."""
        none = sound >= len(self.sound_ids)
        s = embed[self.sound_ids[sound.clamp(max=len(self.sound_ids) - 1)]]
        return torch.where(none[..., None], self.audio_base, s + self.audio_base)

    def forward(
        self,
        embed: Tensor,
        streams: Streams,
        video_tokens: int,
        audio_tokens: int,
        generator: torch.Generator,
        noise: float = 0.0,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Block [B, m * (nv + na), d], which video cells [B, m, nv] and audio tokens [B, m, na] it
        stands for, and which of its rows show the items: bool [B, m, nv + na].
        """
        shape = streams.colour.shape
        cells = (
            torch.rand(*shape, 128, generator=generator).topk(video_tokens).indices.sort(-1).values
        )
        places = (
            torch.rand(*shape, 50, generator=generator).topk(audio_tokens).indices.sort(-1).values
        )
        on_v, on_a = (_some_of(shape, n, generator) for n in (video_tokens, audio_tokens))
        thing = self.thing(embed, streams.colour, streams.kind)[:, :, None]
        heard = self.heard(embed, streams.sound)[:, :, None]
        video = torch.where(on_v[..., None], thing, self.video_base)
        audio = torch.where(on_a[..., None], heard, self.audio_base)
        block = torch.cat([video, audio], 2)
        block = block + noise * torch.randn(block.shape, generator=generator)
        shown = torch.cat([on_v, on_a], 2)
        return block.view(shape[0], -1, block.shape[-1]), cells, places, shown


class SymbolSource:
    """Streams of symbols; see `language.Source`."""

    def __init__(
        self,
        symbols: Symbols,
        embed: nn.Embedding,
        blank: float,
        repeat: float,
        video_tokens: int,
        audio_tokens: int,
        seed: int,
        noise: float = 0.0,
    ) -> None:
        self.noise = noise
        self.symbols, self.embed = symbols, embed
        self.blank, self.repeat = blank, repeat
        self.video_tokens, self.audio_tokens = video_tokens, audio_tokens
        self.generator = torch.Generator().manual_seed(seed)

    def draw(self, rng: np.random.Generator, batch: int, chunks: int) -> Block:
        """Random contents as text embeddings."""
        streams = draw_streams(rng, batch, chunks, self.blank, self.repeat)
        self.generator.manual_seed(int(rng.integers(2**62)))
        block, cells, places, shown = self.symbols(
            self.embed.weight,
            streams,
            self.video_tokens,
            self.audio_tokens,
            self.generator,
            self.noise,
        )
        return Block(
            streams,
            block,
            list(cells.unbind(1)),
            list(places.unbind(1)),
            self._marked(streams, shown),
        )

    def _marked(self, streams: Streams, shown: Tensor) -> Tensor:
        """shown bool [B, m, nv + na] -> bool [B, N, m, 2], only where there is an item."""
        batch, m, size = shown.shape
        is_video = torch.arange(size) < self.video_tokens
        there = torch.stack([streams.colour < N_COLOUR, streams.sound < N_SOUND], -1)
        out = torch.zeros(batch, m, size, m, 2, dtype=torch.bool)
        for i in range(m):
            out[:, i, :, i, 0] = shown[:, i] & is_video & there[:, i, :1]
            out[:, i, :, i, 1] = shown[:, i] & ~is_video & there[:, i, 1:]
        return out.view(batch, m * size, m, 2)

    def tokens_per_chunk(self) -> float:
        """Tokens a chunk takes."""
        return self.video_tokens + self.audio_tokens

    def parameters(self) -> list[nn.Parameter]:
        """The two background vectors."""
        return list(self.symbols.parameters())


def _some_of(shape: torch.Size, count: int, generator: torch.Generator) -> Tensor:
    """At least one of `count` places: bool [*shape, count]."""
    drawn = torch.rand(*shape, count, generator=generator)
    share = torch.rand(*shape, 1, generator=generator)
    return (drawn < share) | (drawn == drawn.amin(-1, keepdim=True))
