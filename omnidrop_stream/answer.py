"""One answer: the question's pass over a snapshot, then token after token, then its grounds."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any

import torch

from omnidrop_stream.cache import Segment, slots_of
from omnidrop_stream.config import DecodeConfig, PruningConfig
from omnidrop_stream.errors import QuestionError
from omnidrop_stream.evidence import coverage_of, name_evidence
from omnidrop_stream.method import mean_entering, mean_leaving
from omnidrop_stream.model.base import OmniModel, Prompt, Question
from omnidrop_stream.model.fork import Fork
from omnidrop_stream.model.sampling import pick_token
from omnidrop_stream.model.template import ChatTemplate, Tail, Turn
from omnidrop_stream.plan import plan_question
from omnidrop_stream.selecting import check_whole, selected
from omnidrop_stream.types import Answer, Delta, Evidence, Gap, LayerCount, Query, Step, TokenUse
from omnidrop_stream.wanted import Wanted
from omnidrop_stream.wants import decode_wanted

UNFINISHED = "\N{REPLACEMENT CHARACTER}"


class AnswerRun:
    """The private work of one question. Everything it allocates goes with `free`."""

    def __init__(
        self,
        model: OmniModel,
        prompt: Prompt,
        template: ChatTemplate,
        segments: tuple[Segment, ...],
        provisional: bool,
        query: Query,
        history: tuple[Turn, ...],
        pruning: PruningConfig,
        decode: DecodeConfig,
        depth: int,
        nominal_r0: float,
        coverage: Sequence[Gap],
        dropped: int,
        clock: Callable[[], float],
        started: float,
    ) -> None:
        self._model = model
        self._prompt = prompt
        self._segments = segments
        self._provisional = provisional
        self._query = query
        self._decode = decode
        self._depth = depth
        self._coverage = coverage_of(segments, coverage)
        self._dropped = dropped
        self._clock = clock
        self._started = started
        self._asked_at_s = query.asked_at_s if query.asked_at_s is not None else segments[-1].end_s
        self._unpruned = sum(s.tokens.n_unpruned for s in segments)
        n0 = sum(s.count for s in segments)
        remembers = any(s.seen_from < segments[0].chunk or s.thinned for s in segments)
        spec = model.spec
        self._plan = plan_question(
            pruning, n0, self._unpruned, spec.n_layers, depth, nominal_r0, remembers
        )
        check_whole(self._plan.policy, segments)
        tail = template.tail(query.text, history)
        self._check_room(tail)
        self._question = Question(
            ids=tail.ids,
            markers=tail.markers,
            guidance=guidance_rows(pruning, tail),
            policy=self._plan.policy,
            entering=self._plan.entering,
            depth=depth,
            max_new_tokens=decode.max_tokens,
        )
        self._fork: Fork | None = None
        self._evidence: tuple[Evidence, ...] = ()
        self._ids: list[int] = []
        self._sent = ""
        self._parts_ms: dict[str, float] = {}
        self.answer: Answer | None = None

    def _check_room(self, tail: Tail) -> None:
        spec = self._model.spec
        slots = slots_of(self._segments)[-1] + 1
        last = (
            self._prompt.base + slots * spec.ids_per_chunk + len(tail.ids) + self._decode.max_tokens
        )
        if last > spec.max_positions:
            raise QuestionError(
                f"the question has {tail.question.stop - tail.question.start} tokens, too many "
                "for what the window and the "
                f"answer leave of the model's {spec.max_positions} positions; shorten it"
            )

    def estimated_bytes(self) -> int:
        """What the fork will allocate, counted before it does: stores, logits and evidence."""
        spec = self._model.spec
        entering = self._question.entering
        fixed = self._prompt.count + len(self._question.ids) + self._decode.max_tokens
        width = 2 * spec.n_kv_heads * spec.head_dim * self._prompt.keys.element_size()
        copied = 0
        if self._plan.policy.input_stage is not None:
            copied = entering[0] * spec.hidden_size * self._prompt.keys.element_size()
        states = sum(n + fixed for n in entering) * width
        return states + copied + 4 * (spec.vocabulary + entering[0])

    def free(self) -> None:
        """Drop the fork and the snapshot."""
        self._fork = None
        self._segments = ()

    def turns(
        self, cancelled: Callable[[], bool]
    ) -> Generator[Delta | Answer | Step | Wanted, Any, None]:
        """Prefill layer by layer, then one turn for each token, `Wanted`; `Answer` last."""
        before = self._clock()
        self._parts_ms["open_chunk"] = (before - self._started) * 1e3 if self._provisional else 0.0
        slots = slots_of(self._segments)
        entering = self._question.entering[0]
        self._segments = selected(self._plan.policy, self._segments, entering)
        prefill = self._model.pruned_prefill(self._prompt, self._segments, slots, self._question)
        while True:
            if cancelled():
                yield self._finish("cancelled", None)
                return
            try:
                next(prefill)
            except StopIteration as done:
                self._fork = done.value
                if self._plan.policy.forgets:
                    self._fork.forget_block(self._prompt.count)
                break
            yield Step.PREFILL
        self._parts_ms["prefill"] = (self._clock() - before) * 1e3
        yield from self._decoding(cancelled)

    def _decoding(
        self, cancelled: Callable[[], bool]
    ) -> Generator[Delta | Answer | Step | Wanted, Any, None]:
        decode, fork = self._decode, self._fork
        if fork is None:
            raise RuntimeError("decoding before the prefill has ended")
        generator = torch.Generator().manual_seed(decode.seed) if decode.temperature > 0 else None
        first_at: float | None = None
        logits = fork.logits
        seq = 0
        finish = "length"
        for number in range(decode.max_tokens):
            if number < decode.min_tokens:
                logits = logits.index_fill(0, self._ends(logits.device), float("-inf"))
            token = pick_token(logits, decode.temperature, decode.top_p, generator)
            if first_at is None:
                first_at = self._clock()
                self._evidence = name_evidence(fork.evidence, self._segments)
                self._segments = ()  # what leaves the trunk from now on is not kept alive
            if token in self._model.spec.eos_ids:
                finish = "stop"
                break
            self._ids.append(token)
            piece = self._piece(last=number + 1 == decode.max_tokens)
            if piece:
                yield Delta(self._query.id, seq, piece)
                seq += 1
            else:
                yield Step.DECODE
            if cancelled():
                finish = "cancelled"
                break
            if number + 1 < decode.max_tokens:
                logits = yield decode_wanted(self._model, fork, token)
        if rest := self._piece(last=True):
            yield Delta(self._query.id, seq, rest)
        yield self._finish(finish, first_at)

    def _ends(self, device: torch.device) -> torch.Tensor:
        """The tokens that end an answer."""
        return torch.tensor(self._model.spec.eos_ids, dtype=torch.long, device=device)

    def _piece(self, last: bool) -> str:
        """New text; bytes of an unfinished character wait for the next token."""
        text = self._model.tokenizer.decode(self._ids, skip_special_tokens=True)
        if not last:
            text = text.rstrip(UNFINISHED)
        new = text[len(self._sent) :]
        self._sent = text if len(text) > len(self._sent) else self._sent
        return new

    def _finish(self, finish: str, first_at: float | None) -> Answer:
        now = self._clock()
        ttft_ms = ((first_at or now) - self._started) * 1e3
        known = self._parts_ms.get("open_chunk", 0.0) + self._parts_ms.get("prefill", 0.0)
        self._parts_ms["first_token"] = max(0.0, ttft_ms - known)
        self.answer = Answer(
            id=self._query.id,
            question=self._query.text,
            text=self._sent,
            finish=finish,
            session=self._query.session,
            asked_at_s=self._asked_at_s,
            ttft_ms=ttft_ms,
            total_ms=(now - self._started) * 1e3,
            ttft_parts_ms=dict(self._parts_ms),
            prefill_depth=self._depth,
            label=self._plan.label,
            policy=self._plan.policy.name,
            open_chunk=self._provisional,
            tokens=self._token_use(),
            evidence=self._evidence,
            coverage=self._coverage,
            staleness_s=max(0.0, self._asked_at_s - self._coverage.to_s),
            dropped_chunks=self._dropped,
            answer_tokens=len(self._ids),
        )
        return self.answer

    def _token_use(self) -> TokenUse:
        entering = self._plan.entering
        fork = self._fork
        pairs = (
            list(zip(fork.entering_video, fork.entering_audio, strict=True))
            if fork is not None
            else []
        )
        rows = []
        for layer, (video, audio) in enumerate(pairs):
            following = entering[layer + 1] if layer + 1 < len(entering) else entering[layer]
            rows.append(LayerCount(layer, video, audio, entering[layer] - following))
        unpruned = max(1, self._unpruned)
        return TokenUse(
            unpruned=self._unpruned,
            entering=entering[0],
            mean_entering=mean_entering(entering, unpruned),
            mean_leaving=mean_leaving(entering, unpruned),
            per_layer=tuple(rows),
        )


def guidance_rows(pruning: PruningConfig, tail: Tail) -> tuple[int, ...]:
    """Rows after the block that guide: the question's words, all text, or the last token."""
    if pruning.guidance == "all_text":
        return tuple(range(len(tail.ids)))
    if pruning.guidance == "last":
        return (len(tail.ids) - 1,)
    return tuple(range(tail.question.start, tail.question.stop))
