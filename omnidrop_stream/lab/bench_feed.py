"""What a benchmark feeds: a seeded stream at 16:9, and a model that hands out kept tower results.

The pictures are exactly as large as the paper's budget makes a 16:9 frame (252 x 448: 144 tokens a
temporal patch), so a whole chunk has 338 tokens unpruned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from omnidrop_stream.config import Config, merged
from omnidrop_stream.model.base import ModelSpec
from omnidrop_stream.model.qwen_omni import QwenOmni
from omnidrop_stream.model.towers import EncodeCarry, Encoded, EncodeSettings, IntraSettings
from omnidrop_stream.stream import OmniStream
from omnidrop_stream.types import (
    CHUNK_SAMPLES,
    CHUNK_SECONDS,
    LEFT_CONTEXT_SAMPLES,
    RIGHT_CONTEXT_SAMPLES,
    Chunk,
    ChunkFlags,
)

QUESTION = "What happened right after the bell rang?"
HEIGHT, WIDTH = 252, 448
FRAMES = 4
WINDOW_CHUNKS = 2
"""Chunks of a merging window at 2 fps; windows are filled and measured whole."""
DEPTHS: dict[str, int | str] = {
    "depth_0": 0,
    "exact": "exact",
    "catch_up": "half",
    "read_side": "read_side",
}
"""The compared settings of ``prefill_depth``, under the names that the report uses."""


def make_chunks(count: int, seed: int = 0) -> list[Chunk]:
    """Seeded chunks: a still picture with noise on it, and noise with a tone."""
    rng = np.random.default_rng(seed)
    length = CHUNK_SAMPLES * count + RIGHT_CONTEXT_SAMPLES
    sound = rng.standard_normal(length, dtype=np.float32) * 0.05
    sound += 0.2 * np.sin(np.arange(length, dtype=np.float32) * 0.17)
    sound = np.concatenate([np.zeros(LEFT_CONTEXT_SAMPLES, np.float32), sound])
    still = rng.integers(0, 200, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    chunks = []
    for index in range(count):
        noise = rng.integers(0, 56, (FRAMES, HEIGHT, WIDTH, 3), dtype=np.uint8)
        first = LEFT_CONTEXT_SAMPLES + CHUNK_SAMPLES * index
        last = first + CHUNK_SAMPLES
        chunks.append(
            Chunk(
                index=index,
                epoch=0,
                start_s=CHUNK_SECONDS * index,
                frames=still + noise,
                audio=sound[first:last],
                audio_left=sound[first - LEFT_CONTEXT_SAMPLES : first],
                audio_right=sound[last : last + RIGHT_CONTEXT_SAMPLES],
            )
        )
    return chunks


def first_half(chunk: Chunk) -> Chunk:
    """The chunk as a question in its middle finds it: two frames and one second of sound."""
    if chunk.frames is None or chunk.audio is None:
        raise ValueError("a half chunk is made of a chunk with frames and audio")
    middle = CHUNK_SAMPLES // 2
    return replace(
        chunk,
        frames=chunk.frames[: FRAMES // 2],
        audio=chunk.audio[:middle],
        audio_right=chunk.audio[middle : middle + RIGHT_CONTEXT_SAMPLES],
        duration_s=CHUNK_SECONDS / 2,
        flags=ChunkFlags(partial=True),
    )


def frame_tokens(config: Config, spec: ModelSpec) -> int:
    """Most tokens of a temporal patch, as a stream with these settings takes them."""
    return min(config.stream.frame_tokens or spec.frame_tokens, spec.pixels.max_tokens)


def encode_all(model: QwenOmni, config: Config, chunks: Sequence[Chunk]) -> list[Encoded]:
    """The towers' results of a stream's chunks, in order."""
    intra = config.intra
    settings = EncodeSettings(
        IntraSettings(intra.enabled, intra.audio_keep, intra.video_keep),
        frame_tokens(config, model.spec),
        model.spec.ids_per_second,
    )
    carry, results = EncodeCarry(), []
    for chunk in chunks:
        results.append(model.encode(chunk, carry, settings))
        carry = results[-1].carry
    model.ways.beside.join()
    return results


def model_facts(model: QwenOmni, random: bool) -> dict[str, Any]:
    """What a report tells of the model; ``random``: its values are."""
    spec = model.spec
    return {
        "model": spec.name,
        "random_weights": random,
        "layers": spec.n_layers,
        "width": spec.hidden_size,
        "heads": spec.n_heads,
        "kv_heads": spec.n_kv_heads,
        "vocabulary": spec.vocabulary,
        "dtype": spec.dtype,
    }


def push_all(stream: OmniStream, chunks: Iterable[Chunk]) -> None:
    """Push them in order."""
    for chunk in chunks:
        stream.push(chunk)


class KeptTowers(QwenOmni):
    """The same weights; while ``live`` is False, chunk i gets the kept result of chunk i modulo
    their number, with the carry of a stream that has come so far.
    """

    def __init__(self, model: QwenOmni, kept: Sequence[Encoded]) -> None:
        super().__init__(model.thinker, model.tokenizer, model.spec, model.ways)
        if len(kept) % WINDOW_CHUNKS:
            raise ValueError(f"{len(kept)} chunks are kept; allowed: whole windows of two")
        self._kept = list(kept)
        self.live = False

    def encode(self, chunk: Chunk, carry: EncodeCarry, settings: EncodeSettings) -> Encoded:
        """For real while ``live``, else from what is kept, in memory of its own."""
        return super().encode(chunk, carry, settings) if self.live else self.kept(chunk)

    def kept(self, chunk: Chunk) -> Encoded:
        """What is kept for ``chunk``."""
        turn, place = divmod(chunk.index, len(self._kept))
        kept = self._kept[place]
        window = kept.window + turn * (self._kept[-1].window + 1)
        tokens = replace(
            kept.tokens,
            embeds=kept.tokens.embeds.clone(),
            modality=kept.tokens.modality.clone(),
            offsets=kept.tokens.offsets.clone(),
        )
        return Encoded(
            tokens, window, replace(kept.carry, next_chunk=chunk.index + 1, window=window)
        )


def open_stream(
    model: QwenOmni,
    config: Config,
    depth: int | str,
    budget_tokens: int,
    clock: Callable[[], float],
) -> OmniStream:
    """A stream that holds ``budget_tokens`` and answers with one token."""
    changes: dict[str, dict[str, Any]] = {
        "stream": {"prefill_depth": depth, "budget_tokens": budget_tokens, "kind": "av"},
        "decode": {"max_tokens": 1},
    }
    return OmniStream(model, merged(config, changes, "bench"), clock)
