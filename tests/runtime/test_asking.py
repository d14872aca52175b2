"""`ask_source` adds nothing to a stream and takes nothing away: chunks, moments, gaps, models."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from omnidrop_stream.chunker import Chunker, ChunkerSettings
from omnidrop_stream.config import Config, ModelConfig
from omnidrop_stream.model.qwen_omni import QwenOmni
from omnidrop_stream.stream import OmniStream
from omnidrop_stream.types import Answer, Frame, Query, Samples, StreamKind
from runtime import models
from runtime.asking import Answered, Asked, Event, Question, Status, ask_source, cut_at
from runtime.chunks import chunks_of
from runtime.sources import open_source
from runtime.sources.base import Interruption, SourceInfo, SourceStats
from tests.helpers import settings, small_model
from tests.streams import audio, merged, sound, video


@pytest.fixture(scope="module")
def model() -> QwenOmni:
    return small_model()


def run(source: str, questions: list[Question], config: Config, model: QwenOmni) -> list[Event]:
    return list(ask_source(source, questions, config, load_model=lambda _: model))


def answers(events: list[Event]) -> list[Answer]:
    return [event.answer for event in events if isinstance(event, Answered)]


class Broken:
    """Four seconds, a hole that the source names, four seconds more."""

    info = SourceInfo("broken", StreamKind.AV, 6, 4, 10, 12.0, live=True)
    stats = SourceStats(ended_at_s=12.0)

    def __enter__(self) -> Broken:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def stop(self) -> None:
        return None

    def __iter__(self) -> Iterator[Frame | Samples | Interruption]:
        shape = (28, 28)
        yield from merged(video(0, 4, shape=shape), audio(0, 4))
        yield Interruption("the camera was away", 8.0)
        yield from merged(video(8, 12, shape=shape), audio(8, 12))


def test_an_answer_is_that_of_pushing_and_asking_by_hand(model: QwenOmni) -> None:
    config = settings()
    (got,) = answers(run("demo:?seconds=7", [Question("q1", "What?")], config, model))
    stream = OmniStream(model, config)
    with open_source("demo:?seconds=7") as source:
        for chunk in chunks_of(source, Chunker(ChunkerSettings())):
            stream.push(chunk)
    *_, expected = stream.ask(Query("What?", "q1", 7.0))
    assert (got.text, got.tokens, got.evidence) == (
        expected.text,
        expected.tokens,
        expected.evidence,
    )


def test_a_question_in_mid_chunk_gets_the_part_that_exists(model: QwenOmni) -> None:
    config = settings()
    question = Question("q1", "What?", 5.3)
    (got,) = answers(run("demo:", [question], config, model))
    stream, chunker = OmniStream(model, config), Chunker(ChunkerSettings())
    with open_source("demo:") as source:
        for item in cut_at(source, [5.3]):
            if item.time_s >= 5.3:
                break
            for chunk in chunker.push(item):
                stream.push(chunk)
    *_, expected = stream.ask(Query("What?", "q1", 5.3), open_chunk=chunker.open_chunk())
    assert (got.text, got.tokens, got.coverage) == (
        expected.text,
        expected.tokens,
        expected.coverage,
    )


def test_a_question_never_changes_the_answer_of_a_later_one(model: QwenOmni) -> None:
    config = settings()
    late = Question("late", "What?", 7.0)
    alone = answers(run("demo:", [late], config, model))[-1]
    after = answers(run("demo:", [Question("early", "And?", 3.3), late], config, model))[-1]
    assert (alone.text, alone.tokens) == (after.text, after.tokens)


def test_reading_ends_with_the_last_question(model: QwenOmni) -> None:
    events = run("demo:", [Question("q1", "What?", 5.0)], settings(), model)
    reached = [event.done_s for event in events if isinstance(event, Status) and event.done_s]
    assert max(reached) <= 5.0


def test_holes_of_the_source_are_in_the_coverage(
    model: QwenOmni, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.asking.open_source", lambda *_, **__: Broken())
    (answer,) = answers(run("broken", [Question("q1", "What?")], settings(), model))
    (gap,) = answer.coverage.gaps
    assert gap.reason == "the camera was away"
    assert (gap.from_s, gap.to_s) == (4.0, 8.0)


def test_sound_is_cut_at_the_moments_and_nowhere_else() -> None:
    items = merged(audio(0, 2, block_s=0.5), video(0, 2, fps=4))
    out = list(cut_at(items, [0.7, 1.0, 9.0]))
    runs = [item for item in out if isinstance(item, Samples)]
    assert [run.time_s for run in runs] == [0, 0.5, 0.7, 1.0, 1.5]
    assert np.array_equal(np.concatenate([run.pcm for run in runs]), sound(0, 2))
    assert all(a.time_s <= b.time_s for a, b in pairwise(out))
    assert len(out) == len(items) + 1


def test_control_tokens_in_a_question_are_reported(model: QwenOmni) -> None:
    events = run("demo:?seconds=3", [Question("q1", "a<|im_start|>b")], settings(), model)
    (asked,) = [event for event in events if isinstance(event, Asked)]
    assert asked.control_tokens == ("<|im_start|>",)


@pytest.mark.parametrize(("name", "told"), [("embedded", 1), ("other", 0)])
def test_a_question_that_the_embedded_model_does_not_know_gets_its_nearest(
    model: QwenOmni, name: str, told: int
) -> None:
    questions = [Question("q1", "What is shown now?"), Question("q2", "What is shown?")]
    events = run("demo:?seconds=3", questions, settings(model={"model": name}), model)
    notes = [event.text for event in events if isinstance(event, Status) and event.state == "note"]
    near = [note for note in notes if note.endswith("the nearest: What is shown now?")]
    assert len(near) == told


def test_the_source_is_closed_when_the_reader_leaves(
    model: QwenOmni, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[bool] = []
    monkeypatch.setattr(Broken, "__exit__", lambda *_: closed.append(True))
    monkeypatch.setattr("runtime.asking.open_source", lambda *_, **__: Broken())
    events = ask_source("broken", [Question("q1", "What?")], settings(), load_model=lambda _: model)
    next(events)
    events.close()
    assert closed == [True]


def test_a_retention_that_was_asked_for_is_never_moved(model: QwenOmni) -> None:
    config = settings(pruning={"retention": 0.03})
    with pytest.raises(Exception, match="cannot be reached"):
        run("demo:?seconds=3", [Question("q1", "What?")], config, model)


def test_the_tiny_checkpoint_is_written_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    config = ModelConfig(model="tiny", device="cpu", dtype="fp32")
    models.load(config)
    (folder,) = (tmp_path / "omnidrop-stream").iterdir()
    written = (folder / "model.safetensors").stat().st_mtime_ns
    models.load(config)
    assert (folder / "model.safetensors").stat().st_mtime_ns == written


def test_without_a_cache_folder_the_tiny_model_lives_for_the_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("no folder can be made under a file")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    model = models.load(ModelConfig(model="tiny", device="cpu", dtype="fp32"))
    assert model.spec.n_layers == 6
