"""What a device does for the first time is done before anybody asks.

A GPU loads each kernel when it is first wanted, and picks its ways for the shapes it meets, which a
first question would wait for. So a scratch stream of the same settings is asked before: black
pictures and silence, an answer long enough for its steps to be recorded where they are
(``model/graphs.py``), and a standing question, whose pass is at full depth whatever the stream's
is, as often as that wants it (``model/recorded_prefill.py``); what cannot be recorded is told at
the start, then, and not in mid-answer.
"""

from __future__ import annotations

from contextlib import suppress

import numpy as np

from omnidrop_stream.config import Config, merged
from omnidrop_stream.errors import Busy, ConfigError, ModelMismatch
from omnidrop_stream.model.base import OmniModel
from omnidrop_stream.model.graphs import EAGER_STEPS
from omnidrop_stream.model.recorded_prefill import EAGER_PASSES
from omnidrop_stream.stream import OmniStream
from omnidrop_stream.types import (
    CHUNK_SAMPLES,
    CHUNK_SECONDS,
    LEFT_CONTEXT_SAMPLES,
    RIGHT_CONTEXT_SAMPLES,
    Chunk,
    Query,
    StreamKind,
)
from omnidrop_stream.watch_config import WatchConfig

HEIGHT, WIDTH = 360, 640
CHUNKS = 2
"""A merging window."""


def warm_up(model: OmniModel, config: Config) -> bool:
    """Ask a scratch stream a question; False where that is of no use, on a processor. Raises what a
    question can raise.
    """
    if model.spec.device == "cpu":
        return False
    tokens, question = EAGER_STEPS + 3, "What is there?"
    decode = {"max_tokens": tokens, "min_tokens": tokens, "question_chars": len(question)}
    stream = OmniStream(model, merged(config, {"decode": decode}))
    for index in range(CHUNKS):
        stream.push(_empty(index, config.stream.kind, config.stream.fps))
    full = stream.status().depth == model.spec.n_layers
    for _ in range(EAGER_PASSES + 1 if full else 1):
        for _ in stream.ask(Query(question)):
            pass
    with suppress(ModelMismatch, ConfigError, Busy):  # none can be put here, and nobody did
        watch = stream.standing(WatchConfig(text=question))
        for _ in range(EAGER_PASSES + 1):
            for _ in stream.judge_steps([watch]):
                pass
    return True


def _empty(index: int, kind: StreamKind, fps: float) -> Chunk:
    """Black and silent."""
    heard = kind is not StreamKind.VIDEO
    frames = np.zeros((int(fps * CHUNK_SECONDS), HEIGHT, WIDTH, 3), np.uint8)
    audio, left, right = (
        np.zeros(n, np.float32) if heard else None
        for n in (CHUNK_SAMPLES, LEFT_CONTEXT_SAMPLES, RIGHT_CONTEXT_SAMPLES)
    )
    return Chunk(
        index=index,
        epoch=0,
        start_s=CHUNK_SECONDS * index,
        frames=None if kind is StreamKind.AUDIO else frames,
        audio=audio,
        audio_left=left,
        audio_right=right,
        fps=fps,
    )
