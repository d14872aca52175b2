"""The prompt around a stream: chat template, special tokens, and user text that cannot reach them.

Layout (Qwen2.5-Omni's): ``<|im_start|>system .. <|im_end|> <|im_start|>user <bos> [V0 A0][V1 A1]..
<eos> question <|im_end|> <|im_start|>assistant``. Earlier turns stand between the block and the
question, so that the block stays where it was computed. Video-only and audio-only streams carry
only their own pair of markers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from omnidrop_stream.errors import ModelMismatch
from omnidrop_stream.types import StreamKind


class Tokenizer(Protocol):
    """What is used of a ``Qwen2Tokenizer``."""

    def get_added_vocab(self) -> dict[str, int]:
        """The special tokens and their ids."""

    def encode(
        self, text: str, *, add_special_tokens: bool = ..., split_special_tokens: bool = ...
    ) -> list[int]:
        """Ids of ``text``."""

    def decode(self, ids: list[int], *, skip_special_tokens: bool = ...) -> str:
        """Text of ``ids``."""


@dataclass(frozen=True, slots=True)
class Turn:
    """An earlier question and its answer, with the stream time it was asked at."""

    question: str
    answer: str
    asked_at_s: float


@dataclass(frozen=True, slots=True)
class Tail:
    """Everything after the block: ids; ``markers`` eos tokens share the first position; guidance
    rows are True.
    """

    ids: list[int]
    markers: int
    question: slice
    """Rows of the current question's own words."""


class ChatTemplate:
    """Builds the ids before and after a stream's audiovisual block."""

    def __init__(self, tokenizer: Tokenizer, kind: StreamKind) -> None:
        self._tokenizer = tokenizer
        pairs = {
            StreamKind.AV: (
                ["<|vision_bos|>", "<|audio_bos|>"],
                ["<|audio_eos|>", "<|vision_eos|>"],
            ),
            StreamKind.VIDEO: (["<|vision_bos|>"], ["<|vision_eos|>"]),
            StreamKind.AUDIO: (["<|audio_bos|>"], ["<|audio_eos|>"]),
        }
        opening, closing = pairs[kind]
        self._opening = [self.special(t) for t in opening]
        self._closing = [self.special(t) for t in closing]

    def special(self, token: str) -> int:
        """Id of a special token; raises ModelMismatch where the tokenizer lacks it."""
        # Not convert_tokens_to_ids: a Qwen2 tokenizer gives <|endoftext|> for what it lacks.
        found = self._tokenizer.get_added_vocab().get(token)
        if found is None:
            raise ModelMismatch(
                f"the tokenizer has no {token}, so it is no Qwen2.5-Omni tokenizer; fetch the "
                "checkpoint again"
            )
        return found

    def words(self, text: str) -> list[int]:
        """Ids of user text; the spelling of a special token is encoded as plain characters."""
        return self._tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)

    def control_tokens_in(self, text: str) -> list[str]:
        """Special tokens spelt out in ``text`` (they have no effect; a face may say so)."""
        return sorted(token for token in self._tokenizer.get_added_vocab() if token in text)

    def _message(self, role: str, body: list[int]) -> list[int]:
        start, end = self.special("<|im_start|>"), self.special("<|im_end|>")
        return [start, *self.words(f"{role}\n"), *body, end, *self.words("\n")]

    def prompt(self, system: str) -> tuple[list[int], int]:
        """Ids up to and with the opening markers, and how many markers there are (they share one
        position).
        """
        header = self._message("system", self.words(system)) if system else []
        user = [self.special("<|im_start|>"), *self.words("user\n")]
        return [*header, *user, *self._opening], len(self._opening)

    def turn_tokens(self, turn: Turn) -> int:
        """How many tokens an earlier turn takes."""
        return len(self._turn(turn, first=False))

    def _turn(self, turn: Turn, first: bool) -> list[int]:
        start, end, newline = (
            self.special("<|im_start|>"),
            self.special("<|im_end|>"),
            self.words("\n"),
        )
        question = self.words(turn.question)
        opening = question if first else [start, *self.words("user\n"), *question]
        return [*opening, end, *newline, *self._message("assistant", self.words(turn.answer))]

    def tail(self, question: str, history: tuple[Turn, ...] = ()) -> Tail:
        """Ids after the block: closing markers, earlier turns, the question, the assistant's
        header.
        """
        start, end, newline = (
            self.special("<|im_start|>"),
            self.special("<|im_end|>"),
            self.words("\n"),
        )
        ids = list(self._closing)
        for number, turn in enumerate(history):
            ids += self._turn(turn, first=number == 0)
        if history:
            ids += [start, *self.words("user\n")]
        words = self.words(question)
        rows = slice(len(ids), len(ids) + len(words))
        ids += [*words, end, *newline, start, *self.words("assistant\n")]
        return Tail(ids, len(self._closing), rows)
