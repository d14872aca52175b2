"""Makes the voice bank with espeak-ng (build time only): `python -m
omnidrop_stream.lab.train.voices`.
"""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from omnidrop_stream.world.items import SAMPLE_RATE, WORDS
from omnidrop_stream.world.voices import BANK_PATH, mu_encode

TRAIN_VOICES = [
    "en+m1",
    "en+m2",
    "en+m3",
    "en+f1",
    "en+f2",
    "en+f3",
    "en-us+m4",
    "en-us+f4",
    "en-us",
    "en-gb-scotland",
    "en-gb-x-rp+m5",
    "en-us+m6",
    "en-us+steph",
    "en-gb+adam",
    "en-us+max",
    "en+linda",
    "en-us+michael",
    "en-us-nyc+m2",
    "en-029+f2",
    "en+anika",
    "en-gb-x-gbclan+m3",
    "en-us+alex",
    "en+aunty",
    "en-us+f3",
]
TEST_VOICES = ["en-us+m7", "en+f5", "en-gb-x-rp", "en-us+m8"]
_ESPEAK_RATE = 22_050


def speak(word: str, voice: str, speed: int, pitch: int) -> npt.NDArray[np.float32]:
    """One word -> f32[n] at 16 kHz, silence cut off at both ends, peak 1."""
    command = ["espeak-ng", "-v", voice, "-s", str(speed), "-p", str(pitch), "--stdout", word]
    wav = subprocess.run(command, capture_output=True, check=True).stdout
    pcm = np.frombuffer(wav[44:], dtype="<i2").astype(np.float32) / 32768
    n = int(len(pcm) * SAMPLE_RATE / _ESPEAK_RATE)
    x = np.interp(np.arange(n) * _ESPEAK_RATE / SAMPLE_RATE, np.arange(len(pcm)), pcm)
    x = x / max(1e-3, float(np.abs(x).max()))
    loud = np.flatnonzero(np.abs(x) > 0.02)
    return np.asarray(x[loud[0] : loud[-1] + 1], np.float32)


def main() -> None:
    """Write the bank beside the world package."""
    rng = np.random.default_rng(7)
    voices = [*TRAIN_VOICES, *TEST_VOICES]
    jobs = [
        (w, v, int(rng.integers(135, 195)), int(rng.integers(30, 70)))
        for v in range(len(voices))
        for w in range(len(WORDS))
    ]
    with ThreadPoolExecutor(2) as pool:
        waves = list(pool.map(lambda j: speak(WORDS[j[0]], voices[j[1]], j[2], j[3]), jobs))
    np.savez_compressed(
        BANK_PATH,
        pcm=mu_encode(np.concatenate(waves)),
        start=np.cumsum([0, *(len(w) for w in waves)]).astype(np.int64),
        word=np.array([j[0] for j in jobs], np.uint8),
        voice=np.array([j[1] for j in jobs], np.uint8),
        voice_names=np.array(voices),
        is_test=np.array([v in TEST_VOICES for v in voices]),
    )


if __name__ == "__main__":
    main()
