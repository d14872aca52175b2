"""Builds stock-class thinkers from plain settings: the embedded model, and miniature ones for
tests.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from tokenizers import normalizers as text_normalizers
from transformers import (
    GenerationConfig,
    Qwen2_5OmniThinkerConfig,
    Qwen2_5OmniThinkerForConditionalGeneration,
    Qwen2Tokenizer,
)

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|AUDIO|>",
    "<|audio_bos|>",
    "<|audio_eos|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_bos|>",
    "<|vision_eos|>",
    "<|vision_pad|>",
    "<|IMAGE|>",
    "<|VIDEO|>",
)
"""Names and order of the real Qwen2.5-Omni checkpoints."""


def build_thinker(config: Qwen2_5OmniThinkerConfig) -> Qwen2_5OmniThinkerForConditionalGeneration:
    """A stock thinker with untrained weights, SDPA attention, fp32, in evaluation mode."""
    config._attn_implementation = "sdpa"
    return Qwen2_5OmniThinkerForConditionalGeneration(config).eval()


def finished_thinker(folder: Path) -> Any:
    """The stock thinker that `save_checkpoint` wrote, to be trained further."""
    read = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained
    return read(folder, local_files_only=True).eval()


def thinker_config(
    audio: Mapping[str, Any],
    vision: Mapping[str, Any],
    text: Mapping[str, Any],
    ids: Mapping[str, int],
) -> Qwen2_5OmniThinkerConfig:
    """The stock configuration. `ids` maps special-token names (and "user") to token ids."""
    return Qwen2_5OmniThinkerConfig(
        audio_config=dict(audio),
        vision_config=dict(vision),
        text_config=dict(text) | {"pad_token_id": ids["<|endoftext|>"]},
        audio_token_index=ids["<|AUDIO|>"],
        image_token_index=ids["<|IMAGE|>"],
        video_token_index=ids["<|VIDEO|>"],
        audio_start_token_id=ids["<|audio_bos|>"],
        audio_end_token_id=ids["<|audio_eos|>"],
        vision_start_token_id=ids["<|vision_bos|>"],
        vision_end_token_id=ids["<|vision_eos|>"],
        user_token_id=ids["user"],
        pad_token_id=ids["<|endoftext|>"],
        position_id_per_seconds=25,
        seconds_per_chunk=2,
    )


def build_tokenizer(corpus: Sequence[str], max_entries: int = 4096) -> Qwen2Tokenizer:
    """A byte-level BPE in which every word of the corpus is one entry; other text falls apart into
    bytes.
    """
    blank = Qwen2Tokenizer()
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = text_normalizers.NFC()
    tokenizer.pre_tokenizer = blank.backend_tokenizer.pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=max_entries - len(SPECIAL_TOKENS),
        min_frequency=1,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    state = json.loads(tokenizer.to_str())["model"]
    merges = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in state["merges"]]
    made = Qwen2Tokenizer(vocab=state["vocab"], merges=merges, additional_special_tokens=[])
    made.add_special_tokens(
        {"additional_special_tokens": [AddedToken(t, special=True) for t in SPECIAL_TOKENS[1:]]}
    )
    made.eos_token = "<|im_end|>"
    return made


def special_ids(tokenizer: Qwen2Tokenizer) -> dict[str, int]:
    """Ids of the special tokens and of "user"."""
    ids = {t: int(tokenizer.convert_tokens_to_ids(t)) for t in SPECIAL_TOKENS}
    return ids | {"user": int(tokenizer.convert_tokens_to_ids("user"))}


_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}"
    "{% elif part['type'] == 'audio' %}<|audio_bos|><|AUDIO|><|audio_eos|>"
    "{% elif part['type'] == 'image' %}<|vision_bos|><|IMAGE|><|vision_eos|>"
    "{% elif part['type'] == 'video' %}<|vision_bos|><|VIDEO|><|vision_eos|>"
    "{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def save_checkpoint(
    thinker: Qwen2_5OmniThinkerForConditionalGeneration,
    tokenizer: Qwen2Tokenizer,
    folder: Path,
    frame: int,
) -> None:
    """Write what stock `from_pretrained` reads: weights, configurations, tokenizer, preprocessor,
    chat template.

    frame: side in pixels of the square pictures the model was trained on.
    """
    folder.mkdir(parents=True, exist_ok=True)
    end, pad = (int(tokenizer.convert_tokens_to_ids(t)) for t in ("<|im_end|>", "<|endoftext|>"))
    thinker.generation_config = GenerationConfig(
        eos_token_id=[end, pad], pad_token_id=pad, do_sample=False, max_new_tokens=8
    )
    thinker.save_pretrained(folder, max_shard_size="12MB")
    tokenizer.chat_template = _TEMPLATE
    tokenizer.save_pretrained(folder)
    vision = thinker.config.vision_config
    settings = {
        "processor_class": "Qwen2_5OmniProcessor",
        "image_processor_type": "Qwen2VLImageProcessor",
        "feature_extractor_type": "WhisperFeatureExtractor",
        "min_pixels": frame * frame,
        "max_pixels": frame * frame,
        "patch_size": vision.patch_size,
        "merge_size": vision.spatial_merge_size,
        "temporal_patch_size": vision.temporal_patch_size,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "feature_size": 128,
        "sampling_rate": 16000,
        "hop_length": 160,
        "n_fft": 400,
        "chunk_length": 300,
        "n_samples": 4800000,
        "nb_max_frames": 30000,
        "dither": 0.0,
        "padding_side": "left",
        "padding_value": 0.0,
        "return_attention_mask": True,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(settings, indent=2) + "\n")
