"""Many questions on one window at once: the same computation as `OmniStream.ask`, shared.

Exact, up to the rounding of another summation order: layers below the first drop are read from
`Held`; with a policy that no question guides, the block's rows run once for all questions; rows
that leave after a layer, and all rows of the last one, skip the rest of that layer, whose result
nobody reads. The oracle is the plain path (`tests/lab/test_batched.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from omnidrop_stream.lab.held import Held
from omnidrop_stream.method import PruningPolicy, audio_guided_importance
from omnidrop_stream.model.decoder import Angles, Decoder
from omnidrop_stream.model.prefill import tail_positions
from omnidrop_stream.model.qwen_omni import QwenOmni
from omnidrop_stream.model.rope import rotate
from omnidrop_stream.model.template import Tail
from omnidrop_stream.types import Modality


@dataclass(frozen=True, slots=True)
class Asked:
    """Questions that share everything but their words. rows: which of each tail's rows guide."""

    tails: tuple[Tail, ...]
    rows: tuple[tuple[int, ...], ...]
    policy: PruningPolicy
    entering: tuple[int, ...]
    depth: int
    max_new_tokens: int


@dataclass(frozen=True, slots=True)
class Told:
    """One answer: its tokens without the end token, and the guidance score [N] from the middle
    layer on.
    """

    ids: tuple[int, ...]
    evidence: torch.Tensor


@dataclass(slots=True)
class _Store:
    """What one layer's later rows read: the prompt [H, P, hd], the block [1 or B, H, n, hd], text
    [B, H, T + new, hd]; H key heads.
    """

    prompt: tuple[torch.Tensor, torch.Tensor]
    block: tuple[torch.Tensor, torch.Tensor]
    text: tuple[torch.Tensor, torch.Tensor]


class BatchedPrefill:
    """The state of one pass; use `answer_all`."""

    def __init__(self, model: QwenOmni, held: Held, asked: Asked) -> None:
        self._decoder: Decoder = model.decoder
        self._held, self._asked = held, asked
        self._eos = model.spec.eos_ids
        device = self._decoder.device
        self._batch = len(asked.tails)
        lengths = [len(tail.ids) for tail in asked.tails]
        self._lengths = torch.tensor(lengths, device=device)
        self._width = max(lengths)
        ids = torch.zeros(self._batch, self._width, dtype=torch.long, device=device)
        self._guides = torch.zeros(self._batch, self._width, device=device)
        for number, (tail, rows) in enumerate(zip(asked.tails, asked.rows, strict=True)):
            ids[number, : len(tail.ids)] = torch.tensor(tail.ids, device=device)
            self._guides[number, list(rows)] = 1.0 / len(rows)
        self._text = self._decoder.embed(ids)  # [B, T, d], padded at the end
        # After the markers ids only count on, so one row of positions serves all lengths.
        room = self._width + asked.max_new_tokens
        positions = tail_positions(held.after, asked.tails[0].markers, room)
        self._angles = self._decoder.rotary.angles(positions)
        self._visible = torch.arange(held.count, device=device)[None]  # [1 or B, n]
        self._block: torch.Tensor | None = None  # [1 or B, n, d]
        self._evidence = torch.zeros(self._batch, held.count, device=device)
        self._stores: list[_Store] = []

    @torch.inference_mode()
    def run(self) -> list[Told]:
        """All layers, then greedy tokens until every answer has ended."""
        for layer in range(self._decoder.n_layers):
            self._layer(layer)
        at = torch.arange(self._batch, device=self._text.device)
        hidden = self._text[at, self._lengths - 1]
        if self._asked.policy.forgets:  # decoding reads text alone (model/fork.py)
            for store in self._stores:
                store.block = (store.block[0][:, :, :0], store.block[1][:, :, :0])
        answers = self._decode(hidden)
        return [
            Told(tuple(ids), evidence)
            for ids, evidence in zip(answers, self._evidence.cpu(), strict=True)
        ]

    # -- prefill

    def _layer(self, layer: int) -> None:
        held, decoder = self._held, self._decoder
        n = self._visible.shape[1]
        if self._block is None and layer >= self._asked.depth and n < held.count:
            self._block = held.hidden[layer][self._visible]
        keys, values, attended = self._block_attention(layer)
        cos, sin = self._angles
        own = (cos[: self._width], sin[: self._width])
        q, text_keys, text_values = _projected(decoder, layer, self._text, own)
        spare = (0, 0, 0, self._asked.max_new_tokens)
        store = _Store(
            (held.prompt_keys[layer], held.prompt_values[layer]),
            (keys, values),
            (F.pad(text_keys, spare), F.pad(text_values, spare)),
        )
        self._stores.append(store)
        causal = torch.ones(self._width, self._width, dtype=torch.bool, device=q.device).tril()
        mixed, weights = _read(store, q, causal.expand(self._batch, -1, -1))
        kept = self._kept(layer, weights)
        self._text = _finished(decoder, layer, self._text, mixed)
        self._go_on(layer, kept, attended)

    def _block_attention(
        self, layer: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """The visible tokens' keys and values [., H, n, hd], and, where their rows run, what they
        attend to [., H_q, n, hd].
        """
        held = self._held
        if self._block is None:
            keys, values = held.keys[layer], held.values[layer]
            if self._visible.shape[1] == held.count:
                return keys[None], values[None], None
            return (
                keys[:, self._visible].transpose(0, 1),
                values[:, self._visible].transpose(0, 1),
                None,
            )
        q, keys, values = _projected(self._decoder, layer, self._block, self._visible_angles())
        if layer + 1 == self._decoder.n_layers:
            return keys, values, None
        many = keys.shape[0]
        front_keys = held.prompt_keys[layer].expand(many, -1, -1, -1)
        front_values = held.prompt_values[layer].expand(many, -1, -1, -1)
        attended = _causal(
            q, torch.cat([front_keys, keys], dim=2), torch.cat([front_values, values], dim=2)
        )
        return keys, values, attended

    def _visible_angles(self) -> Angles:
        """Of the visible tokens, each [. * n, hd]."""
        cos, sin = self._held.angles
        flat = self._visible.flatten()
        return cos[flat], sin[flat]

    def _kept(self, layer: int, weights: torch.Tensor) -> torch.Tensor | None:
        """Which of the visible columns stay [1 or B, n'], None where all do; sums the evidence."""
        asked, layers = self._asked, self._decoder.n_layers
        n = self._visible.shape[1]
        following = asked.entering[layer + 1] if layer + 1 < layers else n
        leaving = n - following
        late = layer >= layers // 2
        first = self._held.prompt_count
        score = None
        if late or (leaving and asked.policy.guidance in ("question", "audio")):
            seen = weights[..., first : first + n].mean(dim=1)  # over heads: [B, T, n]
            score = (self._guides[:, None] @ seen)[:, 0]  # Eq. 5
        if late and score is not None:
            self._evidence.scatter_add_(1, self._visible.expand(self._batch, -1), score)
        if not leaving:
            return None
        scores = self._scores(layer, score, weights[..., first : first + n])
        rows = [None] if scores is None else list(scores)
        visible = self._visible.expand(len(rows), -1) if len(self._visible) == 1 else self._visible
        if len(visible) > len(rows):
            rows = rows * len(visible)
        kept = []
        for own, row in zip(visible, rows, strict=True):
            chunk, modality = self._held.chunk[own], self._held.modality[own]
            gone = asked.policy.drop(layer, layers, row, chunk, modality, leaving)
            stay = torch.ones(n, dtype=torch.bool, device=own.device)
            stay[gone] = False
            kept.append(stay.nonzero()[:, 0])
        return torch.stack(kept)

    def _scores(
        self, layer: int, question: torch.Tensor | None, weights: torch.Tensor
    ) -> torch.Tensor | None:
        """S [B, n], [1, n] where it is the same for all questions, None where no score guides."""
        match self._asked.policy.guidance:
            case "question":
                return question
            case "last":
                at = torch.arange(self._batch, device=weights.device)
                return weights[at, :, self._lengths - 1].mean(dim=1)
            case "audio":
                own = self._visible[0]
                sound = (self._held.modality[own] == int(Modality.AUDIO)).nonzero()[:, 0]
                # None came, or none is left: the question guides.
                return self._audio_scores(layer, own, sound) if len(sound) else question
        return None

    def _audio_scores(self, layer: int, own: torch.Tensor, sound: torch.Tensor) -> torch.Tensor:
        """The sound's rows score (policy asked at depth 0): one window serves all questions."""
        rows = self._held.hidden[layer][own] if self._block is None else self._block[0]
        new = self._decoder.project(layer, rows, self._visible_angles())
        front = self._held.prompt_keys[layer]
        keys = torch.cat([front, rotate(new.k, self._visible_angles())], dim=1)
        first = self._held.prompt_count
        columns = slice(first, first + len(own))
        return audio_guided_importance(new.q[:, sound], keys, columns, rows=sound + first)[None]

    def _go_on(self, layer: int, kept: torch.Tensor | None, attended: torch.Tensor | None) -> None:
        """The block's rows that enter the next layer."""
        block = self._block
        if kept is not None:
            self._visible = torch.gather(self._visible.expand(len(kept), -1), 1, kept)
            if block is not None and attended is not None:
                block = _columns(block.expand(len(kept), -1, -1), kept)
                wide = attended.expand(len(kept), -1, -1, -1).transpose(1, 2).flatten(2)
                attended = (
                    _columns(wide, kept).view(*kept.shape, *attended.shape[1::2]).transpose(1, 2)
                )
        if block is not None and attended is not None:
            self._block = _finished(self._decoder, layer, block, attended)

    # -- decoding

    def _decode(self, hidden: torch.Tensor) -> list[list[int]]:
        """Greedy tokens of every question; hidden [B, d] of each last row."""
        decoder = self._decoder
        answers: list[list[int]] = [[] for _ in range(self._batch)]
        ended = [False] * self._batch
        for step in range(self._asked.max_new_tokens):
            tokens = decoder.head(decoder.norm(hidden)).float().argmax(dim=-1)
            for number, token in enumerate(tokens.tolist()):
                ended[number] = ended[number] or token in self._eos
                if not ended[number]:
                    answers[number].append(token)
            if all(ended) or step + 1 == self._asked.max_new_tokens:
                break
            hidden = self._step(tokens, step)
        return answers

    def _step(self, tokens: torch.Tensor, step: int) -> torch.Tensor:
        """One token each: hidden [B, d]. A new token takes the place of padding."""
        decoder = self._decoder
        at = torch.arange(self._batch, device=tokens.device)
        place = self._lengths + step
        cos, sin = self._angles
        angles = (cos[place], sin[place])
        hidden: torch.Tensor = decoder.embed(tokens)[:, None]
        room = self._width + self._asked.max_new_tokens
        seen = torch.arange(room, device=tokens.device) <= place[:, None]
        for layer, store in enumerate(self._stores):
            q, keys, values = _projected(decoder, layer, hidden, angles)
            store.text[0][at, :, place] = keys[:, :, 0]
            store.text[1][at, :, place] = values[:, :, 0]
            mixed, _ = _read(store, q, seen[:, None])
            hidden = _finished(decoder, layer, hidden, mixed)
        return hidden[:, 0]


def answer_all(model: QwenOmni, held: Held, asked: Asked) -> list[Told]:
    """Every question's answer, in order."""
    return BatchedPrefill(model, held, asked).run()


def _projected(
    decoder: Decoder, layer: int, rows: torch.Tensor, angles: Angles
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """q [B, H, n, hd] and k, v [B, H_kv, n, hd] of ``rows`` [B, n, d], q and k rotated. angles:
    of n positions, or of B * n where they differ.
    """
    batch, n = rows.shape[:2]
    cos, sin = angles
    if cos.shape[0] != batch * n:
        angles = (cos.repeat(batch, 1), sin.repeat(batch, 1))
    new = decoder.project(layer, rows.flatten(0, 1), angles)
    parts = (new.q, rotate(new.k, angles), new.v)
    q, k, v = (p.view(p.shape[0], batch, n, p.shape[2]).transpose(0, 1) for p in parts)
    return q, k, v


def _finished(
    decoder: Decoder, layer: int, rows: torch.Tensor, attended: torch.Tensor
) -> torch.Tensor:
    """The layer's rest: rows [B, n, d], attended [B, H, n, hd] -> [B, n, d]."""
    flat = attended.transpose(0, 1).flatten(1, 2)
    out: torch.Tensor = decoder.finish(layer, rows.flatten(0, 1), flat)
    return out.view(rows.shape)


def _columns(rows: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """rows [B, n, d] at kept [B, n'] -> [B, n', d]."""
    return torch.gather(rows, 1, kept[..., None].expand(-1, -1, rows.shape[2]))


def _causal(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """The last n of N positions attend: q [B, H, n, hd], k, v [B, H_kv, N, hd] -> [B, H, n, hd]."""
    past, groups = k.shape[2] - q.shape[2], q.shape[1] // k.shape[1]
    if groups > 1:
        k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    out = F.scaled_dot_product_attention(F.pad(q, (0, 0, past, 0)), k, v, is_causal=True)
    return out[:, :, past:]


def _read(store: _Store, q: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Text rows q [B, H, t, hd] over prompt, block and text -> mixed [B, H, t, hd], weights f32
    [B, H, t, P + n + T]. mask [B, t, text columns]: what each row sees of the text, which may be
    fewer columns than are stored.
    """
    batch, heads, rows, width = q.shape
    shared = store.prompt[0].shape[0]
    grouped = q.reshape(batch, shared, -1, width)  # heads that share keys become more rows
    text = tuple(part[:, :, : mask.shape[-1]] for part in store.text)
    flat = grouped.transpose(0, 1).flatten(1, 2)  # [H_kv, B * rows, hd]

    def once(keys: torch.Tensor) -> torch.Tensor:
        wide = flat @ keys.transpose(1, 2)
        return wide.view(shared, batch, grouped.shape[2], keys.shape[1]).transpose(0, 1)

    block = store.block[0]
    on_block = once(block[0]) if len(block) == 1 else grouped @ block.transpose(2, 3)
    on_text = grouped @ text[0].transpose(2, 3)
    hidden = ~mask[:, None, None]
    columns = mask.shape[-1]
    on_text = on_text.view(batch, shared, heads // shared, rows, columns).masked_fill(
        hidden, float("-inf")
    )
    on_text = on_text.flatten(2, 3)
    scores = torch.cat([once(store.prompt[0]), on_block, on_text], dim=3).float() * width**-0.5
    weights = scores.softmax(dim=-1)
    cuts = [store.prompt[0].shape[1], block.shape[2], mask.shape[-1]]
    on_prompt, on_block, on_text = weights.to(q.dtype).split(cuts, dim=3)

    def mixed_once(part: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        wide = part.transpose(0, 1).flatten(1, 2) @ values
        return wide.view(shared, batch, grouped.shape[2], width).transpose(0, 1)

    values = store.block[1]
    mixed = mixed_once(on_prompt, store.prompt[1]) + on_text @ text[1]
    mixed = mixed + (mixed_once(on_block, values[0]) if len(values) == 1 else on_block @ values)
    return mixed.reshape(batch, heads, rows, width), weights.reshape(batch, heads, rows, -1)
