"""A whole evaluation on a small random model: resumable, honest about what is out of reach."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from clients.cli import main
from omnidrop_stream.config import load_config
from omnidrop_stream.errors import ConfigError, UsageError
from omnidrop_stream.lab.eval import Evaluation
from omnidrop_stream.lab.eval_report import to_json, to_markdown
from omnidrop_stream.lab.eval_state import StateFile
from omnidrop_stream.lab.eval_types import EvalSettings, Record, Report, eval_settings
from omnidrop_stream.model.qwen_omni import QwenOmni
from tests.helpers import small_model

GRID = {
    "streams": 2,
    "chunks": [2, 3],
    "gaps": 0.5,
    "policies": ["keep-all", "omnidrop"],
    "retentions": [0.45, 0.01],
    "depths": ["exact"],
    "timed": 1,
}


def small(**grid: object) -> EvalSettings:
    values = {
        "stream": {"frame_tokens": 4},
        "decode": {"max_tokens": 2},
        "eval": {**GRID, **grid},
    }
    return eval_settings(values)


@pytest.fixture(scope="module")
def model() -> QwenOmni:
    return small_model(layers=4)


@pytest.fixture(scope="module")
def records(model: QwenOmni) -> list[Record]:
    return list(Evaluation(model, small()).steps([], streamed_check=True))


@pytest.fixture(scope="module")
def report(model: QwenOmni, records: list[Record]) -> Report:
    return Evaluation(model, small()).report(records)


def test_every_reachable_cell_is_measured_at_every_length(report: Report) -> None:
    assert [(row.cell.policy, row.chunks) for row in report.rows] == [
        ("keep-all", 2),
        ("omnidrop", 2),
        ("keep-all", 3),
        ("omnidrop", 3),
    ]
    assert report.streams == 2
    assert all(row.accuracy["all"].n == report.rows[0].accuracy["all"].n for row in report.rows[:2])


def test_a_retention_out_of_reach_is_marked_and_not_approximated(report: Report) -> None:
    (name,) = report.unreachable
    assert name == "omnidrop 1 %, depth exact"
    assert "retention" in report.unreachable[name]
    assert name in to_markdown(report)


def test_the_first_cell_is_what_the_others_are_compared_with(report: Report) -> None:
    assert [row.difference is None for row in report.rows] == [True, False, True, False]


def test_the_retention_that_came_out_is_told(report: Report) -> None:
    kept, pruned = report.rows[2], report.rows[3]
    assert kept.entering == kept.leaving > pruned.entering


def test_streamed_and_offline_answers_are_the_same(report: Report) -> None:
    (check,) = report.checks
    assert check.n > 10
    assert check.same_text == check.n
    assert check.difference.value == 0.0


def test_a_report_names_its_model_and_conditions(report: Report) -> None:
    told = json.loads(to_json(report))
    assert len(told["settings"]["model"]["sha256"]) == 64
    assert {"commit", "device", "versions", "threads"} <= set(told["conditions"])
    assert told["settings"]["model"]["sha256"][:16] in to_markdown(report)


def test_a_run_goes_on_after_what_is_done(model: QwenOmni, records: list[Record]) -> None:
    evaluation = Evaluation(model, small())
    rest = list(evaluation.steps(records[:2], streamed_check=True))
    assert records[:2] + rest == records
    assert list(evaluation.steps(records, streamed_check=True)) == []


def test_more_streams_go_on_in_the_same_state(model: QwenOmni) -> None:
    fewer, more = Evaluation(model, small()), Evaluation(model, small(streams=9))
    assert fewer.head() == more.head()
    assert fewer.head() != Evaluation(model, small(retentions=[0.4])).head()


def test_a_grid_that_is_out_of_reach_as_a_whole_is_refused(model: QwenOmni) -> None:
    with pytest.raises(ConfigError, match="no cell of the grid can be reached"):
        Evaluation(model, small(policies=["omnidrop"], retentions=[0.01]))


def test_a_stream_that_does_not_fit_the_budget_is_refused(model: QwenOmni) -> None:
    tight = eval_settings(
        {
            "stream": {"frame_tokens": 4, "budget_tokens": 100},
            "eval": GRID | {"chunks": [4], "policies": ["intra-only"]},
        }
    )
    with pytest.raises(ConfigError, match="does not fit"):
        list(Evaluation(model, tight).steps([]))


def test_at_depth_0_a_rolling_stream_is_as_good_as_a_fresh_one(model: QwenOmni) -> None:
    evaluation = Evaluation(model, small(retentions=[0.45]))
    done = [{"type": "stream", "seed": seed} for seed in (100_000, 100_001)]
    (record,) = evaluation.steps(done, rolling_chunks=32)
    report = evaluation.report([record])
    at_0 = next(check for check in report.checks if check.about["depth"] == 0)
    assert at_0.same_text == at_0.n > 5


def test_a_rolling_stream_that_never_rolls_is_refused_before_anything_is_played(
    model: QwenOmni,
) -> None:
    with pytest.raises(ConfigError, match="--rolling = 10"):
        next(Evaluation(model, small()).steps([], rolling_chunks=10))


def test_a_line_that_was_cut_off_is_thrown_away(tmp_path: Path) -> None:
    path, head = tmp_path / "state.jsonl", {"type": "head", "run": "a"}
    StateFile(path, head).add({"type": "stream", "seed": 1})
    path.write_bytes(path.read_bytes() + b'{"type": "str')
    again = StateFile(path, head)
    again.add({"type": "stream", "seed": 2})
    assert [r["seed"] for r in StateFile(path, head).records] == [1, 2]


@pytest.mark.parametrize("text", ['{"type": "head", "run": "b"}\n', "no json at all\n"])
def test_a_state_of_another_run_is_refused_and_left_alone(tmp_path: Path, text: str) -> None:
    path = tmp_path / "state.jsonl"
    path.write_text(text)
    with pytest.raises(UsageError, match="--state"):
        StateFile(path, {"type": "head", "run": "a"})
    assert path.read_text() == text


def test_the_shipped_configuration_loads(repository: Path) -> None:
    from omnidrop_stream.config import read_yaml

    settings = eval_settings(read_yaml(repository / "configs" / "eval.yaml"))
    assert settings.grid.chunks == (4, 8, 16, 32)
    with pytest.raises(ConfigError, match="eval is no setting"):
        load_config(repository / "configs" / "eval.yaml")


def test_the_command_writes_table_and_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    files = [tmp_path / name for name in ("state.jsonl", "eval.json", "eval.md")]
    flags = ["--state", files[0], "--json", files[1], "--markdown", files[2]]
    quick = ["eval", "--quick", "--model", "tiny", "--streams", "1", "--chunks", "2"]
    grid = ["--policies", "keep-all", "--depths", "0"]
    assert main([str(word) for word in [*quick, *grid, *flags]]) == 0
    assert capsys.readouterr().out.startswith("# omnidrop eval")
    assert len(files[0].read_text().splitlines()) == 2
    assert json.loads(files[1].read_text())["streams"] == 1
    assert "keep-all, depth 0" in files[2].read_text()


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--retentions", "abc"], "--retentions"),
        (["--retentions", "0"], "--retentions"),
        (["--depths", "deep"], "--depths"),
        (["--chunks", "4,x"], "--chunks"),
        (["--policies", "best"], "there is no policy 'best'"),
        (["--json", "nowhere/x.json"], "no folder"),
        (["--bogus"], "--bogus"),
    ],
)
def test_a_flag_that_is_not_allowed_is_told_in_one_sentence(
    flags: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", *flags]) == 2
    told = capsys.readouterr().err
    assert named in told
    assert len(told.splitlines()) == 1
