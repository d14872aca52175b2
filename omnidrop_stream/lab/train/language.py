"""Stages of the language model: short streams first, longer ones as accuracy allows, weak kinds
more often.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict
from torch import nn

from omnidrop_stream.lab.train.batches import (
    IGNORE,
    SHORT_KINDS,
    Asked,
    QuestionWriter,
    Streams,
    prefix_positions,
    slots,
)
from omnidrop_stream.lab.train.neighbours import Neighbours
from omnidrop_stream.lab.train.packed import (
    Watch,
    evidence_loss,
    packed_forward,
    watched_scores,
)
from omnidrop_stream.lab.train.state import StageFiles, learning_rate
from omnidrop_stream.world.questions import ALL_KINDS

Tensor = torch.Tensor


@dataclass(frozen=True, slots=True)
class Block:
    """A batch of streams as the language model gets them.

    embeds [B, N, d]; cells, places: for each chunk place the kept video cells [B, nv] and audio
    tokens [B, na]; tokens bool [B, N, m, 2]: the rows that show each chunk's thing, and its sound.
    """

    streams: Streams
    embeds: Tensor
    cells: list[Tensor]
    places: list[Tensor]
    tokens: Tensor


class Source(Protocol):
    """Where a stage's streams come from: symbols, or features of rendered chunks."""

    def draw(self, rng: np.random.Generator, batch: int, chunks: int) -> Block:
        """A batch of random streams."""

    def tokens_per_chunk(self) -> float:
        """For the size of a batch."""

    def parameters(self) -> list[nn.Parameter]:
        """What is trained besides the language model."""


class LanguageSettings(BaseModel):
    """One stage of the language model.

    kinds: question kinds; `short_share` of the batches ask the short ones among them, the others
    the rest. tokens: size of a batch. first_chunks..most_chunks:
    stream length, grown whenever `grow_at` of the answers are right; `long_share` of the batches
    are longer already. hide: how often questions may
    not see video (first, last value). blank, repeat: highest share of empty chunks, share of
    streams with recurring items. gaps: share of streams whose slots have gaps, up to `most_slots`.
    The stage ends after `steps`, or when `stop_at` are right at full length; `pause_at` ends a
    slice of it (0: none), to be resumed by the same recipe without it.
    neighbours: weight of the side tasks, read after layer `neighbour_layer`. evidence: weight of
    the loss that draws the attention of `evidence_layers` to the evidence. rolled: share of the
    batches whose first chunks have left when the question comes. noise: added to symbols.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kinds: tuple[str, ...] = ALL_KINDS
    short_share: float = 0.3
    steps: int
    lr: float = 3e-3
    tokens: int = 3000
    question_tokens: int = 19
    questions: int = 16
    first_chunks: int = 2
    most_chunks: int = 8
    grow_at: float = 0.9
    hide: tuple[float, float] = (0.0, 0.0)
    blank: float = 0.6
    repeat: float = 0.5
    gaps: float = 0.3
    most_slots: int = 64
    warm: int = 30
    decay: float = 0.3
    stop_at: float = 2.0
    seed: int = 0
    report_every: int = 100
    test_chunks: tuple[int, ...] = (4, 8)
    test_questions: int = 768
    long_share: float = 0.0
    pause_at: int = 0
    neighbours: float = 0.0
    neighbour_layer: int = 2
    evidence: float = 0.0
    evidence_layers: tuple[int, ...] = ()
    rolled: float = 0.0
    noise: float = 0.0
    weight_decay: float = 0.02


def embed_prefix(language: Any, writer: QuestionWriter, block: Tensor) -> Tensor:
    """Prompt, block, closing markers as embeddings [B, P, d]."""
    embed = language.embed_tokens.weight
    before, after = (embed[torch.tensor(ids)] for ids in (writer.before, writer.after))
    batch = block.shape[0]
    return torch.cat([before.expand(batch, -1, -1), block, after.expand(batch, -1, -1)], 1)


def positions_of(
    writer: QuestionWriter, block: Block, slot: Tensor, grid: int = 8
) -> tuple[Tensor, Tensor]:
    """Positions of the prefix [3, B, P] and of each question's first token [B]."""
    before = len(writer.before)
    parts, batch = [], slot.shape[0]
    for place, (cells, audio) in enumerate(zip(block.cells, block.places, strict=True)):
        whole, end = prefix_positions(
            before, slot[:, place : place + 1], cells[:, None], audio[:, None], grid
        )
        parts.append(whole[:, :, before:-2])
    head, tail = whole[:, :, :before], whole[:, :, -2:]
    assert head.shape[1] == batch
    return torch.cat([head, *parts, tail], 2), end


def columns_of(writer: QuestionWriter, block: Block) -> list[tuple[Tensor, Tensor]]:
    """Columns of the prefix that are each chunk's video, and its sound."""
    at, out = len(writer.before), []
    for cells, audio in zip(block.cells, block.places, strict=True):
        middle = at + cells.shape[1]
        end = middle + audio.shape[1]
        out.append((torch.arange(at, middle), torch.arange(middle, end)))
        at = end
    return out


def video_columns(writer: QuestionWriter, block: Block) -> Tensor:
    """Columns of the prefix that are video."""
    return torch.cat([video for video, _ in columns_of(writer, block)])


def first_columns(writer: QuestionWriter, block: Block, chunks: int) -> Tensor:
    """Columns of the prefix that belong to the first chunks."""
    return torch.cat([torch.cat(pair) for pair in columns_of(writer, block)[:chunks]])


def one_length(kinds: tuple[str, ...], weights: list[float], short: bool) -> list[float]:
    """Weights with either the short kinds or the others left out, where there are both: a batch is
    as wide as its longest question.
    """
    chosen = [
        w if (k in SHORT_KINDS) == short else 0.0 for k, w in zip(kinds, weights, strict=True)
    ]
    return chosen if any(chosen) else weights


class LanguageTask:
    """A language model, its head, the writer of questions and a source of streams."""

    def __init__(
        self,
        thinker: Any,
        writer: QuestionWriter,
        source: Source,
        side: Neighbours | None = None,
    ) -> None:
        self.language, self.head = thinker.model.language_model, thinker.lm_head
        self.writer, self.source = writer, source
        self.side = side or Neighbours(self.head.in_features)

    def forward(self, block: Block, asked: Asked, slot: Tensor, hide_video: bool = False) -> Tensor:
        """Logits where there is something to learn [n, vocabulary]."""
        hidden = video_columns(self.writer, block) if hide_video else None
        return self.forward_tapped(block, asked, slot, hidden)[0]

    def forward_tapped(
        self,
        block: Block,
        asked: Asked,
        slot: Tensor,
        hidden: Tensor | None = None,
        tap: int = -1,
        drop: tuple[int, Tensor] | None = None,
        watch: Watch | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The same, with columns hidden from the questions, or dropped after a layer; and the block
        after layer `tap`.
        """
        positions, start = positions_of(self.writer, block, slot)
        prefix = embed_prefix(self.language, self.writer, block.embeds)
        states, tapped = packed_forward(
            self.language, prefix, positions, asked.ids, start, hidden, tap, drop, watch
        )
        logits = self.head(states[asked.labels != IGNORE])
        assert isinstance(logits, Tensor)
        return logits, tapped[:, len(self.writer.before) : -2]

    def forward_watched(self, block: Block, asked: Asked, slot: Tensor, watch: Watch) -> None:
        """Only fill `watch`, in a pass that ends in the last watched layer."""
        positions, start = positions_of(self.writer, block, slot)
        prefix = embed_prefix(self.language, self.writer, block.embeds)
        packed_forward(
            self.language,
            prefix,
            positions,
            asked.ids,
            start,
            watch=watch,
            until=max(watch.layers),
        )

    def leave(self, block: Block, chunks: int) -> tuple[Tensor, tuple[int, Tensor]]:
        """The columns of the first chunks, and the drop that makes them leave after layer 0, as
        from a rolling cache whose first layer was computed when they were there.
        """
        gone = first_columns(self.writer, block, chunks)
        prefix = len(self.writer.before) + block.embeds.shape[1] + len(self.writer.after)
        columns = torch.zeros(block.embeds.shape[0], prefix, dtype=torch.bool)
        columns[:, gone] = True
        return gone, (0, columns)

    def scores(self, watch: Watch, layer: int) -> Tensor:
        """Attention to the prefix in a watched layer [B, Q, P], with gradients."""
        return watched_scores(self.language, watch, layer)

    @torch.no_grad()
    def accuracy(
        self, source: Source, kinds: tuple[str, ...], chunks: int, total: int, seed: int = 99
    ) -> dict[str, float]:
        """Share of wholly right answers by kind, on streams of `chunks` chunks without gaps."""
        rng = np.random.default_rng([seed, chunks])
        right = {kind: [0, 0] for kind in kinds}
        count, batch = 16, 8
        for _ in range(max(1, total // (count * batch))):
            block = source.draw(rng, batch, chunks)
            asked = self.writer.write(block.streams, kinds, [1.0] * len(kinds), count, rng)
            slot = slots(rng, batch, chunks, 0.0, 0)
            for kind, ok in zip(
                asked.kind.flatten().tolist(), self.right(block, asked, slot), strict=True
            ):
                right[kinds[kind]][0] += ok
                right[kinds[kind]][1] += 1
        return {kind: round(a / max(1, b), 3) for kind, (a, b) in right.items()}

    def accuracy_of_side(self, source: Source, chunks: int, tap: int) -> dict[str, float]:
        """Share right of the side tasks, read after layer `tap`."""
        rng = np.random.default_rng([98, chunks])
        block = source.draw(rng, 16, chunks)
        asked = self.writer.write(block.streams, ALL_KINDS, [1.0] * len(ALL_KINDS), 1, rng)
        with torch.no_grad():
            _, tapped = self.forward_tapped(block, asked, slots(rng, 16, chunks, 0.0, 0), tap=tap)
            right = self.side.loss(tapped, block.streams, block.tokens)[1]
        return {name: round(share, 3) for name, share in right.items()}

    def evidence_loss(self, watch: Watch, block: Block, asked: Asked) -> Tensor:
        """How far the watched layers' attention is from the evidence, mean over layers."""
        before = len(self.writer.before)
        losses = [
            evidence_loss(self.scores(watch, i)[:, :, before:-2], block.tokens, asked.evidence)
            for i in watch.layers
        ]
        return torch.stack(losses).mean()

    def right(self, block: Block, asked: Asked, slot: Tensor) -> list[bool]:
        """Whether each question's answer is wholly right, in order."""
        logits = self.forward(block, asked, slot)
        return self.right_of(logits, asked)

    @staticmethod
    def right_of(logits: Tensor, asked: Asked) -> list[bool]:
        """The same from the logits of `forward`."""
        on = asked.labels != IGNORE
        hit = torch.ones_like(asked.labels, dtype=torch.bool)
        hit[on] = logits.argmax(-1) == asked.labels[on]
        return [bool(ok) for ok in hit.all(-1).flatten().tolist()]


def train_language(
    task: LanguageTask, settings: LanguageSettings, files: StageFiles, tests: dict[str, Source]
) -> None:
    """Run one stage in place, from its saved state where there is one; ends by steps or by
    accuracy.
    """
    s = settings
    language = [p for p in task.language.parameters() if p.requires_grad]
    params = [*language, *task.head.parameters()]
    extra = task.source.parameters()
    side = task.side
    tap = s.neighbour_layer if s.neighbours else -1
    opt = torch.optim.AdamW(
        [
            {"params": params, "weight_decay": s.weight_decay},
            {"params": [*extra, *side.parameters()], "weight_decay": 0.0},
        ],
        lr=s.lr,
        betas=(0.9, 0.98),
    )
    rng, coin = np.random.default_rng(s.seed), random.Random(s.seed)
    step, chunks, smooth = 0, s.first_chunks, 0.0
    running = dict.fromkeys(s.kinds, 0.0)
    saved = files.load()
    if saved is not None:
        task.language.load_state_dict(saved["language"])
        task.head.load_state_dict(saved["head"])
        with torch.no_grad():
            for p, value in zip(extra, saved["extra"], strict=True):
                p.copy_(value)
        side.load_state_dict(saved["side"])
        if saved["done"]:
            return
        opt.load_state_dict(saved["optimiser"])
        rng.bit_generator.state = saved["rng"]
        coin.setstate((saved["coin"][0], tuple(saved["coin"][1]), saved["coin"][2]))
        step, chunks, smooth, running = (
            saved["step"],
            saved["chunks"],
            saved["smooth"],
            saved["running"],
        )
    done = step >= s.steps
    mean_loss = None
    while not done and (s.pause_at == 0 or step < s.pause_at):
        factor = learning_rate(step, s.steps, s.warm, s.decay)
        for group in opt.param_groups:
            group["lr"] = s.lr * factor
        long = coin.random() < s.long_share
        m = (
            coin.randint(chunks, s.most_chunks)
            if long
            else coin.randint(max(2, chunks // 2), chunks)
        )
        size = (
            len(task.writer.before)
            + 2
            + m * task.source.tokens_per_chunk()
            + s.questions * s.question_tokens
        )
        batch = max(2, int(s.tokens // size))
        block = task.source.draw(rng, batch, m)
        weights = [max(0.02, (1.05 - running[k]) ** 2) for k in s.kinds]
        weights = one_length(s.kinds, weights, coin.random() < s.short_share)
        gone = coin.randint(1, m // 2) if m > 3 and coin.random() < s.rolled else 0
        asked = task.writer.write(block.streams.since(gone), s.kinds, weights, s.questions, rng)
        slot = slots(rng, batch, m, s.gaps, s.most_slots)
        first, last = s.hide
        hide = coin.random() < first + (last - first) * step / s.steps
        hidden = video_columns(task.writer, block) if hide else None
        drop = None
        if gone:
            hidden, drop = task.leave(block, gone)
        watch = Watch(s.evidence_layers, asked.words) if s.evidence and not gone else None
        logits, tapped = task.forward_tapped(block, asked, slot, hidden, tap, drop, watch)
        loss = F.cross_entropy(logits, asked.labels[asked.labels != IGNORE])
        if s.neighbours:
            beside, _ = side.loss(tapped, block.streams, block.tokens)
            loss = loss + s.neighbours * beside
        if watch is not None:
            loss = loss + s.evidence * task.evidence_loss(watch, block, asked)
        opt.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_([*params, *extra], 1.0)
        if torch.isfinite(norm):
            opt.step()
        step += 1
        value = float(loss.detach())
        mean_loss = value if mean_loss is None else 0.95 * mean_loss + 0.05 * value
        ok = task.right_of(logits.detach(), asked)
        if not long:
            smooth = 0.95 * smooth + 0.05 * (sum(ok) / len(ok))
        for kind, good in zip(asked.kind.flatten().tolist(), ok, strict=True):
            running[s.kinds[kind]] = 0.99 * running[s.kinds[kind]] + 0.01 * good
        if smooth > s.grow_at and chunks < s.most_chunks:
            chunks = min(s.most_chunks, chunks + max(1, chunks // 4))
            smooth = s.grow_at - 0.15
        reached = smooth > s.stop_at and chunks >= s.most_chunks
        done = step >= s.steps or reached
        if step % s.report_every == 0 or done:
            shown = {k: round(v, 2) for k, v in running.items()}
            if s.neighbours:
                shown |= task.accuracy_of_side(task.source, s.most_chunks, tap)
            files.log(
                step, loss=round(mean_loss, 3), right=round(smooth, 3), chunks=chunks, kinds=shown
            )
            files.save(
                {
                    "language": task.language.state_dict(),
                    "head": task.head.state_dict(),
                    "extra": [p.detach() for p in extra],
                    "side": side.state_dict(),
                    "optimiser": opt.state_dict(),
                    "rng": rng.bit_generator.state,
                    "coin": list(coin.getstate()),
                    "step": step,
                    "chunks": chunks,
                    "smooth": smooth,
                    "running": running,
                    "done": done,
                }
            )
    for name, source in tests.items():
        for m in s.test_chunks:
            files.log(
                step, test=name, chunks=m, **task.accuracy(source, s.kinds, m, s.test_questions)
            )
