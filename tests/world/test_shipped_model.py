"""The shipped checkpoint: small, loadable by stock transformers alone, and it answers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, Qwen2_5OmniThinkerForConditionalGeneration

from omnidrop_stream.lab.train.features import patches, stream_mel
from omnidrop_stream.lab.train.grow import record_of
from omnidrop_stream.world import World, ask

EASY = ("first_seen", "last_seen", "first_heard", "last_heard", "was_heard", "is_heard_now")


@pytest.fixture(scope="module")
def folder(repository: Path) -> Path:
    return repository / "omnidrop_stream" / "world" / "weights"


@pytest.fixture(scope="module")
def thinker(folder: Path) -> Any:
    return Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(
        folder, local_files_only=True
    ).eval()


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def test_shards_are_small(folder: Path) -> None:
    sizes = [path.stat().st_size for path in folder.glob("*.safetensors")]
    assert sizes
    assert max(sizes) <= 12_000_000
    assert sum(sizes) <= 20_000_000


def test_it_has_ten_layers_and_a_small_vocabulary(thinker: Any, tokenizer: Any) -> None:
    assert thinker.config.text_config.num_hidden_layers >= 10
    assert len(tokenizer) <= 8192
    assert type(tokenizer).__name__.startswith("Qwen2Tokenizer")


def test_what_it_tells_of_itself_is_true(folder: Path, thinker: Any) -> None:
    told = json.loads((folder / "built.json").read_text())
    assert told == record_of(thinker.model.language_model.state_dict(), supervised=True)


def test_pruning_within_each_modality_leaves_at_most_half(thinker: Any) -> None:
    vision = thinker.config.vision_config
    n = (112 // (vision.patch_size * vision.spatial_merge_size)) ** 2
    left, whole = n + 3 * int(0.2 * n) + 2 * 35, 4 * n + 2 * 50
    assert left / whole <= 0.5


def test_the_chat_template_is_the_layout_of_the_runtime(tokenizer: Any) -> None:
    turns = [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": [{"type": "text", "text": "What was said first?"}]},
    ]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert text == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\nWhat was said first?<|im_end|>\n<|im_start|>assistant\n"
    )


@torch.no_grad()
def test_stock_generation_answers_about_unseen_streams(thinker: Any, tokenizer: Any) -> None:
    right = asked = 0
    to_id = tokenizer.convert_tokens_to_ids
    before = tokenizer.encode(
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        "<|vision_bos|><|audio_bos|>"
    )
    block = [to_id("<|VIDEO|>")] * 128 + [to_id("<|AUDIO|>")] * 50
    for seed in range(3):
        world, m, rng = World(seed, "test"), 4, np.random.default_rng(seed)
        chunks = [world.chunk(i) for i in range(m)]
        mel = stream_mel(np.concatenate([c.audio for c in chunks]))
        for kind in EASY:
            q = ask(world.truths(0, m), kind, rng, "test")
            if q is None:
                continue
            after = tokenizer.encode(
                f"<|audio_eos|><|vision_eos|>{q.text}<|im_end|>\n<|im_start|>assistant\n"
            )
            ids = torch.tensor([before + block * m + after])
            out = thinker.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                input_features=mel.reshape(1, -1, 128).transpose(1, 2),
                feature_attention_mask=torch.ones(1, 200 * m, dtype=torch.long),
                pixel_values_videos=patches(
                    torch.from_numpy(np.stack([c.frames for c in chunks])), 14
                ).flatten(0, 1),
                video_grid_thw=torch.tensor([[2 * m, 8, 8]]),
                video_second_per_grid=torch.tensor([1.0]),
                use_audio_in_video=True,
                max_new_tokens=6,
            )
            answer = tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
            right += answer == q.answer
            asked += 1
    assert asked >= 12
    assert right / asked >= 0.8
