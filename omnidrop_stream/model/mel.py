"""Log-mel spectrogram of one chunk, computed so that chunk by chunk equals the whole stream.

The stock extractor (Whisper's: 400-sample Hann window, hop 160, 128 Slaney bands) looks 200 samples
to the left and right of each frame and clamps to 8 decades under the *clip's* maximum. A stream has
no clip, so here (design 3.6): a chunk brings 200 samples of left and 40 of right context with it,
and the floor follows the maximum of the last 30 s (this chunk and the 14 before it). A new epoch
starts with an empty carry and zero left context. What this costs against the stock extractor is
measured by ``tests/model/test_mel.py``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from transformers.audio_utils import mel_filter_bank

from omnidrop_stream.types import LEFT_CONTEXT_SAMPLES, RIGHT_CONTEXT_SAMPLES, SAMPLE_RATE

N_FFT = 400
HOP = 160
DYNAMIC_RANGE = 8.0
FLOOR_CHUNKS = 15
"""Chunks whose loudest value sets the floor: 30 s."""


@dataclass(frozen=True, slots=True)
class MelCarry:
    """The loudest log10 value of each of the last chunks (at most 14), oldest first."""

    maxima: tuple[float, ...] = ()

    def aged(self, chunks: int) -> MelCarry:
        """The carry after that many chunks without sound: what is older than 30 s is forgotten."""
        if not self.maxima or chunks < 1:
            return self
        silence = (-math.inf,) * min(chunks, FLOOR_CHUNKS - 1)
        return MelCarry((*self.maxima, *silence)[-(FLOOR_CHUNKS - 1) :])


@cache
def _filters(n_mels: int) -> torch.Tensor:
    bank = mel_filter_bank(
        1 + N_FFT // 2, n_mels, 0.0, 8000.0, SAMPLE_RATE, norm="slaney", mel_scale="slaney"
    )
    return torch.from_numpy(bank.astype(np.float32)).T.contiguous()  # [n_mels, 201]


def log10_mel(
    audio: np.ndarray,
    left: np.ndarray | None = None,
    right: np.ndarray | None = None,
    n_mels: int = 128,
) -> torch.Tensor:
    """Log10 mel power of ``audio`` f32 [n] at 16 kHz -> f32 [n_mels, n // 160], before the floor.

    left: the 200 samples before (zeros where None); right: the 40 after.
    """
    context = np.zeros(LEFT_CONTEXT_SAMPLES, np.float32) if left is None else left
    tail = np.zeros(RIGHT_CONTEXT_SAMPLES, np.float32) if right is None else right
    wave = torch.from_numpy(np.concatenate([context, audio, tail]).astype(np.float32, copy=False))
    if len(audio) < HOP:
        return torch.zeros(n_mels, 0)
    window = torch.hann_window(N_FFT)
    spectrum = torch.stft(wave, N_FFT, HOP, window=window, center=False, return_complex=True)
    power = spectrum[:, : len(audio) // HOP].abs() ** 2
    return torch.log10(torch.clamp(_filters(n_mels) @ power, min=1e-10))


def apply_floor(log10: torch.Tensor, loudest: float) -> torch.Tensor:
    """Clamp to 8 decades under ``loudest`` and scale as Whisper does; shape unchanged."""
    return (torch.clamp(log10, min=loudest - DYNAMIC_RANGE) + 4.0) / 4.0


def chunk_mel(
    audio: np.ndarray,
    left: np.ndarray | None,
    right: np.ndarray | None,
    carry: MelCarry,
    n_mels: int = 128,
) -> tuple[torch.Tensor, MelCarry]:
    """Features f32 [n_mels, frames] of one chunk and the next one's carry; mutates nothing."""
    raw = log10_mel(audio, left, right, n_mels)
    if raw.shape[1] == 0:
        return raw, carry
    maxima = (*carry.maxima, float(raw.max()))
    features = apply_floor(raw, max(maxima))
    return features, MelCarry(maxima[-(FLOOR_CHUNKS - 1) :])
