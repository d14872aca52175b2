"""A chunk as a step of the overload ladder leaves it, before the model sees it. Pure.

Another picture size, and pictures that go or come back, begin an epoch of the stream: merging
windows and the log-mel's memory restart there. The chunker does not know of these epochs, so its
numbers are shifted here.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from omnidrop_stream.types import Chunk
from runtime.overload import Step

PICTURES_SHARE = 0.5
"""Of a picture's tokens, from ``SMALLER_FRAMES`` on."""
MERGING_SHARE = 0.25
"""Of the tokens that merging keeps beside a window's first patch, from ``STRONGER_MERGING`` on."""


class Lighter:
    """One stream's chunks at the present step; belongs to one thread."""

    def __init__(self, steps: tuple[Step, ...] = (Step.NORMAL,)) -> None:
        """steps: those that this stream's ladder may use."""
        self._steps = frozenset(steps)
        self._step = Step.NORMAL
        self._shift = 0
        self._last_epoch: int | None = None

    def uses(self, step: Step) -> bool:
        """Whether ``step`` is among those in use: it and all before it that apply."""
        return step in self._steps and step <= self._step

    @property
    def pictures(self) -> float:
        """Share of a picture's tokens."""
        return PICTURES_SHARE if self.uses(Step.SMALLER_FRAMES) else 1.0

    @property
    def merging(self) -> float:
        """Share of the tokens that merging keeps."""
        return MERGING_SHARE if self.uses(Step.STRONGER_MERGING) else 1.0

    def go(self, step: Step) -> bool:
        """From the next chunk on use ``step``; True where that begins an epoch."""
        before = self.pictures, self.uses(Step.AUDIO_ONLY)
        self._step = step
        begins = before != (self.pictures, self.uses(Step.AUDIO_ONLY))
        self._shift += begins
        return begins

    def taken(self, chunk: Chunk) -> None:
        """The stream holds this chunk (as `lightened` made it): the next may join its epoch."""
        self._last_epoch = chunk.epoch

    def lightened(self, chunk: Chunk) -> Chunk:
        """The chunk for the model: its true rate, no pictures, or as it is. A chunk without sound
        keeps its pictures: they are all there is.
        """
        epoch, flags = chunk.epoch + self._shift, chunk.flags
        frames, fps, left = chunk.frames, chunk.fps, chunk.audio_left
        if left is not None and self._last_epoch is not None and epoch != self._last_epoch:
            left = np.zeros_like(left)
        if frames is not None and self.uses(Step.FEWER_FRAMES):
            frames, fps = frames[::2], fps / 2
            flags = replace(flags, repeated_frames=min(flags.repeated_frames, len(frames)))
        if frames is not None and chunk.audio is not None and self.uses(Step.AUDIO_ONLY):
            frames = None
            flags = replace(flags, repeated_frames=0, video_absent=True)
        return replace(chunk, epoch=epoch, frames=frames, fps=fps, audio_left=left, flags=flags)
