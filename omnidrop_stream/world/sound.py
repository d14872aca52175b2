"""Sound of a chunk: a word of a synthetic voice, a bell, a plain tone, noise or near silence."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from omnidrop_stream.world.items import BELL, CHUNK_S, CHUNK_SAMPLES, SAMPLE_RATE, SOUNDS, Split
from omnidrop_stream.world.voices import load_bank

F32 = npt.NDArray[np.float32]
MAX_WORD_S = 0.6
_EDGE_S = 0.02


@dataclass(frozen=True, slots=True)
class Sound:
    """A word or a bell: its waveform f32[n] and the sample of the chunk at which it begins."""

    what: int
    samples: F32
    offset: int

    def span(self, chunk_start: float) -> tuple[float, float]:
        """Seconds of stream in which it is heard."""
        a = chunk_start + self.offset / SAMPLE_RATE
        return a, a + len(self.samples) / SAMPLE_RATE


def make_sound(
    rng: np.random.Generator, what: int, split: Split, window: tuple[float, float]
) -> Sound:
    """A word or bell of random voice, speed and loudness whose middle lies in `window` (seconds in
    chunk).
    """
    wave = _bell(rng) if SOUNDS[what] == BELL else _word(rng, what, split)
    loudness = rng.uniform(0.15, 0.6) / max(1e-3, float(np.abs(wave).max()))
    half = len(wave) / SAMPLE_RATE / 2
    lo = max(window[0], half + _EDGE_S)
    hi = max(lo, min(window[1], CHUNK_S - half - _EDGE_S))
    middle = rng.uniform(lo, hi)
    offset = int(np.clip((middle - half) * SAMPLE_RATE, 0, CHUNK_SAMPLES - len(wave)))
    return Sound(what, (wave * loudness).astype(np.float32), offset)


def noise_bed(rng: np.random.Generator, level: float, smooth: bool) -> F32:
    """Background noise f32[32000] with the given root mean square."""
    x = rng.standard_normal(CHUNK_SAMPLES + 3, dtype=np.float32)
    bed = (x[3:] + x[2:-1] + x[1:-2] + x[:-3]) / 2 if smooth else x[3:]
    return np.asarray(bed * np.float32(level), np.float32)


def tone(rng: np.random.Generator) -> F32:
    """A plain steady tone somewhere in the chunk: a distractor, never the answer -> f32[32000]."""
    n = int(rng.uniform(0.3, 1.2) * SAMPLE_RATE)
    at = int(rng.integers(0, CHUNK_SAMPLES - n))
    t = np.arange(n, dtype=np.float32) / SAMPLE_RATE
    ramp = np.minimum(1, np.minimum(t, t[::-1]) / 0.02)
    out = np.zeros(CHUNK_SAMPLES, np.float32)
    out[at : at + n] = rng.uniform(0.02, 0.12) * ramp * np.sin(6.2832 * rng.uniform(150, 1500) * t)
    return out


def _word(rng: np.random.Generator, word: int, split: Split) -> F32:
    clips = load_bank(split)[word]
    wave = clips[int(rng.integers(len(clips)))].samples
    length = min(len(wave) / rng.uniform(0.88, 1.14), MAX_WORD_S * SAMPLE_RATE)
    at = np.linspace(0, len(wave) - 1, int(length))
    return np.interp(at, np.arange(len(wave)), wave).astype(np.float32)


def _bell(rng: np.random.Generator) -> F32:
    t = np.arange(int(rng.uniform(0.45, 0.8) * SAMPLE_RATE), dtype=np.float32) / SAMPLE_RATE
    base = rng.uniform(700, 1300)
    out = np.zeros_like(t)
    for partial, loud, fade in ((1.0, 1.0, 4.0), (2.76, 0.7, 6.0), (5.4, 0.4, 9.0)):
        out += loud * np.exp(-fade * t) * np.sin(6.2832 * base * partial * t + rng.uniform(0, 6.28))
    return np.asarray(out * np.minimum(1, t / 0.004), np.float32)
