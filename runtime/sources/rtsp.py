"""An RTSP camera or server as a source that never dies: it reconnects until it is stopped.

One thread opens, reads and closes; ``stop`` and ``retry_now`` may come from any thread. The time of
an item is monotonic: 0 is the first item, every connection is anchored to the clock when its first
picture comes, and inside a connection the stream's own times count. Each new connection that goes
on after something was handed on begins with an `Interruption`.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Self, TypeVar

import av

from omnidrop_stream.errors import ConfigError
from omnidrop_stream.types import SAMPLE_RATE, Frame, Samples, StreamKind
from runtime.backoff import Outage
from runtime.sources.base import Interruption, SourceInfo, SourceState, SourceStats
from runtime.sources.decode import PictureDecoder, SoundDecoder, ToRgb
from runtime.sources.file import best_audio, best_video
from runtime.sources.interrupt import SocketBreaker
from runtime.sources.live import LiveItems, Timeline
from runtime.sources.network import (
    NO_MEDIA,
    Broken,
    Connection,
    StreamAddress,
    Trouble,
    ended,
    guarded,
    resolve,
    rtsp_options,
    silent,
)

T = TypeVar("T")

_RETRY_STOP_S = 0.02


class RtspSource:
    """Pictures and sound of an RTSP URL. Open it with ``with``; iterate in the same thread.

    user, password: as they are; they may also stand in the URL. wait_for_first: a stream that
    cannot be had at first is waited for, instead of raising. fps: the model's pictures a second;
    None hands on every frame. tls_verify: refuse certificates that no authority of ``tls_ca_file``
    (None: the system's) signed. clock: monotonic seconds; draw: a random number in [0, 1).
    """

    def __init__(
        self,
        url: str,
        *,
        user: str = "",
        password: str = "",
        transport: str = "tcp",
        tls_verify: bool = True,
        tls_ca_file: str | None = None,
        open_timeout_s: float = 5.0,
        stall_timeout_s: float = 5.0,
        wait_for_first: bool = False,
        fps: float | None = 2.0,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
    ) -> None:
        if transport not in ("tcp", "udp"):
            raise ConfigError(f"transport = {transport!r}: must be tcp or udp.")
        for key, value in (
            ("open_timeout_s", open_timeout_s),
            ("stall_timeout_s", stall_timeout_s),
        ):
            if not 0.1 <= value <= 300:
                raise ConfigError(f"{key} = {value}: must lie between 0.1 and 300.")
        self._address = StreamAddress.parse(url, user, password)
        self._wait_for_first, self._fps = wait_for_first, fps
        self._options = rtsp_options(
            transport,
            max(open_timeout_s, stall_timeout_s),
            tls_verify=tls_verify,
            tls_ca_file=tls_ca_file,
        )
        self._open_s, self._stall_s, self._clock = open_timeout_s, stall_timeout_s, clock
        self._info: SourceInfo | None = None
        self.stats = SourceStats()
        self._state = SourceState("connecting")
        self._outage = Outage(draw)
        self._timeline = Timeline(clock)
        self._to_rgb = ToRgb()
        self._lost = ""  # why the stream was interrupted, until it goes on
        self._connection: Connection | None = None
        self._stopped, self._woken = threading.Event(), threading.Event()
        self._at_ease = threading.Event()  # the owner is in no call that may block
        self._at_ease.set()
        self._breaker: SocketBreaker | None = None

    @property
    def info(self) -> SourceInfo:
        """Known inside the ``with`` block; that of the newest connection."""
        if self._info is None:
            raise RuntimeError("a source's info is known only inside its with block")
        return self._info

    @property
    def state(self) -> SourceState:
        """How it is doing; safe from any thread."""
        return self._state

    @property
    def reconnects(self) -> int:
        """How often the stream went on after an interruption."""
        return self._state.reconnects

    def __enter__(self) -> Self:
        name = self._address.shown
        self._info = SourceInfo(name, StreamKind.AV, None, None, None, None, live=True)
        while not self._stopped.is_set():
            try:
                self._connect()
                return self
            except Broken as broken:
                trouble = broken.trouble
            self._disconnect()
            if not self._wait_for_first and not self._stopped.is_set():
                self._state = SourceState("offline", trouble.reason)
                raise trouble.error(self._address)
            self._wait_after(trouble)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopped.set()
        self._disconnect()
        self._state = SourceState("offline", "closed", self._state.reconnects)

    def __iter__(self) -> Iterator[Frame | Samples | Interruption]:
        """Items as they arrive, in order of time within each medium; ends only when stopped."""
        while not self._stopped.is_set():
            try:
                connection = self._connection or self._connect()
                yield from self._items(connection)
                return  # stopped
            except Broken as broken:
                trouble = broken.trouble
            self._disconnect()
            self._wait_after(trouble)

    def stop(self) -> None:
        """Ask the iterator to end, also while it connects, reads or waits; safe from any thread."""
        self._stopped.set()
        self._woken.set()
        self._break()
        if not self._at_ease.is_set():  # a socket may come into being only now
            threading.Thread(target=self._keep_breaking, name="omnidrop-stop", daemon=True).start()

    def retry_now(self) -> None:
        """Try again at once instead of waiting; safe from any thread."""
        self._woken.set()

    def _keep_breaking(self) -> None:
        while not self._at_ease.wait(_RETRY_STOP_S):
            self._break()

    def _break(self) -> None:
        breaker = self._breaker
        if breaker is not None:
            breaker.shut()

    def _blocking(self, limit_s: float, call: Callable[[], T]) -> T:
        self._at_ease.clear()
        try:
            if self._stopped.is_set():
                raise Broken(ended())
            return guarded(self._address, limit_s, call)
        finally:
            self._at_ease.set()

    def _connect(self) -> Connection:
        addresses = resolve(self._address, self._open_s, self._stopped)
        self._breaker = SocketBreaker(self._address.port, addresses)
        limits_s = (self._open_s, self._stall_s)
        connection = self._blocking(
            self._open_s, lambda: self._address.open(self._options, limits_s)
        )
        self._connection = connection
        self._breaker.settle()
        self._info = self._described(connection)
        return connection

    def _described(self, connection: Connection) -> SourceInfo:
        video, audio = _streams(connection)
        if video is None and audio is None:
            raise Broken(NO_MEDIA)
        kinds = {(True, True): StreamKind.AV, (True, False): StreamKind.VIDEO}
        kind = kinds.get((video is not None, audio is not None), StreamKind.AUDIO)
        width = height = rate = None
        if video is not None:
            width, height = video.width or None, video.height or None
            rate = float(video.average_rate or video.guessed_rate or 0) or None
            video.codec_context.thread_count = 1  # more would add pictures of delay, and threads
        return SourceInfo(self._address.shown, kind, width, height, rate, None, live=True)

    def _disconnect(self) -> None:
        self._at_ease.clear()
        connection, self._connection = self._connection, None
        if connection is not None:
            guarded(self._address, self._stall_s, connection.container.close)
        self._breaker = None
        self._at_ease.set()

    def _wait_after(self, trouble: Trouble) -> None:
        if self._stopped.is_set():
            return
        delay_s = self._outage.failed(self._clock(), hopeless=trouble.hopeless)
        if self._timeline.begun and not self._lost:
            self._lost = trouble.reason
        self._state = SourceState("offline", trouble.reason, self._state.reconnects)
        self._woken.clear()
        if not self._stopped.is_set():
            self._woken.wait(delay_s)

    def _items(self, connection: Connection) -> Iterator[Frame | Samples | Interruption]:
        """Until stopped; raises `Broken` when the connection ends."""
        for item in self._decoded(connection):
            if self._stopped.is_set():
                return
            if self._lost:
                self._state = SourceState("live", "", self._state.reconnects + 1)
                lost, self._lost = self._lost, ""
                yield Interruption(lost, item.time_s)
            elif self._state.name != "live":
                self._state = SourceState("live", "", self._state.reconnects)
            self._outage.good(self._clock())
            if isinstance(item, Frame):
                self.stats.frames += 1
                end_s = item.time_s
            else:
                self.stats.samples += len(item.pcm)
                end_s = item.time_s + len(item.pcm) / SAMPLE_RATE
            self.stats.ended_at_s = max(self.stats.ended_at_s, end_s)
            yield item

    def _decoded(self, connection: Connection) -> Iterator[Frame | Samples]:
        video, audio = _streams(connection)
        pictures = None if video is None else PictureDecoder(video, self.stats, live=True)
        sounds = SoundDecoder(self.stats, live=True)
        items = LiveItems(
            self._timeline, self._fps, has_video=video is not None, to_rgb=self._to_rgb
        )
        keyframe_seen = False
        chosen = [stream for stream in (video, audio) if stream is not None]
        for packet in self._packets(connection.container.demux(chosen)):
            if pictures is None or packet.stream is not video:
                for run in sounds.push(packet):
                    yield from items.sound(run)
            elif keyframe_seen or packet.is_keyframe:
                keyframe_seen = True
                for picture in pictures.push(packet):
                    yield from items.picture(picture)

    def _packets(self, packets: Iterator[av.Packet[Any]]) -> Iterator[av.Packet[Any]]:
        """When a read times out FFmpeg hands on what it still holds: so the wait itself counts."""
        while not self._stopped.is_set():
            began_s = time.monotonic()
            packet = self._blocking(self._stall_s, lambda: next(packets, None))
            if time.monotonic() - began_s > 0.9 * self._stall_s:
                raise Broken(silent(self._stall_s))
            if packet is None or packet.size == 0:
                raise Broken(ended())
            yield packet


def _streams(connection: Connection) -> tuple[av.VideoStream | None, av.AudioStream | None]:
    return best_video(connection.container), best_audio(connection.container)
