"""One chunk and one question under the profiler: the trace, the table and the command."""

from __future__ import annotations

import gzip
import json

import pytest
from typer.testing import CliRunner

from clients.bench import app
from omnidrop_stream.config import make_config
from omnidrop_stream.errors import ConfigError, OmniDropError, UsageError
from omnidrop_stream.lab.bench_profile import (
    ASK,
    CHUNK,
    ProfileSettings,
    run,
    to_json,
    to_markdown,
)


@pytest.fixture(scope="module")
def profiled(tmp_path_factory):
    config = make_config({"model": {"device": "cpu", "dtype": "fp32"}})
    trace = tmp_path_factory.mktemp("trace") / "t.json.gz"
    return run(ProfileSettings(config, "tiny", 2, "half", 2, top=500), trace), trace


def test_the_trace_is_json_and_names_both_stretches(profiled):
    report, trace = profiled
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    spans = {e["name"]: (e["ts"], e["ts"] + e["dur"]) for e in events if e.get("ph") == "X"}
    assert spans[CHUNK][1] <= spans[ASK][0]
    assert report.trace == "t.json.gz"
    assert report.trace_bytes == trace.stat().st_size


def test_each_stretch_tells_where_its_time_went(profiled):
    report, _ = profiled
    assert [stretch.name for stretch in report.stretches] == [CHUNK, ASK]
    for stretch in report.stretches:
        names = [operator.name for operator in stretch.operators]
        assert len(set(names)) == len(names)
        assert "aten::mm" in names
        assert sum(operator.share for operator in stretch.operators) == pytest.approx(1.0)
        assert stretch.cpu_ms == pytest.approx(stretch.wall_ms, rel=0.05)
        assert stretch.device_ms == 0.0
    convolutions = [
        any("conv" in operator.name for operator in stretch.operators)
        for stretch in report.stretches
    ]
    assert convolutions == [True, False]  # the towers run on arrival alone


def test_both_forms_say_what_was_watched(profiled):
    report, _ = profiled
    assert json.loads(to_json(report))["settings"]["depth"] == 3
    text = to_markdown(report)
    assert "## One chunk:" in text
    assert "## One question:" in text
    assert "random weights" in text


def test_the_command_writes_the_trace_and_both_files(tmp_path):
    paths = [str(tmp_path / name) for name in ("t.json", "r.json", "r.md")]
    words = ["profile", "--quick", "--device", "cpu", "--prefill-depth", "0", "--top", "3"]
    files = ["--trace", paths[0], "--json", paths[1], "--markdown", paths[2]]
    done = CliRunner().invoke(app, [*words, *files])
    assert done.exit_code == 0, done.output
    assert done.stdout == (tmp_path / "r.md").read_text("utf-8")
    assert json.loads((tmp_path / "t.json").read_text("utf-8"))["traceEvents"]
    report = json.loads((tmp_path / "r.json").read_text("utf-8"))
    assert report["settings"]["depth"] == 0
    assert [len(stretch["operators"]) for stretch in report["stretches"]] == [3, 3]


@pytest.mark.parametrize(
    ("words", "kind", "named"),
    [
        (["--model", "x", "--random-weights", "tiny"], UsageError, "exclude"),
        (["--chunks", "3"], ConfigError, "--chunks = 3"),
        (["--top", "0"], ConfigError, "--top = 0"),
        (["--answer-tokens", "0"], ConfigError, "--answer-tokens = 0"),
        (["--trace", "no/such/folder/t.json.gz"], UsageError, "no folder"),
        (["--markdown", "no/such/folder/r.md"], UsageError, "no folder"),
        (["--prefill-depth", "deep"], UsageError, "--prefill-depth = 'deep'"),
        (["--quick", "--prefill-depth", "99"], ConfigError, "this model has 6 layers"),
        (["--random-weights", "13b"], ConfigError, "13b"),
    ],
)
def test_a_mistake_on_the_command_line_is_named(tmp_path, monkeypatch, words, kind, named):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["profile", *words])
    assert isinstance(done.exception, kind)
    assert isinstance(done.exception, OmniDropError)
    assert named in str(done.exception)
    assert not list(tmp_path.iterdir())
