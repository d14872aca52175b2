"""Batches of streams with questions: what is asked, in ids and labels, and where everything
stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from omnidrop_stream.lab.train.corpus import SYSTEM
from omnidrop_stream.model.template import Tokenizer
from omnidrop_stream.world.items import (
    CHUNK_S,
    COLOUR_NAMES,
    KINDS,
    SOUNDS,
    WORDS,
    ChunkTruth,
    Event,
)
from omnidrop_stream.world.questions import COUNTS, ask

Tensor = torch.Tensor
IGNORE = -100
SLOT_IDS = 50
SHORT_WORDS = {
    "short_heard_when": "",
    "short_seen_when": "",
    "short_heard_after": " after",
    "short_heard_before": " before",
    "short_seen_after": " after",
    "short_seen_before": " before",
}
"""Cue and answer without a sentence around them: how binding and order are learnt first."""
SHORT_KINDS = tuple(SHORT_WORDS)
N_COLOUR, N_KIND, N_SOUND, N_WORD = len(COLOUR_NAMES), len(KINDS), len(SOUNDS), len(WORDS)


@dataclass(frozen=True, slots=True)
class Streams:
    """Contents of B streams of m chunks, [B, m] each; the last class of each is "nothing"."""

    colour: Tensor
    kind: Tensor
    sound: Tensor

    def since(self, first: int) -> Streams:
        """The same streams without their first chunks."""
        return Streams(self.colour[:, first:], self.kind[:, first:], self.sound[:, first:])

    def truths(self, row: int) -> list[ChunkTruth]:
        """One stream as the questions want it (spans are nominal)."""
        out = []
        columns = (self.colour[row].tolist(), self.kind[row].tolist(), self.sound[row].tolist())
        for i, (c, k, s) in enumerate(zip(*columns, strict=True)):
            name = f"{COLOUR_NAMES[c]} {KINDS[k]}" if c < N_COLOUR else None
            seen = Event(name, "video", 2.0 * i, 2.0 * i + 2) if name else None
            heard = Event(SOUNDS[s], "audio", 2.0 * i, 2.0 * i + 2) if s < N_SOUND else None
            out.append(
                ChunkTruth(
                    c if name else None, k if name else None, s if heard else None, seen, heard
                )
            )
        return out


@dataclass(frozen=True, slots=True)
class Asked:
    """Questions [B, Q, length]: ids, labels (-100 where nothing is learnt), kind index [B, Q].

    words [B, Q]: how many of the ids are the question's own words; evidence bool [B, Q, m, 2]: the
    chunks whose picture, and whose sound, the answer rests on.
    """

    ids: Tensor
    labels: Tensor
    kind: Tensor
    words: Tensor
    evidence: Tensor


def draw_streams(
    rng: np.random.Generator, batch: int, chunks: int, blank: float, repeat: float
) -> Streams:
    """Random contents: `blank` is the highest share of empty chunks, `repeat` how often items may
    recur.
    """
    shape = (batch, chunks)
    thing = rng.integers(N_COLOUR * N_KIND, size=shape)
    sound = rng.integers(N_WORD, size=shape)
    for row in range(batch):
        if rng.random() >= repeat:
            order = [rng.permutation(N_WORD) for _ in range(-(-chunks // N_WORD))]
            sound[row] = np.concatenate(order)[:chunks]
            thing[row] = rng.permutation(N_COLOUR * N_KIND)[:chunks]
    bell = (rng.random(shape) < 0.08) & (repeat > 0)
    sound = np.where(bell, N_SOUND - 1, sound)
    share = rng.uniform(0, 1, (batch, 1)) * blank
    no_thing = rng.random(shape) < share
    no_sound = rng.random(shape) < rng.uniform(0, 1, (batch, 1)) * blank
    if blank and chunks > N_WORD // 2:
        no_sound |= rng.random(shape) < 0.4
    colour = np.where(no_thing, N_COLOUR, thing // N_KIND)
    kind = np.where(no_thing, N_KIND, thing % N_KIND)
    return Streams(
        torch.from_numpy(colour),
        torch.from_numpy(kind),
        torch.from_numpy(np.where(no_sound, N_SOUND, sound)),
    )


@dataclass(frozen=True, slots=True)
class _Written:
    ids: list[int]
    labels: list[int]
    words: int
    evidence: tuple[Event, ...]


class QuestionWriter:
    """Turns streams into packed questions with the chat template of the runtime."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        special = tokenizer.get_added_vocab()
        self._encode = lru_cache(maxsize=50_000)(
            lambda text: tokenizer.encode(text, add_special_tokens=False)
        )
        start, self.end = special["<|im_start|>"], special["<|im_end|>"]
        newline = self._encode("\n")
        header = [start, *self._encode("system\n"), *self._encode(SYSTEM), self.end, *newline]
        bos = [special[t] for t in ("<|vision_bos|>", "<|audio_bos|>")]
        self.before = [*header, start, *self._encode("user\n"), *bos]
        self.after = [special[t] for t in ("<|audio_eos|>", "<|vision_eos|>")]
        self._tail = [self.end, *newline, start, *self._encode("assistant\n")]

    def twins(self) -> list[tuple[int, int]]:
        """Ids of each answer word with and without its leading space."""
        pairs = []
        for word in dict.fromkeys([*SOUNDS, *COLOUR_NAMES, *KINDS, *COUNTS, "nothing"]):
            spaced, bare = self._encode(f" {word}"), self._encode(word)
            if len(spaced) == 1 and len(bare) == 1:
                pairs.append((spaced[0], bare[0]))
        return pairs

    def name_ids(self) -> tuple[list[int], list[int], list[int]]:
        """The embedding rows that stand for each colour, kind and sound."""
        last = [
            [self._encode(f" {n}")[-1] for n in names] for names in (COLOUR_NAMES, KINDS, SOUNDS)
        ]
        return last[0], last[1], last[2]

    def _pair(
        self, text: str, answer: str, evidence: tuple[Event, ...], short: bool = False
    ) -> _Written:
        words = self._encode(text)
        asked = words + ([] if short else self._tail)
        said = self._encode(answer)
        labels = [IGNORE] * (len(asked) - 1) + said + [self.end]
        return _Written(asked + said, labels, len(words), evidence)

    def write(
        self,
        streams: Streams,
        kinds: Sequence[str],
        weights: Sequence[float],
        count: int,
        rng: np.random.Generator,
    ) -> Asked:
        """`count` questions for each stream, kinds drawn by weight."""
        p = np.asarray(weights) / np.sum(weights)
        rows: list[_Written] = []
        which: list[int] = []
        for row in range(len(streams.colour)):
            truths = streams.truths(row)
            made = tries = 0
            while made < count:
                number, tries = int(rng.choice(len(kinds), p=p)), tries + 1
                one = self._question(truths, kinds[number], rng)
                if one is None and tries > 50 * count:  # a stream that gives no such question
                    one = _Written([self.end], [IGNORE], 1, ())
                if one is not None:
                    rows.append(one)
                    which.append(number)
                    made += 1
        length = max(len(one.ids) for one in rows)
        ids = torch.zeros(len(rows), length, dtype=torch.long)
        labels = torch.full((len(rows), length), IGNORE)
        evidence = torch.zeros(len(rows), streams.colour.shape[1], 2, dtype=torch.bool)
        for i, one in enumerate(rows):
            ids[i, : len(one.ids)] = torch.tensor(one.ids)
            labels[i, : len(one.labels)] = torch.tensor(one.labels)
            for event in one.evidence:
                evidence[i, int(event.from_s // CHUNK_S), int(event.modality == "audio")] = True
        shape = (len(streams.colour), count)
        return Asked(
            ids.view(*shape, -1),
            labels.view(*shape, -1),
            torch.tensor(which).view(shape),
            torch.tensor([one.words for one in rows]).view(shape),
            evidence.view(*shape, -1, 2),
        )

    def _question(
        self, truths: list[ChunkTruth], kind: str, rng: np.random.Generator
    ) -> _Written | None:
        q = ask(truths, kind.removeprefix("short_"), rng)
        if q is None:
            return None
        if kind not in SHORT_KINDS:
            return self._pair(q.text, q.answer, q.evidence)
        cue = q.evidence[1 if q.kind == "seen_when" else 0].what
        return self._pair(f"{SHORT_WORDS[kind]} {cue}", q.answer, q.evidence, short=True)


def slots(rng: np.random.Generator, batch: int, chunks: int, gap_share: float, most: int) -> Tensor:
    """The position slot of each chunk [B, m]: consecutive, or with random gaps: up to half as many
    slots again and two, `most` in all.
    """
    out = np.tile(np.arange(chunks), (batch, 1))
    for row in range(batch):
        if rng.random() < gap_share and most > chunks:
            room = int(rng.integers(chunks, min(most, chunks + chunks // 2 + 2) + 1))
            out[row] = np.sort(rng.permutation(room)[:chunks])
    return torch.from_numpy(out)


def prefix_positions(
    before: int, slot: Tensor, video: Tensor, audio: Tensor, grid: int
) -> tuple[Tensor, Tensor]:
    """Positions of the whole prefix [3, B, P] and of each question's first token [B].

    before: ids up to and with both bos; video [B, m, nv] kept cells (0 .. 2*grid^2-1), audio [B,
    m, na] kept tokens, -1 is not allowed: every stream of the batch keeps the same number in the
    same chunk place.
    """
    batch = slot.shape[0]
    base = before - 1
    begin = base + slot[..., None] * SLOT_IDS
    cells = grid * grid
    v = torch.stack(
        [
            begin + video // cells * 25,
            base + video % cells // grid,
            base + video % grid,
        ]
    )
    a = (begin + audio).expand(3, *audio.shape)
    block = torch.cat([v, a], 3).reshape(3, batch, -1)
    head = torch.arange(before)
    head[-1] = before - 2
    end = base + (slot[:, -1] + 1) * SLOT_IDS
    tail = end[None, :, None].expand(3, batch, 2)
    whole = torch.cat([head.expand(3, batch, before), block, tail], 2)
    return whole, end + 1
