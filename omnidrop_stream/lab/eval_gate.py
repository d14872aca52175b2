"""The gate: what dropping most of a stream's tokens once, at random, costs after each layer.

A model that has read everything before the middle layer cannot tell pruning scores apart: whatever
leaves later is not missed. So before any policy is compared, dropping 95 % at random after half of
the layers must cost more than 20 points; a world or a model that does not pass is too easy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from omnidrop_stream.lab.batched import Asked, answer_all
from omnidrop_stream.lab.eval_play import chunks_of, delivered, questions_for
from omnidrop_stream.lab.eval_score import clustered, difference, is_right
from omnidrop_stream.lab.eval_types import Cell, EvalSettings, Gate, Record
from omnidrop_stream.lab.held import first_of, held_of
from omnidrop_stream.method import IntraOnly, PruningPolicy
from omnidrop_stream.method.policies.base import Guidance, Pace
from omnidrop_stream.model.qwen_omni import QwenOmni
from omnidrop_stream.model.template import ChatTemplate
from omnidrop_stream.stream import OmniStream
from omnidrop_stream.world import World

SHARE = 0.95
"""Share of the tokens that leave."""
LEAST_LOSS = 0.20
"""What that must cost after the middle layer."""


@dataclass(frozen=True, slots=True)
class DropOnce:
    """``share`` of the tokens leave by lot after layer ``after``, none before or later."""

    name: ClassVar[str] = "drop-once"
    guidance: ClassVar[Guidance] = "none"
    intra: ClassVar[bool] = True
    requires_depth_zero: ClassVar[bool] = False
    paced_by: ClassVar[Pace] = "nothing"
    forgets: ClassVar[bool] = False
    input_stage: ClassVar[None] = None

    after: int
    share: float = SHARE
    seed: int = 0

    def counts(self, n0: int, n_layers: int, n_unpruned: int) -> tuple[int, ...]:
        """All up to the layer, the rest behind it."""
        rest = n0 - math.floor(n0 * self.share)
        return (n0,) * (self.after + 1) + (rest,) * (n_layers - self.after - 1)

    def drop(
        self,
        layer: int,
        n_layers: int,
        S: torch.Tensor | None,
        chunk: torch.Tensor,
        modality: torch.Tensor,
        k: int,
    ) -> torch.Tensor:
        """k tokens by lot: the same ones whatever the layer, so that layers can be compared."""
        generator = torch.Generator().manual_seed(self.seed)
        order = torch.randperm(chunk.shape[0], generator=generator)
        return order[:k].sort().values.to(chunk.device)


def play_gate(model: QwenOmni, settings: EvalSettings, seed: int) -> Record:
    """One stream, its questions at every length answered with all tokens and after each drop.

    ok: "0" and "1" of each question, first with all tokens, then for each layer but the last.
    """
    grid, layers = settings.grid, model.spec.n_layers
    world = World(seed, settings.split)
    indices = delivered(seed, max(grid.chunks), grid.gaps)
    template = ChatTemplate(model.tokenizer, settings.config.stream.kind)
    opening = settings.opening(Cell("intra-only", None, 0), 0)
    live = OmniStream(model, opening)
    for chunk in chunks_of(indices, world.chunk):
        live.push(chunk)
    prompt = model.prefill_prompt(*template.prompt(opening.stream.system_prompt))
    longest = held_of(model, prompt, live.snapshot())
    ok = [""] * layers
    for count in grid.chunks:
        held = first_of(longest, prompt, count, model.spec.ids_per_chunk)
        questions = list(questions_for(world, indices[:count], seed, settings.split))
        tails = tuple(template.tail(q.text) for q in questions)
        rows = tuple(tuple(range(t.question.start, t.question.stop)) for t in tails)
        lot = seed * 1_000 + count
        policies: list[PruningPolicy] = [IntraOnly()]
        policies += [DropOnce(layer, seed=lot) for layer in range(layers - 1)]
        for number, policy in enumerate(policies):
            entering = policy.counts(held.count, layers, held.unpruned)
            asked = Asked(tails, rows, policy, entering, 0, settings.config.decode.max_tokens)
            for question, told in zip(questions, answer_all(model, held, asked), strict=True):
                text = model.tokenizer.decode(list(told.ids), skip_special_tokens=True)
                ok[number] += "01"[is_right(text, question.answer)]
    return {"type": "gate", "seed": seed, "share": SHARE, "ok": ok}


def score_gate(records: Sequence[Record]) -> Gate | None:
    """The curve over layers; None of nothing."""
    if not records:
        return None
    columns = [[r["ok"][i] for r in records] for i in range(len(records[0]["ok"]))]
    shares = [clustered((text.count("1"), len(text)) for text in column) for column in columns]
    losses = [
        difference(
            (dropped.count("1"), kept.count("1"), len(kept))
            for dropped, kept in zip(column, columns[0], strict=True)
        )
        for column in columns[1:]
    ]
    kept, *dropped = [mean for mean in shares if mean is not None]
    loss = tuple(mean for mean in losses if mean is not None)
    return Gate(records[0]["share"], kept, tuple(dropped), loss)
