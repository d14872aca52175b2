"""A small random model that can be asked standing questions: its tokenizer knows yes and no."""

from __future__ import annotations

from omnidrop_stream.model.qwen_omni import Engine, QwenOmni, Ways
from omnidrop_stream.model.shapes import byte_tokenizer
from tests.helpers import small_model


def watching_model(layers: int = 6, seed: int = 0, engine: Engine = "plain") -> QwenOmni:
    model = small_model(layers=layers, seed=seed)
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["yes", "no"])
    return QwenOmni(model.thinker, tokenizer, model.spec, Ways(engine))
