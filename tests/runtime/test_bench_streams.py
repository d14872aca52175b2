"""The benchmark of many streams: what it plays, what it counts. Its times are never asserted."""

from __future__ import annotations

import math
import threading
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from clients.bench import app
from omnidrop_stream.chunker import Chunker, ChunkerSettings
from omnidrop_stream.errors import UsageError
from omnidrop_stream.types import StreamKind
from runtime.bench_streams import Row, StreamsBench, run_streams, waited_s
from runtime.bench_streams_report import COLUMNS, to_markdown
from runtime.replay import ReplaySource, render
from runtime.sources.world import WorldSource
from tests.helpers import settings, small_model
from tests.streams import same

ROW = Row(
    streams=2, depth="exact", layers=1, chunks=4, late=0, dropped=0, ladder=0, questions=1,
    unanswered=0, age_p50_ms=1.0, age_p95_ms=1.0, age_max_ms=1.0, ttft_p50_ms=1.0,
    ttft_p95_ms=1.0, ttft_max_ms=1.0, model_share=0.1, processor_share=0.1, starved_share=0.0,
    chunks_together=1.0, window_chunks=2, window_tokens=100, load_average=0.0,
)  # fmt: skip


def test_what_is_rendered_is_one_world_cut_where_the_clock_starts():
    material = render(seed=4, before_chunks=2, seconds=4.0)
    chunker = Chunker(ChunkerSettings(kind=StreamKind.AV, fps=2.0))
    whole = [chunk for item in WorldSource(seconds=8.0, seed=4) for chunk in chunker.push(item)]
    assert [chunk.index for chunk in material.before] == [-2, -1]
    assert [chunk.end_s for chunk in material.before] == [-2.0, 0.0]
    for chunk, one in zip(material.before, whole, strict=False):
        assert same(replace(chunk, index=one.index, start_s=one.start_s), one)
    after = Chunker(ChunkerSettings(kind=StreamKind.AV, fps=2.0))
    first = next(chunk for item in material.items for chunk in after.push(item))
    assert np.array_equal(first.frames, whole[2].frames)
    assert np.array_equal(first.audio, whole[2].audio)


def test_a_replay_begins_when_it_is_let_and_ends_when_it_is_stopped():
    material, go = render(seed=4, before_chunks=1, seconds=2.0), threading.Event()
    source = ReplaySource(material.items, material.info, go, 0.0)
    go.set()
    assert tuple(source) == material.items
    source.stop()
    assert tuple(source) == ()


@pytest.mark.parametrize("what", ["late", "dropped", "ladder", "unanswered"])
def test_a_number_holds_only_where_nothing_was_late_dropped_lightened_or_unanswered(what):
    assert ROW.holds
    assert not replace(ROW, **{what: 1}).holds


def test_how_long_a_thread_waited_for_a_processor_is_read_where_the_system_tells(tmp_path):
    (tmp_path / "17").mkdir()
    (tmp_path / "17" / "schedstat").write_text("5000000000 2500000000 42\n")
    assert waited_s(17, tmp_path) == 2.5
    assert math.isnan(waited_s(18, tmp_path))


def test_streams_are_played_asked_and_counted():
    model = small_model(layers=4)
    config = settings(pruning={"retention": 0.45})
    bench = StreamsBench(streams=(2,), depths=(2,), seconds=4.0, window=2, ask_every_s=1.9)
    (report,) = run_streams(bench, config, model)
    (row,) = report["rows"]
    assert row["chunks"] == 4
    assert row["questions"] == 2
    assert row["layers"] == 2
    assert row["window_chunks"] == pytest.approx(2, abs=1)
    assert row["age_max_ms"] >= row["age_p50_ms"] > 0
    assert {"commit", "device", "cores", "date", "versions", "load_average"} <= set(report)
    text = to_markdown(report)
    assert "allocator as `serve` sets it: as it is\n" in text
    assert f"| {' | '.join(COLUMNS)} |" in text
    assert f"| 2 | 2 (2) | 4 | {row['late']} | {row['dropped']} |" in text


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--streams", "8,x"), "give numbers such as 8,16,32"),
        (("--streams", "0"), "give numbers such as 8,16,32"),
        (("--depths", "deep"), "numbers, or exact, auto, half, read_side"),
        (("--json", "/nowhere/at/all.json"), "there is no folder"),
    ],
)
def test_a_wrong_flag_is_refused_with_what_is_allowed(flags, told):
    ran = CliRunner().invoke(app, ["streams", *flags])
    assert isinstance(ran.exception, UsageError)
    assert told in str(ran.exception)


def test_the_command_plays_with_the_allocator_that_a_node_has(monkeypatch):
    given = []

    def played(bench, config, tell, allocator):
        given.append(allocator)
        yield from ()

    monkeypatch.setattr("clients.bench_streams.settle_heap", lambda: ("MALLOC_ARENA_MAX",))
    monkeypatch.setattr("runtime.bench_streams.run_streams", played)
    assert CliRunner().invoke(app, ["streams", "--quick"]).exit_code == 0
    assert given == [("MALLOC_ARENA_MAX",)]
