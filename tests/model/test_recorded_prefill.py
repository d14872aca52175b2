"""A question's pass that was recorded once is the pass that runs layer by layer."""

from __future__ import annotations

import gc
import math
import weakref
from dataclasses import replace

import pytest
import torch

from omnidrop_stream.errors import ModelError
from omnidrop_stream.model import recorded_prefill
from omnidrop_stream.model.qwen_omni import QwenOmni, Ways
from omnidrop_stream.model.recorded_prefill import KEPT_RECORDS, TEXT_ROWS
from omnidrop_stream.stream import OmniStream
from omnidrop_stream.types import Query, StreamKind
from tests.helpers import ENGINES, make_chunks, settings, small_model
from tests.pretend_device import pretended, sent
from tests.recorder import Recorder

LAYERS = 6
ROLLING = {"budget_tokens": 260}
PRUNINGS = [
    {"retention": 0.4},
    {"retention": 0.4, "diversity_guard": True, "diversity_normalise": "none"},
    {"retention": 0.4, "guidance": "all_text"},
    {"policy": "last-token", "retention": 0.4},
    {"policy": "intra-only"},
    {"policy": "keep-all"},
]
QUESTION = "What rang?"


@pytest.fixture(autouse=True)
def early(monkeypatch):
    """The second pass of a shape is recorded."""
    monkeypatch.setattr(recorded_prefill, "EAGER_PASSES", 1)


@pytest.fixture(scope="module")
def chunks():
    return make_chunks(8, seed=2)


def recording(engine="plain", recorder=None):
    """A model that computes as it does without records, and one that records; and by what."""
    plain, recorder = small_model(engine=engine, seed=1, layers=LAYERS), recorder or Recorder()
    return plain, plain.with_ways(replace(plain.ways, capture=recorder)), recorder


def opened(model, chunks, depth="read_side", pruning=None, tokens=2, **stream):
    options = {"frame_tokens": 24, "prefill_depth": depth, **stream}
    how = settings(
        stream=options, pruning=pruning or {"retention": 0.4}, decode={"max_tokens": tokens}
    )
    made = OmniStream(model, how)
    for chunk in chunks:
        made.push(chunk)
    return made


def asked(model, stream, question=QUESTION, **options):
    """The answer, and what the question's pass ended with."""
    forks, original = [], model.pruned_prefill

    def watched(*args):
        fork = yield from original(*args)
        for store in fork.layers:
            store.settle()  # what is read in the trunk counts as well
        stores = [(store.count, store.left) for store in fork.layers]
        seen = (fork.entering_video, fork.entering_audio, fork.next_position)
        forks.append((fork.logits.clone(), fork.evidence.clone(), seen, stores))
        return fork

    model.pruned_prefill = watched
    try:
        answer = list(stream.ask(Query(question), **options))[-1]
    finally:
        del model.pruned_prefill
    return answer, forks[0]


def same(ours, theirs):
    (
        (answer, (logits, evidence, seen, stores)),
        (other, (logits_2, evidence_2, seen_2, stores_2)),
    ) = (
        ours,
        theirs,
    )
    assert torch.allclose(logits, logits_2, rtol=1e-4, atol=1e-5)
    assert torch.allclose(evidence, evidence_2, atol=1e-6)
    assert bool(((evidence > 0) == (evidence_2 > 0)).all())  # the same tokens were kept
    assert seen == seen_2
    assert stores == stores_2
    assert (answer.text, answer.tokens, answer.label) == (other.text, other.tokens, other.label)


@pytest.mark.parametrize("pruning", PRUNINGS)
@pytest.mark.parametrize("rolling", [{}, ROLLING])
@pytest.mark.parametrize("engine", ENGINES)
def test_the_second_question_of_a_shape_is_recorded_and_equal(engine, rolling, pruning, chunks):
    plain, recorder_model, recorder = recording(engine)
    ours, theirs = (opened(m, chunks, pruning=pruning, **rolling) for m in (recorder_model, plain))
    for question, replays in ((QUESTION, 0), ("Who spoke?", 1), ("Is it on", 2)):
        same(asked(recorder_model, ours, question), asked(plain, theirs, question))
        assert recorder.replays == replays
    assert recorder.records == 1


@pytest.mark.parametrize("kind", [StreamKind.VIDEO, StreamKind.AUDIO])
@pytest.mark.parametrize("engine", ENGINES)
def test_streams_of_one_modality_too(engine, kind):
    only = make_chunks(4, kind, seed=3)
    plain, recorded, recorder = recording(engine)
    ours, theirs = (opened(m, only, kind=kind) for m in (recorded, plain))
    for _ in range(2):
        same(asked(recorded, ours), asked(plain, theirs))
    assert recorder.replays == 1


@pytest.mark.parametrize("engine", ENGINES)
def test_one_record_serves_every_stream_of_its_shape(engine, chunks):
    plain, recorded, recorder = recording(engine)
    others = [make_chunks(8, seed=seed) for seed in (7, 8)]
    streams = [(opened(recorded, c), opened(plain, c)) for c in (chunks, *others)]
    for ours, theirs in streams:
        same(asked(recorded, ours), asked(plain, theirs))
    assert (recorder.records, recorder.replays) == (1, 2)


@pytest.mark.parametrize("engine", ENGINES)
def test_states_in_several_arenas_too(engine, chunks):
    """A stream whose depth went up has each chunk's layers in more than one."""
    plain, recorded, recorder = recording(engine)

    def deepened(model):
        stream = opened(model, chunks[:6], 2)
        stream.set_depth(LAYERS)
        for _ in stream.background_steps():
            pass
        return stream

    ours, theirs = deepened(recorded), deepened(plain)
    for _ in range(2):
        same(asked(recorded, ours), asked(plain, theirs))
    assert recorder.replays == 1


@pytest.mark.parametrize("engine", ENGINES)
def test_the_next_question_of_the_shape_leaves_an_answer_its_own(engine, chunks):
    _, recorded, recorder = recording(engine)
    stream, forks, original = opened(recorded, chunks), [], recorded.pruned_prefill

    def watched(*args):
        forks.append((yield from original(*args)))
        return forks[-1]

    recorded.pruned_prefill = watched
    list(stream.ask(Query(QUESTION)))
    first = stream.ask_steps(Query(QUESTION))
    while len(forks) < 2:
        next(first)
    fork = forks[-1]
    held = [fork.logits, fork.evidence, *(t for s in fork.layers for t in (s._keys, s._values))]
    counts = [store.count for store in fork.layers] * 2
    before = [t.clone() for t in held]
    list(stream.ask(Query("Who spoke?")))
    assert recorder.replays == 2
    for kept, now in zip(before[:2], held[:2], strict=True):
        assert torch.equal(kept, now)
    for kept, now, count in zip(before[2:], held[2:], sorted(counts, reverse=True), strict=True):
        assert torch.equal(kept[:, :count], now[:, :count])


def test_text_rows_come_in_buckets(chunks):
    _, recorded, recorder = recording()
    stream = opened(recorded, chunks)
    short, longer = "Now?", "Now?" + "!" * TEXT_ROWS
    for question, records in ((short, 0), (short + "!", 1), (longer, 1), (longer, 2), (short, 2)):
        asked(recorded, stream, question)
        assert recorder.records == records


@pytest.mark.parametrize("depth", [0, "exact", "half"])
def test_a_pass_that_the_block_runs_along_with_is_not_recorded(depth, chunks):
    _, recorded, recorder = recording()
    stream = opened(recorded, chunks, depth)
    for _ in range(3):
        asked(recorded, stream)
    assert not recorder.records


def test_a_policy_that_asks_the_host_is_not_recorded(chunks):
    _, recorded, recorder = recording()
    stream = opened(recorded, chunks, pruning={"policy": "random", "retention": 0.4})
    for _ in range(3):
        asked(recorded, stream)
    assert not recorder.records


@pytest.mark.parametrize("questions", [1, 2])
def test_a_growing_window_is_not_recorded(chunks, questions, monkeypatch):
    monkeypatch.undo()
    _, recorded, recorder = recording()
    stream = opened(recorded, [])
    for chunk in chunks:
        stream.push(chunk)
        for _ in range(questions):
            asked(recorded, stream)
    assert not recorder.records
    asked(recorded, stream)
    asked(recorded, stream)
    assert recorder.records == 1


def test_a_long_question_of_a_long_window_is_not_recorded(chunks, monkeypatch):
    _, recorded, recorder = recording()
    stream = opened(recorded, chunks)
    (tokens,) = {sum(s.count for s in stream.snapshot())}
    for most, records in ((32 * tokens - 1, 0), (32 * tokens, 1)):
        monkeypatch.setattr(recorded_prefill, "MOST_SCORES", most)
        for _ in range(2):
            asked(recorded, stream)
        assert recorder.records == records


class Full:
    """A `Capture` for which there is no memory, after the first ``good`` records."""

    def __init__(self, good=0):
        self.tries, self._good, self._recorder = 0, good, Recorder()

    def __call__(self, work):
        self.tries += 1
        if self.tries > self._good:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self._recorder(work)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("good", [0, 1])
def test_where_there_is_no_memory_for_a_record_it_is_launched_and_told(
    engine, good, chunks, caplog
):
    plain, recorded, full = recording(engine, Full(good))
    ours, theirs = (opened(m, chunks, tokens=9) for m in (recorded, plain))
    for _ in range(4):
        same(asked(recorded, ours), asked(plain, theirs))
    told = [record.message for record in caplog.records]
    # A question's pass comes second; every answer tries its own step once.
    assert full.tries == 5
    passes = "no memory to record questions' passes as a CUDA graph: launched kernel by kernel"
    step = "no memory to record an answer's step as a CUDA graph: launched kernel by kernel"
    assert sorted(told) == [step] * (4 - good) + [passes]
    assert recorded._passes._workspace is None  # its memory is given back


def test_where_there_is_no_memory_what_was_recorded_before_is_given_back_too(chunks):
    _, recorded, full = recording(recorder=Full(good=1))
    large, small = (opened(recorded, c, tokens=1) for c in (chunks, chunks[:4]))
    for _ in range(2):
        asked(recorded, large)
    (record,) = recorded._passes._records.values()
    gone = weakref.ref(record)
    del record
    for _ in range(2):
        asked(recorded, small)
    gc.collect()
    assert gone() is None
    asked(recorded, large)
    assert full.tries == 2


@pytest.mark.parametrize("engine", ENGINES)
def test_a_larger_window_takes_new_memory_and_the_smaller_one_is_recorded_anew(engine, chunks):
    plain, recorded, recorder = recording(engine)
    pairs = [(opened(recorded, c), opened(plain, c)) for c in (chunks[:4], chunks)]
    for pair, records in zip([0, 0, 1, 1, 0, 0], [0, 1, 1, 2, 3, 3], strict=True):
        ours, theirs = pairs[pair]
        same(asked(recorded, ours), asked(plain, theirs))
        assert recorder.records == records


def test_the_records_used_longest_ago_are_let_go(chunks):
    _, recorded, recorder = recording()
    stream = opened(recorded, chunks)
    questions = ["a" * TEXT_ROWS * n for n in range(1, KEPT_RECORDS + 2)]
    for question in questions[::-1]:
        asked(recorded, stream, question)
        asked(recorded, stream, question)
    made = recorder.records
    assert made == len(questions)
    asked(recorded, stream, questions[0])
    assert recorder.records == made
    asked(recorded, stream, questions[-1])
    assert recorder.records == made + 1


def test_what_was_never_written_is_not_read(chunks):
    """The answer's memory comes with whatever was in it."""
    _, recorded, _ = recording("fast")
    stream = opened(recorded, chunks)
    asked(recorded, stream)
    asked(recorded, stream)
    with torch.inference_mode():
        recorded._passes._workspace.stores.fill_(math.nan)
        answer, (logits, evidence, *_) = asked(recorded, stream)
    assert logits.isfinite().all()
    assert evidence.isfinite().all()
    assert answer.answer_tokens == 2


@pytest.mark.parametrize("engine", ENGINES)
def test_a_replayed_pass_makes_the_host_wait_for_its_counts_alone(engine, chunks):
    with pretended() as device:
        plain = small_model(engine=engine, seed=1, layers=LAYERS)
        sent(plain.thinker)
        recorder = Recorder(there=True)
        spec = replace(plain.spec, device="meta")
        model = QwenOmni(plain.thinker, plain.tokenizer, spec, Ways(engine, capture=recorder))
        stream = opened(model, chunks[:4])
        passes, original = [], model.pruned_prefill

        def counting(*args):
            before = device.waits.copy()
            fork = yield from original(*args)
            passes.append(device.waits - before)
            return fork

        model.pruned_prefill = counting
        for _ in range(3):
            for _ in stream.ask(Query(QUESTION)):
                pass
        assert recorder.replays == 2
        assert dict(passes[2]) == {"tolist in model/recorded_prefill.py ask": 1}


@pytest.mark.parametrize("engine", ENGINES)
def test_all_that_a_record_reads_lives_as_long_as_the_record(engine, chunks):
    """A CUDA graph keeps the memory of none of it."""
    recorder = Recorder()

    def forgetting(work):
        recorder(work)
        return lambda: None

    _, recorded, _ = recording(engine, forgetting)
    stream = opened(recorded, chunks[:4], tokens=1)
    for _ in range(2):
        list(stream.ask(Query(QUESTION)))
    del stream
    gc.collect()
    assert len(recorder.inputs) > 50
    assert all(reference() is not None for reference in recorder.inputs)


def test_the_records_go_with_the_model(chunks):
    _, recorded, _ = recording()
    stream = opened(recorded, chunks[:4])
    for _ in range(2):
        list(stream.ask(Query(QUESTION)))
    (record,) = recorded._passes._records.values()
    gone = weakref.ref(record)
    del record, stream, recorded
    gc.collect()
    assert gone() is None


def test_what_cannot_be_recorded_says_how_to_go_on(chunks):
    def refusing(work):
        raise RuntimeError("operation not permitted")

    _, recorded, _ = recording(recorder=refusing)
    stream = opened(recorded, chunks, tokens=1)
    list(stream.ask(Query(QUESTION)))
    with pytest.raises(
        ModelError, match=r"a question's pass.*not permitted.*model\.graphs to false"
    ):
        list(stream.ask(Query(QUESTION)))
