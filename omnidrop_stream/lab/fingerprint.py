"""Which weights a figure is about."""

from __future__ import annotations

import hashlib

import torch

from omnidrop_stream.model.qwen_omni import QwenOmni


def fingerprint(model: QwenOmni) -> str:
    """16 digits of sha256 over the token embeddings and every vector of weights (norms, biases).

    Quick on large checkpoints, and the same whether matrices are stored in full or in a few bits.
    """
    digest = hashlib.sha256()
    named = {name: p for name, p in model.thinker.named_parameters() if p.ndim == 1}
    for name, tensor in sorted({"embed": model.decoder.embed.weight, **named}.items()):
        digest.update(name.encode())
        flat = tensor.detach().cpu().contiguous().flatten()
        digest.update(memoryview(flat.view(torch.uint8).numpy()))
    return digest.hexdigest()[:16]
