"""Clips of the synthetic world for an inspection, asked one question of every group of kinds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from omnidrop_stream.lab.eval_play import chunks_of
from omnidrop_stream.lab.inspect_types import Asked
from omnidrop_stream.types import Chunk
from omnidrop_stream.world import QUESTION_KINDS, World
from omnidrop_stream.world import ask as make_question


def world_clips(
    seed: int, streams: int, chunks: int
) -> Iterator[tuple[Iterator[Chunk], list[Asked]]]:
    """``streams`` test streams of ``chunks`` chunks, seeds from ``seed`` on."""
    for number in range(seed, seed + streams):
        world = World(number, "test")
        yield chunks_of(range(chunks), world.chunk), list(_asked(world, chunks, number))


def _asked(world: World, chunks: int, seed: int) -> Iterator[Asked]:
    """A question of a kind drawn from each group, where the stream gives a fair one."""
    truths = [world.truth(n) for n in range(chunks)]
    for number, (group, kinds) in enumerate(QUESTION_KINDS.items()):
        rng = np.random.default_rng([seed, 3, number])
        for kind in _shuffled(kinds, rng):
            question = make_question(truths, kind, rng, "test")
            if question is not None:
                yield Asked(question.text, group)
                break


def _shuffled(kinds: Sequence[str], rng: np.random.Generator) -> list[str]:
    return [kinds[i] for i in rng.permutation(len(kinds))]
