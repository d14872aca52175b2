"""From a chunk's tokens to a segment of the trunk, and from one depth to a deeper one."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import replace
from functools import partial

import torch

from omnidrop_stream.cache import Segment, Storage, slots_of
from omnidrop_stream.config import IntraConfig, StreamConfig
from omnidrop_stream.model.base import ExtendRequest, OmniModel, Place, Prompt, States
from omnidrop_stream.model.towers import Encoded
from omnidrop_stream.plan import nominal_video_share
from omnidrop_stream.types import Chunk
from omnidrop_stream.wanted import Wanted, alone
from omnidrop_stream.wants import extend_wanted


def bare_segment(
    prompt: Prompt, chunk: Chunk, encoded: Encoded, held: tuple[Segment, ...]
) -> Segment:
    """``chunk`` at depth 0, to stand after ``held``."""
    return Segment(
        chunk=chunk.index,
        epoch=chunk.epoch,
        window=encoded.window,
        start_s=chunk.start_s,
        end_s=chunk.end_s,
        wall_time_s=chunk.wall_time_s,
        flags=chunk.flags,
        tokens=encoded.tokens,
        keys=prompt.keys[:0, :, :0],
        values=prompt.values[:0, :, :0],
        hidden=encoded.tokens.embeds,
        seen_from=held[0].chunk if held else chunk.index,
    )


Deepened = Callable[
    [Segment, tuple[Segment, ...], torch.Tensor, range], Generator[Wanted, States, Segment]
]


def deepening(
    model: OmniModel, prompt: Prompt, stream: StreamConfig, intra: IntraConfig, frame_tokens: int
) -> Deepened:
    """`deepened_together` for what joins a stream with these settings."""
    share = nominal_video_share(stream, intra, frame_tokens)
    storage = Storage(stream.budget_tokens, share)
    return partial(deepened_together, model, prompt, storage=storage)


def deepened(
    model: OmniModel,
    prompt: Prompt,
    segment: Segment,
    past: tuple[Segment, ...],
    hidden: torch.Tensor,
    layers: range,
) -> Generator[None, None, Segment]:
    """``segment`` with ``layers`` run over ``hidden`` [n, d] behind ``past``, which has them.
    Earlier layers' states are kept in front, the new ones apart from any stream's. Yields after
    each layer.
    """
    return (yield from alone(deepened_together(model, prompt, segment, past, hidden, layers)))


def deepened_together(
    model: OmniModel,
    prompt: Prompt,
    segment: Segment,
    past: tuple[Segment, ...],
    hidden: torch.Tensor,
    layers: range,
    storage: Storage | None = None,
) -> Generator[Wanted, States, Segment]:
    """The same, the layers as one `Wanted`. With ``storage`` the new states join the stream's own
    (those of an unfinished chunk, which one answer reads, out of the way of the others).
    """
    slots = slots_of((*past, segment))
    below = segment.paged if layers.start else None
    place = Place(storage, provisional=segment.flags.partial, below=below)
    request = ExtendRequest(
        prompt, past, slots[:-1], segment.tokens, slots[-1], hidden, layers, place
    )
    states = yield extend_wanted(model, request)
    done, whole = layers.start > 0, layers.stop == model.spec.n_layers
    return replace(
        segment,
        keys=torch.cat([segment.keys[: layers.start], states.keys]) if done else states.keys,
        values=torch.cat([segment.values[: layers.start], states.values])
        if done
        else states.values,
        paged=states.paged,
        hidden=None if whole else states.hidden,
        hidden_rows=None if whole else states.hidden_rows,
        seen_from=segment.seen_from if done else (past[0].chunk if past else segment.chunk),
    )
