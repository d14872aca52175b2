"""Damaged packets through the decode path of a live source, in a process that may crash.

``corrupt_worker VIDEO SOUND SEED COUNT``: so many segments of four seconds, the first of each
group of pictures damaged; counts go out as one line of JSON.
"""

from __future__ import annotations

import json
import random
import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from typing import Any

import av
import numpy as np

from omnidrop_stream.chunker import Chunker, ChunkerSettings
from omnidrop_stream.types import CHUNK_SAMPLES, Chunk, Frame, Samples
from runtime.sources.base import Interruption, SourceStats
from runtime.sources.complaints import listen
from runtime.sources.decode import Picture, PictureDecoder, SoundDecoder, ToRgb
from runtime.sources.live import LiveItems, Timeline
from tests.faults import clips, mutations
from tests.faults.heard import heard

SEGMENT_S = 4.0
PICTURES = round(SEGMENT_S * clips.FPS)
WRONG = 4.0
"""Mean difference from the picture that was sent, of 255, from which on it is another picture."""
TICKS = 90_000


@dataclass(slots=True)
class Counts:
    """What came of the damaged segments."""

    segments: int = 0
    damaged_pictures: int = 0
    """Segments of which at least one picture is not what was sent."""
    wrong: int = 0
    """Pictures handed on that are not what was sent."""
    wrong_noticed: int = 0
    """Of these: FFmpeg complained (not about side information) in the same group of pictures."""
    wrong_flagged: int = 0
    noticed_unflagged: int = 0
    wrong_chunks: int = 0
    wrong_chunks_flagged: int = 0
    spoilt_chunks_unflagged: int = 0
    """Chunks with a wrong picture that was flagged, but without the flag of their own."""
    interruptions: int = 0
    good_flagged: int = 0
    """Pictures that are what was sent and were flagged all the same."""
    decode_errors: int = 0
    loud: int = 0
    """Runs of sound outside of [-1, 1] or not finite."""
    chunks: int = 0
    odd_chunks: int = 0
    """Whole chunks with another number of samples than 32,000."""
    epochs: int = 0
    most_delayed: int = 0
    """Pictures that the decoder held back at most, where a clean stream holds back none."""
    good_after_s: list[float] = field(default_factory=list)
    """From a segment's first damaged picture until one comes out that is as sent, as are all after
    it: by the time stamps of what was pushed in. One for each segment.
    """


class Worker:
    """One decode chain, as one connection has it, over many segments."""

    def __init__(self, video: str, sound: str, seed: int) -> None:
        self._video, self._sound = clips.pictures(video, PICTURES), clips.sound(sound, SEGMENT_S)
        self._pictures = _packets(self._video, self._video.streams.video[0])
        self._sounds = _packets(self._sound, self._sound.streams.audio[0])
        self._draw, self._to_rgb = random.Random(seed), ToRgb()
        self._ways = [
            mutations.flip_bits,
            mutations.cut,
            mutations.lose,
            mutations.lose_unit,
            mutations.parameters(video),
        ]
        self._spoil = [mutations.flip_bits, mutations.cut, mutations.lose]
        stream = self._video.streams.video[0]
        stream.codec_context.thread_count = 1
        self._stats, self.counts = SourceStats(), Counts()
        self._decoder = PictureDecoder(stream, self._stats, live=True)
        self._hearer = SoundDecoder(self._stats, live=True)
        self._items = LiveItems(Timeline(lambda: 0.0), 2.0, has_video=True, to_rgb=self._to_rgb)
        self._chunker = Chunker(ChunkerSettings())
        self._sent: list[np.ndarray] = []
        self._cut: list[Chunk] = []
        self._complained_at: list[float] = []
        self._flagged: deque[np.ndarray] = deque(maxlen=PICTURES)
        self._spoilt: set[int] = set()
        self._right: dict[int, dict[int, float]] = {}
        self._came_s = 0.0

    def run(self, count: int) -> Counts:
        """A clean segment to know what was sent, then ``count`` damaged ones."""
        for picture in self._through(self._pictures, self._sounds, 0.0):
            self._sent.append(self._to_rgb(picture))
        assert len(self._sent) == PICTURES, f"{len(self._sent)} pictures of a clean clip"
        for number in range(1, count + 1):
            self._segment(number * SEGMENT_S)
        end_s = (count + 1) * SEGMENT_S
        self._judge(self._through(self._pictures, self._sounds, end_s), end_s)
        self._judge_segments(count)
        self._cut += self._chunker.flush()
        self._judge_chunks()
        self.counts.decode_errors = self._stats.decode_errors
        self.counts.epochs = self._chunker.counters.epochs
        return self.counts

    def _segment(self, begin_s: float) -> None:
        way = self._draw.choice(self._ways)
        damaged = way([data for data, _, _ in self._pictures[: clips.GOP]], self._draw)
        pictures = list(self._pictures)
        for number, data in enumerate(damaged):
            pictures[number] = (data, *self._pictures[number][1:])
        heard = len(self._sounds) // 4
        sounds = list(self._sounds)
        spoiled = self._draw.choice(self._spoil)
        for number, data in enumerate(spoiled([d for d, _, _ in sounds[:heard]], self._draw)):
            sounds[number] = (data, *self._sounds[number][1:])
        self._judge(self._through(pictures, sounds, begin_s), begin_s)

    def _through(self, pictures: Any, sounds: Any, begin_s: float) -> Iterator[Picture]:
        """Push a segment's packets in order of time, as a connection does; yields its pictures."""
        merged = [(at, False, data, key) for data, at, key in pictures]
        merged += [(at, True, data, key) for data, at, key in sounds]
        for at_s, is_sound, data, key in sorted(merged, key=lambda entry: entry[:2]):
            if not data:
                continue
            source = self._sound if is_sound else self._video
            packet = _packet(data, source.streams[0], begin_s + at_s, key)
            if is_sound:
                for run in list(self._hearer.push(packet)):
                    self.counts.loud += not (np.abs(run.pcm) <= 1).all()
                    self._push(self._items.sound(run))
                continue
            with heard() as lines:
                decoded = list(self._decoder.push(packet))
            if any("SEI" not in line for line in lines):
                self._complained_at.append(begin_s + at_s)
            for picture in decoded:
                self._came_s = begin_s + at_s
                self._push(self._items.picture(picture))
                yield picture
            self._judge_chunks()

    def _push(self, items: Iterator[Frame | Samples | Interruption]) -> None:
        for item in items:
            if isinstance(item, Interruption):
                self.counts.interruptions += 1
                self._cut += self._chunker.start_epoch(item.reason, item.at_s)
                continue
            if isinstance(item, Frame) and item.corrupt and self._is_wrong(item.image):
                self._flagged.append(item.image)
            self._cut += self._chunker.push(item)

    def _judge(self, came: Iterator[Picture], begin_s: float) -> None:
        """What came while a segment was sent: it may belong to the one before, if held back."""
        counts = self.counts
        for picture in came:
            segment, number = divmod(round(picture.time_s * clips.FPS), PICTURES)
            late = round((self._came_s - picture.time_s) * clips.FPS)
            counts.most_delayed = max(counts.most_delayed, late)
            if _differs(self._to_rgb(picture), self._sent[number]):
                noticed = self._noticed(picture.time_s)
                counts.wrong += 1
                counts.wrong_noticed += noticed
                counts.wrong_flagged += picture.corrupt
                counts.noticed_unflagged += noticed and not picture.corrupt
                self._spoilt.add(segment)
            else:
                self._right.setdefault(segment, {})[number] = self._came_s
                counts.good_flagged += picture.corrupt
        self._complained_at = [at for at in self._complained_at if at >= begin_s - 8]

    def _judge_segments(self, count: int) -> None:
        """Once everything came: when each segment was good again."""
        counts = self.counts
        counts.segments, counts.damaged_pictures = count, len(self._spoilt)
        for segment in range(1, count + 1):
            right = self._right.get(segment, {})
            last = max((n for n in range(PICTURES) if n not in right), default=-1)
            good_s = right.get(last + 1, (segment + 1) * SEGMENT_S)
            counts.good_after_s.append(round(good_s - segment * SEGMENT_S, 3))

    def _noticed(self, time_s: float) -> bool:
        """FFmpeg complained in this group of pictures, at this picture or before it."""
        begin_s = time_s // (clips.GOP / clips.FPS) * (clips.GOP / clips.FPS)
        return any(begin_s - 1e-6 <= at <= time_s + 1e-6 for at in self._complained_at)

    def _is_wrong(self, image: np.ndarray) -> bool:
        """It is none of the pictures that are sent."""
        return bool(self._sent) and all(_differs(image, sent) for sent in self._sent)

    def _judge_chunks(self) -> None:
        counts, chunks = self.counts, self._cut
        self._cut = []
        for chunk in chunks:
            counts.chunks += 1
            if chunk.audio is not None and not chunk.flags.partial:
                counts.odd_chunks += len(chunk.audio) != CHUNK_SAMPLES
            if chunk.frames is None:
                continue
            wrong = [self._is_wrong(frame) for frame in chunk.frames]
            counts.wrong_chunks += any(wrong)
            counts.wrong_chunks_flagged += any(wrong) and chunk.flags.corrupt
            holds = any(np.array_equal(f, bad) for f in chunk.frames for bad in self._flagged)
            counts.spoilt_chunks_unflagged += holds and not chunk.flags.corrupt


def _differs(image: np.ndarray, sent: np.ndarray) -> bool:
    if image.shape != sent.shape:
        return True
    return float(np.abs(image.astype(np.int16) - sent).mean()) > WRONG


def _packets(container: Any, stream: Any) -> list[tuple[bytes, float, bool]]:
    """(data, time from the first one on, keyframe) of every packet."""
    found = [packet for packet in container.demux(stream) if packet.size]
    zero = found[0].pts
    return [
        (bytes(packet), float((packet.pts - zero) * packet.time_base), packet.is_keyframe)
        for packet in found
    ]


def _packet(data: bytes, stream: Any, time_s: float, key: bool) -> av.Packet[Any]:
    packet = av.Packet(data)
    packet.stream = stream
    packet.time_base = Fraction(1, TICKS)
    packet.pts = packet.dts = round(time_s * TICKS)
    packet.is_keyframe = key
    return packet


def main() -> None:
    """Arguments as the module's docstring says."""
    video, sound, seed, count = sys.argv[1:]
    listen()
    counts = Worker(video, sound, int(seed)).run(int(count))
    print(json.dumps(asdict(counts)), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
