"""The feed-forward networks through torch's compiler, and what is said where there is none."""

from __future__ import annotations

import shutil

import pytest
import torch

from omnidrop_stream.config import ModelConfig
from omnidrop_stream.errors import MissingDependency
from omnidrop_stream.model import load
from omnidrop_stream.model.compiled import check_compiler, feed_forward
from omnidrop_stream.model.load import load_model, random_model
from tests.helpers import small_shape


def built(compiled):
    config = ModelConfig(device="cpu", dtype="fp32", compile=compiled)
    return random_model("small", small_shape(layers=2), config, 0)


def test_without_a_compiler_one_sentence_says_what_to_do():
    with pytest.raises(MissingDependency, match=r"C\+\+ compiler .*model.compile to false"):
        check_compiler(torch.device("cpu"), found=lambda name: None)
    check_compiler(torch.device("cpu"), found=lambda name: name == "clang++")


def test_on_a_gpu_it_is_triton_that_is_needed():
    with pytest.raises(MissingDependency, match="triton"):
        check_compiler(torch.device("cuda"), importable=lambda name: None)
    check_compiler(torch.device("cuda"), found=lambda name: None, importable=lambda name: name)


def test_a_model_that_is_to_be_compiled_asks_for_the_compiler_first(monkeypatch):
    asked = []
    monkeypatch.setattr(load, "check_compiler", asked.append)
    monkeypatch.setattr(torch, "compile", lambda function, dynamic: function)
    built(False)
    assert asked == []
    built(True)
    assert asked == [torch.device("cpu")]


def test_a_checkpoint_too_before_it_is_looked_for(monkeypatch, tmp_path):
    def refused(device):
        raise MissingDependency("no compiler")

    monkeypatch.setattr(load, "check_compiler", refused)
    nowhere = ModelConfig(model=str(tmp_path / "nowhere"), device="cpu", compile=True)
    with pytest.raises(MissingDependency, match="no compiler"):
        load_model(nowhere)


def test_only_the_setting_compiles_and_another_engine_keeps_it(monkeypatch):
    compiled = []

    def watched(function, dynamic):
        compiled.append((function, dynamic))
        return function

    monkeypatch.setattr(torch, "compile", watched)
    monkeypatch.setattr(load, "check_compiler", lambda device: None)
    built(False).with_engine("fast")
    assert compiled == []
    built(True).with_engine("fast")
    assert compiled == [(feed_forward, True)] * 2


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")  # torch's own
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_compiled_layers_compute_what_plain_ones_do():
    plain, compiled = built(False).decoder, built(True).decoder
    for rows in (7, 1, 40):
        hidden = torch.randn(rows, plain.embed.embedding_dim)
        attended = torch.randn(4, rows, 16)
        with torch.inference_mode():
            for layer in range(plain.n_layers):
                same = compiled.finish(layer, hidden, attended)
                assert torch.allclose(plain.finish(layer, hidden, attended), same, atol=1e-6)
