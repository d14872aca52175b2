"""A config.json as published, in the old rope style, and shapes given as files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from omnidrop_stream.config import ModelConfig
from omnidrop_stream.errors import ConfigError
from omnidrop_stream.model.load import load_model
from omnidrop_stream.model.shapes import Shape, shape_of, write_checkpoint
from tests.helpers import small_shape


def loaded(folder: Path):
    return load_model(ModelConfig(model=str(folder), device="cpu", dtype="fp32"))


def stock_logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model.thinker(input_ids=torch.arange(40)[None]).logits


def published_config(folder: Path) -> None:
    """The fields of the published Qwen2.5-Omni-7B config.json, with small sizes: old rope style."""
    (folder / "config.json").write_text(
        json.dumps(
            {
                "architectures": ["Qwen2_5OmniModel"],
                "enable_audio_output": True,
                "enable_talker": True,
                "model_type": "qwen2_5_omni",
                "talker_config": {"model_type": "qwen2_5_omni_talker"},
                "token2wav_config": {"model_type": "qwen2_5_omni_token2wav"},
                "thinker_config": {
                    "architectures": ["Qwen2OmniNaViTThinkerForConditionalGeneration"],
                    "audio_config": {
                        "model_type": "qwen2_5_omni_audio_encoder",
                        "num_mel_bins": 128,
                        "encoder_layers": 2,
                        "encoder_attention_heads": 4,
                        "encoder_ffn_dim": 64,
                        "d_model": 32,
                        "output_dim": 128,
                        "n_window": 100,
                        "max_source_positions": 1500,
                        "scale_embedding": False,
                        "activation_function": "gelu",
                    },
                    "vision_config": {
                        "model_type": "qwen2_5_omni_vision_encoder",
                        "depth": 2,
                        "embed_dim": 32,
                        "hidden_size": 32,
                        "intermediate_size": 64,
                        "num_heads": 4,
                        "in_channels": 3,
                        "in_chans": 3,
                        "out_hidden_size": 128,
                        "patch_size": 14,
                        "spatial_merge_size": 2,
                        "spatial_patch_size": 14,
                        "temporal_patch_size": 2,
                        "tokens_per_second": 25,
                        "window_size": 112,
                        "fullatt_block_indexes": [1],
                        "hidden_act": "silu",
                    },
                    "text_config": {
                        "model_type": "qwen2_5_omni_text",
                        "hidden_act": "silu",
                        "hidden_size": 128,
                        "intermediate_size": 128,
                        "max_position_embeddings": 32768,
                        "max_window_layers": 3,
                        "num_attention_heads": 1,
                        "num_hidden_layers": 3,
                        "num_key_value_heads": 1,
                        "rms_norm_eps": 1e-06,
                        "rope_scaling": {
                            "mrope_section": [16, 24, 24],
                            "rope_type": "default",
                            "type": "default",
                        },
                        "rope_theta": 1000000.0,
                        "sliding_window": 32768,
                        "use_sliding_window": False,
                        "use_cache": True,
                        "vocab_size": 512,
                        "pad_token_id": 256,
                    },
                    "audio_start_token_id": 260,
                    "audio_end_token_id": 261,
                    "audio_token_index": 259,
                    "image_token_index": 268,
                    "video_token_index": 269,
                    "vision_start_token_id": 265,
                    "vision_end_token_id": 266,
                    "vision_token_id": 267,
                    "user_token_id": 84,
                    "pad_token_id": 256,
                    "position_id_per_seconds": 25,
                    "seconds_per_chunk": 2,
                    "model_type": "qwen2_5_omni_thinker",
                    "torch_dtype": "bfloat16",
                },
                "torch_dtype": "bfloat16",
            }
        )
    )


@pytest.fixture
def published_folder(tmp_path) -> Path:
    shape = small_shape(heads=1, kv_heads=1, layers=3)
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}
    text = {**shape.text, "hidden_size": 128, "rope_parameters": rope, "vocab_size": 512}
    wide = Shape(
        text,
        {**shape.audio, "output_dim": 128},
        {**shape.vision, "out_hidden_size": 128},
        24,
    )
    folder = write_checkpoint(tmp_path / "published", wide, seed=2, full_omni=True)
    return folder


def test_a_published_config_with_the_old_rope_style_is_understood(published_folder):
    before = loaded(published_folder)
    published_config(published_folder)
    after = loaded(published_folder)
    rotary = after._decoder.rotary
    assert rotary.sections == (16, 24, 24)
    assert torch.allclose(rotary.inv_freq, 1e6 ** (-torch.arange(0, 128, 2) / 128))
    assert after.spec.ids_per_chunk == 50
    assert after.spec.max_positions == 32768
    assert torch.equal(stock_logits(before), stock_logits(after))


@pytest.mark.parametrize(
    "text", ["{", "- 1", "text: 7", "text: {}\nwidth: 3", "image_tokens: many", "\x00"]
)
def test_a_shape_file_that_is_none_is_refused(tmp_path, text):
    path = tmp_path / "shape.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"shape\.yaml"):
        shape_of(str(path))


def test_a_shape_file_changes_what_it_names(tmp_path):
    path = tmp_path / "shape.yaml"
    path.write_text("text: {num_hidden_layers: 5}\nimage_tokens: 36\n")
    shape = shape_of(str(path))
    assert shape.text["num_hidden_layers"] == 5
    assert shape.text["hidden_size"] == 512
    assert shape.image_tokens == 36


def test_an_unknown_shape_is_refused():
    with pytest.raises(ConfigError, match="'9b' is no known shape and no file; allowed: 7b, 3b"):
        shape_of("9b")
