"""Where a language model reads: what it costs to drop most of the stream's tokens after each
layer.
"""

from __future__ import annotations

import numpy as np
import torch

from omnidrop_stream.lab.train.batches import slots
from omnidrop_stream.lab.train.language import LanguageTask, Source


@torch.no_grad()
def drop_curve(
    task: LanguageTask,
    source: Source,
    kinds: tuple[str, ...],
    chunks: int,
    total: int,
    share: float = 0.95,
    seed: int = 7,
) -> tuple[float, list[float]]:
    """Share of right answers with all tokens, and with `share` of them dropped at random after each
    layer but the last. The same questions and the same lots throughout.
    """
    layers = len(task.language.layers)
    right, asked_in_all = [0] * (layers + 1), 0
    before, after = len(task.writer.before), len(task.writer.after)
    rng = np.random.default_rng([seed, chunks])
    lots = torch.Generator().manual_seed(seed)
    while asked_in_all < total:
        block = source.draw(rng, 8, chunks)
        asked = task.writer.write(block.streams, kinds, [1.0] * len(kinds), 8, rng)
        slot = slots(rng, 8, chunks, 0.0, 0)
        gone = torch.rand(8, block.embeds.shape[1], generator=lots) < share
        columns = torch.nn.functional.pad(gone, (before, after))
        for layer in range(-1, layers - 1):
            drop = None if layer < 0 else (layer, columns)
            logits, _ = task.forward_tapped(block, asked, slot, drop=drop)
            right[layer + 1] += sum(task.right_of(logits, asked))
        asked_in_all += 64
    shares = [round(r / asked_in_all, 3) for r in right[:layers]]
    return shares[0], shares[1:]
