"""Looking layers: layers that write nothing learn to look at the evidence of the question.

They were put there by depth growth. Their attention is what query-guided pruning and the naming of
evidence go by, and training it cannot change an answer of the unpruned model. This is supervision
with the truth: a model that was not taught so may look elsewhere, and the model card says it.
"""

from __future__ import annotations

import random

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import nn

from omnidrop_stream.lab.train.batches import slots
from omnidrop_stream.lab.train.language import LanguageTask
from omnidrop_stream.lab.train.packed import Watch, evidence_loss
from omnidrop_stream.lab.train.state import StageFiles, learning_rate
from omnidrop_stream.world.questions import ALL_KINDS


class LookSettings(BaseModel):
    """Steps, batch and stream lengths of the looking stage."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int
    lr: float = 3e-3
    tokens: int = 5000
    questions: int = 12
    most_chunks: int = 16
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


def train_looking(task: LanguageTask, settings: LookSettings, files: StageFiles) -> None:
    """Train the queries and keys of the looking layers in place, everything else frozen."""
    s = settings
    runs = looking_runs(task.language)
    where = [run[0] for run in runs]
    attention = [task.language.layers[i].self_attn for i in where]
    params = [p for a in attention for f in (a.q_proj, a.k_proj) for p in f.parameters()]
    names = [f"{i}.{n}" for i in where for n in ("q_proj", "k_proj")]
    opt = torch.optim.AdamW(params, lr=s.lr, betas=(0.9, 0.98), weight_decay=0.01)
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
        m = coin.randint(2, s.most_chunks)
        size = len(task.writer.before) + 2 + m * task.source.tokens_per_chunk() + s.questions * 19
        batch = max(2, int(s.tokens // size))
        block = task.source.draw(rng, batch, m)
        asked = task.writer.write(
            block.streams, ALL_KINDS, [1.0] * len(ALL_KINDS), s.questions, rng
        )
        slot = slots(rng, batch, m, s.gaps, s.most_slots)
        watch = Watch(tuple(where), asked.words)
        with torch.no_grad():
            task.forward_watched(block, asked, slot, watch)
        before = len(task.writer.before)
        losses = [
            evidence_loss(task.scores(watch, i)[:, :, before:-2], block.tokens, asked.evidence)
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
            files.log(step, loss=round(float(loss.detach()), 3), on_evidence=seen)
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
