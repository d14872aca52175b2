"""Status line, statistics, evidence: plain text that fits."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clients.live_blocks import wrapped
from clients.live_words import (
    evidence,
    help_lines,
    length,
    statistics,
    status_line,
    worth_telling,
)
from omnidrop_stream.types import Answer, Coverage, Evidence, Gap, TokenUse
from runtime.stats import Stats
from runtime.status import SessionStatus

LIVE = SessionStatus("live", "", 83.0, 1.25, 1024, 12_000, 3, 231.4, 2, 1, True)
ANSWER = Answer(
    id="q7",
    question="Who is it?",
    text="Nobody.",
    finish="stop",
    session="live",
    asked_at_s=20.0,
    ttft_ms=10.0,
    total_ms=20.0,
    ttft_parts_ms={},
    prefill_depth=3,
    label="exact",
    policy="omnidrop",
    open_chunk=True,
    tokens=TokenUse(1000, 500, 0.3, 0.25, ()),
    evidence=(Evidence(2.0, 4.0, "video", 0.5, 0.0, 2.0),),
    coverage=Coverage(0.0, 20.0, (Gap(6.0, 8.0, "overload"),)),
    staleness_s=0.5,
    dropped_chunks=1,
    answer_tokens=2,
)


def test_the_status_line_tells_everything_where_there_is_room() -> None:
    assert status_line(LIVE) == (
        "live 01:23 | lag 1.2 s | 1,024 of 12,000 tokens | first token 231 ms | dropped 2 | muted"
        " | answering 1 | /help"
    )


def test_the_status_line_gives_the_reason_of_the_state() -> None:
    line = status_line(replace(LIVE, state="offline", reason="no answer within 5 s"))
    assert line.startswith("offline 01:23 (no answer within 5 s) | ")


def test_the_status_line_says_what_is_missing_and_how_often_it_was_lost() -> None:
    status = replace(LIVE, state="degraded", code="overload", reason="slow", audio=False)
    line = status_line(replace(status, reconnects=3, muted=False))
    assert line.startswith("degraded 01:23 (slow) | no sound | lag 1.2 s | ")
    assert " | reconnects 3 | " in line


def test_the_status_line_does_not_say_twice_what_is_missing() -> None:
    status = replace(LIVE, state="degraded", code="no_audio", reason="no sound comes", audio=False)
    assert status_line(status).count("no sound") == 1


def test_the_status_line_names_the_ladders_step_where_the_reason_does_not() -> None:
    status = replace(LIVE, state="degraded", code="no_video", reason="x", video=False, step=4)
    assert " | audio only | " in status_line(status)


def test_statistics_tell_media_reconnects_age_and_step() -> None:
    status = replace(LIVE, video=True, audio=False, reconnects=3, gaps=5, chunk_age_s=0.5, step=2)
    text = "\n".join(statistics(replace(status, since_s=61.2, code="no_audio"), {}, "demo:"))
    for part in (
        "code no_audio, for 1 min 1 s",
        "picture comes, sound missing",
        "reconnects 3, gaps 5",
        "age of 0.5 s",
        "step 2 (smaller frames)",
    ):
        assert part in text


def test_statistics_of_a_stream_that_has_just_begun_do_not_say_what_is_not_known() -> None:
    young = replace(LIVE, video=None, audio=None, chunk_age_s=None, muted=False)
    text = "\n".join(statistics(young, {}, "demo:"))
    assert "picture not known yet, sound not known yet; " in text
    assert "no chunk given yet" in text
    text = "\n".join(statistics(replace(young, chunk_age_s=0.1, muted=True), {}, "demo:"))
    assert "picture not part of it, sound muted; " in text


def test_statistics_round_what_is_measured_and_leave_out_what_is_not() -> None:
    values = {"age_s": 0.00013200599, "lag_s": 0.8000000000000007, "video": True}
    gauges = {"code": "", "skew_s": None, **values, "waiting": 0}
    lines = statistics(LIVE, {"gauges": gauges}, "demo:")
    told = [line[11:] for line in lines[lines.index("gauges     age_s 0") :]]
    assert told == ["age_s 0", "lag_s 0.8", "video yes", "waiting 0"]


def test_a_narrow_status_line_keeps_state_and_drops() -> None:
    assert status_line(LIVE, 50) == "live 01:23 | lag 1.2 s | dropped 2 | muted"


@given(st.integers(4, 200), st.text(max_size=300))
def test_the_status_line_fits_any_width(width: int, reason: str) -> None:
    line = status_line(replace(LIVE, reason=reason), width)
    assert len(line) <= width
    assert "\n" not in line


def test_an_empty_stream_has_no_lag() -> None:
    assert "nothing held" in status_line(replace(LIVE, tokens=0))


def test_no_password_is_in_the_status_line() -> None:
    line = status_line(replace(LIVE, reason="rtsp://user:geheim@cam/1: no answer"))
    assert "geheim" not in line


def test_statistics_show_every_counter_gauge_and_timing() -> None:
    stats = Stats()
    stats.count("feed.dropped.overload", 3)
    stats.gauge("feed.waiting", lambda: 2)
    stats.timing("answer.ttft", 12.0)
    text = "\n".join(statistics(LIVE, stats.snapshot(), "demo:"))
    for part in ("feed.dropped.overload 3", "feed.waiting 2", "answer.ttft  last 12.0", "muted"):
        assert part in text


def test_the_worst_of_two_timings_is_their_p95() -> None:
    stats = Stats()
    stats.timing("answer.ttft", 10.0)
    stats.timing("answer.ttft", 30.0)
    assert stats.snapshot()["timings_ms"]["answer.ttft"]["p95"] == 30.0


def test_statistics_hide_the_password_of_the_source() -> None:
    assert "geheim" not in "\n".join(statistics(LIVE, {}, "rtsp://user:geheim@cam/1"))


def test_evidence_names_spans_gaps_and_what_was_kept() -> None:
    text = "\n".join(evidence(ANSWER))
    for part in ("00:02-00:04 video, weight 0.50", "missing 00:06-00:08: overload", "30.0%"):
        assert part in text


def test_evidence_before_any_answer_says_so() -> None:
    assert evidence(None) == ["There is no answer yet; ask a question first."]


@pytest.mark.parametrize(
    ("seconds", "words"), [(30, "30 s"), (300, "5 min"), (3690, "1 h 1 min 30 s"), (0.5, "0.5 s")]
)
def test_a_length_of_time_is_told_in_words(seconds: float, words: str) -> None:
    assert length(seconds) == words


def test_help_has_a_line_for_each_command() -> None:
    assert any(line.strip().startswith("/forget [5m|30s]") for line in help_lines())


@pytest.mark.parametrize(
    ("state", "before", "told"),
    [
        ("offline", "live", True),
        ("live", "offline", True),
        ("live", "paused", False),
        ("paused", "live", False),
        ("failed", "live", False),
    ],
)
def test_people_are_told_what_they_did_not_do(state: str, before: str, told: bool) -> None:
    assert worth_telling(state, before) is told


@given(st.text(max_size=200), st.integers(2, 40))
def test_wrapping_loses_no_visible_character(text: str, width: int) -> None:
    kept = "".join("".join(wrapped(text, width)).split())
    assert kept == "".join(text.split())


def test_a_wrapped_line_keeps_its_indent() -> None:
    assert wrapped("  one two three", 9) == ["  one two", "  three"]


def test_wide_characters_take_two_cells() -> None:
    assert wrapped("日本語", 4) == ["日本", "語"]
