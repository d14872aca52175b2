"""One stretch of stream without interruption: settings, place in time, and how to cut a chunk.

Nothing here decides *when* to cut or when an epoch ends; that is ``chunker.py``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from omnidrop_stream.errors import ConfigError
from omnidrop_stream.timeline import AudioTrack, Placed, VideoSpan, VideoTrack
from omnidrop_stream.types import (
    CHUNK_SAMPLES,
    CHUNK_SECONDS,
    LEFT_CONTEXT_SAMPLES,
    RIGHT_CONTEXT_SAMPLES,
    SAMPLE_RATE,
    Chunk,
    ChunkFlags,
    Frame,
    Samples,
    StreamKind,
)


@dataclass(frozen=True, slots=True)
class ChunkerSettings:
    """What a stream carries and how patient the chunker is."""

    kind: StreamKind = StreamKind.AV
    fps: float = 2.0
    """Pictures a second that the model sees; two seconds must hold a whole number of them."""
    max_silence_fill_s: float = 0.5
    """Up to this much missing sound in a chunk becomes silence; more makes its sound absent."""
    outage_periods: float = 2.0
    """Chunk periods for which the last picture may be repeated while sound goes on."""
    max_forward_jump_s: float = 1.0
    max_backward_step_s: float = 0.25
    max_lag_s: float = 1.0
    """How far past a chunk's end one medium may be before the other counts as missing."""
    audio_jitter_s: float = 0.010
    min_rest_s: float = 0.1
    """A rest of sound shorter than this at an epoch's end is dropped and counted."""
    max_gaps: int = 1000
    """How many of the newest gaps the ledger keeps."""

    def __post_init__(self) -> None:
        limits = {
            "fps": (0.5, 60.0),
            "max_silence_fill_s": (0.0, CHUNK_SECONDS),
            "outage_periods": (1.0, 1e6),
            "max_forward_jump_s": (0.1, 1e6),
            "max_backward_step_s": (0.0, 1e6),
            "max_lag_s": (0.1, 60.0),
            "audio_jitter_s": (0.0, 0.1),
            "min_rest_s": (0.0, CHUNK_SECONDS),
            "max_gaps": (1, 1e6),
        }
        for key, (low, high) in limits.items():
            value = getattr(self, key)
            if not low <= value <= high:
                raise ConfigError(f"{key} = {value}: must lie between {low:g} and {high:g}.")
        slots = self.fps * CHUNK_SECONDS
        if abs(slots - round(slots)) > 1e-9:
            raise ConfigError(
                f"fps = {self.fps}: a chunk of {CHUNK_SECONDS:g} s must hold a whole number of "
                "pictures; choose a multiple of 0.5."
            )
        if self.kind not in tuple(StreamKind):
            raise ConfigError(f"kind = {self.kind!r}: must be av, video or audio.")

    @property
    def slots(self) -> int:
        """Pictures in a chunk."""
        return round(self.fps * CHUNK_SECONDS)


class Epoch:
    """One stretch of stream: where it lies in time, its two shelves, and its open chunk."""

    def __init__(
        self, settings: ChunkerSettings, number: int, zero_s: float, start_s: float
    ) -> None:
        self.settings = settings
        self.number = number
        self.zero_s = zero_s  # source time of the epoch's first moment
        self.start_s = start_s  # stream time of the same
        jitter = round(settings.audio_jitter_s * SAMPLE_RATE)
        self.video = None if settings.kind is StreamKind.AUDIO else VideoTrack(settings.fps)
        self.audio = None if settings.kind is StreamKind.VIDEO else AudioTrack(jitter)
        self.size: tuple[int, ...] | None = None
        self.next = 0  # grid number of the open chunk
        self.first = 0  # grid number at which its context restarts
        self.video_lost = False
        # Source time of a medium that did not follow the jump that began this epoch.
        self.stray_since_s: float | None = None

    def add(self, item: Frame | Samples) -> Placed:
        """Put an item on its shelf."""
        at_s = item.time_s - self.zero_s
        if isinstance(item, Samples):
            return self.audio.add(item, at_s) if self.audio is not None else Placed()
        self.size = self.size or item.image.shape
        return self.video.add(item, at_s) if self.video is not None else Placed()

    def end_of(self, item: Frame | Samples) -> float | None:
        """Epoch time up to which the item's medium is known."""
        track = self.video if isinstance(item, Frame) else self.audio
        return None if track is None else track.end_s

    @property
    def newest_s(self) -> float:
        """Epoch time of the newest material of any medium."""
        ends = [track.end_s for track in (self.video, self.audio) if track is not None]
        return max((end for end in ends if end is not None), default=0.0)

    def end(self) -> float:
        """No more material comes: the epoch time at which it ends; a picture lasts its slot."""
        end_s = (self.audio.end_s if self.audio is not None else None) or 0.0
        if self.video is not None:
            self.video.forget_unreached()
            newest = self.video.newest_slot()
            end_s = max(end_s, 0.0 if newest is None else (newest + 1) / self.settings.fps)
        return end_s

    @property
    def held(self) -> int:
        """How many frames and runs of sound are kept."""
        tracks = (self.video, self.audio)
        return sum(track.held for track in tracks if track is not None)

    def slots_left(self, rest_s: float) -> int:
        """Picture slots of a last chunk of this length: filled ones, and those at least half in."""
        if self.video is None:
            return 0
        newest = self.video.newest_slot()
        filled = 0 if newest is None else newest + 1 - self.next * self.settings.slots
        half_in = math.floor(rest_s * self.settings.fps + 0.5 + 1e-6)
        whole = math.ceil(rest_s * self.settings.fps - 1e-6)
        return min(max(min(filled, whole), half_in, 1), self.settings.slots)

    @property
    def due(self) -> bool:
        """Whether the open chunk can be cut."""
        end_s = (self.next + 1) * CHUNK_SECONDS
        passed = self.video is None or (self.video.end_s or 0.0) >= end_s - 1e-6
        if self.audio is not None:
            needed = (self.next + 1) * CHUNK_SAMPLES + RIGHT_CONTEXT_SAMPLES
            passed = passed and (self.audio.end or 0) >= needed
        return passed or self.newest_s >= end_s + self.settings.max_lag_s

    def slots_reached(self, stop_s: float) -> int:
        """How many of the open chunk's picture slots lie before ``stop_s``, or on it and filled."""
        if self.video is None:
            return 0
        fps, first = self.settings.fps, self.next * self.settings.slots
        count = min(max(math.ceil(stop_s * fps - 1e-6) - first, 0), self.settings.slots)
        on_it = (first + count) / fps <= stop_s + 1e-6 and self.video.has_real(first + count, 1)
        return count + (on_it and count < self.settings.slots)

    def judge_outage(self) -> bool:
        """Whether pictures stayed away too long, or are back: within an epoch all are alike."""
        if self.video is None:
            return False
        real = self.video.has_real(self.next * self.settings.slots, self.settings.slots)
        last_s, now_s = self.video.last_real_s, self.next * CHUNK_SECONDS
        patience_s = self.settings.outage_periods * CHUNK_SECONDS
        lost = not real and (last_s is None or now_s - last_s >= patience_s)
        if lost:
            self.video.forget_picture()
            self.size = None
        changed, self.video_lost = lost != self.video_lost, lost
        return changed and self.next > self.first

    def build(
        self, index: int, slots: int, duration_s: float, *, open_end: bool
    ) -> tuple[Chunk, int]:
        """The open chunk as it stands, and its count of broken samples; changes nothing.

        open_end: sound that has not come yet is no gap, and makes the chunk partial.
        """
        settings = self.settings
        shown = VideoSpan(None, 0, False)
        if self.video is not None:
            shown = self.video.look(self.next * settings.slots, slots)
        audio = left = right = None
        filled = broken = 0
        partial = duration_s < CHUNK_SECONDS - 1e-6
        if self.audio is not None:
            first = self.next * CHUNK_SAMPLES
            stop = first + min(round(duration_s * SAMPLE_RATE), CHUNK_SAMPLES)
            if open_end:
                stop = max(min(stop, self.audio.end or 0), first)
            span = self.audio.look(first, stop)
            limit = round(settings.max_silence_fill_s * SAMPLE_RATE)
            if settings.kind is StreamKind.AUDIO:
                limit = CHUNK_SAMPLES  # nothing else to rest on: any sound is better than none
            if span.missing_samples <= limit and span.missing_samples < len(span.pcm):
                audio, filled, broken = span.pcm, span.missing_samples, span.broken_samples
                left = np.zeros(LEFT_CONTEXT_SAMPLES, dtype=np.float32)
                if self.next > self.first:
                    left = self.audio.look(first - LEFT_CONTEXT_SAMPLES, first).pcm
                right = self.audio.look(stop, stop + RIGHT_CONTEXT_SAMPLES).pcm
                partial = partial or len(audio) < CHUNK_SAMPLES - 1
        flags = ChunkFlags(
            repeated_frames=shown.repeated,
            silence_filled_samples=filled,
            audio_absent=self.audio is not None and audio is None,
            corrupt=broken > 0 or shown.corrupt,
            partial=partial,
            video_absent=self.video is not None and shown.images is None,
        )
        chunk = Chunk(
            index=index,
            epoch=self.number,
            start_s=self.start_s + self.next * CHUNK_SECONDS,
            frames=shown.images,
            audio=audio,
            audio_left=left,
            audio_right=right,
            fps=settings.fps,
            duration_s=duration_s,
            flags=flags,
        )
        return chunk, broken

    def advance(self) -> None:
        """The open chunk is cut: go on to the next."""
        self.next += 1
        if self.video is not None:
            self.video.advance(self.next * self.settings.slots)
        if self.audio is not None:
            self.audio.advance(self.next * CHUNK_SAMPLES, LEFT_CONTEXT_SAMPLES)
