"""Standing questions judged: one question prefill over the last two chunks, nothing decoded.

A judgement asks, in a fixed template, whether what the watcher named is happening now, and reads
one number: the log-odds of yes over no at the last position, each a logsumexp over the spellings
that are one token. Nothing is pruned: all layers, every token of the two chunks. Guidance, and so
the evidence, is that of the watcher's words.

The two chunks are what the trunk has of them: keys and values of the first D layers (made when they
arrived, with the older chunks in sight), and the hidden state that enters layer D. From D on they
run here, two chunks on their own, once for all standing questions. At depth 0 that is a fresh
prefill of the two chunks. At D > 0 their states below D have also seen older chunks: what is
judged is "now, in the light of what came before". They stand in slots 0 and 1, as if everything
older had been evicted.

By sound alone, only the audio tokens of the two chunks take part. (Below D, where pictures come
before the sound of their chunk, their states have seen the pictures too.)
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from omnidrop_stream.cache import Segment, slots_of
from omnidrop_stream.config import PruningConfig
from omnidrop_stream.errors import ConfigError
from omnidrop_stream.evidence import name_evidence
from omnidrop_stream.model.base import OmniModel, Prompt, Question
from omnidrop_stream.model.fork import Fork
from omnidrop_stream.model.template import ChatTemplate
from omnidrop_stream.model.watch_words import PLACE, AnswerWords, rows_of
from omnidrop_stream.plan import NOTHING_DROPPED, policy_for
from omnidrop_stream.segments import deepened
from omnidrop_stream.types import Evidence, Modality, Step, StreamKind
from omnidrop_stream.watch_config import WatchConfig, WatchesConfig

CHUNKS = 2
"""A judgement is about so many chunks."""


@dataclass(frozen=True, slots=True)
class Standing:
    """A standing question in a model's tokens: rows after the block, and which of them guide."""

    text: str
    """As it is asked, template and all."""
    ids: tuple[int, ...]
    markers: int
    guidance: tuple[int, ...]
    words: AnswerWords
    sound_only: bool


@dataclass(frozen=True, slots=True)
class Judgement:
    """What one standing question says of the stretch ``from_s`` to ``to_s``."""

    number: int
    """Which of the questions that were handed over."""
    from_s: float
    to_s: float
    odds: float | None
    """Log-odds of yes over no; None where the stretch holds nothing to judge (no sound)."""
    evidence: tuple[Evidence, ...]
    key_s: float
    """Stream time of the picture that shows it: of the strongest span's picture token that weighs
    most, or that span's middle where it has none.
    """
    tokens: int
    """Audiovisual tokens that took part."""
    own_ms: float
    """The model's time for this question."""
    shared_ms: float
    """The model's time for the chunks themselves, where this question was the first to need it."""


def standing_question(
    watch: WatchConfig, settings: WatchesConfig, model: OmniModel, kind: StreamKind
) -> Standing:
    """``watch`` ready to be judged on a stream of that kind. Raises ConfigError (sound of a stream
    that has none, a question too long for the model), ModelMismatch (no token for yes or no).
    """
    if watch.sound_only and kind is StreamKind.VIDEO:
        raise ConfigError(
            f"{watch.text!r} is to be judged by sound alone, and this stream has no sound; leave "
            "sound_only away, or watch a stream that has some"
        )
    own = model.spec.watch
    by_sound = watch.sound_only or kind is StreamKind.AUDIO
    template = settings.template_sound or own.sound if by_sound else settings.template or own.any
    at = template.index(PLACE)
    text = template.replace(PLACE, watch.text)
    chat = ChatTemplate(model.tokenizer, kind)
    tail = chat.tail(text)
    words = tail.ids[tail.question]
    rows = rows_of(model.tokenizer, words, at, at + len(watch.text))
    room = model.spec.max_positions - (CHUNKS + 1) * model.spec.ids_per_chunk
    if len(tail.ids) > room // 2:
        raise ConfigError(
            f"the standing question has {len(tail.ids)} tokens, more than this model's "
            f"{model.spec.max_positions} positions have room for; say it in fewer words"
        )
    return Standing(
        text=text,
        ids=tuple(tail.ids),
        markers=tail.markers,
        guidance=tuple(tail.question.start + row for row in rows),
        words=AnswerWords.of(model.tokenizer),
        sound_only=watch.sound_only,
    )


def newest_pair(held: Sequence[Segment]) -> tuple[Segment, ...]:
    """The last two chunks, or the last one where the one before is not its neighbour in time."""
    count = CHUNKS if len(held) > 1 and _neighbours(held[-2], held[-1]) else 1
    return tuple(held[-count:])


def earlier_pairs(held: Sequence[Segment], count: int) -> list[tuple[Segment, ...]]:
    """What would have been judged at the ``count`` chunks before the newest, oldest first."""
    stops = range(max(1, len(held) - count), len(held))
    return [newest_pair(held[:stop]) for stop in stops]


def _neighbours(left: Segment, right: Segment) -> bool:
    return right.chunk == left.chunk + 1 and right.epoch == left.epoch


class Judging:
    """The judgements of one stretch: its chunks run through the upper layers once for all."""

    def __init__(
        self,
        model: OmniModel,
        prompt: Prompt,
        pair: tuple[Segment, ...],
        clock: Callable[[], float],
    ) -> None:
        self._model = model
        self._prompt = prompt
        self._pair = pair
        self._clock = clock
        self._whole: dict[bool, tuple[Segment, ...]] = {}

    def estimated_bytes(self, questions: Sequence[Standing]) -> int:
        """What is held at most at one time: the chunks at all layers, and one question's fork."""
        spec = self._model.spec
        width = 2 * spec.n_layers * spec.n_kv_heads * spec.head_dim
        tokens = sum(s.count for s in self._pair)
        rows = max((len(q.ids) for q in questions), default=0)
        kinds = len({q.sound_only for q in questions})
        held = tokens * (kinds + 1) + self._prompt.count + rows
        return held * width * self._prompt.keys.element_size()

    def turns(
        self, questions: Sequence[Standing], cancelled: Callable[[], bool]
    ) -> Generator[Step | Judgement, None, None]:
        """A turn for each layer, then a `Judgement`, for one question after the other."""
        for number, question in enumerate(questions):
            shared_ms = 0.0
            if question.sound_only not in self._whole:
                ready = self._through_all_layers(question.sound_only)
                whole, shared_ms = yield from _timed(ready, self._clock, cancelled)
                if whole is None:
                    return
                self._whole[question.sound_only] = whole
            segments = self._whole[question.sound_only]
            asked = self._asked(question, segments)
            found, own_ms = yield from _timed(asked, self._clock, cancelled)
            if found is None:
                return
            odds, evidence, key_s = found
            yield Judgement(
                number=number,
                from_s=self._pair[0].start_s,
                to_s=self._pair[-1].end_s,
                odds=odds,
                evidence=evidence,
                key_s=key_s,
                tokens=sum(s.count for s in segments),
                own_ms=own_ms,
                shared_ms=shared_ms,
            )

    def _through_all_layers(self, sound_only: bool) -> Generator[None, None, tuple[Segment, ...]]:
        """The pair's tokens that take part, from the depth they have to the last layer."""
        done: tuple[Segment, ...] = ()
        layers = self._model.spec.n_layers
        for held in self._pair:
            taken = held.only(held.tokens.modality == int(Modality.AUDIO)) if sound_only else held
            if not taken.count:
                continue
            if taken.hidden is not None:
                rest = range(taken.depth, layers)
                taken = yield from deepened(
                    self._model, self._prompt, taken, done, taken.hidden, rest
                )
            done = (*done, taken)
        return done

    def _asked(
        self, question: Standing, segments: tuple[Segment, ...]
    ) -> Generator[None, None, tuple[float | None, tuple[Evidence, ...], float]]:
        """Odds, evidence and the moment of the key picture."""
        if not segments:
            return None, (), self._pair[-1].start_s
        model = self._model
        count = sum(s.count for s in segments)
        asked = Question(
            ids=list(question.ids),
            markers=question.markers,
            guidance=question.guidance,
            policy=policy_for(PruningConfig(policy="keep-all"), NOTHING_DROPPED),
            entering=(count,) * model.spec.n_layers,
            depth=model.spec.n_layers,
            max_new_tokens=0,
        )
        fork: Fork = yield from model.pruned_prefill(
            self._prompt, segments, slots_of(segments), asked
        )
        evidence = name_evidence(fork.evidence, segments)
        key_s = _key_time(fork.evidence, segments, evidence, model.spec.ids_per_second)
        return odds_of(fork.logits, question.words), evidence, key_s


T = TypeVar("T")


def _timed(
    turns: Generator[None, None, T], clock: Callable[[], float], cancelled: Callable[[], bool]
) -> Generator[Step, None, tuple[T | None, float]]:
    """What ``turns`` returns (None: cancelled), and the milliseconds of its own turns."""
    spent_s = 0.0
    while not cancelled():
        started = clock()
        try:
            next(turns)
        except StopIteration as done:
            return done.value, (spent_s + clock() - started) * 1e3
        spent_s += clock() - started
        yield Step.PREFILL
    return None, spent_s * 1e3


def odds_of(logits: torch.Tensor, words: AnswerWords) -> float:
    """Log-odds of yes over no from next-token logits [vocabulary], over all spellings of each."""
    spellings = torch.tensor([*words.yes, *words.no], device=logits.device)
    found = logits[spellings].cpu().double()
    yes, no = found[: len(words.yes)], found[len(words.yes) :]
    return float(yes.logsumexp(0) - no.logsumexp(0))


def _key_time(
    scores: torch.Tensor,
    segments: tuple[Segment, ...],
    evidence: tuple[Evidence, ...],
    ids_per_second: float,
) -> float:
    """Of the strongest span's picture tokens the one that weighs most; without one, its middle."""
    if not evidence:
        return segments[-1].start_s
    span = evidence[0]
    best, key_s, start = 0.0, (span.from_s + span.to_s) / 2, 0
    for segment in segments:
        own = slice(start, start + segment.count)
        start += segment.count
        if segment.end_s <= span.from_s or segment.start_s >= span.to_s:
            continue
        score = (
            scores[own].cpu().masked_fill(segment.tokens.modality.cpu() != int(Modality.VIDEO), 0.0)
        )
        most = float(score.max())
        if most > best:
            offset = float(segment.tokens.offsets[0, int(score.argmax())])
            best, key_s = most, segment.start_s + offset / ids_per_second
    return key_s
