"""The endless, seeded stream: chunk i is a pure function of (seed, split, i), so it can be read in
any order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from omnidrop_stream.world import picture, sound
from omnidrop_stream.world.items import (
    CHUNK_S,
    COLOUR_NAMES,
    FRAME_STEP_S,
    FRAMES_PER_CHUNK,
    KINDS,
    SOUNDS,
    WORDS,
    ChunkTruth,
    Event,
    Split,
)

U8 = npt.NDArray[np.uint8]
F32 = npt.NDArray[np.float32]
SCENE_CHUNKS = 5
_STREAM, _SCENE, _PLAN, _NOISE, _FRAME = range(5)


@dataclass(frozen=True, slots=True)
class Scene:
    """What stays the same for a few chunks: background, distractors, noise, how much happens."""

    number: int
    grain: float
    noise: float
    smooth: bool
    busy: float
    specks: tuple[picture.Speck, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """What one chunk will show and sound like, before anything is drawn."""

    thing: picture.Thing | None
    sound: sound.Sound | None
    tone: bool


@dataclass(frozen=True, slots=True)
class WorldChunk:
    """Two seconds: frames u8[4, H, W, 3] at 2 fps, audio f32[32000] at 16 kHz, and the truth."""

    index: int
    frames: U8
    audio: F32
    truth: ChunkTruth

    @property
    def events(self) -> tuple[Event, ...]:
        """What can be seen and heard in this chunk."""
        return tuple(e for e in (self.truth.seen, self.truth.heard) if e is not None)


class World:
    """A deterministic audiovisual stream.

    size: side of the picture in pixels; things, sounds: the chance of each per chunk.
    """

    def __init__(
        self,
        seed: int,
        split: Split = "train",
        size: int = picture.BASE,
        things: float | None = None,
        sounds: float | None = None,
    ) -> None:
        self.seed, self.split, self.size = seed, split, size
        rng = self._rng(_STREAM, 0)
        drawn = rng.uniform(0.4, 0.9, 2)
        self.things = float(drawn[0]) if things is None else things
        self.sounds = float(drawn[1]) if sounds is None else sounds
        self._scene_cached = lru_cache(maxsize=8)(self._make_scene)
        self._back_cached = lru_cache(maxsize=8)(self._make_background)
        self._plan_cached = lru_cache(maxsize=64)(self._make_plan)

    def __iter__(self) -> Iterator[WorldChunk]:
        index = 0
        while True:
            yield self.chunk(index)
            index += 1

    def chunk(self, index: int) -> WorldChunk:
        """Chunk `index`, drawn and sounded."""
        times = [index * CHUNK_S + k * FRAME_STEP_S for k in range(FRAMES_PER_CHUNK)]
        frames = np.stack([self.frame_at(t) for t in times])
        return WorldChunk(index, frames, self.audio(index), self.truth(index))

    def plan(self, index: int) -> Plan:
        """What chunk `index` will hold."""
        return self._plan_cached(index)

    def truth(self, index: int) -> ChunkTruth:
        """What chunk `index` holds, with spans in stream seconds."""
        plan = self.plan(index)
        seen = heard = None
        if plan.thing is not None:
            name = f"{COLOUR_NAMES[plan.thing.colour]} {KINDS[plan.thing.kind]}"
            seen = Event(name, "video", plan.thing.from_s, plan.thing.to_s)
        if plan.sound is not None:
            heard = Event(SOUNDS[plan.sound.what], "audio", *plan.sound.span(index * CHUNK_S))
        return ChunkTruth(
            None if plan.thing is None else plan.thing.colour,
            None if plan.thing is None else plan.thing.kind,
            None if plan.sound is None else plan.sound.what,
            seen,
            heard,
        )

    def truths(self, start: int, stop: int) -> list[ChunkTruth]:
        """The truth of chunks start..stop-1."""
        return [self.truth(i) for i in range(start, stop)]

    def frame_at(self, t: float) -> U8:
        """The picture at stream time t (seconds) -> u8[size, size, 3]; any time, so any frame
        rate.
        """
        index = int(t // CHUNK_S)
        scene = self._scene_cached(index // SCENE_CHUNKS)
        canvas = self._back_cached(scene.number)
        for speck in scene.specks:
            canvas = picture.paint_speck(canvas, speck, t)
        thing = self.plan(index).thing
        if thing is not None and thing.from_s <= t < thing.to_s:
            canvas = picture.paint(canvas, picture.cover(thing, t, self.size), thing.rgb)
        rng = self._rng(_FRAME, round(t * 1000))
        grain = rng.standard_normal((picture.BASE, picture.BASE, 3), dtype=np.float32) * scene.grain
        if self.size != picture.BASE:
            pick = np.arange(self.size) * picture.BASE // self.size
            grain = grain[pick][:, pick]
        return np.clip(canvas + grain, 0, 255).astype(np.uint8)

    def audio(self, index: int) -> F32:
        """Sound of chunk `index` -> f32[32000] in -1..1."""
        scene, plan = self._scene_cached(index // SCENE_CHUNKS), self.plan(index)
        rng = self._rng(_NOISE, index)
        out = sound.noise_bed(rng, scene.noise, scene.smooth)
        if plan.tone:
            out = out + sound.tone(rng)
        if plan.sound is not None:
            at = plan.sound.offset
            out[at : at + len(plan.sound.samples)] += plan.sound.samples
        return np.clip(out, -1, 1)

    def cover(self, index: int) -> F32:
        """How much of each pixel the thing covers in each of the 4 frames -> [4, size, size];
        training labels.
        """
        out = np.zeros((FRAMES_PER_CHUNK, self.size, self.size), np.float32)
        thing = self.plan(index).thing
        for k in range(FRAMES_PER_CHUNK):
            t = index * CHUNK_S + k * FRAME_STEP_S
            if thing is not None and thing.from_s <= t < thing.to_s:
                out[k] = picture.cover(thing, t, self.size)
        return out

    def _make_plan(self, index: int) -> Plan:
        scene, rng = self._scene_cached(index // SCENE_CHUNKS), self._rng(_PLAN, index)
        start = index * CHUNK_S
        thing, made, window = None, None, (0.0, CHUNK_S)
        if rng.random() < self.things * scene.busy:
            colour, kind = int(rng.integers(len(COLOUR_NAMES))), int(rng.integers(len(KINDS)))
            thing = picture.make_thing(rng, colour, kind, start)
            window = (thing.from_s - start, thing.to_s - start)
        if rng.random() < self.sounds * scene.busy:
            bell = rng.random() < 0.08
            what = len(SOUNDS) - 1 if bell else int(rng.integers(len(WORDS)))
            made = sound.make_sound(rng, what, self.split, window)
        return Plan(thing, made, made is None and rng.random() < 0.25)

    def _make_scene(self, number: int) -> Scene:
        rng = self._rng(_SCENE, number)
        specks = tuple(picture.make_speck(rng) for _ in range(int(rng.integers(0, 4))))
        busy = float(rng.choice([0.4, 1.0, 1.0, 1.1]))
        noise = float(np.exp(rng.uniform(np.log(0.0008), np.log(0.008))))
        return Scene(
            number, float(rng.uniform(2, 7)), noise, bool(rng.random() < 0.5), busy, specks
        )

    def _make_background(self, number: int) -> F32:
        rng = self._rng(_SCENE, number)
        rng = np.random.default_rng(rng.integers(2**62))
        return picture.background(rng, self.split, self.size)

    def _rng(self, purpose: int, number: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, int(self.split == "test"), purpose, number])
