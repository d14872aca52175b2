"""What a window's tokens become in every layer when none is dropped: made once, read by all cells.

Audiovisual states never depend on a question, so up to the first layer after which a token leaves
they are the same for every question and every policy. A shorter window from the same start is a
prefix of the longer one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from omnidrop_stream.cache import Segment, largest_id, slots_of
from omnidrop_stream.lab.flops import DecoderSizes
from omnidrop_stream.model.attention import causal_attention
from omnidrop_stream.model.base import Prompt
from omnidrop_stream.model.decoder import Angles
from omnidrop_stream.model.parts import parts_of
from omnidrop_stream.model.prefill import Trunk
from omnidrop_stream.model.qwen_omni import QwenOmni
from omnidrop_stream.model.rope import rotate


def sizes_of(model: QwenOmni) -> DecoderSizes:
    """The widths of a model's decoder."""
    spec = model.spec
    inner = int(parts_of(model.thinker).text.config.intermediate_size)
    return DecoderSizes(
        spec.n_layers,
        spec.hidden_size,
        spec.n_heads,
        spec.n_kv_heads,
        spec.head_dim,
        inner,
        spec.vocabulary,
    )


@dataclass(frozen=True, slots=True)
class Held:
    """A window's undropped states. N tokens, P of the prompt.

    prompt_keys, prompt_values, keys, values: for each layer [H_kv, P or N, hd], keys rotated;
    hidden: for each layer [N, d], entering it; chunk i64 [N]: window-relative; after: the first
    position id after the block.
    """

    segments: tuple[Segment, ...]
    prompt_keys: tuple[torch.Tensor, ...]
    prompt_values: tuple[torch.Tensor, ...]
    keys: tuple[torch.Tensor, ...]
    values: tuple[torch.Tensor, ...]
    hidden: tuple[torch.Tensor, ...]
    angles: Angles
    modality: torch.Tensor
    chunk: torch.Tensor
    after: int

    @property
    def count(self) -> int:
        """Tokens held, N."""
        return int(self.chunk.shape[0])

    @property
    def prompt_count(self) -> int:
        """Prompt tokens, P."""
        return int(self.prompt_keys[0].shape[1])

    @property
    def unpruned(self) -> int:
        """Tokens of these chunks before pruning within each modality."""
        return sum(s.tokens.n_unpruned for s in self.segments)


@torch.inference_mode()
def held_of(model: QwenOmni, prompt: Prompt, segments: Sequence[Segment]) -> Held:
    """Run all layers over the embeddings of ``segments``, whatever their depth."""
    segments = tuple(segments)
    decoder, spec, slots = model.decoder, model.spec, slots_of(segments)
    trunk = Trunk.of(decoder, spec, prompt, segments, slots)
    rows = torch.cat([s.tokens.embeds for s in segments])
    fronts, keys, values, hidden = [], [], [], []
    for layer in range(decoder.n_layers):
        front_keys, front_values = trunk.prompt_layer(layer)
        new = decoder.project(layer, rows, trunk.block_angles)
        rotated = rotate(new.k, trunk.block_angles)
        fronts.append((front_keys, front_values))
        keys.append(rotated)
        values.append(new.v)
        hidden.append(rows)
        attended = causal_attention(
            new.q,
            torch.cat([front_keys, rotated], dim=1),
            torch.cat([front_values, new.v], dim=1),
        )
        if layer + 1 < decoder.n_layers:
            rows = decoder.finish(layer, rows, attended)
    counts = torch.tensor([s.count for s in segments], dtype=torch.long)
    chunk = torch.repeat_interleave(torch.arange(len(segments)), counts).to(decoder.device)
    return Held(
        segments=segments,
        prompt_keys=tuple(k for k, _ in fronts),
        prompt_values=tuple(v for _, v in fronts),
        keys=tuple(keys),
        values=tuple(values),
        hidden=tuple(hidden),
        angles=trunk.block_angles,
        modality=torch.cat([s.tokens.modality for s in segments]).to(decoder.device),
        chunk=chunk,
        after=_after(prompt, segments, slots, spec.ids_per_chunk),
    )


def first_of(held: Held, prompt: Prompt, chunks: int, ids_per_chunk: int) -> Held:
    """The window of the first ``chunks``; later chunks never changed its states."""
    segments = held.segments[:chunks]
    n = sum(s.count for s in segments)
    return Held(
        segments=segments,
        prompt_keys=held.prompt_keys,
        prompt_values=held.prompt_values,
        keys=tuple(k[:, :n] for k in held.keys),
        values=tuple(v[:, :n] for v in held.values),
        hidden=tuple(h[:n] for h in held.hidden),
        angles=(held.angles[0][:n], held.angles[1][:n]),
        modality=held.modality[:n],
        chunk=held.chunk[:n],
        after=_after(prompt, segments, slots_of(segments), ids_per_chunk),
    )


def _after(prompt: Prompt, segments: tuple[Segment, ...], slots: list[int], per_chunk: int) -> int:
    return largest_id(segments, slots, prompt.base, per_chunk) + 1
