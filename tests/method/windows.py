"""Made-up windows of unpruned tokens for the stages before the decoder."""

import torch

from omnidrop_stream.method import Window


def make_window(
    seed: int = 0, chunks: int = 4, patch: int = 12, sound: int = 20, width: int = 16
) -> Window:
    """Chunks of two patches and then some sound, of one size; embeddings with some structure."""
    rng = torch.Generator().manual_seed(seed)
    per_chunk = 2 * patch + sound
    n = chunks * per_chunk
    place = torch.arange(n) % per_chunk
    chunk = torch.arange(n) // per_chunk
    video = place < 2 * patch
    scene = torch.randn(patch, width, generator=rng).repeat(2, 1)
    base = torch.cat([scene, torch.randn(sound, width, generator=rng)]).repeat(chunks, 1)
    return Window(
        embeds=base + 0.5 * torch.randn(n, width, generator=rng),
        modality=(~video).to(torch.uint8),
        chunk=chunk,
        patch=torch.where(video, 2 * chunk + place // max(1, patch), torch.tensor(-1)),
        saliency=torch.where(video, torch.zeros(n), torch.rand(n, generator=rng)),
    )


def cos(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a * b).sum() / (a.norm() * b.norm()))
