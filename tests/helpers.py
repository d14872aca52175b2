"""What many tests share: seeded chunks, small checkpoints, and the stock model asked in the stock
way.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from omnidrop_stream.config import Config, ModelConfig, make_config
from omnidrop_stream.model.load import random_model
from omnidrop_stream.model.mel import MelCarry, chunk_mel
from omnidrop_stream.model.pixels import fit_size, patchify, resize_frames
from omnidrop_stream.model.qwen_omni import Engine, QwenOmni
from omnidrop_stream.model.shapes import SHAPES, Shape
from omnidrop_stream.model.template import ChatTemplate
from omnidrop_stream.types import Chunk, StreamKind


def small_shape(heads: int = 4, kv_heads: int = 2, layers: int = 6) -> Shape:
    """The tiny shape with other head counts or depth."""
    tiny = SHAPES["tiny"]
    head_dim = 16
    text = {
        **tiny.text,
        "hidden_size": heads * head_dim,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "num_hidden_layers": layers,
    }
    out = heads * head_dim
    return Shape(
        text, {**tiny.audio, "output_dim": out}, {**tiny.vision, "out_hidden_size": out}, 24
    )


ENGINES: tuple[Engine, ...] = ("plain", "fast")
"""What the spine of the tests holds for."""


def small_model(
    heads: int = 4, kv_heads: int = 2, layers: int = 6, seed: int = 0, engine: Engine = "plain"
) -> QwenOmni:
    """A seeded random thinker of the stock class, fp32 on the CPU."""
    config = ModelConfig(device="cpu", dtype="fp32", engine=engine)
    return random_model("small", small_shape(heads, kv_heads, layers), config, seed)


def make_chunks(count: int, kind: StreamKind = StreamKind.AV, seed: int = 0) -> list[Chunk]:
    """Seeded noise with some structure: moving gradients and gliding tones; contexts joined as the
    chunker does.
    """
    rng = np.random.default_rng(seed)
    sound = (rng.standard_normal(32_000 * count + 40) * 0.05).astype(np.float32)
    sound[: 32_000 * count] += 0.2 * np.sin(
        np.arange(32_000 * count) * rng.uniform(0.02, 0.3)
    ).astype(np.float32)
    chunks = []
    for i in range(count):
        base = rng.integers(0, 200, (1, 63, 112, 3))
        frames = np.clip(base + rng.integers(0, 55, (4, 63, 112, 3)), 0, 255).astype(np.uint8)
        start = 32_000 * i
        left = sound[start - 200 : start] if i else np.zeros(200, np.float32)
        chunks.append(
            Chunk(
                index=i,
                epoch=0,
                start_s=2.0 * i,
                frames=None if kind is StreamKind.AUDIO else frames,
                audio=None if kind is StreamKind.VIDEO else sound[start : start + 32_000],
                audio_left=None if kind is StreamKind.VIDEO else left,
                audio_right=None
                if kind is StreamKind.VIDEO
                else sound[start + 32_000 : start + 32_040],
            )
        )
    return chunks


def settings(**sections: dict[str, Any]) -> Config:
    """A configuration for small models: 24 tokens a patch, short answers."""
    base: dict[str, dict[str, Any]] = {
        "stream": {"frame_tokens": 24},
        "decode": {"max_tokens": 8, "question_chars": 200},
        "model": {"device": "cpu", "dtype": "fp32"},
    }
    for name, values in sections.items():
        base[name] = {**base.get(name, {}), **values}
    return make_config(base)


UNPRUNED: dict[str, dict[str, Any]] = {
    "intra": {"enabled": False},
    "pruning": {"policy": "keep-all"},
}


def stock_inputs(
    model: QwenOmni, chunks: list[Chunk], question: str, kind: StreamKind, tokens: int = 24
) -> dict[str, Any]:
    """What the stock forward takes for the same clip: one id sequence, all pixels, all features."""
    spec = model.spec
    template = ChatTemplate(model.tokenizer, kind)
    prompt, _ = template.prompt("You are a helpful assistant.")
    tail = template.tail(question)
    inputs: dict[str, Any] = {}
    block: list[int] = []
    video_id, audio_id = template.special("<|VIDEO|>"), template.special("<|AUDIO|>")
    pixels, mels, carry = [], [], MelCarry()
    per_patch = patches = 0
    for chunk in chunks:
        if chunk.frames is not None:
            size = fit_size(
                chunk.frames.shape[1], chunk.frames.shape[2], tokens, spec.pixels.factor
            )
            pixels.append(patchify(resize_frames(chunk.frames, size), spec.pixels))
            per_patch = size[0] * size[1] // spec.pixels.factor**2
            patches += 2
            block += [video_id] * (2 * per_patch)
        if chunk.audio is not None:
            mel, carry = chunk_mel(chunk.audio, chunk.audio_left, chunk.audio_right, carry)
            mels.append(mel)
            block += [audio_id] * (mel.shape[1] // 4)
    if pixels:
        inputs["pixel_values_videos"] = torch.cat(pixels)
        inputs["video_grid_thw"] = torch.tensor(
            [[patches, size[0] // spec.pixels.patch_size, size[1] // spec.pixels.patch_size]]
        )
        inputs["video_second_per_grid"] = torch.tensor([1.0])
    if mels:
        features = torch.cat(mels, dim=1)
        inputs["input_features"] = features[None]
        inputs["feature_attention_mask"] = torch.ones(1, features.shape[1], dtype=torch.long)
    ids = torch.tensor([[*prompt, *block, *tail.ids]])
    inputs["input_ids"] = ids
    inputs["attention_mask"] = torch.ones_like(ids)
    inputs["use_audio_in_video"] = kind is StreamKind.AV
    return inputs
