"""One answer's private state: what each layer saw of the stream, plus the text after it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from omnidrop_stream.cache import tensor_bytes


class LayerStore:
    """Rotated keys and values of one layer [H_kv, capacity, hd], filled from the front."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, spare: int) -> None:
        heads, count, width = keys.shape
        self._keys = keys.new_empty(heads, count + spare, width)
        self._values = values.new_empty(heads, count + spare, width)
        self._keys[:, :count] = keys
        self._values[:, :count] = values
        self._count = count

    def append(self, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Add one position [H_kv, 1, hd] and return everything held (views, valid until the next
        append).
        """
        if self._count == self._keys.shape[1]:
            raise IndexError(f"the answer's store is full at {self._count} positions")
        self._keys[:, self._count] = key[:, 0]
        self._values[:, self._count] = value[:, 0]
        self._count += 1
        return self._keys[:, : self._count], self._values[:, : self._count]

    def cut(self, start: int, stop: int) -> None:
        """Forget the positions from ``start`` up to ``stop``; what follows moves down."""
        for held in (self._keys, self._values):
            held[:, start : start + self._count - stop] = held[:, stop : self._count].clone()
        self._count -= stop - start

    @property
    def nbytes(self) -> int:
        """Bytes allocated."""
        return tensor_bytes(self._keys, self._values)


@dataclass(slots=True)
class Fork:
    """Mutable: ``decode_step`` appends. Freed with the answer's generator."""

    layers: list[LayerStore]
    next_position: int
    logits: torch.Tensor
    """f32 [vocabulary] of the next token."""
    entering_video: list[int]
    entering_audio: list[int]
    evidence: torch.Tensor
    """f32 [n0]: guidance score before any diversity term, summed over layers >= L/2."""

    @torch.inference_mode()
    def forget_block(self, first: int) -> None:
        """Forget the audiovisual block, which begins at ``first``, in every layer, as a policy
        wants that removes all of it before the last one: decoding reads text alone.
        """
        counts = zip(self.layers, self.entering_video, self.entering_audio, strict=True)
        for store, video, audio in counts:
            store.cut(first, first + video + audio)

    @property
    def nbytes(self) -> int:
        """Bytes allocated for this answer."""
        return sum(layer.nbytes for layer in self.layers) + tensor_bytes(self.logits, self.evidence)
