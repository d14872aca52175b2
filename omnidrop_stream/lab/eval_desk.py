"""Where a test stream is asked: its chunks encoded once, its windows' states made once, its
questions asked together, and some of them the plain way.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from omnidrop_stream.answer import guidance_rows
from omnidrop_stream.cache import Segment
from omnidrop_stream.config import Config, PruningConfig
from omnidrop_stream.errors import ConfigError
from omnidrop_stream.evidence import name_evidence
from omnidrop_stream.lab.batched import Asked, answer_all
from omnidrop_stream.lab.eval_types import Cell, EvalSettings
from omnidrop_stream.lab.flops import prefill_flops, scored_layers
from omnidrop_stream.lab.held import Held, first_of, held_of, sizes_of
from omnidrop_stream.method import mean_entering, mean_leaving
from omnidrop_stream.model.base import Prompt
from omnidrop_stream.model.qwen_omni import QwenOmni
from omnidrop_stream.model.template import ChatTemplate, Tail
from omnidrop_stream.plan import Plan, nominal_r0, plan_question
from omnidrop_stream.selecting import selected
from omnidrop_stream.stream import OmniStream
from omnidrop_stream.types import Answer, Chunk, Evidence, Query
from omnidrop_stream.world import Question


@dataclass(frozen=True, slots=True)
class Answered:
    """A cell's answers to a window's questions: text and evidence each, and what a pass cost."""

    segments: tuple[Segment, ...]
    told: tuple[tuple[str, tuple[Evidence, ...]], ...]
    cost: dict[str, Any]


@dataclass(slots=True)
class _Trunk:
    """A stream opened in one way at depth 0, and its states at the lengths asked for."""

    live: OmniStream
    prompt: Prompt
    nominal: float
    held: dict[int, Held] = field(default_factory=dict)


class Desk:
    """One stream for all cells. Mutable: `push` first, then ask."""

    def __init__(self, model: QwenOmni, settings: EvalSettings, depths: dict[Cell, int]) -> None:
        self._model, self._settings, self._depths = model, settings, depths
        self._template = ChatTemplate(model.tokenizer, settings.config.stream.kind)
        self._chunks: list[Chunk] = []
        self._trunks: dict[str, _Trunk] = {}
        self._live: dict[tuple[str, int, int], OmniStream] = {}

    def push(self, chunk: Chunk) -> None:
        """The stream's next chunk."""
        self._chunks.append(chunk)

    def answers(self, cell: Cell, count: int, questions: Sequence[Question]) -> Answered:
        """The cell's answers about the first ``count`` chunks."""
        trunk, depth, pruning = self._trunk(cell), self._depths[cell], self._settings.pruning(cell)
        held = self._held(trunk, count)
        plan = plan_question(
            pruning,
            held.count,
            held.unpruned,
            self._model.spec.n_layers,
            depth,
            trunk.nominal,
            remembers=False,
        )
        tails = [self._template.tail(q.text) for q in questions]
        cost = self._cost(held, plan, depth, tails)
        config = self._settings.varied(cell.policy)
        if self._settings.grid.batch == 1:
            live = self._stream(cell, count, depth)
            one = [ask_one(live, q.text, pruning) for q in questions]
            return Answered(held.segments, tuple((a.text, a.evidence) for a in one), cost)
        if plan.policy.input_stage is not None:
            chosen = selected(plan.policy, held.segments, plan.entering[0])
            held = held_of(self._model, trunk.prompt, chosen)
        told: list[tuple[str, tuple[Evidence, ...]]] = []
        for start in range(0, len(tails), self._settings.grid.batch):
            part = tuple(tails[start : start + self._settings.grid.batch])
            rows = tuple(guidance_rows(pruning, tail) for tail in part)
            asked = Asked(part, rows, plan.policy, plan.entering, depth, config.decode.max_tokens)
            for answer in answer_all(self._model, held, asked):
                text = self._model.tokenizer.decode(list(answer.ids), skip_special_tokens=True)
                told.append((text, name_evidence(answer.evidence, held.segments)))
        return Answered(held.segments, tuple(told), cost)

    def timed(
        self, cell: Cell, count: int, questions: Sequence[Question], seed: int, first: Answered
    ) -> dict[str, Any]:
        """One question the plain way: processor milliseconds, and whether the text is the same."""
        number = (seed + count) % len(questions)
        live = self._stream(cell, count, self._depths[cell])
        pruning = self._settings.pruning(cell)
        answer = ask_one(live, questions[number].text, pruning)
        again = ask_one(live, questions[number].text, pruning)  # the first one warms up
        same = answer.text == first.told[number][0]
        return {"prefill_ms": again.ttft_parts_ms["prefill"], "plain_same": same}

    def _trunk(self, cell: Cell) -> _Trunk:
        opening = self._settings.opening(cell, 0)
        key = opening.model_dump_json()
        if key not in self._trunks:
            live = OmniStream(self._model, opening)
            for chunk in self._chunks:
                live.push(chunk)
            _check_held(live, len(self._chunks))
            ids, markers = self._template.prompt(opening.stream.system_prompt)
            prompt = self._model.prefill_prompt(ids, markers)
            self._trunks[key] = _Trunk(live, prompt, self._nominal(opening))
        return self._trunks[key]

    def _nominal(self, opening: Config) -> float:
        spec, stream = self._model.spec, opening.stream
        tokens = min(stream.frame_tokens or spec.frame_tokens, spec.pixels.max_tokens)
        return nominal_r0(stream, opening.intra, tokens)

    def _held(self, trunk: _Trunk, count: int) -> Held:
        """States of the first ``count`` chunks; the longest window's are made, others are its
        front.
        """
        whole = len(self._chunks)
        if whole not in trunk.held:
            trunk.held[whole] = held_of(self._model, trunk.prompt, trunk.live.snapshot())
        if count not in trunk.held:
            per_chunk = self._model.spec.ids_per_chunk
            trunk.held[count] = first_of(trunk.held[whole], trunk.prompt, count, per_chunk)
        return trunk.held[count]

    def _stream(self, cell: Cell, count: int, depth: int) -> OmniStream:
        """The plain path: a stream of the first ``count`` chunks, opened at the cell's depth."""
        opening = self._settings.opening(cell, depth)
        key = (opening.model_dump_json(), count, depth)
        if key not in self._live:
            clock = time.process_time if self._model.spec.device == "cpu" else time.perf_counter
            self._live[key] = OmniStream(self._model, opening, clock)
            for chunk in self._chunks[:count]:
                self._live[key].push(chunk)
        return self._live[key]

    def _cost(self, held: Held, plan: Plan, depth: int, tails: Sequence[Tail]) -> dict[str, Any]:
        """Label, counts and FLOPs; those of a mean question."""
        text = round(sum(len(t.ids) for t in tails) / len(tails))
        rows = round(sum(t.question.stop - t.question.start for t in tails) / len(tails))
        guided = plan.policy.guidance == "question"
        flops = prefill_flops(
            sizes_of(self._model),
            held.prompt_count,
            plan.entering,
            text,
            depth,
            rows,
            scored_layers(plan.entering, guided),
        )
        return {
            "label": plan.label,
            "counts": list(plan.entering),
            "unpruned": held.unpruned,
            "entering": round(mean_entering(plan.entering, held.unpruned), 6),
            "leaving": round(mean_leaving(plan.entering, held.unpruned), 6),
            "flops": flops.total,
            "flops_question": flops.on_question,
        }


def ask_one(stream: OmniStream, text: str, pruning: PruningConfig) -> Answer:
    """The finished answer; streams end in one whatever happens."""
    *_, last = stream.ask(Query(text), pruning=pruning)
    if not isinstance(last, Answer):
        raise RuntimeError("a stream ended without an answer")
    return last


def _check_held(live: OmniStream, count: int) -> None:
    held = len(live.snapshot())
    if held < count:
        raise ConfigError(
            f"a stream of {count} chunks does not fit: stream.budget_tokens = "
            f"{live.config.stream.budget_tokens} and the model's positions hold {held}; ask "
            "for fewer chunks or raise it"
        )
