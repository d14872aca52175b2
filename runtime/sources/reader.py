"""From one connection's packets to items: decoded, judged, and cheaper when time is short."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import av
from av.codec.hwaccel import HWAccel

from omnidrop_stream.types import Frame, Samples
from runtime.sources.base import Interruption, SourceStats
from runtime.sources.choose import Chosen
from runtime.sources.decode import PictureDecoder, SoundDecoder
from runtime.sources.hurry import Hurry
from runtime.sources.live import LiveItems
from runtime.sources.watchdog import MediaWatch, Verdict

Packets = Iterator["av.Packet[Any]"]
Item = Frame | Samples | Interruption
_AHEAD_S = 0.5


class Reader:
    """One connection's decoders. judge: is told how the connection is doing, and ends the reading
    by raising; sized: is told the size of each picture.
    """

    def __init__(
        self,
        chosen: Chosen,
        items: LiveItems,
        watch: MediaWatch,
        *,
        stats: SourceStats,
        accel: HWAccel | None,
        clock: Callable[[], float],
        judge: Callable[[Verdict], None],
        sized: Callable[[int, int], None],
    ) -> None:
        self._video, self._items, self._watch = chosen.video, items, watch
        self._stats, self._clock = stats, clock
        self._judge, self._sized = judge, sized
        self._pictures: PictureDecoder | None = None
        if chosen.video is not None:
            self._pictures = PictureDecoder(chosen.video, stats, live=True, accel=accel)
        self._sounds = SoundDecoder(stats, live=True)
        self._keyframe_seen = False
        self.hurry = Hurry(clock())
        """Tell it how long each read waited."""

    def items(self, packets: Callable[[], Packets]) -> Iterator[Item]:
        """What the packets hold, as it comes."""
        for packet in packets():
            video, now_s = packet.stream is self._video, self._clock()
            self._watch.packet(video=video, keyframe=packet.is_keyframe, now_s=now_s)
            errors = self._stats.decode_errors
            yield from self._seen(packet, now_s) if video else self._heard(packet, now_s)
            if self._stats.decode_errors > errors:
                self._watch.failed(video=video, now_s=now_s)
            self._judge(self._watch.verdict(self._clock()))

    def _seen(self, packet: av.Packet[Any], now_s: float) -> Iterator[Item]:
        if self._pictures is None or not (self._keyframe_seen or packet.is_keyframe):
            return  # nothing can be made of it before a keyframe
        self._keyframe_seen = True
        self._pictures.leave_out(self.hurry.level(keyframe=packet.is_keyframe))
        for picture in self._pictures.push(packet):
            self._watch.decoded(video=True, now_s=now_s)
            self._judge(self._watch.verdict(now_s))
            self._sized(*picture.size)
            yield from self._items.picture(picture)

    def _heard(self, packet: av.Packet[Any], now_s: float) -> Iterator[Item]:
        for run in self._sounds.push(packet):
            self._watch.decoded(video=False, now_s=now_s)
            self._judge(self._watch.verdict(now_s))
            yield from self._items.sound(run)


class Pace:
    """Keeps what could be read at once at its own pace."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._zero_s: float | None = None

    def early_s(self, at_s: float) -> float:
        """How long to wait before what is due at ``at_s`` is handed on; half a second early is
        early enough.
        """
        now_s = self._clock()
        if self._zero_s is None:
            self._zero_s = now_s - at_s
        return max(0.0, at_s - (now_s - self._zero_s) - _AHEAD_S)
