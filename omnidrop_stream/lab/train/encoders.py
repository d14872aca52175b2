"""First stage: both towers learn, token by token, what is heard and seen ("nothing" elsewhere)."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict
from torch import nn

from omnidrop_stream.lab.train.features import AUDIO_TOKENS, IGNORE, Labels, patches, render_pool
from omnidrop_stream.lab.train.optim import Muon
from omnidrop_stream.lab.train.state import StageFiles, learning_rate
from omnidrop_stream.lab.train.towers import audio_hidden, vision_hidden
from omnidrop_stream.world.items import COLOUR_NAMES, KINDS, SOUNDS

Tensor = torch.Tensor
N_COLOUR, N_KIND, N_SOUND = len(COLOUR_NAMES), len(KINDS), len(SOUNDS)


class EncoderSettings(BaseModel):
    """One encoder stage: steps, batch (chunks), learning rate, how many streams to render and how
    long.

    attend: weight of the term that draws the last audio layer's attention to the sound's tokens.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int
    batch: int = 32
    lr: float = 2e-3
    streams: int = 300
    stream_chunks: int = 32
    test_streams: int = 12
    seed: int = 0
    report_every: int = 100
    attend: float = 0.05


def start_values(tower: nn.Module, layers: int) -> None:
    """Fan-in normal start; what writes to the residual stream is scaled down by depth."""
    for name, p in tower.named_parameters():
        if p.dim() >= 2 and "audio_bos" not in name:
            std = 1 / math.sqrt(p[0].numel())
            if any(k in name for k in ("out_proj", "fc2", "down_proj", "attn.proj")):
                std /= math.sqrt(2 * layers)
            nn.init.normal_(p, std=std)


def optimisers(tower: nn.Module, head: nn.Module, lr: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for everything else."""
    inner = [
        p for n, p in tower.named_parameters() if p.dim() == 2 and ("layers" in n or "blocks" in n)
    ]
    ids = {id(p) for p in inner}
    rest = [p for p in tower.parameters() if id(p) not in ids and p.requires_grad]
    return [
        Muon(inner, lr),
        torch.optim.AdamW([*rest, *head.parameters()], lr=lr, weight_decay=0.02),
    ]


class AudioTask:
    """Which sound, per audio token; the last layer's attention is drawn to where the sound is."""

    def __init__(self, tower: Any, settings: EncoderSettings) -> None:
        self.tower, self.settings = tower, settings
        self.head = nn.Linear(tower.config.d_model, N_SOUND + 1)
        self.weight = torch.ones(N_SOUND + 1)
        self.weight[N_SOUND] = 0.25

    def loss(
        self, pool: tuple[Tensor, Tensor, Labels], rows: Tensor, rng: torch.Generator
    ) -> Tensor:
        """Cross entropy per token, with noise, a masked band and a shift by whole tokens."""
        _, mel, labels = pool
        x = mel[rows].float()
        x = x + torch.randn(len(rows), 1, 1, generator=rng) * 0.08
        x = x + torch.randn(x.shape, generator=rng) * 0.03
        band = int(torch.randint(0, 112, (1,), generator=rng))
        x[:, :, band : band + int(torch.randint(0, 14, (1,), generator=rng))] = x.min()
        shift = int(torch.randint(0, AUDIO_TOKENS, (1,), generator=rng))
        x, y = torch.roll(x, 4 * shift, 1), torch.roll(labels.sound[rows], shift, 1)
        hidden, received = audio_hidden(self.tower, x)
        logits = self.head(hidden).flatten(0, 1)
        loss = F.cross_entropy(logits, y.flatten(), weight=self.weight, ignore_index=IGNORE)
        spoken = (y >= 0) & (y < N_SOUND)
        has = spoken.any(1)
        least = torch.where(spoken, received, 1.0).amin(1)[has]  # the weakest token of the word
        wanted = (1.2 / AUDIO_TOKENS / 2 - least).clamp(min=0) * AUDIO_TOKENS * 2
        return loss + self.settings.attend * wanted.sum() / max(1, int(has.sum()))

    @torch.no_grad()
    def report(self, pool: tuple[Tensor, Tensor, Labels]) -> dict[str, float]:
        """Shares right: sound tokens, other tokens, whole chunks; sound tokens among the top 35 of
        50.
        """
        _, mel, labels = pool
        parts = [audio_hidden(self.tower, m.float()) for m in torch.split(mel, 128)]
        logits = self.head(torch.cat([h for h, _ in parts]))
        top = torch.cat([r for _, r in parts]).topk(35, 1).indices
        kept = torch.zeros(len(mel), AUDIO_TOKENS, dtype=torch.bool).scatter(1, top, True)
        y, best = labels.sound, logits.argmax(-1)
        spoken, quiet = (y >= 0) & (y < N_SOUND), y == N_SOUND
        has = labels.heard < N_SOUND
        chunk = logits.softmax(-1)[..., :N_SOUND].sum(1).argmax(-1)
        return {
            "sound_tokens": _share((best == y)[spoken]),
            "other_tokens": _share((best == y)[quiet]),
            "chunks": _share((chunk == labels.heard)[has]),
            "kept": _share(kept[spoken]),
        }


class VisionTask:
    """Which colour and kind, per video token."""

    def __init__(self, tower: Any, settings: EncoderSettings) -> None:
        self.tower, self.settings = tower, settings
        self.grid, self.patch = 8, int(tower.config.patch_size)
        self.head = nn.Linear(tower.config.hidden_size, N_COLOUR + N_KIND + 2)
        self.colour_weight, self.kind_weight = torch.ones(N_COLOUR + 1), torch.ones(N_KIND + 1)
        self.colour_weight[N_COLOUR] = self.kind_weight[N_KIND] = 0.05

    def _logits(self, frames: Tensor) -> Tensor:
        hidden = vision_hidden(self.tower, patches(frames, self.patch), self.grid)
        out = self.head(hidden).view(len(frames), 2, self.grid * self.grid, -1)
        assert isinstance(out, Tensor)
        return out

    def loss(
        self, pool: tuple[Tensor, Tensor, Labels], rows: Tensor, rng: torch.Generator
    ) -> Tensor:
        """Cross entropy per token, with a change of brightness."""
        frames, _, labels = pool
        x = frames[rows].float()
        x = x * (0.9 + 0.2 * torch.rand(len(rows), 1, 1, 1, 1, generator=rng))
        out = self._logits(x.clamp(0, 255)).flatten(0, 2)
        colour, kind = labels.colour[rows].flatten(), labels.kind[rows].flatten()
        by_colour = F.cross_entropy(
            out[:, : N_COLOUR + 1], colour, weight=self.colour_weight, ignore_index=IGNORE
        )
        by_kind = F.cross_entropy(
            out[:, N_COLOUR + 1 :], kind, weight=self.kind_weight, ignore_index=IGNORE
        )
        return by_colour + by_kind

    @torch.no_grad()
    def report(self, pool: tuple[Tensor, Tensor, Labels]) -> dict[str, float]:
        """Shares right on the thing's tokens and on the background."""
        frames, _, labels = pool
        out = torch.cat([self._logits(f) for f in torch.split(frames, 64)])
        colour, kind = out[..., : N_COLOUR + 1].argmax(-1), out[..., N_COLOUR + 1 :].argmax(-1)
        on = (labels.colour >= 0) & (labels.colour < N_COLOUR)
        off = labels.colour == N_COLOUR
        votes = (out[..., N_COLOUR + 1 :].softmax(-1)[..., :N_KIND]).sum((1, 2)).argmax(-1)
        has = labels.thing_kind < N_KIND
        return {
            "colour": _share((colour == labels.colour)[on]),
            "kind": _share((kind == labels.kind)[on]),
            "background": _share((kind == labels.kind)[off]),
            "chunks": _share((votes == labels.thing_kind)[has]),
        }


def _share(right: Tensor) -> float:
    return round(float(right.float().mean()), 4)


def train_encoder(which: str, tower: Any, settings: EncoderSettings, files: StageFiles) -> None:
    """Train one tower ("audio" or "vision") in place, from its saved state where there is one."""
    task = AudioTask(tower, settings) if which == "audio" else VisionTask(tower, settings)
    torch.manual_seed(settings.seed)
    layers = len(tower.layers) if which == "audio" else len(tower.blocks)
    start_values(tower, layers)
    opts = optimisers(tower, task.head, settings.lr)
    rng, first = torch.Generator().manual_seed(settings.seed), 0
    saved = files.load()
    if saved is not None:
        tower.load_state_dict(saved["tower"])
        task.head.load_state_dict(saved["head"])
        for opt, state in zip(opts, saved["optimisers"], strict=True):
            opt.load_state_dict(state)
        rng.set_state(saved["rng"])
        first = saved["step"]
    if first >= settings.steps:
        return
    seeds = range(settings.seed * 100_000, settings.seed * 100_000 + settings.streams)
    things, sounds = (0.1, 1.0) if which == "audio" else (1.0, 0.1)
    pool = render_pool("train", list(seeds), settings.stream_chunks, things, sounds, 8)
    test = render_pool(
        "test", list(range(settings.test_streams)), settings.stream_chunks, 0.9, 0.9, 8
    )
    for step in range(first, settings.steps):
        factor = learning_rate(step, settings.steps, 40, 0.5)
        for opt in opts:
            for group in opt.param_groups:
                group["lr"] = settings.lr * factor
        rows = torch.randint(0, len(pool[0]), (settings.batch,), generator=rng)
        loss = task.loss(pool, rows, rng)
        for opt in opts:
            opt.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_([*tower.parameters(), *task.head.parameters()], 1.0)
        if torch.isfinite(norm):
            for opt in opts:
                opt.step()
        done = step + 1
        if done % settings.report_every == 0 or done == settings.steps:
            files.log(done, loss=round(float(loss.detach()), 4), **task.report(test))
            files.save(
                {
                    "tower": tower.state_dict(),
                    "head": task.head.state_dict(),
                    "optimisers": [opt.state_dict() for opt in opts],
                    "rng": rng.get_state(),
                    "step": done,
                }
            )
