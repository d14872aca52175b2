"""int8 and int4 weights: what is measured, what is counted, and the command."""

from __future__ import annotations

import importlib.util
import json

import pytest
import torch
from typer.testing import CliRunner

from clients.bench import app
from omnidrop_stream.config import ModelConfig, make_config
from omnidrop_stream.errors import ConfigError, MissingDependency, OmniDropError, UsageError
from omnidrop_stream.lab.bench_feed import make_chunks, push_all
from omnidrop_stream.lab.bench_fits import LIMITS, fits
from omnidrop_stream.lab.bench_weights import VARIANTS, WeightsSettings, run
from omnidrop_stream.lab.bench_weights_report import to_json, to_markdown
from omnidrop_stream.lab.eval import model_hash
from omnidrop_stream.model.counted import count, packed_bytes
from omnidrop_stream.model.load import random_model
from omnidrop_stream.model.quantised import stored_bytes, weight_bytes
from omnidrop_stream.model.shapes import SHAPES
from omnidrop_stream.stream import OmniStream

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@pytest.fixture(scope="module")
def counted():
    return list(fits())


@pytest.fixture(scope="module")
def report(counted):
    config = make_config({"model": {"model": "embedded", "device": "cpu", "dtype": "fp32"}})
    *_, last = run(WeightsSettings(config, 1, 2), variants=("auto", "int8"), counted=counted)
    return last


@pytest.mark.parametrize("weights", ["auto", "int8", "int4"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_count_is_what_quantising_really_stores(weights, dtype):
    model = random_model(
        "tiny", SHAPES["tiny"], ModelConfig(device="cpu", dtype=dtype, weights=weights)
    )
    counted = count(SHAPES["tiny"], weights, DTYPES[dtype], "cpu")
    assert counted.weights == weight_bytes(model.thinker)
    assert counted.weights.total == stored_bytes(model.thinker)
    assert counted.layers == model.spec.n_layers == 6


def test_int4_on_cuda_is_counted_with_its_padding():
    assert packed_bytes(8, 1024, "int4", 2, "cuda") == packed_bytes(8, 1024, "int4", 2, "cpu")
    assert packed_bytes(7, 3584, "int4", 2, "cuda") == packed_bytes(8, 4096, "int4", 2, "cpu")


def test_the_published_shapes_have_their_published_sizes(counted):
    parts = {fit.shape: fit.parts for fit in counted if fit.weights == "auto"}
    assert parts["7b"].total == pytest.approx(17.9e9, rel=0.01)
    assert parts["7b"].layers == pytest.approx(2 * 6.53e9, rel=0.01)
    assert parts["3b"].total == pytest.approx(9.4e9, rel=0.01)
    assert set(parts) == set(LIMITS)


def test_int4_fits_the_named_cards_with_four_minutes_at_every_depth(counted):
    assert len(counted) == 18
    for fit in counted:
        assert fit.tokens == 120 * 149
        if fit.weights == "int4":
            assert fit.total_bytes < fit.limit_bytes
        if fit.weights == "auto":
            assert fit.total_bytes > fit.limit_bytes


def test_a_window_counts_what_a_stream_would_hold():
    model = random_model("tiny", SHAPES["tiny"], ModelConfig(device="cpu", dtype="fp32"))
    counted = count(SHAPES["tiny"], "auto", torch.float32, "cpu")
    for depth in (0, 3, 6):
        config = make_config({"stream": {"prefill_depth": depth, "frame_tokens": 24}})
        stream = OmniStream(model, config)
        push_all(stream, make_chunks(2))
        tokens = sum(s.count * counted.window_bytes(1, 1, depth) for s in stream.snapshot())
        assert stream.status().nbytes == tokens


def test_every_kind_of_weights_is_asked_the_same_questions(report):
    assert [row.name for row in report.rows] == list(VARIANTS)[:2]
    plain, int8 = report.rows
    assert len({row.right.n for row in report.rows}) == 1
    assert plain.right.n > 5
    assert plain.logits_distance is None
    assert 0 < int8.logits_distance < 0.02
    assert int8.logits_distance <= int8.logits_distance_max < 0.1
    assert int8.same_token > 0.9
    assert plain.bytes.layers > 3 * int8.bytes.layers


def test_both_forms_say_what_is_counted_and_not_measured(report):
    values = json.loads(to_json(report))
    assert values["rows"][0]["bytes"]["total"] == report.rows[0].bytes.total
    assert values["fits"][0]["total_bytes"] == report.fits[0].total_bytes
    text = to_markdown(report)
    assert "## Counted, not measured on a GPU" in text
    assert text.count("| 7B | int4 |") == 3


def test_a_quantised_model_has_a_hash_of_its_own():
    made = [
        model_hash(
            random_model("t", SHAPES["tiny"], ModelConfig(device="cpu", dtype="fp32", weights=w))
        )
        for w in ("auto", "int8", "int8", "int4")
    ]
    assert made[1] == made[2]
    assert len(set(made)) == 3


@pytest.mark.parametrize(
    ("words", "kind", "named"),
    [
        (["--streams", "0"], ConfigError, "--streams = 0"),
        (["--chunks", "65"], ConfigError, "--chunks = 65"),
        (["--json", "no/such/folder/r.json"], UsageError, "no folder"),
        (["--device", "tpu"], ConfigError, "tpu"),
        (["--model", "./nowhere"], OmniDropError, "nowhere"),
    ],
)
def test_a_mistake_on_the_command_line_is_named(words, kind, named):
    done = CliRunner().invoke(app, ["weights", *words])
    assert isinstance(done.exception, kind)
    assert named in str(done.exception)


def test_without_the_library_the_command_says_how_to_get_it(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "torchao" else find(name)
    )
    done = CliRunner().invoke(app, ["weights", "--quick"])
    assert isinstance(done.exception, MissingDependency)
    assert "pip install 'omnidrop-stream[small]'" in str(done.exception)
