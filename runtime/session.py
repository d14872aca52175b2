"""`StreamSession`: one live stream, watched while it is asked. An async context manager.

The event loop decides and waits; it touches neither torch nor av. Capture runs on the source's
thread, everything of the model on the model thread, and what passes between them is bounded.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from omnidrop_stream.config import Config, DecodeConfig, DepthName, PruningConfig, merged
from omnidrop_stream.errors import OmniDropError, SourceError
from omnidrop_stream.types import Answer, Delta, Query, StreamKind
from runtime.asking import kind_for, within_reach
from runtime.capture import CaptureThread
from runtime.feed import ChunkFeed
from runtime.host import ModelHost
from runtime.loop_delay import watch_loop
from runtime.sources import SourceOptions, open_source
from runtime.sources.base import LiveSource, Source, SourceInfo
from runtime.sources.pacing import Paced
from runtime.stats import Stats
from runtime.status import SessionStatus
from runtime.turns import Kind
from runtime.worker import Job

if TYPE_CHECKING:  # torch comes with the model, on its thread
    from omnidrop_stream.model.base import OmniModel
    from omnidrop_stream.stream import OmniStream, StreamStatus

FIRST_CHUNK_WAIT_S = 15.0
JOIN_S = 2.0


class StreamSession:
    """Watches one source; ``ask`` at any moment, as often and as concurrently as you like."""

    def __init__(
        self,
        source: str | Source,
        config: Config | None = None,
        host: ModelHost | None = None,
        realtime: bool = True,
        stats: Stats | None = None,
        wall: Callable[[], float] = time.time,
        load: Callable[[], OmniModel] | None = None,
        options: SourceOptions | None = None,
    ) -> None:
        """realtime: play a file at its own pace and never wait for the model; else read it as fast
        as the model takes it. host: shared by several sessions; without one the session has its
        own.
        """
        self.config = config or Config()
        self.stats = stats or Stats()
        fps = self.config.stream.fps
        opened = source
        if isinstance(opened, str):
            opened = open_source(opened, fps=fps, options=options)
        self._realtime = realtime
        self._own_host = host is None
        self.host = host or ModelHost(self.config.model, load)
        self._wall = wall
        self._source = opened
        self._stream: OmniStream | None = None
        self._info: SourceInfo | None = None
        self._status: StreamStatus | None = None
        self._failure: BaseException | None = None
        self._answers: dict[str, tuple[Job, asyncio.Queue[Any]]] = {}
        self._numbers = itertools.count(1)
        self._pruning = self.config.pruning
        self._ttft_ms: float | None = None
        self._starting: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._begin = threading.Event()
        self.note = ""
        """What was settled differently from the settings, in a sentence; known with the model."""

    # -- life

    async def __aenter__(self) -> Self:
        """Start capture and model; returns once the source is open, raises what opening raises."""
        self._loop = asyncio.get_running_loop()
        self.ended = asyncio.Event()
        self._opened: asyncio.Future[SourceInfo] = self._loop.create_future()
        self._ready: asyncio.Future[OmniStream] = self._loop.create_future()
        self._material = asyncio.Event()
        self._settled = asyncio.Event()
        self._feed = ChunkFeed(
            self.stats,
            wake=self.host.worker.wake,
            on_commit=lambda status: self._post(self._committed, status),
            on_error=lambda error: self._post(self._fail, error),
        )
        if self._own_host:
            await self.host.__aenter__()
        self._capture = self._make_capture()
        self._capture.start()
        try:
            self._info = await asyncio.shield(self._opened)
        except BaseException:
            await self._close()
            raise
        self._watching = self._loop.create_task(watch_loop(self.stats), name="watch-loop")
        self._starting = self._loop.create_task(self._start_stream(self._info), name="start-stream")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End everything within 2 s; raises the session's failure if the body raised nothing."""
        await self._close()
        if error is None and self._failure is not None:
            raise self._failure

    def _make_capture(self) -> CaptureThread:
        source = self._source
        pace = self._realtime and not isinstance(source, LiveSource)
        paced: Source = Paced(source) if pace else source
        return CaptureThread(
            paced,
            self._feed,
            self.stats,
            fps=self.config.stream.fps,
            drop_when_full=self._realtime,
            on_open=lambda info: self._post(_resolve, self._opened, info),
            on_end=lambda error: self._post(self._source_ended, error),
            wall=self._wall if self._realtime else None,
            kind=self._wanted_kind,
            begin=self._begin,
        )

    @property
    def _wanted_kind(self) -> StreamKind | None:
        stream = self.config.stream
        return stream.kind if "kind" in stream.model_fields_set else None

    async def _start_stream(self, info: SourceInfo) -> None:
        try:
            model = await self.host.model()
            kind = kind_for(info, self._wanted_kind)
            config = merged(self.config, {"stream": {"kind": kind}})
            config, self.note = within_reach(config, model)
            stream, status = await asyncio.wrap_future(
                self.host.worker.call(lambda: _open_stream(model, config))
            )
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self._fail(error)
            return
        self._stream = stream
        self._status = status
        if self._pruning is self.config.pruning:
            self._pruning = config.pruning
        self._feed.attach(stream)
        self._begin.set()
        self.host.worker.add_feed(self._feed)
        if not self._ready.done():
            self._ready.set_result(stream)

    async def _close(self) -> None:
        for job, _ in list(self._answers.values()):
            job.cancelled.set()
        self._feed.close()
        self._capture.stop()
        self.host.worker.remove_feed(self._feed)
        for task in (self._starting, self._watching):
            if task is not None:
                task.cancel()
        # Side by side, so that two stuck threads cost one time-out.
        joined = asyncio.to_thread(self._capture.join, JOIN_S)
        host = self.host.__aexit__(None, None, None) if self._own_host else asyncio.sleep(0)
        ended, _ = await asyncio.gather(joined, host)
        if not ended:
            self.stats.count("capture.not_ended")
        self.ended.set()
        for future in (self._ready, self._opened):
            if not future.done():
                future.cancel()
            elif not future.cancelled():
                future.exception()

    # -- what it is

    @property
    def info(self) -> SourceInfo | None:
        """The source, once open."""
        return self._info

    @property
    def failure(self) -> BaseException | None:
        """What ended the session, if anything did."""
        return self._failure

    def status(self) -> SessionStatus:
        """The present state, cheap enough for every refresh."""
        held, source = self._status, self._capture.state
        now_s = self._capture.stream_time_s()
        state, reason = source.name, source.reason
        if self._failure is not None:
            state, reason = "failed", str(self._failure)
        elif self.ended.is_set():
            state = "ended"
        elif self._capture.paused:
            state = "paused"
        elif self._stream is None:
            state = "loading" if self._info is not None else "connecting"
        end_s = held.end_s if held is not None and held.end_s is not None else 0.0
        return SessionStatus(
            state=state,
            reason=reason,
            stream_s=now_s,
            lag_s=max(0.0, now_s - end_s),
            tokens=held.tokens if held is not None else 0,
            budget_tokens=self.config.stream.budget_tokens,
            depth=held.depth if held is not None else 0,
            ttft_ms=self._ttft_ms,
            dropped=self.stats.counter("feed.dropped.overload"),
            answers=len(self._answers),
            muted=self._capture.muted,
        )

    # -- questions

    async def ask(
        self,
        text: str,
        session: str = "",
        pruning: PruningConfig | None = None,
        decode: DecodeConfig | None = None,
        id: str = "",
    ) -> AsyncGenerator[Delta | Answer, None]:
        """Pieces of text, then one `Answer`. Leaving the loop early cancels within one step.

        Waits while the model loads and for the first chunk. Raises QuestionError, NothingHeld,
        Busy, or what ended the session.
        """
        stream = await self._when_ready()
        query = Query(
            text=text,
            id=id or f"q{next(self._numbers)}",
            asked_at_s=self._capture.stream_time_s(),
            session=session,
        )
        events: asyncio.Queue[Any] = asyncio.Queue()
        job = self._job(stream, query, pruning or self._pruning, decode, events)
        self._answers[query.id] = (job, events)
        try:
            self.host.worker.submit(job)
            while True:
                event = await events.get()
                if isinstance(event, BaseException):
                    raise event
                if event is None:
                    return
                if isinstance(event, Answer):
                    self._ttft_ms = event.ttft_ms
                    self.stats.timing("answer.ttft", event.ttft_ms)
                    self.stats.timing("answer.total", event.total_ms)
                    self.stats.count(f"answer.{event.finish}")
                yield event
        finally:
            job.cancelled.set()
            self.host.worker.wake()
            self._answers.pop(query.id, None)

    async def ready(self) -> None:
        """Wait until a question would be asked at once; raises what ended the session."""
        await self._when_ready()

    async def _when_ready(self) -> OmniStream:
        stream = await asyncio.shield(self._ready)
        if not self._material.is_set():
            try:
                async with asyncio.timeout(FIRST_CHUNK_WAIT_S):
                    await self._material.wait()
            except TimeoutError:
                self.stats.count("answer.waited_for_first_chunk")
        if self._failure is not None:
            raise self._failure
        return stream

    def _job(
        self,
        stream: OmniStream,
        query: Query,
        pruning: PruningConfig,
        decode: DecodeConfig | None,
        events: asyncio.Queue[Any],
    ) -> Job:
        def turns() -> Generator[Any, None, None]:
            # On the model thread, at the first turn: the newest material there is.
            open_chunk = self._capture.open_chunk() if self._feed.idle else None
            cancelled = job.cancelled.is_set
            yield from stream.ask_steps(query, pruning, decode, open_chunk, cancelled)

        job = Job(
            name=query.id,
            kind=Kind.PREFILL,
            turns=turns(),
            on_event=lambda event: self._post(events.put_nowait, event),
            on_end=lambda error: self._post(events.put_nowait, error),
        )
        return job

    def cancel(self, id: str) -> bool:
        """Cancel an answer in progress; it ends with finish ``cancelled``. False where there is
        none.
        """
        found = self._answers.get(id)
        if found is None:
            return False
        found[0].cancelled.set()
        self.host.worker.wake()
        return True

    async def reached(self, stream_s: float) -> None:
        """Wait until stream time reaches ``stream_s``, or the source ends."""
        done = asyncio.Event()
        if not self.ended.is_set():
            self._capture.when(stream_s, lambda: self._post(done.set))
            await done.wait()

    async def drained(self) -> None:
        """Wait until the source has ended and everything captured is in the trunk."""
        await self.ended.wait()
        while not self._feed.idle and self._failure is None:
            self._settled.clear()
            await self._settled.wait()

    # -- controls

    def pause(self, on: bool = True) -> None:
        """Stop or resume watching; what is held stays."""
        self._capture.pause(on)

    def mute(self, on: bool = True) -> None:
        """Throw sound away before anything sees it."""
        self._capture.mute(on)

    def set_retention(self, fraction: float) -> None:
        """Target mean retention of later questions; raises ConfigError with what is reachable."""
        values = {**self._pruning.model_dump(exclude_unset=True), "retention": fraction}
        values.pop("schedule", None)
        pruning = merged(self.config, {"pruning": values}, "retention").pruning
        if self._stream is not None:
            self._stream.check_reachable(pruning)
        self._pruning = pruning

    async def set_depth(self, depth: int | DepthName) -> int:
        """Ask for another prefill depth, reached in the background; returns it as a number."""
        stream = await asyncio.shield(self._ready)

        def change() -> int:
            layers = stream.layers_of(depth)
            stream.set_depth(layers)
            return layers

        return await asyncio.wrap_future(self.host.worker.call(change))

    def control_tokens_in(self, text: str) -> list[str]:
        """The model's control tokens spelt out in ``text``; none before the model is there."""
        return self._stream.control_tokens_in(text) if self._stream is not None else []

    async def forget(self, last_s: float | None = None) -> int:
        """Remove the last seconds (None: everything) everywhere; returns how many chunks left."""
        self._capture.forget()
        self._feed.drop_all("forgotten")
        for job, _ in list(self._answers.values()):
            job.cancelled.set()
        if self._stream is None:
            return 0
        stream = self._stream

        def remove() -> tuple[int, StreamStatus]:
            gone = stream.forget(last_s)
            return gone, stream.status()

        gone, self._status = await asyncio.wrap_future(self.host.worker.call(remove))
        self._settled.set()
        return gone

    # -- call-backs, on the event loop

    def _post(self, call: Callable[..., Any], *values: Any) -> None:
        """From any thread to the loop; nothing once the loop is gone."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(call, *values)

    def _committed(self, status: StreamStatus) -> None:
        self._status = status
        self._material.set()
        self._settled.set()

    def _source_ended(self, error: BaseException | None) -> None:
        if error is not None:
            if not self._opened.done():
                self._opened.set_exception(error)
            self._fail(error)
            return
        if not self._opened.done():
            self._opened.set_exception(SourceError("the source ended before it was open"))
        if self._feed.idle:
            self._material.set()  # nothing will come: whoever waits is told that nothing is held
        self.ended.set()

    def _fail(self, error: BaseException) -> None:
        self._begin.set()
        if self._failure is None:
            self._failure = error
            if not isinstance(error, OmniDropError):
                self.stats.count("session.unexpected_error")
        if not self._ready.done():
            self._ready.set_exception(error)
        self._material.set()
        for _, events in self._answers.values():
            events.put_nowait(error)
        self.ended.set()
        self._settled.set()


def _open_stream(model: OmniModel, config: Config) -> tuple[OmniStream, StreamStatus]:
    from omnidrop_stream.stream import OmniStream

    stream = OmniStream(model, config)
    return stream, stream.status()


def _resolve(future: asyncio.Future[Any], value: Any) -> None:
    if not future.done():
        future.set_result(value)
