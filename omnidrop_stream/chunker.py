"""Frames and samples in, two-second chunks out, cut by presentation time: no clock, no thread.

An *epoch* is a stretch of stream without interruption; its first moment is the origin of a grid
of 2.0 s. Source times are the source's own; stream time starts at 0 and never goes back: a
forward jump leaves a hole of its true length, a step back or an unknown interruption one of
length 0, and each is named in ``gaps``.

A chunk goes out when every medium has passed its end (sound by 40 samples more), or when one of
them is ``max_lag_s`` past it: what is missing then counts as missing. A source must interleave
its media within that. Approximations: sound that continues within ``audio_jitter_s`` of its place
is taken as gapless; whether missing sound becomes silence or makes a chunk's sound absent is
judged on the sum of what is missing inside the chunk; a stream of sound alone is always filled,
unless nothing came.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, replace

import numpy as np

from omnidrop_stream.epoch import ChunkerSettings, Epoch
from omnidrop_stream.timeline import Placed
from omnidrop_stream.types import (
    CHUNK_SECONDS,
    SAMPLE_RATE,
    Chunk,
    Frame,
    Gap,
    Samples,
    StreamKind,
)

__all__ = ["Chunker", "ChunkerCounters", "ChunkerSettings"]

_AFTER_FLUSH = "the stream ended and began again"
_FORWARD = "the source's time jumped forward"
_BACKWARD = "the source's time stepped back"
_RESET = "the source's time began again at 0"
_LONGEST_HEAD = 512


@dataclass(slots=True)
class ChunkerCounters:
    """What was cut, repeated, filled, trimmed or dropped since the stream began."""

    chunks: int = 0
    partial_chunks: int = 0
    epochs: int = 0
    repeated_frames: int = 0
    late_frames: int = 0
    late_samples: int = 0
    overlap_samples: int = 0
    silence_filled_samples: int = 0
    broken_samples: int = 0
    audio_absent_chunks: int = 0
    video_absent_chunks: int = 0
    empty_chunks: int = 0
    dropped_rest_samples: int = 0
    ignored_items: int = 0
    """Pictures pushed into a stream of sound, or sound into one of pictures."""
    forgotten_gaps: int = 0
    resets: int = 0
    """How often the source's time began again at 0; like the next two, each began an epoch."""
    jumps_forward: int = 0
    """Holes longer than ``max_forward_jump_s``: nothing came, or the source's clock was set."""
    jumps_backward: int = 0


class Chunker:
    """Push frames and samples of one source in order of time; get chunks."""

    def __init__(self, settings: ChunkerSettings | None = None) -> None:
        self.settings = settings or ChunkerSettings()
        self._counters = ChunkerCounters()
        self._gaps: deque[Gap] = deque(maxlen=self.settings.max_gaps)
        self._epoch: Epoch | None = None
        self._untold: deque[Gap] = deque(maxlen=self.settings.max_gaps)
        # The next epoch while it is not certain: items that do not continue the current one.
        self._head: list[Frame | Samples] = []
        self._reason = ""
        self._cut_s: float | None = None  # a new frame size ends the epoch here, without a hole
        self._index = 0
        self._end_s = 0.0  # stream time up to which chunks were cut
        self._newest_s = 0.0  # stream time that closed epochs had reached
        self._resume_s: float | None = None

    @property
    def gaps(self) -> tuple[Gap, ...]:
        """The ledger: every hole (stream time) and its reason, oldest first."""
        return tuple(self._gaps)

    def new_gaps(self) -> tuple[Gap, ...]:
        """What was named since the last call: also by how much a known hole has grown, and also
        when ``gaps`` is full.
        """
        untold = tuple(self._untold)
        self._untold.clear()
        return untold

    @property
    def counters(self) -> ChunkerCounters:
        """A copy of the counts so far."""
        return replace(self._counters)

    @property
    def stream_time_s(self) -> float:
        """Stream time of the newest material pushed; never goes back."""
        return max(self._newest_s, self._reached_s(self._epoch))

    @property
    def held(self) -> int:
        """How many pictures and runs of sound are kept; bounded, whatever comes."""
        return len(self._head) + (self._epoch.held if self._epoch is not None else 0)

    def push(self, item: Frame | Samples) -> list[Chunk]:
        """Take one item; returns the chunks it completes, which later pushes never change.

        The sound is copied; a picture is kept as it is, so nobody may write into it afterwards.
        """
        _check(item)
        unwanted = StreamKind.AUDIO if isinstance(item, Frame) else StreamKind.VIDEO
        if self.settings.kind is unwanted:
            self._counters.ignored_items += 1
            return []
        out: list[Chunk] = []
        self._route(item, out)
        return out

    def open_chunk(self) -> Chunk | None:
        """The part of the open chunk that exists now (``flags.partial``), or None. Changes nothing.

        Sound is what has come, pictures the slots that were reached: either may be ahead.
        """
        epoch = self._epoch
        if epoch is None:
            return None
        start_s = epoch.next * CHUNK_SECONDS
        stop_s = max(min(epoch.newest_s, start_s + CHUNK_SECONDS), start_s)
        slots = epoch.slots_reached(stop_s)
        chunk, _ = epoch.build(self._index, slots, stop_s - start_s, open_end=True)
        if chunk.frames is None and (chunk.audio is None or self._too_short(stop_s - start_s)):
            return None
        return replace(chunk, flags=replace(chunk.flags, partial=True))

    def flush(self) -> list[Chunk]:
        """End of the stream: the rest, ``flags.partial`` where not whole. A later push goes on."""
        return self.start_epoch(_AFTER_FLUSH)

    def start_epoch(
        self, reason: str, at_s: float | None = None, source_s: float | None = None
    ) -> list[Chunk]:
        """The stream was interrupted: returns the rest; the next item starts an epoch.

        at_s: stream time at which it goes on, if known; source_s: the same in the source's time,
        which a stream leaves behind where it did not step back with it. Neither: a hole of length
        0.
        """
        out: list[Chunk] = []
        if self._head:
            self._commit(out)
        epoch = self._epoch
        if epoch is not None:
            if source_s is not None:
                at_s = epoch.start_s + source_s - epoch.zero_s
            stop_s = epoch.end()
            goes_on_s = -math.inf if at_s is None else at_s - epoch.start_s
            if goes_on_s >= epoch.newest_s - self.settings.max_backward_step_s:
                stop_s = min(stop_s, max(goes_on_s, epoch.newest_s))  # a picture lasts until then
            self._close(epoch, out, stop_s)
            self._epoch = None
        elif source_s is not None:
            at_s = source_s
        self._reason, self._resume_s = reason, at_s
        return out

    def _route(self, item: Frame | Samples, out: list[Chunk]) -> None:
        epoch = self._epoch
        if self._head and self._joins_head(item):
            if self._repeats_head(item):
                self._count(_as_late(item))
            else:
                self._head.append(item)
        elif epoch is None and not self._head:
            self._head = [item]
        elif epoch is None or self._in_head(item):
            self._commit(out)
            self._route(item, out)
        else:
            verdict = self._judge(epoch, item)
            if verdict == "":
                self._take(epoch, item, out)
            elif verdict == "late":
                self._count(_as_late(item))
            elif self._head:
                self._commit(out)
                self._route(item, out)
            else:
                self._head, self._reason = [item], verdict
                self._cut_s = item.time_s if verdict == "size" else None
        if self._head and self._certain():
            self._commit(out)

    def _take(self, epoch: Epoch, item: Frame | Samples, out: list[Chunk]) -> None:
        self._count(epoch.add(item))
        self._drain(epoch, out)
        if self._head and self._cut_s is None and self._judge(epoch, self._head[0]) == "":
            items, self._head = self._head, []  # the other medium was only late: no jump after all
            for held in items:
                self._route(held, out)

    def _judge(self, epoch: Epoch, item: Frame | Samples) -> str:
        """Empty: it continues the epoch. Else why it does not, or "late"."""
        settings = self.settings
        at_s, own_end_s = item.time_s - epoch.zero_s, epoch.end_of(item)
        forward = at_s > epoch.newest_s + settings.max_forward_jump_s
        backward = at_s < (own_end_s or 0.0) - settings.max_backward_step_s
        if (forward or backward) and own_end_s is None and epoch.stray_since_s is not None:
            strayed_s = item.time_s - epoch.stray_since_s
            outage_s = settings.outage_periods * CHUNK_SECONDS
            if -settings.max_forward_jump_s <= strayed_s <= outage_s:
                return "late"
        if forward:
            return _FORWARD
        if backward:
            return _RESET if 0 <= item.time_s < settings.max_forward_jump_s else _BACKWARD
        new_size = isinstance(item, Frame) and epoch.size not in (None, item.image.shape)
        return "size" if new_size else ""

    def _in_head(self, item: Frame | Samples) -> bool:
        return any(type(held) is type(item) for held in self._head)

    def _joins_head(self, item: Frame | Samples) -> bool:
        """Whether the item continues the epoch that is about to begin."""
        own = [held for held in self._head if type(held) is type(item)]
        if not own and (self._cut_s is not None or self._continues_epoch(item)):
            return False
        if own and item.time_s < _end(own[-1]) - self.settings.max_backward_step_s:
            return False
        if isinstance(item, Frame) and any(
            held.image.shape != item.image.shape for held in own if isinstance(held, Frame)
        ):
            return False
        newest_s = max(map(_end, self._head))
        oldest_s = min(held.time_s for held in self._head)
        jump_s = self.settings.max_forward_jump_s
        return oldest_s - jump_s <= item.time_s <= newest_s + jump_s

    def _repeats_head(self, item: Frame | Samples) -> bool:
        """A picture that is not newer than the newest of those that wait."""
        return isinstance(item, Frame) and any(
            held.time_s >= item.time_s for held in self._head if isinstance(held, Frame)
        )

    def _continues_epoch(self, item: Frame | Samples) -> bool:
        return self._epoch is not None and self._judge(self._epoch, item) == ""

    def _certain(self) -> bool:
        """Whether the next epoch may begin: all media are there, or one has waited long enough."""
        if self.settings.kind is not StreamKind.AV or len(self._head) >= _LONGEST_HEAD:
            return True
        span_s = max(map(_end, self._head)) - min(held.time_s for held in self._head)
        if span_s >= self.settings.max_lag_s or len({type(held) for held in self._head}) == 2:
            return True
        epoch = self._epoch
        if self._cut_s is None or epoch is None or epoch.audio is None:
            return False
        return (epoch.audio.end_s or 0.0) >= self._cut_s - epoch.zero_s

    def _commit(self, out: list[Chunk]) -> None:
        """End the current epoch and begin the one that waits in ``_head``."""
        items, self._head = self._head, []
        cut_s, self._cut_s = self._cut_s, None
        zero_s = min(item.time_s for item in items) if cut_s is None else cut_s
        old, stray_s = self._epoch, None
        if old is not None:
            length_s = zero_s - old.zero_s
            if cut_s is not None:
                items = [*_split_sound(old, cut_s), *items]
            elif len({type(item) for item in items}) == 1:
                other = old.audio if isinstance(items[0], Frame) else old.video
                end_s = None if other is None else other.end_s
                stray_s = None if end_s is None else old.zero_s + end_s
            self._close(old, out, old.end() if cut_s is None else length_s)
            start_s = max(self._end_s, old.start_s + length_s)
        else:
            start_s = max(self._end_s, self._resume_s or 0.0)
        if self._counters.epochs and cut_s is None:
            self._counters.resets += self._reason == _RESET
            self._counters.jumps_forward += self._reason == _FORWARD
            self._counters.jumps_backward += self._reason == _BACKWARD
            self._note(self._end_s, start_s, self._reason)
            self._index += 1  # a hole takes one empty slot
        self._epoch = Epoch(self.settings, self._counters.epochs, zero_s, start_s)
        self._epoch.stray_since_s = stray_s
        self._counters.epochs += 1
        self._reason, self._resume_s, self._end_s = "", None, start_s
        for item in items:
            self._count(self._epoch.add(item))
        self._drain(self._epoch, out)

    def _drain(self, epoch: Epoch, out: list[Chunk]) -> None:
        """Cut every chunk that is due."""
        while epoch.due:
            self._emit(epoch, out, self.settings.slots, CHUNK_SECONDS, open_end=False)

    def _close(self, epoch: Epoch, out: list[Chunk], stop_s: float) -> None:
        """Cut all that is left before ``stop_s``."""
        self._newest_s = max(self._newest_s, self._reached_s(epoch))
        while (rest_s := stop_s - epoch.next * CHUNK_SECONDS) > 1e-6:
            slots = epoch.slots_left(rest_s)
            first = epoch.next * self.settings.slots
            pictured = epoch.video is not None and epoch.video.has_real(first, slots)
            if not pictured and self._too_short(rest_s):
                self._counters.dropped_rest_samples += round(rest_s * SAMPLE_RATE)
                return
            self._emit(epoch, out, slots, min(rest_s, CHUNK_SECONDS), open_end=True)

    def _reached_s(self, epoch: Epoch | None) -> float:
        return self._end_s if epoch is None else max(self._end_s, epoch.start_s + epoch.newest_s)

    def _too_short(self, duration_s: float) -> bool:
        return duration_s < self.settings.min_rest_s

    def _emit(
        self, epoch: Epoch, out: list[Chunk], slots: int, duration_s: float, *, open_end: bool
    ) -> None:
        """Cut the open chunk, count and name what is unusual, move on."""
        counters = self._counters
        if epoch.judge_outage():
            epoch.number, epoch.first = counters.epochs, epoch.next
            counters.epochs += 1
        chunk, broken = epoch.build(self._index, slots, duration_s, open_end=open_end)
        if chunk.frames is None and chunk.audio is None:
            counters.empty_chunks += 1
            self._note(chunk.start_s, chunk.end_s, "nothing came")
        else:
            counters.chunks += 1
            counters.partial_chunks += chunk.flags.partial
            counters.repeated_frames += chunk.flags.repeated_frames
            counters.silence_filled_samples += chunk.flags.silence_filled_samples
            counters.broken_samples += broken
            if epoch.video is not None and chunk.frames is None:
                counters.video_absent_chunks += 1
                self._note(chunk.start_s, chunk.end_s, "no picture came")
            if chunk.flags.audio_absent:
                counters.audio_absent_chunks += 1
                self._note(chunk.start_s, chunk.end_s, "no sound came")
            out.append(chunk)
        self._index += 1
        self._end_s = chunk.end_s
        epoch.advance()

    def _note(self, from_s: float, to_s: float, reason: str) -> None:
        """Name a hole in the ledger; one that continues the newest is joined to it."""
        self._untold.append(Gap(from_s, to_s, reason))
        last = self._gaps[-1] if self._gaps else None
        if last and last.reason == reason and abs(from_s - last.to_s) < 1e-6 < to_s - from_s:
            self._gaps[-1] = Gap(last.from_s, to_s, reason)
            return
        self._counters.forgotten_gaps += len(self._gaps) == self._gaps.maxlen
        self._gaps.append(Gap(from_s, to_s, reason))

    def _count(self, placed: Placed) -> None:
        self._counters.late_frames += placed.late_frames
        self._counters.late_samples += placed.late_samples
        self._counters.overlap_samples += placed.overlap_samples


def _end(item: Frame | Samples) -> float:
    return item.time_s + (len(item.pcm) / SAMPLE_RATE if isinstance(item, Samples) else 0.0)


def _as_late(item: Frame | Samples) -> Placed:
    if isinstance(item, Frame):
        return Placed(late_frames=1)
    return Placed(late_samples=len(item.pcm))


def _split_sound(epoch: Epoch, cut_s: float) -> list[Samples]:
    """Take the sound from source time ``cut_s`` on out of an epoch."""
    if epoch.audio is None:
        return []
    first = round((cut_s - epoch.zero_s) * SAMPLE_RATE)
    runs = epoch.audio.split(first)
    return [Samples(pcm, cut_s + (position - first) / SAMPLE_RATE) for position, pcm in runs]


def _check(item: Frame | Samples) -> None:
    if not math.isfinite(item.time_s):
        raise ValueError(f"time_s = {item.time_s}: an item's time must be a finite number")
    if isinstance(item, Samples):
        if item.pcm.ndim != 1:
            raise ValueError(f"pcm of shape {item.pcm.shape}: must be mono, [n]")
    elif item.image.dtype != np.uint8 or item.image.ndim != 3 or item.image.shape[2] != 3:
        raise ValueError(
            f"image of shape {item.image.shape} and type {item.image.dtype}: must be u8 [H, W, 3]"
        )
