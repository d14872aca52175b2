"""The voice bank: short spoken words as 8-bit mu-law at 16 kHz, made once with espeak-ng at build
time.

`python -m omnidrop_stream.lab.train.voices` makes the file; at run time it is only read.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from omnidrop_stream.world.items import Split

BANK_PATH = Path(__file__).with_name("voices.npz")
_MU = 255.0


@dataclass(frozen=True, slots=True)
class Clip:
    """One spoken word: index into WORDS, the voice, samples f32[n] at 16 kHz with peak 1."""

    word: int
    voice: str
    samples: npt.NDArray[np.float32]


def mu_encode(x: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """f32 in -1..1 -> u8 mu-law."""
    y = np.sign(x) * np.log1p(_MU * np.abs(x)) / np.log1p(_MU)
    return np.asarray(np.round((y + 1) * 127.5), np.uint8)


def mu_decode(y: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """u8 mu-law -> f32 in -1..1."""
    v = y.astype(np.float32) / 127.5 - 1
    return np.asarray(np.sign(v) * np.expm1(np.abs(v) * np.log1p(_MU)) / _MU, np.float32)


@lru_cache(maxsize=4)
def load_bank(split: Split, path: Path = BANK_PATH) -> tuple[tuple[Clip, ...], ...]:
    """The clips of one split, by word: bank[word] holds the clips of all voices of that split."""
    with np.load(path) as data:
        pcm, start = mu_decode(data["pcm"]), data["start"]
        words, voices = data["word"], data["voice"]
        names = [str(n) for n in data["voice_names"]]
        is_test = data["is_test"]
    by_word: list[list[Clip]] = [[] for _ in range(int(words.max()) + 1)]
    for i, (word, voice) in enumerate(zip(words, voices, strict=True)):
        if bool(is_test[voice]) == (split == "test"):
            samples = pcm[start[i] : start[i + 1]]
            by_word[word].append(Clip(int(word), names[voice], samples))
    return tuple(tuple(clips) for clips in by_word)
