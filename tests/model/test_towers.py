"""Chunk by chunk the towers give what the stock towers give for the whole clip."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers.models.qwen2_5_omni import modeling_qwen2_5_omni

from omnidrop_stream.method import merge_clip
from omnidrop_stream.model.mel import MelCarry, chunk_mel
from omnidrop_stream.model.pixels import fit_size, patchify, resize_frames
from omnidrop_stream.model.towers import EncodeCarry, EncodeSettings, IntraSettings
from omnidrop_stream.types import Chunk, Modality, StreamKind
from tests.helpers import make_chunks, small_model

WHOLE = EncodeSettings(IntraSettings(enabled=False), 24, 25.0)
PRUNED = EncodeSettings(IntraSettings(), 24, 25.0)


@pytest.fixture(scope="module")
def model():
    return small_model(seed=4)


def pictures(count: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), np.uint8)


def video_chunks(frames: np.ndarray, fps: float = 2.0) -> list[Chunk]:
    each = round(2 * fps)
    return [
        Chunk(i // each, 0, 2.0 * (i // each), frames[i : i + each], None, fps=fps)
        for i in range(0, len(frames), each)
    ]


def encoded(model, chunks, settings):
    """Every chunk through the towers, each with the carry of the one before."""
    carry, out = EncodeCarry(), []
    for chunk in chunks:
        out.append(model.encode(chunk, carry, settings))
        carry = out[-1].carry
    return out


def of(result, modality: Modality) -> torch.Tensor:
    return result.tokens.embeds[result.tokens.modality == int(modality)]


def stock_video(model, frames: np.ndarray) -> torch.Tensor:
    pixels = model.spec.pixels
    size = fit_size(frames.shape[1], frames.shape[2], 24, pixels.factor)
    patches = patchify(resize_frames(frames, size), pixels)
    grid = torch.tensor([[(len(frames) + 1) // 2, size[0] // 14, size[1] // 14]])
    with torch.no_grad():
        return torch.cat(model.thinker.get_video_features(patches, grid).pooler_output)


def stock_audio(model, features: torch.Tensor) -> torch.Tensor:
    mask = torch.ones(1, features.shape[1], dtype=torch.long)
    with torch.no_grad():
        return model.thinker.get_audio_features(features[None], mask).last_hidden_state


def mels(chunks: list[Chunk]) -> list[torch.Tensor]:
    carry, out = MelCarry(), []
    for chunk in chunks:
        mel, carry = chunk_mel(chunk.audio, chunk.audio_left, chunk.audio_right, carry)
        out.append(mel)
    return out


def cut_short(chunk: Chunk, seconds: float) -> Chunk:
    samples = round(seconds * 16_000)
    audio = None if chunk.audio is None else chunk.audio[:samples]
    frames = None if chunk.frames is None else chunk.frames[: max(1, round(seconds * 2))]
    return replace(chunk, audio=audio, frames=frames, duration_s=seconds)


@pytest.mark.parametrize("size", [(63, 112), (90, 120), (120, 90), (40, 200), (28, 28)])
@pytest.mark.parametrize("frames", [1, 4, 7, 11])
def test_video_chunk_by_chunk_equals_the_stock_tower_on_the_whole_clip(model, size, frames):
    clip = pictures(frames, *size)
    ours = torch.cat([r.tokens.embeds for r in encoded(model, video_chunks(clip), WHOLE)])
    stock = stock_video(model, clip)
    assert ours.shape == stock.shape
    assert torch.allclose(ours, stock, atol=1e-5)


@pytest.mark.parametrize("seconds", [2.0, 1.3, 0.03])
@pytest.mark.parametrize("count", [1, 3])
def test_audio_chunk_by_chunk_equals_the_stock_tower_on_the_whole_clip(model, count, seconds):
    chunks = make_chunks(count, StreamKind.AUDIO, seed=3)
    chunks[-1] = cut_short(chunks[-1], seconds)
    ours = torch.cat([r.tokens.embeds for r in encoded(model, chunks, WHOLE)])
    stock = stock_audio(model, torch.cat(mels(chunks), dim=1))
    assert ours.shape == stock.shape
    assert torch.allclose(ours, stock, atol=1e-5)


def test_a_tail_of_1_3_seconds_gives_32_audio_tokens(model):
    (result,) = encoded(model, [cut_short(make_chunks(1, StreamKind.AUDIO)[0], 1.3)], WHOLE)
    assert result.tokens.count == result.tokens.n_unpruned == 32
    assert result.tokens.last_id == (31, -1)


@pytest.mark.parametrize("samples", [0, 100, 160, 479])
def test_less_than_three_mel_frames_give_no_token(model, samples):
    chunk = replace(make_chunks(1, StreamKind.AUDIO)[0], duration_s=samples / 16_000)
    (result,) = encoded(model, [replace(chunk, audio=chunk.audio[:samples])], PRUNED)
    assert result.tokens.count == result.tokens.n_unpruned == 0
    assert result.tokens.offsets.shape == (3, 0)


@pytest.mark.parametrize("frames", [4, 13, 16])
@pytest.mark.parametrize("size", [(63, 112), (90, 120)])
def test_merging_chunk_by_chunk_equals_merging_the_whole_clip(model, frames, size):
    clip = pictures(frames, *size, seed=1)
    clip[4:] = (clip[4:].astype(int) // 4 + clip[:1].astype(int) * 3 // 4).astype(np.uint8)
    stock = stock_video(model, clip)
    patches = stock.split(stock.shape[0] // ((frames + 1) // 2))
    expected = torch.cat(
        [patch[kept] for patch, kept in zip(patches, merge_clip(patches, 0.2), strict=True)]
    )
    ours = torch.cat([r.tokens.embeds for r in encoded(model, video_chunks(clip), PRUNED)])
    assert ours.shape == expected.shape
    assert torch.allclose(ours, expected, atol=1e-5)


@pytest.mark.parametrize("seconds", [2.0, 1.3])
def test_the_audio_tokens_that_stay_are_those_the_stock_encoder_attends_to_most(
    model, seconds, monkeypatch
):
    chunk = cut_short(make_chunks(1, StreamKind.AUDIO, seed=8)[0], seconds)
    (mel,) = mels([chunk])
    tower = model.thinker.model.audio_tower
    weights = []
    kernel = modeling_qwen2_5_omni.eager_attention_forward

    def watched(*args, **options):
        out = kernel(*args, **options)
        weights.append(out[1][0])  # [H, T, T]
        return out

    # output_attentions gives the blocks' outputs here, not their weights: ask the kernel itself.
    monkeypatch.setattr(modeling_qwen2_5_omni, "eager_attention_forward", watched)
    monkeypatch.setattr(tower.config, "_attn_implementation", "eager")
    with torch.no_grad():
        tower(mel, feature_lens=torch.tensor([mel.shape[1]]))
    monkeypatch.undo()
    received = weights[-1].mean(dim=(0, 1))
    pairs = received[: received.shape[0] // 2 * 2].view(-1, 2).mean(dim=1)
    keep = pairs.topk(int(0.7 * pairs.shape[0])).indices.sort().values
    (result,) = encoded(model, [chunk], PRUNED)
    assert len(weights) == len(tower.layers)
    assert result.tokens.offsets[0].tolist() == keep.tolist()
    assert torch.allclose(result.tokens.embeds, stock_audio(model, mel)[keep], atol=1e-5)


def kept_video(model, chunks) -> list[int]:
    return [of(r, Modality.VIDEO).shape[0] for r in encoded(model, chunks, PRUNED)]


def test_a_window_of_four_patches_keeps_one_whole_and_a_fifth_of_the_rest(model):
    rows_columns = 3 * 6  # 63 x 112 within 24 tokens
    fifth = int(0.2 * rows_columns)
    even, odd = rows_columns + fifth, 2 * fifth
    assert kept_video(model, video_chunks(pictures(16, 63, 112))) == [even, odd, even, odd]


def broken(chunks: list[Chunk], how: str) -> list[Chunk]:
    first, second = chunks
    if how == "gap":
        return [first, replace(second, index=second.index + 1)]
    if how == "epoch":
        return [first, replace(second, epoch=1)]
    if how == "size":
        return [first, replace(second, frames=pictures(4, 120, 90))]
    if how == "same token count":
        return [first, replace(second, frames=pictures(4, 112, 63))]
    return [first, replace(second, fps=1.0, frames=second.frames[::2])]


@pytest.mark.parametrize("how", ["gap", "epoch", "size", "same token count", "rate"])
def test_merging_starts_again_after_a_break(model, how):
    results = encoded(model, broken(video_chunks(pictures(8, 63, 112)), how), PRUNED)
    tokens = results[1].tokens
    first_patch = tokens.offsets[0] == 0
    assert int(first_patch.sum()) * (1 if how == "rate" else 2) == tokens.n_unpruned
    assert [r.window for r in results] == [0, 1]


@pytest.mark.parametrize(("fps", "windows"), [(1.0, [0, 0, 0, 0, 1]), (2.0, [0, 0, 1, 1, 2])])
def test_a_window_takes_whole_chunks_at_every_rate(model, fps, windows):
    chunks = video_chunks(pictures(round(10 * fps), 28, 28), fps)
    assert [r.window for r in encoded(model, chunks, PRUNED)] == windows


@pytest.mark.parametrize(("fps", "windows"), [(4.0, [0, 1, 2]), (8.0, [0, 1, 2])])
def test_at_high_rates_every_chunk_is_a_window(model, fps, windows):
    chunks = video_chunks(pictures(round(6 * fps), 28, 28), fps)
    assert [r.window for r in encoded(model, chunks, PRUNED)] == windows


@pytest.mark.parametrize("seconds", [1.3, 0.5])
def test_a_short_last_chunk_does_not_lengthen_its_window(model, seconds):
    chunks = video_chunks(pictures(12, 63, 112))
    chunks[2] = cut_short(chunks[2], seconds)
    assert [r.window for r in encoded(model, chunks, PRUNED)] == [0, 0, 1]


def same(a: EncodeCarry, b: EncodeCarry) -> bool:
    merge = (a.merge is None) == (b.merge is None)
    if a.merge is not None and b.merge is not None:
        merge = a.merge.position == b.merge.position
        merge = merge and torch.equal(a.merge.reference, b.merge.reference)
    return merge and replace(a, merge=None) == replace(b, merge=None)


def test_a_provisional_chunk_does_not_advance_the_carry(model):
    first, second = make_chunks(2)
    carry = model.encode(first, EncodeCarry(), PRUNED).carry
    held = replace(carry, merge=replace(carry.merge, reference=carry.merge.reference.clone()))
    once = model.encode(second, carry, PRUNED)
    model.encode(cut_short(second, 0.7), carry, PRUNED)
    again = model.encode(second, carry, PRUNED)
    assert same(carry, held)
    assert torch.equal(once.tokens.embeds, again.tokens.embeds)
    assert same(once.carry, again.carry)


def test_a_chunk_without_audio_has_video_tokens_only(model):
    first, second = make_chunks(2)
    results = encoded(model, [first, replace(second, audio=None)], PRUNED)
    assert set(results[1].tokens.modality.tolist()) == {int(Modality.VIDEO)}
    assert results[1].tokens.n_unpruned == results[1].tokens.n_unpruned_video


def test_a_chunk_without_frames_has_audio_tokens_only(model):
    first, second = make_chunks(2)
    results = encoded(model, [first, replace(second, frames=None)], PRUNED)
    assert set(results[1].tokens.modality.tolist()) == {int(Modality.AUDIO)}
    assert results[1].tokens.n_unpruned_video == 0


def test_a_chunk_without_frames_keeps_its_place_in_the_merging_window(model):
    chunks = make_chunks(3)
    chunks[1] = replace(chunks[1], frames=None)
    results = encoded(model, chunks, PRUNED)
    assert [r.window for r in results] == [0, 0, 1]
    assert of(results[2], Modality.VIDEO).shape == of(results[0], Modality.VIDEO).shape


def test_a_chunk_with_nothing_in_it_gives_empty_tokens_on_the_models_device(model):
    (result,) = encoded(model, [Chunk(0, 0, 0.0, None, None)], PRUNED)
    tokens = result.tokens
    assert tokens.count == 0
    assert tokens.last_id == (-1, -1)
    assert tokens.embeds.shape == (0, model.spec.hidden_size)
    assert {t.device for t in (tokens.embeds, tokens.modality, tokens.offsets)} == {
        torch.device(model.spec.device)
    }


def test_every_index_tensor_is_made_on_the_models_device():
    # No GPU here: on torch's meta device an index left on the CPU shows as a foreign device.
    model = small_model(seed=4)
    towers = model.towers
    towers._device = torch.device("meta")
    tokens = towers._joined([])
    assert tokens.offsets.device.type == tokens.modality.device.type == "meta"


def test_video_stands_before_audio_within_a_chunk(model):
    (result,) = encoded(model, make_chunks(1), PRUNED)
    kinds = result.tokens.modality.tolist()
    assert kinds == sorted(kinds)


@pytest.mark.parametrize("kind", list(StreamKind))
def test_where_the_chunk_ends_does_not_depend_on_which_tokens_stay(model, kind):
    (chunk,) = make_chunks(1, kind)
    pruned, whole = (encoded(model, [chunk], settings)[0].tokens for settings in (PRUNED, WHOLE))
    assert pruned.count < whole.count
    assert pruned.last_id == whole.last_id
    assert pruned.last_id == ((25, 5) if kind is StreamKind.VIDEO else (49, -1))
