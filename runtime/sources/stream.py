"""A camera or server on the network as a source that never dies: it reconnects until it is stopped.

One thread opens, reads and closes; ``stop`` and ``retry_now`` may come from any thread. The time of
an item is monotonic: 0 is the first item, every connection is anchored to the clock when its first
picture comes, and inside a connection the stream's own times count. Each new connection that goes
on after something was handed on begins with an `Interruption`. What a connection carries (streams,
codecs, size, rate) is read anew each time; sound that a server adds later is found with the next
connection, for which `retry_now` is enough.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

import av
from av.codec.hwaccel import HWAccel

from omnidrop_stream.errors import ConfigError, SourceUnreadable
from omnidrop_stream.types import SAMPLE_RATE, Frame, Samples, StreamKind
from runtime.backoff import Outage
from runtime.sources.address import StreamAddress
from runtime.sources.base import Interruption, SourceInfo, SourceState, SourceStats
from runtime.sources.choose import Chosen, MediaStream, choose
from runtime.sources.decode import ToRgb
from runtime.sources.http import HttpLink
from runtime.sources.hurry import Hurry
from runtime.sources.hwaccel import decoding
from runtime.sources.live import LiveItems, Timeline
from runtime.sources.network import (
    Broken,
    Connection,
    Trouble,
    authorities,
    ended,
    guarded,
    silent,
)
from runtime.sources.reader import Pace, Reader
from runtime.sources.rtsp import RtspLink
from runtime.sources.watchdog import KEYFRAME_S, LONGEST_PATIENCE_S, MediaWatch, Verdict

T = TypeVar("T")
Observer = Callable[["av.Packet[Any]", float], None]
"""Sees every packet before it is decoded, and the monotonic time of its arrival."""

_RETRY_STOP_S = 0.02
_PARTIAL = ("no_video", "no_keyframe")
ASKED = Trouble(
    "closed",
    "a new connection was asked for",
    "It is made at once.",
    SourceUnreadable,
)


class Link(Protocol):
    """How connections to one address are made; one after the other."""

    address: StreamAddress

    def open(self, accel: HWAccel | None, stopped: threading.Event) -> Connection:
        """Connect. Raises `Broken`."""
        ...

    def shut(self) -> None:
        """End whatever call into the connection blocks; safe from any thread."""
        ...

    def forget(self) -> None:
        """The connection is closed."""
        ...


class StreamSource:
    """Pictures and sound of an RTSP or HTTP URL. Open it with ``with``; iterate in the same thread.

    user, password: as they are; they may also stand in the URL. wait_for_first: a stream that
    cannot be had at first is waited for, instead of raising. fps: the model's pictures a second;
    None hands on every frame. tls_verify: refuse certificates that no authority of ``tls_ca_file``
    (None: the system's) signed. video_stream, audio_stream: which ones, counted from 0 in their
    kind. hwaccel: none, auto, or a device type of FFmpeg. clock: monotonic seconds; draw: a random
    number in [0, 1).
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
        video_stream: int | None = None,
        audio_stream: int | None = None,
        hwaccel: str = "none",
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
        if tls_ca_file is not None:
            authorities(tls_ca_file)
        self._address = StreamAddress.parse(url, user, password)
        self._link: Link
        if self._address.scheme in ("http", "https"):
            self._link = HttpLink(
                self._address,
                tls_verify=tls_verify,
                tls_ca_file=tls_ca_file,
                open_timeout_s=open_timeout_s,
                stall_timeout_s=stall_timeout_s,
            )
        else:
            self._link = RtspLink(
                self._address,
                transport=transport,
                tls_verify=tls_verify,
                tls_ca_file=tls_ca_file,
                open_timeout_s=open_timeout_s,
                stall_timeout_s=stall_timeout_s,
            )
        self._decoding = decoding(hwaccel)
        self._wanted = (video_stream, audio_stream)
        self._wait_for_first, self._fps = wait_for_first, fps
        self.observe: Observer | None = None
        """Set before ``with``: sees every packet."""
        self._stall_s, self._clock = stall_timeout_s, clock
        self._info: SourceInfo | None = None
        self.media: tuple[MediaStream, ...] = ()
        """The streams that are taken, in words; of the newest connection."""
        self.stats = SourceStats()
        self._state = SourceState("connecting", code="connecting", since_s=clock())
        self._outage = Outage(draw)
        self._timeline = Timeline(clock)
        self.stats.clock = self._timeline.faults
        self._to_rgb = ToRgb()
        self._lost = ""  # why the stream was interrupted, until it goes on
        self._tried_s = 0.0  # how long the newest attempt to connect took, if it failed
        self._patience_s = KEYFRAME_S  # with a connection that brings no pictures
        self._connection: Connection | None = None
        self._chosen = Chosen(None, None)
        self._stopped, self._woken = threading.Event(), threading.Event()
        self._at_ease = threading.Event()  # the owner is in no call that may block
        self._at_ease.set()

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
            if not self._wait_for_first and not self._stopped.is_set():
                self._say("offline", trouble.code, trouble.reason)
                self._disconnect()
                raise trouble.error(self._address)
            self._recover(trouble)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopped.set()
        self._disconnect()
        self._say("offline", "closed", "closed")

    def __iter__(self) -> Iterator[Frame | Samples | Interruption]:
        """Items as they arrive, in order of time within each medium; ends only when stopped."""
        while not self._stopped.is_set():
            try:
                yield from self._items(self._connection or self._connect())
                return  # stopped
            except Broken as broken:
                trouble = broken.trouble
            self._recover(trouble)

    def stop(self) -> None:
        """Ask the iterator to end, also while it connects, reads or waits; safe from any thread."""
        self._stopped.set()
        self._woken.set()
        self._link.shut()
        if not self._at_ease.is_set():  # a socket may come into being only now
            threading.Thread(target=self._keep_breaking, name="omnidrop-stop", daemon=True).start()

    def retry_now(self) -> None:
        """Try again at once instead of waiting, or, while a medium is missing, instead of going on
        without; safe from any thread.
        """
        self._woken.set()

    def _keep_breaking(self) -> None:
        while not self._at_ease.wait(_RETRY_STOP_S):
            self._link.shut()

    def _say(
        self,
        name: str,
        code: str = "",
        reason: str = "",
        video: bool | None = None,
        audio: bool | None = None,
        reconnects: int | None = None,
    ) -> None:
        old = self._state
        same = (old.name, old.code) == (name, code)
        since_s = old.since_s if same else self._clock()
        count = old.reconnects if reconnects is None else reconnects
        state = SourceState(name, reason, count, code, since_s, video, audio)
        if state != old:
            self._state = state

    def _blocking(self, call: Callable[[], T]) -> T:
        self._at_ease.clear()
        try:
            if self._stopped.is_set():
                raise Broken(ended())
            return call()
        finally:
            self._at_ease.set()

    def _connect(self) -> Connection:
        began_s = self._clock()
        try:
            return self._connected()
        except Broken:
            self._tried_s = self._clock() - began_s
            raise

    def _connected(self) -> Connection:
        accel = self._decoding.accel
        connection = self._blocking(lambda: self._link.open(accel, self._stopped))
        self._connection = connection
        self._chosen = choose(connection.container, *self._wanted)
        self.media = self._chosen.described(connection.container)
        self._info = self._described(self._chosen)
        return connection

    def _described(self, chosen: Chosen) -> SourceInfo:
        video, audio = chosen.video, chosen.audio
        kinds = {(True, True): StreamKind.AV, (True, False): StreamKind.VIDEO}
        kind = kinds.get((video is not None, audio is not None), StreamKind.AUDIO)
        width = height = rate = None
        decoder = self._decoding.told(video)
        self.stats.hardware_refused += decoder.startswith("software")
        if video is not None:
            width, height = video.width or None, video.height or None
            rate = float(video.average_rate or video.guessed_rate or 0) or None
            video.codec_context.thread_count = 1  # more would add pictures of delay, and threads
        name = self._address.shown
        return SourceInfo(name, kind, width, height, rate, None, live=True, decoder=decoder)

    def _disconnect(self) -> None:
        self._at_ease.clear()
        connection, self._connection = self._connection, None
        self._link.shut()  # or closing would wait for the other end's farewell
        if connection is not None:
            guarded(self._address, self._stall_s, connection.container.close)
        self._link.forget()
        self._at_ease.set()

    def _recover(self, trouble: Trouble) -> None:
        """Say why, close, and wait before the next attempt."""
        self._woken.clear()
        if not self._stopped.is_set():
            promised = {stream.kind for stream in self.media}
            video = False if "video" in promised else None
            audio = False if "audio" in promised else None
            name = "offline"
            if trouble.code in _PARTIAL:  # the rest of it is there
                name, audio = "degraded", self._state.audio
                self._patience_s = min(2 * self._patience_s, LONGEST_PATIENCE_S)
            self._say(name, trouble.code, trouble.reason, video, audio)
        self._disconnect()
        if self._stopped.is_set():
            return
        if self._timeline.begun and not self._lost:
            self._lost = trouble.reason
        tried_s, self._tried_s = self._tried_s, 0.0
        hopeless = trouble.hopeless
        delay_s = self._outage.failed(self._clock(), hopeless=hopeless, tried_s=tried_s)
        if not self._stopped.is_set():
            self._woken.wait(delay_s)

    def _items(self, connection: Connection) -> Iterator[Frame | Samples | Interruption]:
        """Until stopped; raises `Broken` when the connection ends."""
        ahead = Pace(self._clock) if connection.finite else None
        for item in self._read(connection):
            if ahead is not None and not isinstance(item, Interruption):
                self._stopped.wait(ahead.early_s(item.time_s))
            if self._stopped.is_set():
                return
            if isinstance(item, Interruption):
                yield item  # the stream's own clock was set
                continue
            if self._lost:
                lost, self._lost = self._lost, ""
                self._state = replace(self._state, reconnects=self._state.reconnects + 1)
                yield Interruption(lost, item.time_s)
            self._outage.good(self._clock())
            if isinstance(item, Frame):
                self._patience_s = KEYFRAME_S
                self.stats.frames += 1
                end_s = item.time_s
            else:
                self.stats.samples += len(item.pcm)
                self.stats.skew_s = self._timeline.skew_s
                end_s = item.time_s + len(item.pcm) / SAMPLE_RATE
            self.stats.ended_at_s = max(self.stats.ended_at_s, end_s)
            yield item

    def _read(self, connection: Connection) -> Iterator[Frame | Samples | Interruption]:
        watch = MediaWatch(
            self._clock(),
            video=self._chosen.video is not None,
            audio=self._chosen.audio is not None,
            gap_s=self._stall_s,
            patience_s=self._patience_s,
            suspect=self._patience_s > KEYFRAME_S,
        )
        items = LiveItems(
            self._timeline,
            self._fps,
            has_video=self._chosen.video is not None,
            to_rgb=self._to_rgb,
        )
        reader = Reader(
            self._chosen,
            items,
            watch,
            stats=self.stats,
            accel=self._decoding.accel,
            clock=self._clock,
            judge=self._judge,
            sized=self._sized,
        )
        try:
            yield from reader.items(lambda: self._packets(connection, reader.hurry))
        except Broken:
            yield from items.rest()
            raise

    def _sized(self, width: int, height: int) -> None:
        info = self.info
        if (width, height) != (info.width, info.height):
            self._info = replace(info, width=width, height=height)

    def _judge(self, verdict: Verdict) -> None:
        self._say(verdict.name, verdict.code, verdict.reason, verdict.video, verdict.audio)
        if verdict.trouble is not None:
            raise Broken(verdict.trouble)
        if self._woken.is_set() and not self._stopped.is_set():
            self._woken.clear()
            if verdict.name == "degraded":
                raise Broken(ASKED)

    def _packets(self, connection: Connection, hurry: Hurry) -> Iterator[av.Packet[Any]]:
        """When a read times out FFmpeg hands on what it still holds: so the wait itself counts."""
        packets = connection.container.demux(self._chosen.streams)
        began_s = self._clock()
        while not self._stopped.is_set():
            asked_s = time.monotonic()
            packet = self._blocking(
                lambda: guarded(self._address, self._stall_s, lambda: next(packets, None))
            )
            now_s = time.monotonic()
            hurry.read(now_s - asked_s, self._clock())
            if now_s - asked_s > 0.9 * self._stall_s:
                raise Broken(silent(self._stall_s))
            if packet is None or packet.size == 0:
                raise Broken(ended())
            if connection.clockless and packet.time_base:
                packet.pts = packet.dts = round((self._clock() - began_s) / packet.time_base)
            if self.observe is not None:
                self.observe(packet, now_s)
            yield packet


RtspSource = StreamSource
"""The name under which it is known for RTSP."""
