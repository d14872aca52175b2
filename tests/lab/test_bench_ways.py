"""``omnidrop bench ways``: what is here is measured beside the plain way, what is not says why."""

from __future__ import annotations

import json

import pytest
import torch
from typer.testing import CliRunner

from clients.bench import app
from omnidrop_stream.config import make_config
from omnidrop_stream.errors import ConfigError
from omnidrop_stream.lab import bench_ways
from omnidrop_stream.lab.bench_ways import USUAL, WAYS, WaysSettings, run
from omnidrop_stream.lab.bench_ways_report import to_json, to_markdown
from omnidrop_stream.model.beside import InTurn
from tests.recorder import Recorder

CONFIG = make_config({"pruning": {"retention": 0.3}, "model": {"device": "cpu"}})


def measured(**given):
    first, report = run(WaysSettings(CONFIG, "tiny", chunks=2, repeats=2, **given))
    assert len(first.rows[0].question_ms.samples) == 1  # told after each round
    return report


def test_what_a_processor_has_is_measured_and_the_rest_says_why_not():
    report = measured()
    rows = {row.name: row for row in report.rows}
    assert set(rows) == set(USUAL)
    assert [name for name, row in rows.items() if not row.missing] == ["plain", "fast"]
    assert "needs a CUDA device" in rows["graphs"].missing
    fast = rows["fast"]
    assert 0 < fast.logits_distance < 1e-5
    assert fast.same_token == 1.0
    for spread in (fast.question_ms, fast.behind_ms, fast.token_ms, fast.arrival_ms):
        assert 0 < spread.min <= spread.median <= spread.max
    assert len(fast.question_ms.samples) == 2
    text = to_markdown(report)
    assert "| fast |" in text
    assert "- fast: `model: {engine: fast}`" in text
    assert f"- not measured: graphs: {rows['graphs'].missing}" in text
    assert len(json.loads(to_json(report))["rows"]) == len(rows)


def test_ways_of_a_gpu_are_measured_where_they_are(monkeypatch):
    recorder = Recorder()
    pick = "omnidrop_stream.model.pick"
    monkeypatch.setattr(f"{pick}.pick_capture", lambda on, device: recorder if on else None)
    monkeypatch.setattr(f"{pick}.pick_beside", lambda on, device: InTurn())
    report = measured(ways=("graphs", "fast+graphs", "overlap"))
    assert [row.name for row in report.rows] == ["plain", "graphs", "fast+graphs", "overlap"]
    assert recorder.records == 4  # of each: a question's pass, and an answer's step
    assert all(0 <= row.logits_distance < 1e-5 for row in report.rows[1:])


@pytest.mark.parametrize("after", [0, 1])
def test_a_way_that_fails_is_told_and_the_others_go_on(monkeypatch, after):
    class Failing(Recorder):
        def __call__(self, work):
            if self.records >= after:
                raise RuntimeError("operation not permitted")
            return super().__call__(work)

    failing = Failing()
    pick = "omnidrop_stream.model.pick.pick_capture"
    monkeypatch.setattr(pick, lambda on, device: failing if on else None)
    report = measured(ways=("graphs", "fast"))
    assert [row.name for row in report.rows] == ["plain", "fast", "graphs"]
    assert "operation not permitted" in report.rows[-1].missing


def test_a_way_that_fails_in_a_round_is_told_and_the_others_go_on(monkeypatch):
    original, rounds = bench_ways._Way.round, []

    def failing(way):
        rounds.append(way)
        if len(rounds) == 2:  # plain goes first in the first round, then fast
            raise torch.OutOfMemoryError("CUDA out of memory")
        original(way)

    monkeypatch.setattr(bench_ways._Way, "round", failing)
    *_, report = run(WaysSettings(CONFIG, "tiny", ("fast",), chunks=2, repeats=2))
    assert [(row.name, row.missing) for row in report.rows] == [
        ("plain", ""),
        ("fast", "CUDA out of memory"),
    ]
    assert len(report.rows[0].question_ms.samples) == 2


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"ways": ("fsat",)}, "--ways = fsat is not known: give some of plain, fast, flash"),
        ({"chunks": 3}, "--chunks = 3 is not allowed: give an even number"),
        ({"repeats": 0}, "--repeats = 0 is not allowed"),
    ],
)
def test_a_wrong_setting_is_refused_with_what_is_allowed(given, told):
    with pytest.raises(ConfigError, match=told):
        WaysSettings(CONFIG, **given)


def test_every_way_is_a_setting_that_a_model_takes():
    for name, values in WAYS.items():
        assert make_config({"model": values}).model, name


def test_the_command_prints_the_table(tmp_path):
    out = tmp_path / "ways.json"
    ran = CliRunner().invoke(app, ["ways", "--quick", "--ways", "fast", "--json", str(out)])
    assert ran.exit_code == 0
    assert "| fast |" in ran.output
    assert json.loads(out.read_text())["settings"]["depth"] == "read_side"
