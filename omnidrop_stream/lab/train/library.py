"""Tower features of rendered streams, recombined into endless new ones, pruned within each
modality as deployed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from omnidrop_stream.lab.train.batches import N_COLOUR, N_SOUND, Streams, draw_streams
from omnidrop_stream.lab.train.features import IGNORE, patches, render_pool
from omnidrop_stream.lab.train.language import Block
from omnidrop_stream.lab.train.symbols import Symbols
from omnidrop_stream.lab.train.towers import audio_hidden, vision_hidden
from omnidrop_stream.world.items import Split

Tensor = torch.Tensor
STREAM_CHUNKS = 32
AUDIO_KEPT = 35


@dataclass(frozen=True, slots=True)
class Library:
    """Chunks of rendered streams in order, 32 to a stream.

    video f16 [N, 2, cells, dv] and audio f16 [N, 50, da] before the last projections; received [N,
    50]: what the audio tower's last layer attends to; colour, kind, sound [N]; on_thing [N, 2,
    cells] and on_sound [N, 50]: token classes (1 the item, 0 nothing, -100 the border).
    """

    video: Tensor
    audio: Tensor
    received: Tensor
    colour: Tensor
    kind: Tensor
    sound: Tensor
    on_thing: Tensor
    on_sound: Tensor


@torch.no_grad()
def build_library(
    model: Any, split: Split, seeds: Sequence[int], things: float, sounds: float, grid: int = 8
) -> Library:
    """Render streams and run both towers over them."""
    parts: list[Library] = []
    patch = int(model.visual.config.patch_size)
    for at in range(0, len(seeds), 10):
        frames, mel, labels = render_pool(
            split, seeds[at : at + 10], STREAM_CHUNKS, things, sounds, grid
        )
        video = [
            vision_hidden(model.visual, patches(f, patch), grid).half()
            for f in torch.split(frames, 32)
        ]
        audio = [audio_hidden(model.audio_tower, m.float()) for m in torch.split(mel, 128)]
        on_thing = torch.where(labels.colour == IGNORE, IGNORE, (labels.colour < N_COLOUR).long())
        on_sound = torch.where(labels.sound == IGNORE, IGNORE, (labels.sound < N_SOUND).long())
        parts.append(
            Library(
                torch.cat(video).reshape(len(frames), 2, grid * grid, -1),
                torch.cat([h for h, _ in audio]).half(),
                torch.cat([r for _, r in audio]),
                labels.thing_colour,
                labels.thing_kind,
                labels.heard,
                on_thing.to(torch.int8),
                on_sound.to(torch.int8),
            )
        )
    return Library(*(torch.cat([getattr(p, name) for p in parts]) for name in Library.__slots__))


def merge_keep(embeds: Tensor, keep: float = 0.2) -> list[Tensor]:
    """Temporal token merging over one window: [B, patches <= 4, n, d] -> kept indices [B, k] for
    each patch.
    """
    batch, count, n, _ = embeds.shape
    out = [torch.arange(n).expand(batch, n)]
    for place, reference in ((1, 0), (2, 0), (3, 2)):
        if place < count:
            alike = F.cosine_similarity(embeds[:, place], embeds[:, reference], dim=-1)
            out.append(alike.argsort(dim=-1, stable=True)[:, : int(keep * n)].sort(-1).values)
    return out


class FeatureSource:
    """Streams from a library; see `language.Source`.

    `mix` draws windows (two chunks) of pictures and chunks of sound from anywhere, else streams
    are taken as they were rendered. `thin` keeps only 8 video and 10 audio tokens a chunk, the
    item's first (an early stage).
    """

    def __init__(
        self,
        library: Library,
        model: Any,
        blank: float,
        repeat: float,
        mix: bool = True,
        thin: bool = False,
        pruned: bool = True,
    ) -> None:
        self.library, self.blank, self.repeat = library, blank, repeat
        self.mix, self.thin, self.pruned = mix, thin, pruned
        self.video_out: nn.Linear = model.visual.merger.mlp[-1]
        self.audio_out: nn.Linear = model.audio_tower.proj
        shown = library.colour.view(-1, 2) < N_COLOUR
        self._windows = [
            (shown == torch.tensor(pattern)).all(1).nonzero()[:, 0]
            for pattern in ((False, False), (False, True), (True, False), (True, True))
        ]
        self._sounds = [(library.sound == s).nonzero()[:, 0] for s in range(N_SOUND + 1)]

    def parameters(self) -> list[nn.Parameter]:
        """Both towers' last projections."""
        return [*self.video_out.parameters(), *self.audio_out.parameters()]

    def tokens_per_chunk(self) -> float:
        """Tokens a chunk takes, on average."""
        return 18.0 if self.thin else 85.0 if self.pruned else 178.0

    def draw(self, rng: np.random.Generator, batch: int, chunks: int) -> Block:
        """A batch of streams of real features."""
        seen, heard = self._rows(rng, batch, chunks)
        lib = self.library
        streams = Streams(lib.colour[seen], lib.kind[seen], lib.sound[heard])
        cells = self._thin_cells(rng, seen) if self.thin else self._cells(seen)
        places = self._places(rng, heard)
        parts = []
        for i in range(chunks):
            video = lib.video[seen[:, i]].flatten(1, 2)
            video = video.gather(1, cells[i][..., None].expand(-1, -1, video.shape[-1])).float()
            audio = lib.audio[heard[:, i]]
            audio = audio.gather(1, places[i][..., None].expand(-1, -1, audio.shape[-1])).float()
            parts += [self.video_out(video), self.audio_out(audio)]
        embeds = torch.cat(parts, 1)
        tokens = self._tokens(seen, heard, cells, places)
        return Block(streams, embeds, cells, places, tokens)

    def _tokens(
        self, seen: Tensor, heard: Tensor, cells: list[Tensor], places: list[Tensor]
    ) -> Tensor:
        """Which rows of the block show each chunk's thing and sound: bool [B, N, m, 2]."""
        sizes = [v.shape[1] + a.shape[1] for v, a in zip(cells, places, strict=True)]
        out = torch.zeros(len(seen), sum(sizes), len(cells), 2, dtype=torch.bool)
        at = 0
        for i, (video, audio) in enumerate(zip(cells, places, strict=True)):
            middle = at + video.shape[1]
            thing = self.library.on_thing[seen[:, i]].flatten(1).gather(1, video)
            sound = self.library.on_sound[heard[:, i]].gather(1, audio)
            out[:, at:middle, i, 0] = thing == 1
            out[:, middle : middle + audio.shape[1], i, 1] = sound == 1
            at += sizes[i]
        return out

    def _rows(self, rng: np.random.Generator, batch: int, chunks: int) -> tuple[Tensor, Tensor]:
        """Library rows of the pictures and of the sounds [B, m]."""
        if not self.mix:
            stream = rng.integers(len(self.library.colour) // STREAM_CHUNKS, size=(batch, 1))
            rows = torch.from_numpy(stream * STREAM_CHUNKS + np.arange(chunks))
            return rows, rows
        wanted = draw_streams(rng, batch, chunks + chunks % 2, self.blank, self.repeat)
        pattern = (wanted.colour < N_COLOUR).view(batch, -1, 2).long()
        bucket = pattern[..., 0] * 2 + pattern[..., 1]
        window = self._choose(rng, self._windows, bucket)
        seen = (window[..., None] * 2 + torch.arange(2)).view(batch, -1)[:, :chunks]
        return seen, self._choose(rng, self._sounds, wanted.sound[:, :chunks])

    @staticmethod
    def _choose(rng: np.random.Generator, buckets: list[Tensor], wanted: Tensor) -> Tensor:
        flat = [buckets[b][int(rng.integers(len(buckets[b])))] for b in wanted.flatten().tolist()]
        return torch.stack(flat).view(wanted.shape)

    @torch.no_grad()
    def _cells(self, seen: Tensor) -> list[Tensor]:
        """Video tokens of each chunk that are left by temporal token merging."""
        out, n = [], self.library.video.shape[2]
        if not self.pruned:
            return [torch.arange(2 * n).expand(len(seen), -1)] * seen.shape[1]
        for i in range(0, seen.shape[1], 2):
            window = self.library.video[seen[:, i : i + 2]].flatten(1, 2).float()
            kept = merge_keep(self.video_out(window))
            for j in range(0, len(kept), 2):
                out.append(torch.cat([kept[j], kept[j + 1] + n], 1))
        return out

    def _thin_cells(self, rng: np.random.Generator, seen: Tensor) -> list[Tensor]:
        flags = (self.library.on_thing[seen] == 1).flatten(2).float()
        score = torch.from_numpy(rng.random(flags.shape)).float() + flags
        return list(score.topk(8).indices.sort(-1).values.unbind(1))

    def _places(self, rng: np.random.Generator, heard: Tensor) -> list[Tensor]:
        if self.thin:
            flags = (self.library.on_sound[heard] == 1).float()
            score = torch.from_numpy(rng.random(flags.shape)).float() + 0.5 * flags
            return list(score.topk(10).indices.sort(-1).values.unbind(1))
        if not self.pruned:
            return [torch.arange(50).expand(len(heard), -1)] * heard.shape[1]
        kept = self.library.received[heard].topk(AUDIO_KEPT).indices.sort(-1).values
        return list(kept.unbind(1))


@torch.no_grad()
def ridge_start(
    library: Library, model: Any, symbols: Symbols, embed: Tensor, rng: torch.Generator
) -> tuple[float, float]:
    """Set both last projections in closed form, from features to the symbols' embeddings; R^2 of
    audio and video.
    """
    rows = torch.randperm(len(library.colour), generator=rng)[:3000]
    x = library.audio[rows].flatten(0, 1).float()
    state = library.on_sound[rows].flatten().long()
    sound = library.sound[rows][:, None].expand(-1, 50).flatten()
    sound = torch.where(state == 1, sound, torch.tensor(N_SOUND))
    use = state != IGNORE
    y = symbols.heard(embed, sound[use])
    weight = torch.where(state[use] == 1, 1.0, 0.3)
    audio = _ridge(x[use], y, weight, model.audio_tower.proj)
    rows = rows[:1500]
    cells = library.on_thing.shape[1] * library.on_thing.shape[2]
    x = library.video[rows].flatten(0, 2).float()
    state = library.on_thing[rows].flatten().long()
    colour = library.colour[rows][:, None].expand(-1, cells).flatten()
    colour = torch.where(state == 1, colour, torch.tensor(N_COLOUR))
    kind = library.kind[rows][:, None].expand(-1, cells).flatten()
    use = state != IGNORE
    y = symbols.thing(embed, colour[use], kind[use])
    weight = torch.where(state[use] == 1, 8.0, 1.0)
    return audio, _ridge(x[use], y, weight, model.visual.merger.mlp[-1])


def _ridge(x: Tensor, y: Tensor, weight: Tensor, layer: nn.Linear, strength: float = 1e-3) -> float:
    x = torch.cat([x, torch.ones(len(x), 1)], 1)
    weighted = x * weight[:, None]
    gram = x.t() @ weighted + strength * len(x) * torch.eye(x.shape[1])
    solution = torch.linalg.solve(gram, weighted.t() @ y)
    layer.weight.copy_(solution[:-1].t())
    layer.bias.copy_(solution[-1])
    centre = (y * weight[:, None]).sum(0) / weight.sum()
    left = ((x @ solution - y).pow(2).sum(1) * weight).sum()
    return 1 - float(left / ((y - centre).pow(2).sum(1) * weight).sum())
