"""Every layout of a checkpoint loads, and every mistake is one plain sentence."""

from __future__ import annotations

import json
import os
import shutil
import socket
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from omnidrop_stream.config import ModelConfig
from omnidrop_stream.errors import (
    ConfigError,
    ModelError,
    ModelMismatch,
    ModelNotFound,
)
from omnidrop_stream.model import load
from omnidrop_stream.model.load import checkpoint_folder, load_model
from omnidrop_stream.model.pick import pick_engine
from omnidrop_stream.model.shapes import (
    byte_tokenizer,
    random_thinker,
    write_checkpoint,
)
from omnidrop_stream.stream import OmniStream
from omnidrop_stream.types import Answer
from tests.helpers import make_chunks, settings, small_shape


def loaded(folder: Path, **options):
    values = {"device": "cpu", "dtype": "fp32", **options}
    return load_model(ModelConfig(model=str(folder), **values))


def stock_logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model.thinker(input_ids=torch.arange(40)[None]).logits


@pytest.fixture(scope="module")
def thinker_folder(tmp_path_factory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("thinker"), small_shape(layers=3), seed=5)


@pytest.fixture(scope="module")
def omni_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("omni")
    return write_checkpoint(folder, small_shape(layers=3), seed=5, full_omni=True)


@pytest.fixture
def folder(thinker_folder, tmp_path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(thinker_folder, tmp_path / "checkpoint"))


def one_sentence(error: pytest.ExceptionInfo) -> bool:
    text = str(error.value)
    return 20 < len(text) < 600 and "\n" not in text and "Traceback" not in text


def edited(folder: Path, name: str, **changes) -> Path:
    values = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(values | changes))
    return folder


def test_the_whole_omni_layout_and_the_thinker_alone_give_the_same_logits(
    thinker_folder, omni_folder
):
    alone, whole = loaded(thinker_folder), loaded(omni_folder)
    assert whole.spec.n_layers == alone.spec.n_layers == 3
    assert torch.equal(stock_logits(alone), stock_logits(whole))


def test_what_is_loaded_is_what_was_saved(thinker_folder):
    held = loaded(thinker_folder).thinker.state_dict()
    shape = small_shape(layers=3)
    saved = random_thinker(shape, byte_tokenizer(), 5, "cpu", torch.float32).state_dict()
    assert set(saved) == set(held)
    assert all(torch.equal(held[name], tensor) for name, tensor in saved.items())


def sharded(model_folder: Path, folder: Path) -> Path:
    loaded(model_folder).thinker.save_pretrained(folder, max_shard_size="100KB")
    for name in ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"):
        shutil.copy(model_folder / name, folder / name)
    return folder


def test_a_sharded_checkpoint_loads(thinker_folder, tmp_path):
    folder = sharded(thinker_folder, tmp_path)
    assert len(list(folder.glob("model-*.safetensors"))) > 2
    assert torch.equal(stock_logits(loaded(folder)), stock_logits(loaded(thinker_folder)))


def test_a_damaged_shard_is_named(thinker_folder, tmp_path):
    folder = sharded(thinker_folder, tmp_path)
    shard = sorted(folder.glob("model-*.safetensors"))[1]
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(ModelMismatch, match=f"shard {shard.name} .* damaged") as error:
        loaded(folder)
    assert one_sentence(error)


def test_a_missing_shard_is_named(thinker_folder, tmp_path):
    folder = sharded(thinker_folder, tmp_path)
    shard = sorted(folder.glob("model-*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(ModelMismatch, match=f"shard {shard.name} .* is missing"):
        loaded(folder)


@pytest.mark.parametrize("shards", [{}, [], None, "model.safetensors"])
def test_an_index_that_names_no_shard_is_refused(folder, shards):
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    with pytest.raises(ModelMismatch, match="names no shard"):
        loaded(folder)


def test_a_pickle_is_never_read(folder):
    (folder / "model.safetensors").unlink()
    torch.save({"x": torch.zeros(1)}, folder / "pytorch_model.bin")
    with pytest.raises(ModelMismatch, match="only safetensors are read"):
        loaded(folder)


def test_a_checkpoint_of_another_class_is_refused(tmp_path):
    small = Qwen2Config(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    Qwen2ForCausalLM(small).save_pretrained(tmp_path)
    with pytest.raises(ModelMismatch, match="model_type is 'qwen2'; allowed: qwen2_5_omni or") as e:
        loaded(tmp_path)
    assert one_sentence(e)


def test_a_folder_without_config_is_refused(folder):
    (folder / "config.json").unlink()
    with pytest.raises(ModelNotFound, match=r"holds no config\.json"):
        loaded(folder)


def test_a_file_instead_of_a_folder_is_refused(folder):
    with pytest.raises(ModelNotFound, match="is no folder"):
        loaded(folder / "config.json")


@pytest.mark.parametrize("model", ["/nowhere/at/all", "./nothing", "~/nothing-here"])
def test_a_path_that_is_not_there_is_not_looked_up_on_the_hub(model):
    with pytest.raises(ModelNotFound, match="is no folder"):
        checkpoint_folder(model)


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "\ufeff{}"])
def test_a_config_that_is_no_json_object_is_refused(folder, text):
    (folder / "config.json").write_text(text)
    with pytest.raises(ModelMismatch, match=r"config\.json|model_type") as error:
        loaded(folder)
    assert one_sentence(error)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_hidden_layers": 9},
        {"hidden_size": 48},
        {"hidden_size": "wide"},
        {"num_attention_heads": 0},
        {"num_key_value_heads": 3},
        {"rope_parameters": {"rope_type": "unheard"}},
        {"vocab_size": 100},
    ],
)
def test_a_config_that_does_not_fit_the_weights_is_refused(folder, changes):
    text = json.loads((folder / "config.json").read_text())["text_config"]
    with pytest.raises(ModelMismatch) as error:
        loaded(edited(folder, "config.json", text_config=text | changes))
    assert one_sentence(error)


def test_missing_tensors_are_counted_and_the_first_is_named(folder):
    file = folder / "model.safetensors"
    tensors = load_file(file)
    gone = [name for name in tensors if ".layers.1.mlp" in name]
    save_file({k: v for k, v in tensors.items() if k not in gone}, file, {"format": "pt"})
    with pytest.raises(ModelMismatch, match=f"{len(gone)} tensors .* first .*layers.1.mlp"):
        loaded(folder)


def test_a_missing_tokenizer_is_named(folder):
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelMismatch, match="tokenizer") as error:
        loaded(folder)
    assert one_sentence(error)


def test_a_damaged_tokenizer_is_named(folder):
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(ModelMismatch, match="tokenizer cannot be read") as error:
        loaded(folder)
    assert one_sentence(error)


def test_a_tokenizer_of_another_model_is_refused(folder):
    plain = byte_tokenizer()
    vocabulary = {k: v for k, v in plain.get_vocab().items() if v < 256}
    Qwen2Tokenizer(vocab=vocabulary, merges=[]).save_pretrained(folder)
    with pytest.raises(ModelMismatch, match=r"no Qwen2\.5-Omni tokenizer"):
        loaded(folder)


def test_a_tokenizer_larger_than_the_model_is_refused(folder):
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens([f"<extra {i}>" for i in range(400)])
    tokenizer.save_pretrained(folder)
    with pytest.raises(ModelMismatch, match="not of one checkpoint"):
        loaded(folder)


@pytest.mark.parametrize("changes", [{"max_pixels": "many"}, {"image_mean": ["x"]}])
def test_a_damaged_preprocessor_config_is_refused(folder, changes):
    with pytest.raises(ModelMismatch, match=r"preprocessor_config\.json"):
        loaded(edited(folder, "preprocessor_config.json", **changes))


def test_without_a_preprocessor_config_the_published_values_are_used(folder):
    (folder / "preprocessor_config.json").unlink()
    spec = loaded(folder).spec
    assert (spec.pixels.max_tokens, spec.frame_tokens) == (768, 144)


@pytest.mark.timeout(30)
def test_an_unknown_hub_id_without_network_fails_at_once(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelNotFound, match="check the name and the network") as error:
        loaded(Path("nobody/nothing-here"))
    assert one_sentence(error)


@pytest.mark.timeout(30)
def test_a_hub_that_never_answers_does_not_hang(monkeypatch):
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        address = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
        monkeypatch.setattr(load, "HUB_TIMEOUT_S", 0.2)
        with pytest.raises(ModelNotFound, match="check the name and the network"):
            checkpoint_folder("nobody/nothing-here")


@pytest.mark.parametrize("name", ["a b/c", "too/many/parts", "-x-", "x" * 200])
@pytest.mark.timeout(30)
def test_a_name_that_can_be_no_hub_id_is_refused(name, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelNotFound, match="neither a folder nor in the local cache"):
        checkpoint_folder(name)


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:7"])
def test_a_gpu_that_is_not_there_is_refused(folder, device, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ConfigError, match="torch sees 0 CUDA devices; use --device cpu"):
        loaded(folder, device=device)


def test_flash_attention_on_a_cpu_is_refused(folder):
    with pytest.raises(ConfigError, match="needs a CUDA device"):
        loaded(folder, attention="flash")


def test_every_mistake_is_a_model_error_with_its_exit_code():
    assert issubclass(ModelNotFound, ModelError)
    assert issubclass(ModelMismatch, ModelError)
    assert ModelError.exit_code == 4


def test_bf16_loads_and_answers(folder):
    model = loaded(folder, dtype="bf16")
    assert model.spec.dtype == "bfloat16"
    assert model._decoder.rotary.inv_freq.dtype == torch.float32
    exact = loaded(folder)._decoder.rotary.inv_freq
    assert torch.equal(model._decoder.rotary.inv_freq, exact)
    stream = OmniStream(model, settings(pruning={"retention": 0.5}))
    for chunk in make_chunks(2):
        stream.push(chunk)
    assert isinstance(list(stream.ask("what?"))[-1], Answer)


def test_tied_word_embeddings_load_without_a_head_of_their_own(folder):
    file = folder / "model.safetensors"
    tensors = load_file(file)
    del tensors["lm_head.weight"]
    save_file(tensors, file, {"format": "pt"})
    text = json.loads((folder / "config.json").read_text())["text_config"]
    edited(
        folder,
        "config.json",
        text_config=text | {"tie_word_embeddings": True},
        tie_word_embeddings=True,
    )
    model = loaded(folder)
    embed = model.thinker.get_input_embeddings().weight
    assert torch.equal(model.thinker.lm_head.weight, embed)


def test_loading_reports_what_it_does(folder):
    said = []
    load_model(ModelConfig(model=str(folder), device="cpu"), said.append)
    assert [line.split()[0] for line in said] == ["loading", "moving"]


def test_no_token_of_the_environment_is_needed(folder, monkeypatch):
    for name in list(os.environ):
        if name.startswith(("HF_", "HUGGING")):
            monkeypatch.delenv(name)
    assert loaded(folder).spec.n_layers == 3


def test_the_engine_is_the_fast_one_only_where_it_was_measured():
    assert pick_engine("auto", torch.device("cpu")) == "fast"
    assert pick_engine("auto", torch.device("cuda", 0)) == "plain"
    assert pick_engine("fast", torch.device("cuda", 0)) == "fast"
