"""Look before reading: stages on real features in which what is to be pruned is pruned.

The writing layers that come first are taught to leave the stream alone while they work out the
question; layers that only look find the evidence; the layers that read come after them and see, in
some batches, only what random drops or the shipped schedule have left. The truth supervises where
is looked; the model card says so.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict
from torch import nn

from omnidrop_stream.config import PruningConfig
from omnidrop_stream.lab.train.batches import IGNORE, Asked, slots
from omnidrop_stream.lab.train.language import Block, LanguageTask, embed_prefix, positions_of
from omnidrop_stream.lab.train.look import cells_of, look_loss, raised_loss
from omnidrop_stream.lab.train.packed import naming_loss
from omnidrop_stream.lab.train.pruned import (
    ByLot,
    BySchedule,
    KeepAll,
    Leaving,
    Packed,
    Passed,
    pruned_forward,
)
from omnidrop_stream.lab.train.state import StageFiles, learning_rate
from omnidrop_stream.method import PruningPolicy
from omnidrop_stream.plan import policy_for, schedule_for
from omnidrop_stream.world.questions import ALL_KINDS

Tensor = torch.Tensor
Mode = Literal["full", "lot", "schedule"]
MODES: tuple[Mode, ...] = ("full", "lot", "schedule")
CHUNK_TOKENS = 178
"""Tokens of a chunk before any pruning."""
LITTLE = 0.01
"""Attention to the stream that early layers may keep: below it the loss on it hardly falls."""
ENTERING_SHARE = (64 + 3 * 12 + 2 * 35) / (4 * 64 + 2 * 50)


class LateSettings(BaseModel):
    """One stage. Layers are numbered as trained.

    early: layers that must leave the stream alone; looking: layers that write nothing; reading: the
    rest. stands_for: for each trained layer the layers of the shipped model that it will be. modes:
    how often a batch sees all tokens, what random drops left, what the schedule left. retention:
    range of the schedule's target; lot: range of the share that random drops leave for the first
    reading layer, and `lot_on` of it in each later one. helped: in the schedule's batches, share of
    the questions whose evidence is kept whatever the scores say (first, last value). A question
    whose evidence has left before the first reading layer is not learnt from.
    look, read, aside, raised, neighbours: weights of the losses on where looking and reading layers
    attend, on what early ones attend to at all and how they rank it, and of the side tasks, whose
    heads are new and for `side_warm` steps teach nobody. look_settings: weights within `look`.
    hidden: share of the batches in which early layers cannot see the stream.
    Lengths are drawn evenly in their logarithm, `long_share` of them from the longer half;
    emphasis: more questions of some kinds.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    steps: int
    lr: float = 8e-4
    look_lr: float = 2e-3
    early: tuple[int, ...]
    looking: tuple[int, ...]
    stands_for: tuple[tuple[int, ...], ...]
    size: int = 6000
    questions: int = 20
    first_chunks: int = 2
    most_chunks: int = 32
    long_share: float = 0.0
    hidden: float = 0.0
    modes: tuple[float, float, float] = (0.3, 0.25, 0.45)
    retention: tuple[float, float] = (0.18, 0.42)
    lot: tuple[float, float] = (0.25, 0.9)
    lot_on: float = 0.6
    helped: tuple[float, float] = (0.5, 0.0)
    look: float = 0.15
    look_tokens: float = 0.1
    look_aside: float = 0.3
    read: float = 0.1
    aside: float = 0.5
    raised: float = 0.05
    neighbours: float = 0.2
    neighbour_layer: int = 1
    side_warm: int = 80
    emphasis: dict[str, float] = {}
    blank: float = 0.6
    repeat: float = 0.5
    gaps: float = 0.3
    most_slots: int = 64
    rolled: float = 0.15
    warm: int = 30
    decay: float = 0.0
    weight_decay: float = 0.02
    seed: int = 0
    report_every: int = 25
    pause_at: int = 0

    @property
    def reading(self) -> tuple[int, ...]:
        """Layers that neither only look nor leave the stream alone."""
        rest = set(range(len(self.stands_for))) - set(self.early) - set(self.looking)
        return tuple(sorted(rest))

    @property
    def layers(self) -> int:
        """Of the shipped model."""
        return sum(len(numbers) for numbers in self.stands_for)


@dataclass(frozen=True, slots=True)
class Batch:
    """Streams, questions about what has not left, and which tokens show their evidence (items bool
    [B, Q, N]); evidence bool [B, Q, m, 2] over all chunks of the block.
    """

    block: Block
    packed: Packed
    asked: Asked
    evidence: Tensor
    items: Tensor
    chunks: int


def draw_batch(
    task: LanguageTask,
    settings: LateSettings,
    weights: list[float],
    rng: np.random.Generator,
    coin: random.Random,
) -> Batch:
    """Random streams of a random length, in some of which the first chunks have left."""
    s, writer = settings, task.writer
    if coin.random() < s.long_share:
        m = coin.randint(s.most_chunks // 2, s.most_chunks)
    else:
        m = round(math.exp(coin.uniform(math.log(s.first_chunks), math.log(s.most_chunks))))
    size = len(writer.before) + 2 + m * task.source.tokens_per_chunk() + s.questions * 19
    batch = max(2, int(s.size // size))
    block = task.source.draw(rng, batch, m)
    left = coin.randint(1, m // 2) if m > 3 and coin.random() < s.rolled else 0
    asked = writer.write(block.streams.since(left), ALL_KINDS, weights, s.questions, rng)
    positions, start = positions_of(writer, block, slots(rng, batch, m, s.gaps, s.most_slots))
    chunk = cells_of(block) // 2
    packed = Packed(
        embed_prefix(task.language, writer, block.embeds),
        positions,
        slice(len(writer.before), len(writer.before) + len(chunk)),
        chunk < left,
        asked,
        start,
    )
    evidence = F.pad(asked.evidence, (0, 0, left, 0))
    items = torch.einsum("bqme,bnme->bqn", evidence.float(), block.tokens.float()) > 0
    return Batch(block, packed, asked, evidence, items, m - left)


def leaving_of(
    mode: Mode,
    settings: LateSettings,
    batch: Batch,
    helped: float,
    rng: np.random.Generator,
    coin: random.Random,
) -> Leaving:
    """What leaves in a batch of this mode."""
    s = settings
    if mode == "full":
        return KeepAll()
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    if mode == "lot":
        low, high = (math.log(share) for share in s.lot)
        first = math.exp(coin.uniform(low, high))
        shares = (first, *[s.lot_on] * (len(s.reading) - 1))
        return ByLot(s.reading[0] - 1, shares, generator)
    policy = shipped_rule(s, coin.uniform(*s.retention))
    layers = s.layers
    cell = cells_of(batch.block)
    count = int((~batch.packed.gone).sum())
    entering = policy.counts(count, layers, batch.chunks * CHUNK_TOKENS)
    chosen = torch.rand(batch.items.shape[:2], generator=generator) < helped
    best = batch.items & chosen[..., None]
    return BySchedule(policy, entering, s.stands_for, cell // 2, cell % 2, best)


def shipped_rule(settings: LateSettings, retention: float) -> PruningPolicy:
    """The policy that a target means for the finished model. Raises ConfigError for a target that
    its schedule cannot reach.
    """
    pruning = PruningConfig(policy="omnidrop", retention=retention)
    return policy_for(pruning, schedule_for(pruning, settings.layers, ENTERING_SHARE))


def answerable(batch: Batch, visible: Tensor) -> Tensor:
    """Questions of which every event still has a token among the visible ones: bool [B, Q]."""
    tokens = batch.block.tokens
    left = torch.einsum("bqn,bnme->bqme", visible.float(), tokens.float()) > 0
    lost = batch.evidence & tokens.any(1)[:, None] & ~left
    return ~lost.flatten(2).any(-1)


def losses_of(
    task: LanguageTask, settings: LateSettings, batch: Batch, passed: Passed, side: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss; of each question whether it was learnt from, and whether its answer is right
    [B, Q].
    """
    s, labels = settings, batch.asked.labels
    learnt = answerable(batch, passed.visible[s.reading[0]])
    logits = task.head(passed.states[labels != IGNORE])
    wanted = labels[labels != IGNORE]
    use = learnt[..., None].expand_as(labels)[labels != IGNORE].float()
    each = F.cross_entropy(logits, wanted, reduction="none")
    total = (each * use).sum() / use.sum().clamp(min=1)
    hit = torch.ones_like(labels, dtype=torch.bool)
    hit[labels != IGNORE] = logits.detach().argmax(-1) == wanted
    cell = cells_of(batch.block)
    looked = [
        look_loss(passed.scores[i], batch.block, batch.evidence, s.look_tokens, 1.0, s.look_aside)
        for i in s.looking
    ]
    read = [naming_loss(passed.scores[i], cell, batch.evidence) for i in s.reading]
    scored = [i for i in s.early if i in passed.scores]
    aside = [torch.log1p(passed.mass[i] / LITTLE) for i in scored]
    raised = [raised_loss(passed.scores[i], batch.items) for i in scored]
    for weight, parts in (
        (s.look, looked),
        (s.read, read),
        (s.aside, aside),
        (s.raised, raised),
    ):
        if weight and parts:
            total = total + weight * torch.stack(parts).mean()
    if s.neighbours:
        tapped = passed.tapped if side else passed.tapped.detach()
        total = (
            total
            + s.neighbours * task.side.loss(tapped, batch.block.streams, batch.block.tokens)[0]
        )
    return total, learnt, hit.all(-1)


def first_named(settings: LateSettings, batch: Batch, passed: Passed) -> Tensor:
    """Of the questions that rest on events, whether one lies in the chunk that would be named
    first.
    """
    s = settings
    half = s.layers // 2
    total = torch.zeros_like(batch.items, dtype=torch.float32)
    for layer, scores in passed.scores.items():
        total = total + sum(n >= half for n in s.stands_for[layer]) * scores.detach()
    cells = total.new_zeros(*total.shape[:2], batch.evidence[0, 0].numel())
    cells = cells.index_add(2, cells_of(batch.block), total).view(batch.evidence.shape)
    first = (cells - cells.mean(2, keepdim=True)).flatten(2).argmax(-1) // 2
    true = batch.evidence.any(-1)
    hit = true.gather(2, first[..., None])[..., 0]
    return hit[true.any(-1)]


@dataclass(slots=True)
class Progress:
    """Running figures; resumed with the rest."""

    step: int
    kinds: dict[str, float]
    modes: dict[str, float]
    named: float
    mass: float

    def note(self, asked: Asked, mode: Mode, learnt: Tensor, right: Tensor) -> None:
        """Take in a batch's answers."""
        for kind, used, ok in zip(
            asked.kind.flatten().tolist(),
            learnt.flatten().tolist(),
            right.flatten().tolist(),
            strict=True,
        ):
            if used:
                name = ALL_KINDS[kind]
                self.kinds[name] = 0.99 * self.kinds[name] + 0.01 * ok
        if learnt.any():
            now = float(right[learnt].float().mean())
            self.modes[mode] = 0.95 * self.modes[mode] + 0.05 * now

    def weights(self, emphasis: dict[str, float]) -> list[float]:
        """How often each kind is asked: weak ones more."""
        return [
            max(0.02, (1.05 - self.kinds[kind]) ** 2) * emphasis.get(kind, 1.0)
            for kind in ALL_KINDS
        ]


def _groups(task: LanguageTask, settings: LateSettings) -> list[dict[str, Any]]:
    s = settings
    looking = [p for i in s.looking for p in task.language.layers[i].parameters()]
    ids = {id(p) for p in looking}
    rest = [p for p in task.language.parameters() if id(p) not in ids]
    return [
        {"params": [*rest, *task.head.parameters()], "weight_decay": s.weight_decay, "base": s.lr},
        {"params": task.source.parameters(), "weight_decay": 0.0, "base": s.lr},
        {"params": looking, "weight_decay": 0.0, "base": s.look_lr},
        {"params": [*task.side.parameters()], "weight_decay": 0.0, "base": 2e-3},
    ]


def train_late(task: LanguageTask, settings: LateSettings, files: StageFiles) -> None:
    """Run one stage in place, from its saved state where there is one. Raises ConfigError for
    targets out of the schedule's reach before anything is trained.
    """
    s = settings
    for end in s.retention:
        shipped_rule(s, end)
    opt = torch.optim.AdamW(_groups(task, s), lr=s.lr, betas=(0.9, 0.98))
    params = [p for group in opt.param_groups for p in group["params"]]
    rng, coin = np.random.default_rng(s.seed), random.Random(s.seed)
    progress = Progress(0, dict.fromkeys(ALL_KINDS, 0.8), dict.fromkeys(MODES, 0.8), 0.7, 0.5)
    saved = files.load()
    if saved is not None:
        with torch.no_grad():
            for p, value in zip(params, saved["params"], strict=True):
                p.copy_(value)
        opt.load_state_dict(saved["optimiser"])
        rng.bit_generator.state = saved["rng"]
        coin.setstate((saved["coin"][0], tuple(saved["coin"][1]), saved["coin"][2]))
        progress = Progress(**saved["progress"])
    while progress.step < s.steps and (s.pause_at == 0 or progress.step < s.pause_at):
        factor = learning_rate(progress.step, s.steps, s.warm, s.decay)
        for group in opt.param_groups:
            group["lr"] = group["base"] * factor
        batch = draw_batch(task, s, progress.weights(s.emphasis), rng, coin)
        mode = coin.choices(MODES, s.modes)[0]
        first, last = s.helped
        helped = first + (last - first) * progress.step / s.steps
        leaving = leaving_of(mode, s, batch, helped, rng, coin)
        hidden = s.early if coin.random() < s.hidden else ()
        passed = pruned_forward(
            task.language, batch.packed, leaving, s.looking, s.neighbour_layer, hidden
        )
        loss, learnt, right = losses_of(task, s, batch, passed, side=progress.step >= s.side_warm)
        opt.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if torch.isfinite(nn.utils.clip_grad_norm_(params, 1.0)):
            opt.step()
        progress.step += 1
        if not hidden:
            progress.note(batch.asked, mode, learnt, right)
        named = first_named(s, batch, passed)
        if len(named):
            progress.named = 0.97 * progress.named + 0.03 * float(named.float().mean())
        mass = [float(passed.mass[i].detach()) for i in s.early if i in passed.mass]
        if mass:
            progress.mass = 0.9 * progress.mass + 0.1 * max(mass)
        if progress.step % s.report_every == 0 or progress.step == s.steps:
            _report(files, progress, float(loss.detach()), opt, params, rng, coin)


def _report(
    files: StageFiles,
    progress: Progress,
    loss: float,
    opt: torch.optim.Optimizer,
    params: list[nn.Parameter],
    rng: np.random.Generator,
    coin: random.Random,
) -> None:
    told: dict[str, Any] = {k: round(v, 3) for k, v in progress.modes.items()}
    told |= {"named": round(progress.named, 3), "early_mass": round(progress.mass, 4)}
    kinds = {k: round(v, 2) for k, v in progress.kinds.items()}
    files.log(progress.step, loss=round(loss, 3), **told, kinds=kinds)
    files.save(
        {
            "params": [p.detach() for p in params],
            "optimiser": opt.state_dict(),
            "rng": rng.bit_generator.state,
            "coin": list(coin.getstate()),
            "progress": {
                "step": progress.step,
                "kinds": progress.kinds,
                "modes": progress.modes,
                "named": progress.named,
                "mass": progress.mass,
            },
        }
    )
