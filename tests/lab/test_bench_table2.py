"""The paper's Table 2: what is counted, what is compared, and the command."""

from __future__ import annotations

import json

import pytest
import torch
from typer.testing import CliRunner

from clients.bench import app
from omnidrop_stream.config import ModelConfig, make_config
from omnidrop_stream.errors import ConfigError, OmniDropError, UsageError
from omnidrop_stream.lab.bench_feed import QUESTION, make_chunks, push_all
from omnidrop_stream.lab.bench_floor import flops_of, measure_rates
from omnidrop_stream.lab.bench_table2 import FULL, STOCK, Table2Settings, WholeHead, methods, run
from omnidrop_stream.lab.bench_table2_report import to_json, to_markdown
from omnidrop_stream.model.load import random_model
from omnidrop_stream.model.shapes import SHAPES
from omnidrop_stream.stream import OmniStream

METHODS = [FULL, "intra-modality only", "OmniDrop 30%", "OmniDrop 20%"]


def cpu_config():
    return make_config(
        {"model": {"device": "cpu", "dtype": "fp32"}, "stream": {"frame_tokens": 24}}
    )


@pytest.fixture(scope="module")
def report():
    *_, last = run(Table2Settings(cpu_config(), "tiny", 2, 1, 2))
    return last


def test_each_method_is_measured_under_both_readings_of_the_head(report):
    told = [(row.head, row.method.split(" (")[0]) for row in report.rows]
    assert told == [("all", STOCK), *(("all", m) for m in METHODS), *(("last", m) for m in METHODS)]


def test_rows_tell_their_tokens_and_what_their_logits_weigh(report):
    rows = {(row.method.split(" (")[0], row.head): row for row in report.rows}
    full, pruned = rows[FULL, "all"], rows["OmniDrop 30%", "all"]
    assert set(full.entering) == {full.unpruned} == {rows[STOCK, "all"].unpruned}
    assert pruned.mean_entering == pytest.approx(0.30, abs=0.01)
    assert pruned.entering[-1] < pruned.entering[0] < full.unpruned
    tail = full.logits_bytes // (4 * 512) - full.unpruned
    assert tail > 10
    assert pruned.logits_bytes == 4 * 512 * (pruned.entering[-1] + tail)
    assert {row.logits_bytes for row in report.rows if row.head == "last"} == {4 * 512}
    assert pruned.flops < full.flops


def test_a_mean_that_a_shallow_model_does_not_reach_is_said_so():
    names = list(methods(cpu_config(), 6, 24))
    assert names[2] == "OmniDrop 30%"
    assert names[3].startswith("OmniDrop 20% (reaches 2")


@pytest.mark.parametrize(("layers", "p_final", "from_layer"), [(28, 0.2, 14), (36, 0.15, 19)])
def test_published_depths_use_the_printed_schedules(repository, layers, p_final, from_layer):
    from omnidrop_stream.config import load_config

    size = {28: "7b", 36: "3b"}[layers]
    made = list(methods(cpu_config(), layers, 144).values())[2:]
    for config, percent in zip(made, (30, 20), strict=True):
        file = repository / "configs" / f"qwen2.5-omni-{size}-r{percent}.yaml"
        printed = load_config(file).pruning.model_copy(update={"retention": None})
        assert config.pruning == printed
    assert made[0].pruning.schedule.p_final == p_final
    assert made[0].pruning.diversity_from_layer == from_layer


def test_the_whole_head_names_the_token_that_the_last_position_alone_names():
    model = random_model("tiny", SHAPES["tiny"], ModelConfig(device="cpu", dtype="fp32"))
    config = list(methods(cpu_config(), 6, 24).values())[2]
    texts = []
    for whole in (True, False):
        kind = WholeHead(model, whole)
        stream = OmniStream(kind, config)
        push_all(stream, make_chunks(2))
        texts.append(list(stream.ask(QUESTION))[-1].text)
        assert (kind.logits_rows > 1) == whole
    assert texts[0] == texts[1] != ""


def test_peak_memory_is_weights_and_what_came_on_top(report):
    for row in report.rows:
        assert row.peak_bytes == report.weights.total + row.work_bytes
        assert row.work_bytes > row.logits_bytes


def test_floors_are_operations_or_bytes_at_the_measured_rates(report):
    row, rates, weights = report.rows[1], report.rates, report.weights
    compute = row.flops / rates.matmul_flops_per_s * 1e3
    read = (weights.total - weights.embedding) / rates.copy_bytes_per_s * 1e3
    assert row.prefill_floor_ms == pytest.approx(max(compute, read))
    assert row.latency_floor_ms > row.prefill_floor_ms > 0


def test_operations_count_products_and_half_of_causal_squares():
    a, b = torch.ones(3, 5), torch.ones(5, 7)
    q = torch.ones(1, 2, 8, 4)
    attend = torch.nn.functional.scaled_dot_product_attention
    assert flops_of(lambda: a @ b) == 2 * 3 * 5 * 7
    whole = flops_of(lambda: attend(q, q, q))
    assert whole == 2 * 2 * 2 * 8 * 8 * 4
    assert flops_of(lambda: attend(q, q, q, is_causal=True)) == whole // 2


def test_rates_are_those_of_this_machine():
    rates = measure_rates(torch.device("cpu"), torch.float32)
    assert 1e8 < rates.copy_bytes_per_s < 1e13
    assert 1e8 < rates.matmul_flops_per_s < 1e15
    assert rates.read_ms(int(rates.copy_bytes_per_s)) == pytest.approx(1e3)


def test_both_forms_hold_every_row_and_say_that_no_gpu_was_there(report):
    assert len(json.loads(to_json(report))["rows"]) == 9
    text = to_markdown(report)
    assert text.count("| OmniDrop 30% |") == 2
    assert "| 7B | not measured |" in text
    assert "random weights" in text
    assert "less in the paper's definition" in text


def test_the_command_writes_both_files(tmp_path):
    files = [str(tmp_path / "t.json"), str(tmp_path / "t.md")]
    words = ["table2", "--quick", "--no-stock", "--device", "cpu"]
    done = CliRunner().invoke(app, [*words, "--json", files[0], "--markdown", files[1]])
    assert done.exit_code == 0, done.output
    assert done.stdout == (tmp_path / "t.md").read_text("utf-8")
    assert len(json.loads((tmp_path / "t.json").read_text("utf-8"))["rows"]) == 8


@pytest.mark.parametrize(
    ("words", "kind", "named"),
    [
        (["--model", "x", "--random-weights", "tiny"], UsageError, "exclude"),
        (["--chunks", "7"], ConfigError, "--chunks = 7"),
        (["--chunks", "0"], ConfigError, "--chunks = 0"),
        (["--repeats", "0"], ConfigError, "--repeats = 0"),
        (["--answer-tokens", "0"], ConfigError, "--answer-tokens = 0"),
        (["--json", "no/such/folder/r.json"], UsageError, "no folder"),
        (["--random-weights", "13b"], ConfigError, "13b"),
        (["--device", "tpu"], ConfigError, "tpu"),
        (["--weights", "int2"], ConfigError, "int2"),
    ],
)
def test_a_mistake_on_the_command_line_is_named(words, kind, named):
    done = CliRunner().invoke(app, ["table2", *words])
    assert isinstance(done.exception, kind)
    assert isinstance(done.exception, OmniDropError)
    assert named in str(done.exception)
