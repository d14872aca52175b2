"""Many questions at once against the plain path: the same answers, grounds and counts."""

from __future__ import annotations

import pytest
import torch

from omnidrop_stream.cache import Segment, slots_of
from omnidrop_stream.config import make_config
from omnidrop_stream.lab.batched import Asked, Told, answer_all
from omnidrop_stream.lab.held import Held, first_of, held_of
from omnidrop_stream.method import (
    PolicySettings,
    PruningPolicy,
    Schedule,
    catch_up_counts,
    make_policy,
)
from omnidrop_stream.model.base import Prompt, Question
from omnidrop_stream.model.fork import Fork
from omnidrop_stream.model.qwen_omni import QwenOmni
from omnidrop_stream.model.template import ChatTemplate, Tail
from omnidrop_stream.stream import OmniStream
from omnidrop_stream.types import StreamKind
from tests.helpers import make_chunks, small_model

WORDS = ("what?", "which word was said before the bell?", "was a blue star seen now?")
TOKENS = 3
STEEP = Schedule("sigmoid", 0.0, 0.6, 0.4, 20.0)


@pytest.fixture(scope="module")
def model() -> QwenOmni:
    """Two query heads share each key head."""
    return small_model(heads=4, kv_heads=2, layers=6)


def opened(model: QwenOmni, depth: int) -> OmniStream:
    stream = {"frame_tokens": 4, "prefill_depth": depth}
    free = {"policy": "intra-only", "retention": None}
    live = OmniStream(model, make_config({"stream": stream, "pruning": free}))
    for chunk in make_chunks(4):
        live.push(chunk)
    return live


@pytest.fixture(scope="module")
def segments(model: QwenOmni) -> dict[int, tuple[Segment, ...]]:
    return {depth: opened(model, depth).snapshot() for depth in (0, 3, 6)}


@pytest.fixture(scope="module")
def prompt(model: QwenOmni) -> Prompt:
    template = ChatTemplate(model.tokenizer, StreamKind.AV)
    return model.prefill_prompt(*template.prompt("You are a helpful assistant."))


@pytest.fixture(scope="module")
def held(model: QwenOmni, prompt: Prompt, segments: dict[int, tuple[Segment, ...]]) -> Held:
    return held_of(model, prompt, segments[0])


def asked(
    model: QwenOmni,
    policy: PruningPolicy,
    depth: int,
    n0: int,
    kind: StreamKind = StreamKind.AV,
) -> Asked:
    template = ChatTemplate(model.tokenizer, kind)
    tails = tuple(template.tail(text) for text in WORDS)
    rows = tuple(tuple(range(t.question.start, t.question.stop)) for t in tails)
    entering = catch_up_counts(policy.counts(n0, 6, 2 * n0), depth)
    return Asked(tails, rows, policy, entering, depth, TOKENS)


def one_by_one(
    model: QwenOmni, prompt: Prompt, segments: tuple[Segment, ...], many: Asked
) -> list[tuple[list[int], Fork]]:
    out = []
    for tail, rows in zip(many.tails, many.rows, strict=True):
        question = _question(tail, rows, many)
        turns = model.pruned_prefill(prompt, segments, slots_of(segments), question)
        fork = _ended(turns)
        if many.policy.forgets:
            fork.forget_block(prompt.count)
        ids: list[int] = []
        logits = fork.logits
        while len(ids) < TOKENS:
            token = int(logits.argmax())
            if token in model.spec.eos_ids:
                break
            ids.append(token)
            if len(ids) < TOKENS:
                logits = model.decode_step(fork, token)
        out.append((ids, fork))
    return out


def _question(tail: Tail, rows: tuple[int, ...], many: Asked) -> Question:
    return Question(tail.ids, tail.markers, rows, many.policy, many.entering, many.depth, TOKENS)


def _ended(turns: object) -> Fork:
    while True:
        try:
            next(turns)  # type: ignore[call-overload]
        except StopIteration as done:
            return done.value


def same(told: list[Told], plain: list[tuple[list[int], Fork]]) -> None:
    assert [list(t.ids) for t in told] == [ids for ids, _ in plain]
    for answer, (_, fork) in zip(told, plain, strict=True):
        torch.testing.assert_close(answer.evidence, fork.evidence, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(
    "name",
    [
        "omnidrop",
        "last-token",
        "random",
        "intra-only",
        "audio-guided",
        "seats-in-layer",
        "seats-in-layer-keep-kv",
    ],
)
def test_questions_asked_at_once_are_answered_as_one_by_one(
    model: QwenOmni,
    prompt: Prompt,
    segments: dict[int, tuple[Segment, ...]],
    held: Held,
    name: str,
) -> None:
    policy = make_policy(name, PolicySettings(schedule=STEEP, retention=0.36))
    many = asked(model, policy, 0, held.count)
    same(answer_all(model, held, many), one_by_one(model, prompt, segments[0], many))


@pytest.mark.parametrize("name", ["omnidrop", "random"])
@pytest.mark.parametrize("depth", [3, 6])
def test_a_head_start_reads_what_the_plain_path_reads(
    model: QwenOmni,
    prompt: Prompt,
    segments: dict[int, tuple[Segment, ...]],
    held: Held,
    name: str,
    depth: int,
) -> None:
    policy = make_policy(name, PolicySettings(schedule=STEEP))
    many = asked(model, policy, depth, held.count)
    if depth == 6:  # read side: the paper's counts choose what the question reads
        many = Asked(many.tails, many.rows, policy, policy.counts(held.count, 6, 400), 6, TOKENS)
    same(answer_all(model, held, many), one_by_one(model, prompt, segments[depth], many))


def test_a_stream_without_sound_is_guided_by_its_questions(model: QwenOmni) -> None:
    kind = StreamKind.VIDEO
    template = ChatTemplate(model.tokenizer, kind)
    front = model.prefill_prompt(*template.prompt("You are a helpful assistant."))
    stream = {"frame_tokens": 4, "prefill_depth": 0, "kind": "video"}
    free = {"policy": "intra-only", "retention": None}
    live = OmniStream(model, make_config({"stream": stream, "pruning": free}))
    for chunk in make_chunks(3, kind):
        live.push(chunk)
    pieces = live.snapshot()
    policy = make_policy("audio-guided", PolicySettings(schedule=STEEP))
    many = asked(model, policy, 0, sum(s.count for s in pieces), kind)
    told = answer_all(model, held_of(model, front, pieces), many)
    same(told, one_by_one(model, front, pieces, many))


def test_a_schedule_that_drops_after_the_first_layer_is_followed(
    model: QwenOmni, prompt: Prompt, segments: dict[int, tuple[Segment, ...]], held: Held
) -> None:
    steep = Schedule("sigmoid", 0.2, 0.5, 0.2, 20.0)
    many = asked(model, make_policy("omnidrop", PolicySettings(schedule=steep)), 0, held.count)
    assert many.entering[1] < many.entering[0]
    same(answer_all(model, held, many), one_by_one(model, prompt, segments[0], many))


def test_a_shorter_window_is_the_front_of_a_longer_one(
    model: QwenOmni, prompt: Prompt, segments: dict[int, tuple[Segment, ...]], held: Held
) -> None:
    front = first_of(held, prompt, 2, model.spec.ids_per_chunk)
    own = held_of(model, prompt, segments[0][:2])
    policy = make_policy("omnidrop", PolicySettings(schedule=STEEP))
    many = asked(model, policy, 0, front.count)
    first, second = answer_all(model, front, many), answer_all(model, own, many)
    assert [t.ids for t in first] == [t.ids for t in second]
    torch.testing.assert_close(first[1].evidence, second[1].evidence, atol=1e-6, rtol=1e-4)
