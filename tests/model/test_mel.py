"""Log-mel of a stream: one definition for chunks and for the whole, and its distance to stock."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import WhisperFeatureExtractor

from omnidrop_stream.model.mel import (
    DYNAMIC_RANGE,
    MelCarry,
    apply_floor,
    chunk_mel,
    log10_mel,
)
from omnidrop_stream.model.towers import EncodeCarry, EncodeSettings, IntraSettings
from omnidrop_stream.types import StreamKind
from tests.helpers import make_chunks, small_model

CHUNK = 32_000


def noise(chunks: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    samples = np.arange(CHUNK * chunks)
    tone = 0.2 * np.sin(samples * 0.05) * (1 + np.sin(samples * 1e-4))
    return (tone + 0.05 * rng.standard_normal(CHUNK * chunks)).astype(np.float32)


def with_contexts(sound: np.ndarray, left: np.ndarray, right: np.ndarray):
    """(audio, left, right) of every 2 seconds of ``sound``."""
    whole = np.concatenate([left, sound, right])
    for start in range(0, len(sound), CHUNK):
        stop = min(start + CHUNK, len(sound))
        yield (
            sound[start:stop],
            whole[start : start + 200],
            whole[stop + 200 : stop + 240],
        )


def streamed(sound, left=None, right=None) -> torch.Tensor:
    left = np.zeros(200, np.float32) if left is None else left
    right = np.zeros(40, np.float32) if right is None else right
    carry, out = MelCarry(), []
    for audio, before, after in with_contexts(sound, left, right):
        mel, carry = chunk_mel(audio, before, after, carry)
        out.append(mel)
    return torch.cat(out, dim=1)


def stock(sound: np.ndarray) -> torch.Tensor:
    extractor = WhisperFeatureExtractor(feature_size=128)
    out = extractor(sound, sampling_rate=16_000, padding=False, return_tensors="np")
    return torch.from_numpy(out.input_features[0])


def like_stock(sound: np.ndarray) -> torch.Tensor:
    """Our stream with the stock extractor's edges: it mirrors the sound at both ends."""
    return streamed(sound, sound[1:201][::-1], sound[-201:-1][::-1][:40])


@pytest.mark.parametrize("samples", [CHUNK, 3 * CHUNK, 2 * CHUNK + 20_800, CHUNK + 33])
def test_log_mel_chunk_by_chunk_equals_one_pass_over_the_whole(samples):
    sound = noise(4)[:samples]
    whole = log10_mel(sound)
    parts = [log10_mel(*part) for part in with_contexts(sound, np.zeros(200), np.zeros(40))]
    frames = whole.shape[1]
    assert frames == samples // 160
    assert torch.allclose(torch.cat(parts, dim=1)[:, :frames], whole, atol=1e-5)


def test_the_floor_chunk_by_chunk_follows_the_largest_value_so_far():
    sound = np.concatenate([noise(1) * 1e-4, noise(2), noise(1) * 1e-4])
    raw = log10_mel(sound)
    expected, loudest = [], -np.inf
    for start in range(0, raw.shape[1], 200):
        block = raw[:, start : start + 200]
        loudest = max(loudest, float(block.max()))
        expected.append((block.clamp(min=loudest - 8.0) + 4.0) / 4.0)
    assert torch.allclose(streamed(sound), torch.cat(expected, dim=1), atol=1e-5)


def test_where_the_loudest_moment_comes_first_it_equals_the_stock_extractor():
    sound = noise(4)
    sound[:CHUNK] *= 3
    assert (like_stock(sound) - stock(sound)).abs().max() < 1e-5


def test_with_zeros_at_the_ends_only_the_first_two_and_the_last_frame_differ_from_stock():
    sound = noise(3)
    sound[:CHUNK] *= 3
    gap = (streamed(sound) - stock(sound)).abs().amax(dim=0)
    assert gap[2:-1].max() < 1e-5
    assert gap.max() < 0.9, f"largest distance at an edge {gap.max():.3f}"


# Measured: how far the quiet half lies from stock, whose floor already knows the loud half.
@pytest.mark.parametrize(
    ("quieter_db", "largest", "share"), [(20, 0.50, 0.002), (40, 0.95, 0.20), (80, 0.95, 0.50)]
)
def test_a_quiet_then_loud_clip_is_at_most_0_95_from_stock_and_only_in_its_quiet_half(
    quieter_db, largest, share
):
    sound = np.concatenate([noise(2) * np.float32(10 ** (-quieter_db / 20)), noise(2)])
    gap = (like_stock(sound) - stock(sound)).abs()
    differing = float((gap > 1e-3).float().mean())
    assert gap[:, 400:].max() < 1e-5
    assert 0.8 * largest < gap.max() < largest, f"largest distance {gap.max():.3f}"
    assert differing < share, f"{differing:.1%} of the bins differ"


def test_the_floor_forgets_after_30_seconds():
    carry = MelCarry()
    loud, quiet = noise(1), noise(1) * 1e-5
    _, carry = chunk_mel(loud, None, None, carry)
    floors = []
    for _ in range(15):
        mel, carry = chunk_mel(quiet, None, None, carry)
        floors.append(float(mel.min()))
    alone, _ = chunk_mel(quiet, None, None, MelCarry())
    assert len(set(floors[:14])) == 1
    assert floors[13] > floors[14]
    assert torch.equal(mel, alone)
    assert len(carry.maxima) == 14


def test_the_floor_forgets_by_time_although_no_sound_came_meanwhile():
    model = small_model()
    settings = EncodeSettings(IntraSettings(enabled=False), 24, 25.0)
    loud, *rest = make_chunks(16)
    quiet = replace(rest[-1], audio=rest[-1].audio * 1e-5, audio_left=None, audio_right=None)
    carry = model.encode(loud, EncodeCarry(), settings).carry
    for chunk in rest[:-1]:
        carry = model.encode(replace(chunk, audio=None), carry, settings).carry
    after = model.encode(quiet, carry, settings)
    fresh = model.encode(quiet, EncodeCarry(), settings)
    assert torch.equal(after.tokens.embeds, fresh.tokens.embeds)


@pytest.mark.parametrize("index", [15, 400])
def test_the_floor_forgets_over_a_gap_too(index):
    model = small_model()
    settings = EncodeSettings(IntraSettings(enabled=False), 24, 25.0)
    loud, other = make_chunks(2, StreamKind.AUDIO)
    quiet = replace(other, index=index, audio=other.audio * 1e-5, audio_left=None, audio_right=None)
    carry = model.encode(loud, EncodeCarry(), settings).carry
    after = model.encode(quiet, carry, settings)
    fresh = model.encode(quiet, EncodeCarry(), settings)
    assert torch.equal(after.tokens.embeds, fresh.tokens.embeds)


def test_a_new_epoch_starts_with_an_empty_floor():
    model = small_model()
    settings = EncodeSettings(IntraSettings(enabled=False), 24, 25.0)
    loud, other = make_chunks(2, StreamKind.AUDIO)
    quiet = replace(other, epoch=1, audio=other.audio * 1e-5, audio_left=None, audio_right=None)
    carry = model.encode(loud, EncodeCarry(), settings).carry
    after = model.encode(quiet, carry, settings)
    fresh = model.encode(quiet, EncodeCarry(), settings)
    assert torch.equal(after.tokens.embeds, fresh.tokens.embeds)


def test_silence_is_encoded_as_silence():
    mel, carry = chunk_mel(np.zeros(CHUNK, np.float32), None, None, MelCarry())
    assert mel.unique().tolist() == [(-10.0 + 4.0) / 4.0]
    assert carry.maxima == (-10.0,)


@pytest.mark.parametrize("samples", [0, 1, 159])
def test_less_than_one_hop_gives_no_frame_and_no_carry(samples):
    mel, carry = chunk_mel(np.ones(samples, np.float32), None, None, MelCarry((1.0,)))
    assert mel.shape == (128, 0)
    assert carry == MelCarry((1.0,))


def test_the_floor_lies_eight_decades_under_the_loudest():
    out = apply_floor(torch.tensor([[-9.0, 0.0, 2.0]]), 2.0)
    assert out.tolist() == [[(2.0 - DYNAMIC_RANGE + 4.0) / 4.0, 1.0, 1.5]]
