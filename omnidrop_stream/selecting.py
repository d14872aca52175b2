"""Pruning before the decoder, at question time: the snapshot's tokens seen as one window.

Only for policies that choose among unpruned embeddings (``method/policies/inputs.py``). Nothing
downstream knows of it: what comes out are segments that hold fewer tokens, at their positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from omnidrop_stream.cache import Segment
from omnidrop_stream.errors import ConfigError
from omnidrop_stream.method import PruningPolicy, Window
from omnidrop_stream.types import Modality


def check_whole(policy: PruningPolicy, segments: Sequence[Segment]) -> None:
    """Raise ConfigError where a policy that needs every token gets segments that lack some."""
    if policy.input_stage is None or all(s.count == s.tokens.n_unpruned for s in segments):
        return
    raise ConfigError(
        f"policy {policy.name!r} chooses among unpruned tokens, and this stream has pruned its "
        f"chunks on arrival: open a stream with pruning.policy {policy.name} (or intra.enabled "
        "false) and prefill_depth 0"
    )


def window_of(segments: Sequence[Segment]) -> Window:
    """All tokens of the segments as one window; patches counted by their temporal ids."""
    counts = torch.tensor([s.count for s in segments])
    modality = torch.cat([s.tokens.modality for s in segments])
    device = modality.device
    chunk = torch.repeat_interleave(torch.arange(len(segments)), counts).to(device)
    time = torch.cat([s.tokens.offsets[0] for s in segments]).to(device)
    video = (modality == int(Modality.VIDEO)).nonzero()[:, 0]
    place = torch.stack([chunk[video], time[video]])
    patch = torch.full_like(chunk, -1)
    if len(video):
        patch[video] = torch.unique_consecutive(place, dim=1, return_inverse=True)[1]
    return Window(
        embeds=torch.cat([s.tokens.embeds for s in segments]),
        modality=modality,
        chunk=chunk,
        patch=patch,
        saliency=torch.cat([_saliency(s) for s in segments]),
    )


@torch.inference_mode()
def selected(
    policy: PruningPolicy, segments: tuple[Segment, ...], keep: int
) -> tuple[Segment, ...]:
    """The segments with ``keep`` tokens of the window left, merged ones with their new embeddings.

    ConfigError where the policy cannot keep so few of this window.
    """
    if policy.input_stage is None:
        return segments
    window = window_of(segments)
    try:
        chosen = policy.input_stage.select(window, keep)
    except ValueError as error:
        raise ConfigError(f"policy {policy.name!r}: {error}") from None
    stays = torch.zeros(window.chunk.shape[0], dtype=torch.bool, device=window.chunk.device)
    stays[chosen.kept] = True
    masks = torch.split(stays, [s.count for s in segments])
    left = [s.only(mask) for s, mask in zip(segments, masks, strict=True)]
    if chosen.embeds is None:
        return tuple(left)
    parts = torch.split(chosen.embeds, [s.count for s in left])
    return tuple(_with(s, embeds) for s, embeds in zip(left, parts, strict=True))


def _saliency(segment: Segment) -> torch.Tensor:
    """Attention received, summed over the block's rows as the peers sum it: as a mean over rows a
    short block's tokens, with fewer to share it, would outdo those of whole ones.
    """
    known = segment.tokens.saliency
    if known is None:
        return torch.zeros(segment.count, device=segment.tokens.embeds.device)
    return known * (segment.tokens.modality == int(Modality.AUDIO)).sum()


def _with(segment: Segment, embeds: torch.Tensor) -> Segment:
    return replace(segment, tokens=replace(segment.tokens, embeds=embeds), hidden=embeds)
