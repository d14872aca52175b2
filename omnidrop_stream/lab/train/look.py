"""Looking layers: layers that write nothing learn to look at the evidence of the question.

They were put there by depth growth. Their attention is what query-guided pruning and the naming of
evidence go by, and training it cannot change an answer of the unpruned model. This is supervision
with the truth: a model that was not taught so may look elsewhere, and the model card says it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import nn

from omnidrop_stream.lab.train.batches import slots
from omnidrop_stream.lab.train.language import Block, LanguageTask
from omnidrop_stream.lab.train.packed import Watch, aside_loss, evidence_loss, naming_loss
from omnidrop_stream.lab.train.state import StageFiles, learning_rate
from omnidrop_stream.world.questions import ALL_KINDS


class LookSettings(BaseModel):
    """Steps, batch and stream lengths of the looking stage.

    Lengths are drawn evenly in their logarithm. tokens, naming, aside: weights of the losses on the
    evidence's tokens, on its cells, and of what looks away from the stream.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int
    lr: float = 3e-3
    size: int = 4500
    questions: int = 20
    most_chunks: int = 32
    tokens: float = 0.1
    naming: float = 1.0
    aside: float = 0.3
    heads: tuple[tuple[int, int], ...] = ()
    gaps: float = 0.3
    most_slots: int = 64
    seed: int = 0
    report_every: int = 50


def looking_layers(language: nn.Module) -> list[int]:
    """Layers whose attention writes nothing."""
    layers = language.layers
    assert isinstance(layers, nn.ModuleList)
    weights = [layer.get_submodule("self_attn.o_proj").weight for layer in layers]
    return [i for i, weight in enumerate(weights) if not bool(torch.as_tensor(weight).any())]


def looking_runs(language: nn.Module) -> list[list[int]]:
    """Runs of looking layers: within a run all get the same input, so one is trained for all."""
    runs: list[list[int]] = []
    for i in looking_layers(language):
        if runs and runs[-1][-1] == i - 1:
            runs[-1].append(i)
        else:
            runs.append([i])
    return runs


def cells_of(block: Block) -> torch.Tensor:
    """Each token's 2 * chunk + modality [N]."""
    counts = [
        tokens.shape[1] for pair in zip(block.cells, block.places, strict=True) for tokens in pair
    ]
    return torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))


def look_loss(
    scores: torch.Tensor,
    block: Block,
    evidence: torch.Tensor,
    tokens: float,
    naming: float,
    aside: float,
) -> torch.Tensor:
    """How far a layer's attention to the stream [B, Q, N] is from the evidence: the weighted sum of
    the losses on its tokens, on its cells, and of what looks away from the stream.
    """
    return (
        tokens * evidence_loss(scores, block.tokens, evidence)
        + naming * naming_loss(scores, cells_of(block), evidence)
        + aside * aside_loss(scores)
    )


def raised_loss(scores: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
    """How far scores [B, Q, N] are from keeping the items bool [B, Q, N] when half of the tokens
    leave: each of them should get twice the middle token's attention, however small that is.
    """
    if not items.any():
        return scores.sum() * 0.0
    shares = scores / scores.sum(-1, keepdim=True).clamp(min=1e-12)
    logs = torch.log(shares + 1e-6)
    middle = logs.detach().median(-1, keepdim=True).values
    return nn.functional.softplus(2.0 * (middle + math.log(2) - logs)[items]).mean()


def lift_loss(scores: torch.Tensor, block: Block, evidence: torch.Tensor) -> torch.Tensor:
    """How far a layer's scores [B, Q, N] are from the evidence, and from keeping it."""
    items = torch.einsum("bqme,bnme->bqn", evidence.float(), block.tokens.float()) > 0
    return evidence_loss(scores, block.tokens, evidence) + raised_loss(scores, items)


def silence_heads(language: nn.Module, heads: Sequence[tuple[int, int]]) -> None:
    """These heads write nothing from now on."""
    for layer, head in heads:
        attention = _attention(language, layer)
        size = int(attention.head_dim)
        with torch.no_grad():
            attention.o_proj.weight[:, head * size : (head + 1) * size] = 0.0


def _attention(language: nn.Module, layer: int) -> Any:
    return language.get_submodule(f"layers.{layer}.self_attn")


def _hold_others(attention: Any, heads: Sequence[int]) -> None:
    """Gradients reach the queries and keys of these heads alone."""
    size = int(attention.head_dim)
    own = torch.zeros(attention.q_proj.out_features)
    for head in heads:
        own[head * size : (head + 1) * size] = 1.0
    for part in (attention.q_proj, attention.k_proj):
        part.weight.register_hook(lambda grad: grad * own[:, None])
        part.bias.register_hook(lambda grad: grad * own)


def train_looking(task: LanguageTask, settings: LookSettings, files: StageFiles) -> None:
    """Train the queries and keys of the looking layers and heads in place, everything else
    frozen.
    """
    s = settings
    runs = looking_runs(task.language)
    silence_heads(task.language, s.heads)
    lifted = sorted({layer for layer, _ in s.heads})
    for layer in lifted:
        own = [head for at, head in s.heads if at == layer]
        _hold_others(_attention(task.language, layer), own)
    where = [run[0] for run in runs] + lifted
    attention = [_attention(task.language, i) for i in where]
    params = [p for a in attention for f in (a.q_proj, a.k_proj) for p in f.parameters()]
    names = [f"{i}.{n}" for i in where for n in ("q_proj", "k_proj")]
    # No decay: it would move the heads that go on writing.
    opt = torch.optim.AdamW(params, lr=s.lr, betas=(0.9, 0.98), weight_decay=0.0)
    rng, coin, step = np.random.default_rng(s.seed), random.Random(s.seed), 0
    saved = files.load()
    if saved is not None:
        for p, value in zip(params, saved["params"], strict=True):
            p.data.copy_(value)
        opt.load_state_dict(saved["optimiser"])
        rng.bit_generator.state = saved["rng"]
        coin.setstate((saved["coin"][0], tuple(saved["coin"][1]), saved["coin"][2]))
        step = saved["step"]
    while step < s.steps:
        for group in opt.param_groups:
            group["lr"] = s.lr * learning_rate(step, s.steps, 20, 0.5)
        m = round(math.exp(coin.uniform(math.log(2), math.log(s.most_chunks))))
        size = len(task.writer.before) + 2 + m * task.source.tokens_per_chunk() + s.questions * 19
        batch = max(2, int(s.size // size))
        block = task.source.draw(rng, batch, m)
        asked = task.writer.write(
            block.streams, ALL_KINDS, [1.0] * len(ALL_KINDS), s.questions, rng
        )
        slot = slots(rng, batch, m, s.gaps, s.most_slots)
        watch = Watch(tuple(where), asked.words)
        with torch.no_grad():
            task.forward_watched(block, asked, slot, watch)
        before = len(task.writer.before)
        scores = {i: task.scores(watch, i)[:, :, before:-2] for i in where}
        losses = [
            lift_loss(scores[i], block, asked.evidence)
            if i in lifted
            else look_loss(scores[i], block, asked.evidence, s.tokens, s.naming, s.aside)
            for i in where
        ]
        loss = torch.stack(losses).mean()
        opt.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(params, 1.0)
        opt.step()
        step += 1
        if step % s.report_every == 0 or step == s.steps:
            seen = {
                i: round(float(torch.exp(-x.detach())), 3)
                for i, x in zip(where, losses, strict=True)
            }
            files.log(step, loss=round(float(loss.detach()), 3), exp_minus_loss=seen)
            files.save(
                {
                    "params": [p.detach() for p in params],
                    "names": names,
                    "optimiser": opt.state_dict(),
                    "rng": rng.bit_generator.state,
                    "coin": list(coin.getstate()),
                    "step": step,
                }
            )
    for run in runs:
        trained = task.language.layers[run[0]]
        for i in run[1:]:
            task.language.layers[i].self_attn.load_state_dict(trained.self_attn.state_dict())
            task.language.layers[i].input_layernorm.load_state_dict(
                trained.input_layernorm.state_dict()
            )
