"""The question's pass on arenas: what is read is read where it lies, or copied once.

Below ``depth`` a layer that still sees all of the block, or most of it on a processor, reads the
trunk's rows in place; once more tokens have left, the rest is copied to the answer's own rows in
one gather, where decoding finds it again.
From ``depth`` on the block's states enter from where they lie, and keys and values are written
once, where decoding finds them.

Attention and Eq. 5 come of one computation of the scores (``model/partial.py``). Nothing between
the layers waits for the device: how many tokens leave is the schedule's, and how many of those that
stay are pictures is counted for all layers at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

from omnidrop_stream.cache import Segment, joined
from omnidrop_stream.method import Guidance
from omnidrop_stream.model.base import ModelSpec, Prompt, Question
from omnidrop_stream.model.decoder import Decoder, Projected
from omnidrop_stream.model.fork import Fork, LayerStore, Read
from omnidrop_stream.model.paged import PagedTrunk
from omnidrop_stream.model.partial import Piece, attend, grouped
from omnidrop_stream.model.prefill import AnyTrunk, PrunedPrefill
from omnidrop_stream.model.rope import rotate
from omnidrop_stream.types import Modality


class FastPrefill(PrunedPrefill):
    """`PrunedPrefill` over a `PagedTrunk`."""

    def __init__(
        self,
        decoder: Decoder,
        spec: ModelSpec,
        prompt: Prompt,
        segments: Sequence[Segment],
        slots: Sequence[int],
        question: Question,
    ) -> None:
        self._paged = PagedTrunk(decoder.rotary, spec, prompt, segments, slots)
        super().__init__(decoder, spec, prompt, segments, slots, question)
        self._text_angles = decoder.rotary.exact_angles(self._positions)
        self._shared = spec.n_kv_heads
        rows = len(question.ids)
        self._groups = spec.n_heads // spec.n_kv_heads
        front = torch.ones(rows, prompt.count + rows, dtype=torch.bool, device=decoder.device)
        self._causal = front.tril(prompt.count).repeat(self._groups, 1)
        self._seen: list[torch.Tensor] = []

    def _opened(
        self,
        decoder: Decoder,
        spec: ModelSpec,
        prompt: Prompt,
        segments: Sequence[Segment],
        slots: Sequence[int],
    ) -> AnyTrunk:
        return self._paged

    def _count(self, n: int) -> None:
        self._seen.append(self._visible)

    @torch.inference_mode()
    def _fork(self) -> Fork:
        sound = (self._modality == int(Modality.AUDIO)).long()
        heard = torch.stack([sound[seen].sum() for seen in self._seen]).tolist()
        self._audio = [int(n) for n in heard]
        self._video = [len(s) - n for s, n in zip(self._seen, self._audio, strict=True)]
        return super()._fork()

    def _read(self, layer: int, n: int, leaving: int) -> torch.Tensor | None:
        if layer >= self._question.depth:
            return self._run_along(layer, n, leaving)
        new = self._decoder.project(layer, self._text, self._text_angles)
        pieces, order = self._pieces(layer, n, new)
        late, weights = self._weights(layer, n, leaving)
        out, received = attend(pieces, weights)
        last = slice(-1, None) if layer + 1 == self._decoder.n_layers else slice(None)
        attended = out.reshape(new.q.shape)[:, last]
        self._text = self._decoder.finish(layer, self._text[last], attended)
        if weights is None:
            return None
        columns = torch.cat(received[1:], dim=1)
        columns = columns if order is None else columns[:, order]
        if late:
            self._evidence[self._visible] += columns[0]
        scored = leaving and self._question.policy.guidance != "none"
        return columns[-1] if scored else None

    def _run_along(self, layer: int, n: int, leaving: int) -> torch.Tensor | None:
        """A layer that the block's tokens pass with the text; S [n] where it is wanted."""
        rows, angles = self._entering_rows()
        new = self._decoder.project(layer, rows, angles)
        keys, values, filled = self._filled(layer, rotate(new.k, angles), new.v)
        self._stores.append(LayerStore.over(keys, values, filled, ()))
        keys, values = keys[:, :filled], values[:, :filled]
        self._finish(layer, rows, self._decoder.attention.of(new.q, keys, values))
        return self._score(layer, new, keys, n, leaving)

    def _entering_block(self) -> torch.Tensor:
        held = [s.hidden_rows for s in self._paged.segments]
        rows = [one for one in held if one is not None]
        if self._block is None and rows and len(rows) == len(held):
            self._block = joined(rows, self._visible)
        return super()._entering_block()

    def _filled(
        self, layer: int, rotated: torch.Tensor, values: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, int]:
        """Keys and values of the prompt and of the rows behind it [H_kv, n, hd] in new memory that
        has room for the answer, and how many they are.
        """
        prompt, count = self._paged.prompt_rows(layer), rotated.shape[1]
        _, heads, front, width = prompt.shape
        room = front + count + self._question.max_new_tokens
        rows = prompt.new_empty(2, heads, room, width)
        rows[:, :, :front] = prompt
        rows[0, :, front : front + count] = rotated
        rows[1, :, front : front + count] = values
        return rows[0], rows[1], front + count

    def _pieces(
        self, layer: int, n: int, new: Projected
    ) -> tuple[list[Piece], torch.Tensor | None]:
        """What the layer sees: prompt and text, then the block; and the place of each visible token
        among the block's keys (None: in order).
        """
        keys, values, filled = self._filled(layer, rotate(new.k, self._text_angles), new.v)
        reads, order = self._block_reads(layer, n)
        self._stores.append(LayerStore.over(keys, values, filled, reads))
        seen = slice(filled)
        own = Piece(grouped(new.q, self._shared), keys[:, seen], values[:, seen], self._causal)
        return [own, *(read.piece(new.q) for read in reads)], order

    def _block_reads(self, layer: int, n: int) -> tuple[list[Read], torch.Tensor | None]:
        if not n:
            return [], None
        return self._paged.seen(layer, self._visible)

    def _weights(self, layer: int, n: int, leaving: int) -> tuple[bool, torch.Tensor | None]:
        """Rows [W, M] that Eq. 5 averages over: for the evidence first, for the policy last."""
        late = n > 0 and layer >= self._decoder.n_layers // 2
        last = len(self._question.ids) - 1
        wanted = [
            torch.tensor([last], device=self._guidance.device) if who == "last" else self._guidance
            for who in guides(self._question.policy.guidance, leaving, late)
        ]
        if not wanted:
            return late, None
        text, groups = len(self._question.ids), self._groups
        weights = self._text.new_zeros(len(wanted), text, dtype=torch.float32)
        for row, chosen in zip(weights, wanted, strict=True):
            row[chosen] = 1.0 / (len(chosen) * groups * self._shared)
        return late, weights.repeat(1, groups)

    def _staying(self, gone: torch.Tensor, leaving: int) -> torch.Tensor:
        return staying(gone, self._visible.shape[0], leaving)


def guides(guidance: Guidance, leaving: int, late: bool) -> list[Literal["question", "last"]]:
    """Whose attention a layer tells: first for the evidence, where it is ``late`` enough to count,
    and last for the policy, where tokens leave and text scores them.
    """
    wanted: list[Literal["question", "last"]] = ["question"] if late else []
    if leaving and guidance == "last":
        wanted.append("last")
    elif leaving and guidance == "question" and not late:
        wanted.append("question")
    return wanted


def staying(gone: torch.Tensor, n: int, leaving: int) -> torch.Tensor:
    """Which of ``n`` tokens stay where the ``leaving`` ones in ``gone`` go: ascending indices,
    without asking the device how many those are.
    """
    stays = torch.ones(n, dtype=torch.bool, device=gone.device).index_fill(0, gone, False)
    place = torch.where(stays, stays.cumsum(0) - 1, n - leaving)  # the leaving share the end
    index = torch.empty(n - leaving + 1, dtype=torch.long, device=gone.device)
    index[place] = torch.arange(n, device=gone.device)
    return index[:-1]
