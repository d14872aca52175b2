"""The demo plays, asks what it knows the answer to, and counts honestly; films of the world."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from clients import demo
from clients.demo_plan import at_present, moments, plan
from omnidrop_stream.types import CHUNK_SECONDS, Answer
from omnidrop_stream.world import World
from runtime.status import SessionStatus
from tests.clients.conftest import Omnidrop
from tests.clients.test_contract import ANSWER

FAST = ("--seconds", "14", "--speed", "20", "--model", "tiny")


def test_the_demo_in_a_pipe_asks_checks_and_sums_up(omnidrop: Omnidrop) -> None:
    ran = omnidrop("demo", *FAST)
    lines = ran.out.splitlines()
    assert ran.code == 0
    assert "\x1b" not in ran.out
    asked = [line for line in lines if line.startswith("[")]
    assert len(asked) == len(moments(14))
    assert sum(bool(re.match("  [✓✗] truth: ", line)) for line in lines) == len(asked)
    assert sum(line.startswith("  evidence ") for line in lines) == len(asked)
    assert re.match(rf"\d of {len(asked)} right; first token after \d+ ms", lines[-2])
    assert re.search(r"tokens held; mean retention [\d.]+%\.$", lines[-1])


class SlowSession:
    """Answers, but each time ten seconds late."""

    note = ""

    def __init__(self, *_: object, **__: object) -> None:
        self._now_s = 0.0

    async def __aenter__(self) -> SlowSession:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def ready(self) -> None:
        pass

    async def reached(self, stream_s: float) -> None:
        self._now_s = max(self._now_s, stream_s)

    def status(self) -> SessionStatus:
        return SessionStatus("live", "", self._now_s, 0.0, 1, 1, 0, None, 0, 0, False)

    async def ask(self, text: str) -> AsyncGenerator[Answer, None]:
        self._now_s += 10.0
        yield dataclasses.replace(ANSWER, question=text, text="red")


def test_a_machine_too_slow_for_real_time_asks_about_the_present_and_says_so(
    omnidrop: Omnidrop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.session.StreamSession", SlowSession)
    ran = omnidrop("demo", "--seconds", "32", "--model", "tiny")
    asked = [line[1:6] for line in ran.out.splitlines() if line.startswith("[")]
    assert asked[:3] == ["00:06", "00:16", "00:26"]
    assert ran.err.count("too slow for real time") == 1


def test_the_demo_tells_what_happened_in_every_chunk(omnidrop: Omnidrop) -> None:
    out = omnidrop("demo", *FAST, "--seed", "2").out
    world = World(2, "test")
    assert [line for line in out.splitlines() if "  shown: " in line] == [
        demo.happened(world, index) for index in range(7)
    ]


async def test_each_chunk_is_told_as_soon_as_it_is_over() -> None:
    run, told = demo._Demo(seed=1, seconds=12.0, speed=1.0), []

    class Session:
        async def reached(self, stream_s: float) -> None:
            told.append(stream_s)

    run._page.line = lambda text, style="": told.append(text[:5])  # type: ignore[method-assign]
    await run._play(Session(), 5.0)  # type: ignore[arg-type]
    assert told == [2.0, "00:00", 4.0, "00:02", 5.0]


def test_a_demo_without_the_embedded_model_says_so_and_runs_the_tiny_one(
    omnidrop: Omnidrop, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("runtime.models.EMBEDDED_FOLDER", tmp_path)
    ran = omnidrop("demo", "--seconds", "10", "--speed", "20")
    assert ran.code == 0
    assert demo.MISSING in ran.err


@pytest.mark.parametrize("seconds", ["9", "601", "nan"])
def test_a_length_the_demo_cannot_have_is_refused(omnidrop: Omnidrop, seconds: str) -> None:
    ran = omnidrop("demo", "--seconds", seconds)
    assert ran.code == 2
    assert "--seconds" in ran.err


@pytest.mark.parametrize("seed", range(6))
def test_a_planned_question_rests_on_what_was_over_when_it_is_asked(seed: int) -> None:
    planned = plan(World(seed, "test"), 32.0)
    assert len(planned) >= 3
    for item in planned:
        begun_s = item.at_s // CHUNK_SECONDS * CHUNK_SECONDS
        assert item.question.evidence
        assert all(event.to_s <= begun_s + 1e-6 for event in item.question.evidence)


@pytest.mark.parametrize("seed", range(6))
def test_a_question_that_comes_too_late_is_made_anew_for_the_present(seed: int) -> None:
    world = World(seed, "test")
    for item in plan(world, 32.0):
        assert at_present(world, item, item.at_s + 1.0, set()) is item
        late = at_present(world, item, item.at_s + 12.0, set())
        if late is None:
            continue
        begun_s = late.at_s // CHUNK_SECONDS * CHUNK_SECONDS
        assert (late.at_s, late.about) == (item.at_s + 12.0, item.about)
        assert all(event.to_s <= begun_s + 1e-6 for event in late.question.evidence)
        again = at_present(world, item, item.at_s + 12.0, {late.question.text})
        assert again is None or again.question.text != late.question.text


def test_the_plan_is_the_same_for_the_same_seed() -> None:
    assert plan(World(5, "test"), 32.0) == plan(World(5, "test"), 32.0)


def test_all_moments_lie_within_the_stream_in_order() -> None:
    for seconds in (10.0, 14.0, 32.0, 60.0):
        found = moments(seconds)
        assert found == sorted(found)
        assert found[-1] < seconds


def test_wrong_answers_are_counted_as_wrong() -> None:
    score = demo.Score()
    score.add(ANSWER, right=True, lag_s=0.5)
    score.add(dataclasses.replace(ANSWER, ttft_ms=9.0), right=False, lag_s=1.5)
    score.failed += 1
    assert score.lines()[0].startswith("1 of 3 right;")
    assert "1.5 s at most" in score.lines()[0]


def test_no_answer_at_all_is_a_failure() -> None:
    assert demo.Score().exit_code == 1


def test_an_answer_is_right_whatever_its_case_and_stop() -> None:
    assert demo.same(" Red  Circle.", "red circle")
    assert not demo.same("red", "red circle")


def test_a_rendered_world_goes_in_through_ask(omnidrop: Omnidrop, tmp_path: Path) -> None:
    film = tmp_path / "film.mp4"
    made = omnidrop("world", "render", film, "--seconds", "4", "--seed", "3")
    assert made.code == 0
    assert film.with_suffix(".truth.json").name in made.out
    (final,) = omnidrop(
        "ask", film, "What was said?", "--json", "--model", "tiny", "--max-tokens", "2"
    ).of("final")
    assert final["coverage"]["to_s"] == pytest.approx(4.0, abs=0.1)


def test_a_mistake_in_world_is_told_like_any_other(omnidrop: Omnidrop, tmp_path: Path) -> None:
    ran = omnidrop("world", "render", tmp_path / "x.mp4", "--split", "exam")
    assert ran.code == 2
    assert "--split" in ran.err
