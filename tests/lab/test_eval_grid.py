"""The grid's own parts: variants, baselines, intervals, the gate; one by one as at once."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from omnidrop_stream.errors import ConfigError
from omnidrop_stream.lab.eval import Evaluation, baseline_of, made
from omnidrop_stream.lab.eval_gate import DropOnce, play_gate, score_gate
from omnidrop_stream.lab.eval_past import play_past, questions_of_halves, score_past
from omnidrop_stream.lab.eval_play import questions_for
from omnidrop_stream.lab.eval_report import to_json, to_markdown
from omnidrop_stream.lab.eval_score import half_width
from omnidrop_stream.lab.eval_state import Pace
from omnidrop_stream.lab.eval_tables import by_layer, gate_table
from omnidrop_stream.lab.eval_types import Cell, EvalSettings, Mean, Record, Report, eval_settings
from omnidrop_stream.model.qwen_omni import QwenOmni
from omnidrop_stream.world import World
from tests.helpers import small_model

VARIANTS = {
    "unweighted": {"pruning": {"policy": "omnidrop", "diversity_weight": 0.0}},
    "late": {"pruning": {"policy": "omnidrop"}, "stream": {"prefill_depth": "half"}},
}
GRID = {
    "streams": 1,
    "chunks": [2, 3],
    "policies": [
        "keep-all",
        "intra-only",
        "omnidrop",
        "audio-guided",
        "omnizip",
        "unweighted",
        "late",
    ],
    "variants": VARIANTS,
    "baselines": ["keep-all", "omnidrop"],
    "retentions": [0.42],
    "timed": 1,
}


def settings(**grid: object) -> EvalSettings:
    values = {"stream": {"frame_tokens": 4}, "decode": {"max_tokens": 2}, "eval": {**GRID, **grid}}
    return eval_settings(values)


@pytest.fixture(scope="module")
def model() -> QwenOmni:
    return small_model(layers=6)


@pytest.fixture(scope="module")
def record(model: QwenOmni) -> Record:
    (found,) = Evaluation(model, settings()).steps([])
    return found


@pytest.fixture(scope="module")
def report(model: QwenOmni, record: Record) -> Report:
    return Evaluation(model, settings()).report([record])


def plain(record: Record) -> list[dict[str, object]]:
    timed = ("prefill_ms", "plain_same")
    return [{k: v for k, v in part.items() if k not in timed} for part in record["answers"]]


def test_questions_asked_at_once_make_the_record_of_questions_asked_one_by_one(
    model: QwenOmni, record: Record
) -> None:
    (alone,) = Evaluation(model, settings(batch=1, timed=0)).steps([])
    assert plain(alone) == plain(record)


def test_a_few_questions_a_batch_change_nothing(model: QwenOmni, record: Record) -> None:
    (few,) = Evaluation(model, settings(batch=3, timed=0)).steps([])
    assert plain(few) == plain(record)


def test_the_plain_path_checks_some_answers_and_times_them(report: Report) -> None:
    assert report.plain == (14, 14)
    assert all((row.cost["prefill_ms"] or 0) > 0 for row in report.rows)
    assert "14 of 14 texts the same" in to_markdown(report)


def test_full_tokens_are_unpruned_and_intra_only_is_not(report: Report) -> None:
    first = {row.cell.policy: row for row in report.rows if row.chunks == 2}
    assert first["keep-all"].schedule == (1.0,) * 6
    assert first["intra-only"].schedule[0] < 0.8
    assert first["keep-all"].cost["flops"] > first["intra-only"].cost["flops"]


def test_a_variant_changes_its_settings_alone() -> None:
    cell = Cell("unweighted", 0.42, "exact")
    pruning = settings().pruning(cell)
    assert (pruning.policy, pruning.diversity_weight, pruning.retention) == ("omnidrop", 0.0, 0.42)
    assert settings().pruning(Cell("omnidrop", 0.42, "exact")).diversity_weight == 0.2


def test_a_variant_may_fix_the_depth(report: Report) -> None:
    late = [row for row in report.rows if row.cell.policy == "late"]
    assert {row.cell.depth for row in late} == {"half"}
    assert set(late[0].labels) == {"catch_up"}


def test_a_variant_with_a_schedule_of_its_own_has_no_retention() -> None:
    given = {"fixed": {"pruning": {"policy": "omnidrop", "schedule": {"p_final": 0.3}}}}
    cells = settings(policies=["fixed"], variants=given, baselines=[]).cells
    assert cells == (Cell("fixed", None, "exact"),)


@pytest.mark.parametrize(
    ("grid", "named"),
    [
        ({"variants": {"x": {"pruning": {"policy": "best"}}}}, "there is no policy 'best'"),
        ({"variants": {"x": {"pruning": {"wait": 1}}}}, "wait is no setting"),
        ({"baselines": ["random"]}, "'random' is not among the policies"),
        ({"split": "train"}, "split = 'train'"),
    ],
)
def test_a_grid_that_means_nothing_is_refused(grid: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        settings(**grid)


def test_a_cell_is_compared_at_its_own_retention_and_depth_or_with_the_only_one() -> None:
    cells = [Cell("full", None, "exact")]
    cells += [Cell("a", r, d) for r in (0.3, 0.2) for d in ("exact", "half")]
    assert baseline_of(Cell("b", 0.2, "half"), "a", cells) == Cell("a", 0.2, "half")
    assert baseline_of(Cell("b", 0.2, 0), "a", cells) == Cell("a", 0.2, "exact")
    assert baseline_of(Cell("b", 0.2, 0), "full", cells) == cells[0]
    assert baseline_of(Cell("b", 0.1, 0), "a", cells) is None


def test_differences_are_paired_and_told_at_each_length_and_in_all(report: Report) -> None:
    pairs = [v for v in report.versus if (v.cell.policy, v.baseline.policy) == ("late", "omnidrop")]
    assert [v.chunks for v in pairs] == [None, 2, 3]
    assert pairs[0].difference.n == pairs[1].difference.n + pairs[2].difference.n
    assert "## Less omnidrop, in points" in to_markdown(report)


@pytest.mark.parametrize(("streams", "quantile"), [(5, 2.776), (11, 2.228), (61, 2.000)])
def test_an_interval_is_students(streams: int, quantile: float) -> None:
    assert half_width(Mean(9, 0.1, 0.01), streams) == pytest.approx(quantile / 100, rel=0.01)


def test_two_streams_have_no_interval() -> None:
    assert half_width(Mean(9, 0.1, 0.01), 2) is None


def test_a_schedule_is_told_in_runs() -> None:
    assert by_layer([0.478, 0.478, 0.4, 0.1, 0.1]) == "47.8 ×2, 40.0, 10.0 ×2"


def test_the_development_split_has_other_streams_and_wordings() -> None:
    dev = settings(split="dev")
    assert dev.split == "train"
    worlds = [World(7, split) for split in ("train", "test")]
    texts = [[q.text for q in questions_for(w, range(4), 7, w.split)] for w in worlds]
    assert not set(texts[0]) & set(texts[1])


def test_what_is_left_to_do_is_told_once_a_stream_is_done() -> None:
    pace = Pace(10, began_s=0.0)
    assert pace.told(3, 60.0) == " (3 of 10 streams, about 7 min left)"
    assert pace.told(4, 120.0) == " (4 of 10 streams, about 6 min left)"


def test_dropping_once_keeps_all_up_to_the_layer_and_little_behind_it() -> None:
    policy = DropOnce(after=2)
    assert policy.counts(100, 5, 200) == (100, 100, 100, 5, 5)
    gone = policy.drop(2, 5, None, torch.arange(100), torch.zeros(100), 95)
    assert torch.equal(gone, gone.sort().values)
    assert torch.equal(gone, DropOnce(after=3).drop(3, 5, None, torch.arange(100), gone, 95))


def test_the_gate_counts_what_each_layers_drop_costs(model: QwenOmni) -> None:
    record = play_gate(model, settings(chunks=[2]), 5)
    assert len(record["ok"]) == 6
    assert len({len(text) for text in record["ok"]}) == 1
    ok = ["1111", "0011", "1111", "1011", "1111"]
    gate = score_gate([{"type": "gate", "share": 0.95, "ok": ok}] * 3)
    assert gate is not None
    assert [mean.value for mean in gate.loss] == [0.5, 0.0, 0.25, 0.0]
    assert gate.middle.value == 0.0
    assert score_gate([]) is None


def test_the_gate_stands_in_the_report_with_how_the_model_was_made(
    model: QwenOmni, record: Record
) -> None:
    gate = {"type": "gate", "seed": 100_000, "share": 0.95, "ok": ["11", "01", "00", "11", "11"]}
    text = to_markdown(Evaluation(model, settings()).report([record, gate]))
    assert "## The gate" in text
    assert "100.0 points (wanted: more than 20): passed" in text
    assert "see the model card" in text


def test_a_built_model_is_called_built(model: QwenOmni, tmp_path: Path) -> None:
    told = {"kind": "built", "writing_layers": [0, 5], "looking_supervised": True}
    (tmp_path / "built.json").write_text(json.dumps(told))
    beside = QwenOmni(model.thinker, model.tokenizer, replace(model.spec, name=str(tmp_path)))
    (tmp_path / "config.json").write_text("{}")
    text = made(beside)
    assert text == "built (writing layers 0, 5; looking supervised True)"
    gate = score_gate([{"type": "gate", "share": 0.95, "ok": ["11", "01", "00"]}] * 3)
    assert gate is not None
    assert "no evidence for the method" in "".join(gate_table(gate, text))


def test_a_cell_out_of_reach_stands_in_the_grid_with_what_is_reachable(model: QwenOmni) -> None:
    grid = settings(policies=["intra-only", "omnidrop"], retentions=[0.42, 0.01], baselines=[])
    (record,) = Evaluation(model, grid).steps([])
    text = to_markdown(Evaluation(model, grid).report([record]))
    line = next(x for x in text.splitlines() if x.startswith("| omnidrop, exact |"))
    assert line.endswith(" %) |")
    assert "out of reach (least " in line


def test_eviction_policies_are_asked_about_both_halves_at_the_same_bytes(model: QwenOmni) -> None:
    grid = settings(past_chunks=8, split="dev")
    record = play_past(model, grid, 3)
    assert set(record["halves"]) <= {"older", "newer"}
    kept = record["kept"]
    assert kept["all kept"]["chunks"] == 8
    assert all(row["bytes"] <= kept["all kept"]["bytes"] / 2 for row in list(kept.values())[1:])
    assert all(len(row["ok"]) == len(record["halves"]) for row in kept.values())


def test_the_past_is_scored_by_half_against_the_oldest_window() -> None:
    record = {
        "halves": ["older", "older", "newer"],
        "kept": {
            name: {"ok": ok, "tokens": 10, "bytes": 100, "chunks": 4}
            for name, ok in (("all kept", "111"), ("oldest_window", "001"), ("thin_even", "100"))
        },
    }
    rows = {row.policy: row for row in score_past([record] * 3)}
    assert rows["thin_even"].right["older"].value == 0.5
    assert rows["thin_even"].less["older"].value == 0.5
    assert rows["thin_even"].less["newer"].value == -1.0


def test_a_question_of_a_half_rests_on_nothing_of_the_other() -> None:
    for half, question in questions_of_halves(World(5), 16, 5, settings(split="dev")):
        assert {event.from_s < 16.0 for event in question.evidence} == {half == "older"}


def test_a_report_can_be_written_as_json(report: Report) -> None:
    told = json.loads(to_json(report))
    assert told["versus"][0]["baseline"]["policy"] == "keep-all"
