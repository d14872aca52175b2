"""What a stream still knows of its past when the cache is full: eviction policies side by side.

Each sees the same stream, twice as long as its budget of bytes holds whole, and is asked the same
questions at the end: some rest on the newer half of the stream, some on the older. Nothing is
pruned at question time, so the difference is what was forgotten.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from omnidrop_stream.cache import EVICTION
from omnidrop_stream.config import Config, merged
from omnidrop_stream.lab.batched import Asked, answer_all
from omnidrop_stream.lab.eval_play import chunks_of
from omnidrop_stream.lab.eval_score import clustered, difference, is_right
from omnidrop_stream.lab.eval_types import Cell, EvalSettings, Mean, Past, Record
from omnidrop_stream.lab.held import held_of
from omnidrop_stream.method import IntraOnly
from omnidrop_stream.model.qwen_omni import QwenOmni
from omnidrop_stream.model.template import ChatTemplate
from omnidrop_stream.stream import OmniStream
from omnidrop_stream.types import CHUNK_SECONDS, Chunk
from omnidrop_stream.world import Question, World, ask

SEED_STEP = 2_000_000
KINDS = ("heard_when", "seen_when", "colour_of", "kind_of", "heard_after", "seen_after")
"""Kinds that rest on one or two places of the stream."""
TRIES = 12
HALVES = ("older", "newer")
WHOLE = "all kept"
"""The reference: a stream that need not forget."""


def questions_of_halves(
    world: World, chunks: int, seed: int, settings: EvalSettings
) -> Iterator[tuple[str, Question]]:
    """At most one question of each kind whose evidence lies in one half of the stream, for each."""
    middle_s = chunks // 2 * CHUNK_SECONDS
    truths = world.truths(0, chunks)
    for number, kind in enumerate(KINDS):
        open_halves = set(HALVES)
        for attempt in range(TRIES):
            rng = np.random.default_rng([seed, 3, number, attempt])
            question = ask(truths, kind, rng, settings.split)
            if question is None or not question.evidence:
                continue
            old = {event.from_s < middle_s for event in question.evidence}
            half = HALVES[0] if old == {True} else HALVES[1]
            if len(old) == 1 and half in open_halves:
                open_halves.discard(half)
                yield half, question


def play_past(model: QwenOmni, settings: EvalSettings, seed: int) -> Record:
    """One stream under every eviction policy; each answer's half and whether it is right."""
    chunks, share = settings.grid.past_chunks, settings.grid.past_share
    seed_of_world = seed + SEED_STEP
    world = World(seed_of_world, settings.split)
    opening = settings.opening(Cell("intra-only", None, 0), 0)
    came = list(chunks_of(range(chunks), world.chunk))
    asked = list(questions_of_halves(world, chunks, seed_of_world, settings))
    whole = _streamed(model, opening, came)
    limit = int(whole.status().nbytes * share)
    record: Record = {"type": "past", "seed": seed, "chunks": chunks, "halves": [], "kept": {}}
    record["halves"] = [half for half, _ in asked]
    record["kinds"] = [question.kind for _, question in asked]
    for name in (WHOLE, *EVICTION):
        live = whole if name == WHOLE else _streamed(model, _limited(opening, name, limit), came)
        held = live.snapshot()
        record["kept"][name] = {
            "ok": _answered(model, settings, opening, live, [q for _, q in asked]),
            "tokens": sum(s.count for s in held),
            "bytes": live.status().nbytes,
            "chunks": len(held),
        }
    return record


def _limited(opening: Config, name: str, limit: int) -> Config:
    stream: dict[str, Any] = {"budget_bytes": limit}
    if name != "oldest_window":
        stream["eviction"] = {"policy": name}
    return merged(opening, {"stream": stream})


def _streamed(model: QwenOmni, config: Config, chunks: Sequence[Chunk]) -> OmniStream:
    live = OmniStream(model, config)
    for chunk in chunks:
        live.push(chunk)
    return live


def _answered(
    model: QwenOmni,
    settings: EvalSettings,
    opening: Config,
    live: OmniStream,
    questions: Sequence[Question],
) -> str:
    template = ChatTemplate(model.tokenizer, opening.stream.kind)
    prompt = model.prefill_prompt(*template.prompt(opening.stream.system_prompt))
    held = held_of(model, prompt, live.snapshot())
    tails = tuple(template.tail(q.text) for q in questions)
    rows = tuple(tuple(range(t.question.start, t.question.stop)) for t in tails)
    entering = (held.count,) * model.spec.n_layers
    asked = Asked(tails, rows, IntraOnly(), entering, 0, settings.config.decode.max_tokens)
    told = answer_all(model, held, asked) if tails else []
    texts = [model.tokenizer.decode(list(t.ids), skip_special_tokens=True) for t in told]
    return "".join("01"[is_right(t, q.answer)] for t, q in zip(texts, questions, strict=True))


def score_past(records: Sequence[Record]) -> tuple[Past, ...]:
    """A row for each policy, each half less the baseline's, question by question."""
    if not records:
        return ()
    rows = []
    for name in records[0]["kept"]:
        kept = [r["kept"][name] for r in records]
        right, less = dict[str, Mean](), dict[str, Mean]()
        for half in HALVES:
            pairs = [_half(r, name, half) for r in records]
            share = clustered((own, n) for _, own, n in pairs)
            apart = difference((float(base), float(own), n) for base, own, n in pairs)
            if share is not None and apart is not None:
                right[half], less[half] = share, apart
        rows.append(
            Past(
                name,
                len(records),
                sum(k["tokens"] for k in kept) / len(kept),
                sum(k["bytes"] for k in kept) / len(kept),
                sum(k["chunks"] for k in kept) / len(kept),
                right,
                less,
            )
        )
    return tuple(rows)


def _half(record: Record, name: str, half: str) -> tuple[int, int, int]:
    """Right answers of oldest window and of the policy, and questions, of one half."""
    own = [i for i, h in enumerate(record["halves"]) if h == half]
    base, ok = record["kept"]["oldest_window"]["ok"], record["kept"][name]["ok"]
    return sum(base[i] == "1" for i in own), sum(ok[i] == "1" for i in own), len(own)
