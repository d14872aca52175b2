"""What an answer could not see is told beside it, in a few words."""

from __future__ import annotations

from dataclasses import replace

import pytest

from clients.spans import moment, stretch, unseen
from clients.terminal import grounds
from omnidrop_stream.types import Coverage, Gap
from tests.clients.test_contract import ANSWER


def gaps(reason: str, *starts_s: float, length_s: float = 2.0) -> tuple[Gap, ...]:
    return tuple(Gap(start_s, start_s + length_s, reason) for start_s in starts_s)


@pytest.mark.parametrize(
    ("found", "told"),
    [
        ((), []),
        (gaps("video_absent", *range(34, 54, 2)), ["no pictures 00:34-00:54"]),
        (gaps("audio_absent", 10, 20, 22), ["no sound 00:20-00:24 (6 s in all)"]),
        (gaps("overload", 10) + gaps("stale", 16, length_s=4.0), ["3 chunks dropped"]),
        (gaps("skipped", 10), ["1 chunk dropped"]),
        (gaps("connection lost", 30, length_s=65.0), ["nothing 00:30-01:35"]),
        (gaps("connection lost", 30, length_s=0.4), []),
        (
            gaps("video_absent", 4) + gaps("stale", 8),
            ["no pictures 00:04-00:06", "1 chunk dropped"],
        ),
    ],
)
def test_holes_are_told_once_for_each_kind(found: tuple[Gap, ...], told: list[str]) -> None:
    assert unseen(Coverage(0.0, 60.0, found), 2.0) == told


def test_a_stream_that_stopped_long_before_the_question_is_told() -> None:
    assert unseen(Coverage(0.0, 34.0), 4.1) == ["saw nothing after 00:34"]
    assert unseen(Coverage(0.0, 34.0), 4.0) == []


def test_the_grounds_of_an_answer_say_what_it_could_not_see() -> None:
    blind = Coverage(0.0, 60.0, gaps("video_absent", 58))
    whole = replace(ANSWER, coverage=Coverage(0.0, 60.0), staleness_s=0.5)
    told = grounds(replace(whole, coverage=blind, finish="length"))
    assert "no pictures" not in grounds(whole)
    assert told == f"{grounds(whole)} | no pictures 00:58-01:00 | cut at the token limit"


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0.0, "00:00"),
        (2.0, "00:02"),
        (2.5, "00:02.5"),
        (2.04, "00:02"),
        (59.96, "01:00"),
        (3661.25, "1:01:01.2"),
    ],
)
def test_a_moment_has_tenths_where_it_is_no_whole_second(seconds: float, told: str) -> None:
    assert moment(seconds) == told


@pytest.mark.parametrize(
    ("from_s", "to_s", "told"),
    [
        (2.0, 4.0, "00:02-00:04"),
        (2.0, 2.5, "00:02-00:02.5"),
        (2.0, 2.02, "00:02-00:02.1"),
        (2.0, 2.0, "00:02-00:02"),
    ],
)
def test_a_stretch_of_stream_never_looks_empty(from_s: float, to_s: float, told: str) -> None:
    assert stretch(from_s, to_s) == told


def test_an_answer_in_mid_chunk_rests_on_a_stretch_that_can_be_seen() -> None:
    span = replace(ANSWER.evidence[0], from_s=2.0, to_s=2.5)
    assert grounds(replace(ANSWER, evidence=(span,))).startswith("evidence 00:02-00:02.5 ")
