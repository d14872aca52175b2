"""Checkpoints without weights to download: real shapes with random values, and seeded tiny folders.

``random_model`` builds a stock-class thinker on the device itself (for benchmarks: right shapes,
meaningless words); ``write_checkpoint`` saves one as a folder that the ordinary loader reads.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AddedToken, Qwen2_5OmniThinkerConfig, Qwen2Tokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode
from transformers.utils import logging as hf_logging

from omnidrop_stream.errors import ConfigError
from omnidrop_stream.model.build import SPECIAL_TOKENS, build_thinker, thinker_config
from omnidrop_stream.model.parts import parts_of
from omnidrop_stream.model.quantised import place, quantise
from omnidrop_stream.yaml_file import read_values


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a thinker. Field names are transformers' own, grouped by part."""

    text: Mapping[str, Any]
    audio: Mapping[str, Any] = field(default_factory=dict)
    vision: Mapping[str, Any] = field(default_factory=dict)
    image_tokens: int = 768
    """Most tokens a temporal patch may have."""


def _text(
    hidden: int, layers: int, heads: int, kv: int, ffn: int, vocabulary: int, theta: float
) -> dict[str, Any]:
    half = hidden // heads // 2
    temporal = half // 4
    side = (half - temporal) // 2
    return {
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "intermediate_size": ffn,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "max_position_embeddings": 32768,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": theta,
            "mrope_section": [half - 2 * side, side, side],
        },
        "tie_word_embeddings": False,
    }


def _towers(out: int, width: int, heads: int, layers: int, ffn: int) -> dict[str, dict[str, Any]]:
    return {
        "audio": {
            "num_mel_bins": 128,
            "encoder_layers": layers,
            "encoder_attention_heads": heads,
            "encoder_ffn_dim": ffn,
            "d_model": width,
            "output_dim": out,
            "n_window": 100,
            "max_source_positions": 1500,
        },
        "vision": {
            "depth": layers,
            "hidden_size": width,
            "intermediate_size": ffn,
            "num_heads": heads,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 112,
            "out_hidden_size": out,
            "fullatt_block_indexes": [layers - 1],
        },
    }


def _real(hidden: int, layers: int, heads: int, kv: int, ffn: int, theta: float = 1e6) -> Shape:
    text = _text(hidden, layers, heads, kv, ffn, 152064 if hidden == 3584 else 151936, theta)
    text["rope_parameters"]["mrope_section"] = [16, 24, 24]
    towers = _towers(hidden, 1280, 20, 32, 5120)
    towers["vision"].update(
        num_heads=16, intermediate_size=3420, fullatt_block_indexes=[7, 15, 23, 31]
    )
    return Shape(text, towers["audio"], towers["vision"])


def _small(
    hidden: int, layers: int, heads: int, kv: int, ffn: int, vocabulary: int, tower: int, image: int
) -> Shape:
    towers = _towers(hidden, tower, 4, 2, 2 * tower)
    text = _text(hidden, layers, heads, kv, ffn, vocabulary, 1e6 if hidden > 64 else 1e4)
    return Shape(text, towers["audio"], towers["vision"], image)


SHAPES: dict[str, Shape] = {
    "7b": _real(3584, 28, 28, 4, 18944),
    "3b": _real(2048, 36, 16, 2, 11008),
    "bench": _small(512, 12, 8, 4, 1536, 8192, 256, 768),
    "tiny": _small(64, 6, 4, 2, 128, 512, 32, 24),
}


def shape_of(text: str) -> Shape:
    """A named shape, or one from a YAML file with ``text``, ``audio`` and ``vision`` sections over
    ``bench``.
    """
    if text in SHAPES:
        return SHAPES[text]
    path = Path(text)
    if not path.is_file():
        raise ConfigError(
            f"{text!r} is no known shape and no file; allowed: {', '.join(SHAPES)}, or a YAML file"
        )
    values = read_values(path) or {}
    base = SHAPES["bench"]
    sections = ("text", "audio", "vision")
    if (
        not isinstance(values, dict)
        or set(values) - {*sections, "image_tokens"}
        or not all(isinstance(values.get(name, {}), dict) for name in sections)
        or not isinstance(values.get("image_tokens", 1), int)
    ):
        raise ConfigError(
            f"{path}: a shape has the sections text, audio and vision, each a mapping, and "
            f"image_tokens, a number; got {str(values)[:200]}"
        )
    return replace(
        base,
        text={**base.text, **values.get("text", {})},
        audio={**base.audio, **values.get("audio", {})},
        vision={**base.vision, **values.get("vision", {})},
        image_tokens=int(values.get("image_tokens", base.image_tokens)),
    )


def byte_tokenizer() -> Qwen2Tokenizer:
    """A byte-level tokenizer of the real class: 256 bytes and the special tokens, no merges."""
    vocabulary = {symbol: i for i, symbol in enumerate(bytes_to_unicode().values())}
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=[])
    tokenizer.add_tokens(
        [AddedToken(t, special=True, normalized=False) for t in SPECIAL_TOKENS], special_tokens=True
    )
    return tokenizer


def _config(shape: Shape, tokenizer: Any) -> Qwen2_5OmniThinkerConfig:
    ids = {name: int(tokenizer.convert_tokens_to_ids(name)) for name in SPECIAL_TOKENS}
    user = tokenizer.encode("user", add_special_tokens=False)
    return thinker_config(shape.audio, shape.vision, shape.text, {**ids, "user": int(user[0])})


def random_thinker(shape: Shape, tokenizer: Any, seed: int, device: str, dtype: torch.dtype) -> Any:
    """A stock thinker with seeded random values, made on ``device``."""
    default = torch.get_default_dtype()
    torch.manual_seed(seed)
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            return build_thinker(_config(shape, tokenizer))
    finally:
        torch.set_default_dtype(default)


def random_quantised(
    shape: Shape, tokenizer: Any, seed: int, device: str, dtype: torch.dtype, weights: str
) -> Any:
    """The same with the decoder's linears as ``weights`` (int8, int4), made layer by layer: beyond
    the result never more than one layer is held whole.
    """
    config = _config(shape, tokenizer)
    text = config.text_config
    first = replace(shape, text={**shape.text, "num_hidden_layers": 1})
    thinker = random_thinker(first, tokenizer, seed, device, dtype)
    layers = parts_of(thinker).text.layers
    place(thinker, weights, torch.device(device), dtype)
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    text._attn_implementation = "sdpa"
    try:
        for number in range(1, int(text.num_hidden_layers)):
            with torch.device(device):
                layer = type(layers[0])(text, number).eval()
            for linear in (m for m in layer.modules() if isinstance(m, torch.nn.Linear)):
                torch.nn.init.normal_(linear.weight, std=float(text.initializer_range))
            quantise(layer, weights)
            layers.append(layer)
    finally:
        torch.set_default_dtype(default)
    thinker.config.text_config = text
    return thinker


def write_checkpoint(folder: Path, shape: Shape, seed: int = 0, full_omni: bool = False) -> Path:
    """Save a seeded random checkpoint as stock ``save_pretrained`` does; returns ``folder``.

    full_omni: lay it out as the published omni checkpoints are (keys under ``thinker.``, a
    ``thinker_config`` section, talker keys beside it) instead of as a thinker alone.
    """
    tokenizer = byte_tokenizer()
    thinker = random_thinker(shape, tokenizer, seed, "cpu", torch.float32)
    thinker.generation_config.eos_token_id = [
        int(tokenizer.convert_tokens_to_ids(t)) for t in ("<|im_end|>", "<|endoftext|>")
    ]
    folder.mkdir(parents=True, exist_ok=True)
    hf_logging.disable_progress_bar()
    thinker.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    edge = int(shape.vision["patch_size"]) * int(shape.vision["spatial_merge_size"])
    settings = {
        "patch_size": shape.vision["patch_size"],
        "merge_size": shape.vision["spatial_merge_size"],
        "temporal_patch_size": shape.vision["temporal_patch_size"],
        "min_pixels": edge * edge,
        "max_pixels": shape.image_tokens * edge * edge,
        "feature_size": shape.audio["num_mel_bins"],
        "sampling_rate": 16000,
    }
    (folder / "preprocessor_config.json").write_text(
        json.dumps(settings, indent=2), encoding="utf-8"
    )
    if full_omni:
        _as_full_omni(folder)
    return folder


def _as_full_omni(folder: Path) -> None:
    """Rewrite a thinker folder in the published layout of the whole omni model."""
    from safetensors.torch import load_file, save_file

    tensors: dict[str, torch.Tensor] = {
        "talker.codec_head.weight": torch.zeros(4, 4),
        "token2wav.dummy": torch.zeros(1),
    }
    for file in folder.glob("*.safetensors"):
        for name, tensor in load_file(file).items():
            bare = (
                name.removeprefix("model.")
                if name.startswith(("model.audio_tower", "model.visual"))
                else name
            )
            tensors["thinker." + bare.replace("model.language_model.", "model.")] = tensor
        file.unlink()
    for index in folder.glob("*.safetensors.index.json"):
        index.unlink()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    thinker = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config = {
        "architectures": ["Qwen2_5OmniModel"],
        "model_type": "qwen2_5_omni",
        "thinker_config": thinker,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
