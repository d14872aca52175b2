"""Weight-only int8 and int4: near the plain model, smaller, and loaded layer by layer."""

from __future__ import annotations

import gc
import importlib.util
from pathlib import Path

import pytest
import torch
from torch import nn

from omnidrop_stream.config import ModelConfig
from omnidrop_stream.errors import ConfigError, MissingDependency, ModelMismatch
from omnidrop_stream.lab.bench_cost import Stopwatch
from omnidrop_stream.model.load import load_model, random_model
from omnidrop_stream.model.parts import parts_of
from omnidrop_stream.model.quantised import (
    check_weights,
    place,
    quantise,
    stored_bytes,
    weight_bytes,
)
from omnidrop_stream.model.shapes import byte_tokenizer, random_thinker, write_checkpoint
from omnidrop_stream.stream import OmniStream
from omnidrop_stream.types import Answer
from tests.helpers import make_chunks, settings, small_shape

LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
CPU = torch.device("cpu")


def loaded(model: str, weights: str, **options):
    values = {"device": "cpu", "dtype": "fp32", **options}
    return load_model(ModelConfig(model=model, weights=weights, **values))


def logits_of(model, ids: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return model.thinker(input_ids=ids).logits


@pytest.fixture(scope="module")
def embedded():
    return loaded("embedded", "auto")


@pytest.fixture(scope="module")
def smaller():
    return {weights: loaded("embedded", weights) for weights in ("int8", "int4")}


@pytest.fixture(scope="module")
def half_folder(tmp_path_factory) -> Path:
    """A checkpoint of twelve layers in bf16."""
    folder = write_checkpoint(tmp_path_factory.mktemp("bf16"), small_shape(layers=12), seed=5)
    plain = loaded(str(folder), "auto", dtype="bf16")
    plain.thinker.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("weights", "most", "agree"), [("int8", 0.03, 0.9), ("int4", 0.25, 0.7)])
def test_logits_stay_near_the_plain_model_and_mostly_name_the_same_token(
    embedded, smaller, weights, most, agree
):
    ids = torch.randint(0, 600, (4, 48))
    plain, small = logits_of(embedded, ids), logits_of(smaller[weights], ids)
    assert float((small - plain).norm() / plain.norm()) < most
    assert float((small.argmax(-1) == plain.argmax(-1)).float().mean()) > agree


def test_int4_is_farther_from_the_plain_model_than_int8(embedded, smaller):
    ids = torch.randint(0, 600, (4, 48))
    plain = logits_of(embedded, ids)
    eight, four = (logits_of(smaller[w], ids) - plain for w in ("int8", "int4"))
    assert four.norm() > 3 * eight.norm() > 0


@pytest.mark.parametrize(("weights", "most"), [("int8", 0.27), ("int4", 0.16)])
def test_only_the_decoders_linears_are_quantised(embedded, smaller, weights, most):
    model = smaller[weights]
    text = parts_of(model.thinker).text
    for layer in text.layers:
        names = [
            n.split(".")[-1]
            for n, m in layer.named_modules()
            if isinstance(m, nn.Linear) and type(m.weight.data) is not torch.Tensor
        ]
        assert sorted(names) == sorted(LINEARS)
    small, plain = weight_bytes(model.thinker), weight_bytes(embedded.thinker)
    assert small.layers < most * plain.layers
    for part in ("embedding", "head", "audio", "vision", "rest"):
        assert getattr(small, part) == getattr(plain, part)
    assert model.spec.weights == weights
    assert embedded.spec.weights == "auto"


def test_bytes_of_all_parts_are_what_the_checkpoint_has(embedded):
    tensors = [*embedded.thinker.parameters(), *embedded.thinker.buffers()]
    whole = sum(t.numel() * t.element_size() for t in tensors)
    assert weight_bytes(embedded.thinker).total == whole


@pytest.mark.parametrize("weights", ["int8", "int4"])
@pytest.mark.parametrize("depth", [0, "exact", "half", "read_side"])
def test_a_stream_answers_at_every_depth(weights, depth):
    shape = small_shape()
    config = settings(stream={"frame_tokens": 24, "prefill_depth": depth})
    model = random_model("small", shape, config.model.model_copy(update={"weights": weights}))
    stream = OmniStream(model, config)
    for chunk in make_chunks(3):
        stream.push(chunk)
    answer = list(stream.ask("What happened?"))[-1]
    assert isinstance(answer, Answer)
    assert answer.answer_tokens > 0


def test_a_question_without_tokens_of_the_stream_left_runs_through_no_rows():
    linear = nn.Sequential(nn.Linear(64, 64))
    for weights in ("int8", "int4"):
        quantise(linear, weights)
        assert linear(torch.zeros(0, 64)).shape == (0, 64)
        linear = nn.Sequential(nn.Linear(64, 64))


def test_while_loading_only_one_layer_is_held_whole(half_folder):
    """Beyond the result and the mapped file; all twelve in fp32 would be 1.8 MB, one is 0.15."""
    mapped = (half_folder / "model.safetensors").stat().st_size
    made = []
    gc.collect()  # what is freed while it is watched would hide what is held
    peak = Stopwatch(CPU).peak_bytes(lambda: made.append(loaded(str(half_folder), "int8")))
    final = stored_bytes(made[0].thinker)
    layers = random_thinker(small_shape(layers=12), byte_tokenizer(), 5, "cpu", torch.float32)
    one = stored_bytes(parts_of(layers).text.layers[0])
    assert peak - mapped < final + 2 * one


def test_a_thinker_in_another_type_keeps_its_buffers_exact(half_folder):
    model = loaded(str(half_folder), "int8", dtype="bf16")
    text = parts_of(model.thinker).text
    assert text.rotary_emb.inv_freq.dtype == torch.float32
    assert text.embed_tokens.weight.dtype == torch.bfloat16
    assert model.spec.dtype == "bfloat16"


def test_loading_quantised_is_the_plain_model_quantised(half_folder):
    plain = loaded(str(half_folder), "auto")
    place(plain.thinker, "int8", CPU, torch.float32)
    ids = torch.arange(40)[None]
    assert torch.equal(logits_of(plain, ids), logits_of(loaded(str(half_folder), "int8"), ids))


def test_rows_that_int4_cannot_group_are_refused():
    layer = nn.Sequential(nn.Linear(48, 32))
    with pytest.raises(ModelMismatch, match="multiple of 32 values, and 0 has 48: use int8"):
        quantise(layer, "int4")


def test_without_the_library_the_error_names_the_command(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match=r"pip install 'omnidrop-stream\[small\]'") as error:
        loaded("embedded", "int8")
    assert error.value.exit_code == 6
    check_weights("auto", CPU, torch.float32)


def test_int4_on_a_cuda_device_in_fp32_is_refused_before_anything_is_read():
    with pytest.raises(ConfigError, match="--dtype bf16"):
        check_weights("int4", torch.device("cuda"), torch.float32)
