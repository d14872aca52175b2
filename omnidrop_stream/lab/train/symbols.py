"""Symbolic streams: a chunk's few tokens are text embeddings of what it holds. Binding is learnt
on these first.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from omnidrop_stream.lab.train.batches import Streams, draw_streams
from omnidrop_stream.lab.train.language import Block

Tensor = torch.Tensor


class Symbols(nn.Module):
    """Embeds streams as `video_tokens` + `audio_tokens` a chunk; one of each holds the item, the
    rest background.

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
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Block [B, m * (nv + na), d], which video cells [B, m, nv] and audio tokens [B, m, na] it
        stands for, and at which of its rows the items are [B, m, 2].
        """
        shape = streams.colour.shape
        cells = (
            torch.rand(*shape, 128, generator=generator).topk(video_tokens).indices.sort(-1).values
        )
        places = (
            torch.rand(*shape, 50, generator=generator).topk(audio_tokens).indices.sort(-1).values
        )
        on_v = torch.randint(video_tokens, (*shape, 1), generator=generator) == torch.arange(
            video_tokens
        )
        on_a = torch.randint(audio_tokens, (*shape, 1), generator=generator) == torch.arange(
            audio_tokens
        )
        thing = self.thing(embed, streams.colour, streams.kind)[:, :, None]
        heard = self.heard(embed, streams.sound)[:, :, None]
        video = torch.where(on_v[..., None], thing, self.video_base)
        audio = torch.where(on_a[..., None], heard, self.audio_base)
        block = torch.cat([video, audio], 2)
        begin = torch.arange(shape[1]) * (video_tokens + audio_tokens)
        items = torch.stack([on_v.int().argmax(-1), on_a.int().argmax(-1) + video_tokens], -1)
        items = items + begin[:, None]
        return block.view(shape[0], -1, block.shape[-1]), cells, places, items


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
    ) -> None:
        self.symbols, self.embed = symbols, embed
        self.blank, self.repeat = blank, repeat
        self.video_tokens, self.audio_tokens = video_tokens, audio_tokens
        self.generator = torch.Generator().manual_seed(seed)

    def draw(self, rng: np.random.Generator, batch: int, chunks: int) -> Block:
        """Random contents as text embeddings."""
        streams = draw_streams(rng, batch, chunks, self.blank, self.repeat)
        self.generator.manual_seed(int(rng.integers(2**62)))
        block, cells, places, items = self.symbols(
            self.embed.weight, streams, self.video_tokens, self.audio_tokens, self.generator
        )
        return Block(
            streams,
            block,
            list(cells.unbind(1)),
            list(places.unbind(1)),
            items,
            _marked(items, block.shape[1]),
        )

    def tokens_per_chunk(self) -> float:
        """Tokens a chunk takes."""
        return self.video_tokens + self.audio_tokens

    def parameters(self) -> list[nn.Parameter]:
        """The two background vectors."""
        return list(self.symbols.parameters())


def _marked(items: Tensor, rows: int) -> Tensor:
    """items [B, m, 2] -> bool [B, rows, m, 2]."""
    return torch.arange(rows)[None, :, None, None] == items[:, None]
