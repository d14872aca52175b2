"""`StreamSession`: one live stream, watched while it is asked. An async context manager.

The event loop decides and waits; it touches neither torch nor av. Capture runs on the source's
thread, everything of the model on the model thread, and what passes between them is bounded.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from omnidrop_stream.config import Config, DecodeConfig, DepthName, PruningConfig
from omnidrop_stream.errors import NothingHeld, OmniDropError, SourceError
from omnidrop_stream.types import Answer, Chunk, Delta, Query, StreamKind
from runtime.answers import Answers
from runtime.capture import CaptureThread
from runtime.feed import ChunkFeed
from runtime.host import ModelHost
from runtime.keeping import Keeping
from runtime.loop_delay import watch_loop
from runtime.opening import not_coming, open_stream, with_retention
from runtime.sources import SourceOptions, open_source
from runtime.sources.base import LiveSource, Source, SourceInfo
from runtime.sources.pacing import Paced
from runtime.stats import Stats
from runtime.status import SessionStatus, Since, condition, lost_to_slowness, media, show_in
from runtime.watching import Watching

if TYPE_CHECKING:  # torch comes with the model, on its thread
    from omnidrop_stream.model.base import OmniModel
    from omnidrop_stream.stream import OmniStream
    from omnidrop_stream.stream_status import StreamStatus

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
        own. options: of a source given as text; ``wait_for_first`` counts for any: a source that
        cannot be had yet is waited for inside the session, instead of before it.
        """
        self.config = config or Config()
        self.stats = stats or Stats()
        if isinstance(source, str):
            source = open_source(source, fps=self.config.stream.fps, options=options)
        self._realtime = realtime
        self._own_host = host is None
        self.host = host or ModelHost(self.config.model, load)
        self._wall = wall
        self._source = source
        self._stream: OmniStream | None = None
        self._info: SourceInfo | None = None
        self._status: StreamStatus | None = None
        self._failure: BaseException | None = None
        self._numbers = itertools.count(1)
        self._pruning = self.config.pruning
        self._wait_for_first = options is not None and options.wait_for_first
        self._since = Since()
        self._starting: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._begin, self._paused, self._muted = (threading.Event() for _ in range(3))
        self.note = ""
        """What was settled differently from the settings, in a sentence; known with the model."""

    # -- life

    async def __aenter__(self) -> Self:
        """Start capture and model; returns once the source is open, raises what opening raises.

        With ``wait_for_first`` it returns at once.
        """
        self._loop = asyncio.get_running_loop()
        self.ended = asyncio.Event()
        self._opened: asyncio.Future[SourceInfo] = self._loop.create_future()
        self._ready: asyncio.Future[OmniStream] = self._loop.create_future()
        self._material = asyncio.Event()
        self._settled = asyncio.Event()
        watches, worker = self.config.stream.watches, self.host.worker
        self.watching = Watching(
            worker, self.stats, self._post, self._fail, self.ask, watches, self._realtime
        )
        self._feed = ChunkFeed(
            self.stats,
            wake=worker.wake,
            look=self.watching.look,
            held=self.watching.held,
            on_commit=lambda status: self._post(self._committed, status),
            on_error=lambda error: self._post(self._fail, error),
            live=self._realtime,
            load=lambda: worker.load.now().total,
        )
        share = self.config.stream.share
        self._keeping = Keeping(worker.load, self._feed, self.stats, share, self._realtime)
        show_in(self.stats, self.status)
        self._answers = Answers(self.host.worker, self.stats, self._post, self._open_chunk)
        if self._own_host:
            await self.host.__aenter__()
        self._capture = self._make_capture()
        self._capture.start()
        self._watching = self._loop.create_task(watch_loop(self.stats), name="watch-loop")
        self._starting = self._loop.create_task(self._start_stream(), name="start-stream")
        if self._wait_for_first:
            return self
        try:
            await asyncio.shield(self._opened)
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """`close`; raises the session's failure if the body raised nothing."""
        failure = await self.close()
        if error is None and failure is not None:
            raise failure

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
            on_open=lambda info: self._post(self._source_opened, info),
            on_end=lambda error: self._post(self._source_ended, error),
            wall=self._wall if self._realtime else None,
            kind=self._wanted_kind,
            begin=self._begin,
            paused=self._paused,
            muted=self._muted,
        )

    @property
    def _wanted_kind(self) -> StreamKind | None:
        stream = self.config.stream
        return stream.kind if "kind" in stream.model_fields_set else None

    async def _start_stream(self) -> None:
        try:
            info = await asyncio.shield(self._opened)
        except Exception:
            return  # whoever opens the session is told
        try:
            self._keeping.admit()
            opened = await open_stream(self.host, self.config, info, self._wanted_kind)
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self._fail(error)
            return
        self._stream, self._status, self.note = opened.stream, opened.status, opened.note
        if self._pruning is self.config.pruning:
            self._pruning = opened.config.pruning
        self._feed.attach(opened.stream, opened.steps)
        self.watching.attach(opened.stream)
        self._begin.set()
        self.host.worker.add_feed(self._feed)
        if not self._ready.done():
            self._ready.set_result(opened.stream)

    async def close(self) -> BaseException | None:
        """End everything within 2 s; returns what had ended the session, or did meanwhile."""
        await self.watching.close()
        self._answers.cancel_all()
        self._feed.close()
        self._capture.stop()
        self.host.worker.remove_feed(self._feed)
        if self._stream is not None:  # a session refers to itself: its window would wait for gc
            self.host.worker.call(self._stream.forget)
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
            future.cancel()
        return self._failure

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
        held, source, came = self._status, self._capture.state, self._capture.came()
        now_s, step = self._capture.stream_time_s(), self._feed.step
        now = condition(
            source=source,
            came=came,
            live=self._info is not None and self._info.live,
            opened=self._info is not None,
            loaded=self._stream is not None,
            trouble=self.host.trouble,
            paused=self._capture.paused,
            ended=self.ended.is_set(),
            failure=self._failure,
            step=step,
        )
        comes = media(source, came, muted=self._capture.muted)
        end_s = held.end_s if held is not None and held.end_s is not None else 0.0
        return SessionStatus(
            state=now.state,
            reason=now.reason,
            stream_s=now_s,
            lag_s=max(0.0, now_s - end_s),
            tokens=held.tokens if held is not None else 0,
            budget_tokens=self.config.stream.budget_tokens,
            depth=held.depth if held is not None else 0,
            ttft_ms=self._answers.ttft_ms,
            dropped=lost_to_slowness(self.stats),
            answers=len(self._answers),
            muted=self._capture.muted,
            code=now.code,
            since_s=self._since.lasted_s(f"{now.state} {now.code}"),
            video=comes.video,
            audio=comes.audio,
            chunk_age_s=self._feed.age_s,
            reconnects=source.reconnects,
            gaps=self.stats.counter("source.gaps"),
            step=int(step),
        )

    # -- questions

    async def ask(
        self,
        text: str,
        session: str = "",
        pruning: PruningConfig | None = None,
        decode: DecodeConfig | None = None,
        id: str = "",
        look_back_s: float | None = None,
    ) -> AsyncGenerator[Delta | Answer, None]:
        """Pieces of text, then one `Answer`. Leaving the loop early cancels within one step.
        look_back_s: see only the last so many seconds.

        Waits while the model loads and for the first chunk. Raises QuestionError, NothingHeld,
        Busy, or what ended the session.
        """
        stream = await self._when_ready()
        now_s = self._capture.stream_time_s()
        query = Query(text, id or f"q{next(self._numbers)}", now_s, session, look_back_s)
        answer = self._answers.ask(stream, query, pruning or self._pruning, decode)
        async with aclosing(answer) as events:
            async for event in events:
                yield event

    async def ready(self) -> None:
        """Wait until a question would be asked at once; raises what ended the session."""
        await self._when_ready()

    async def _when_ready(self) -> OmniStream:
        stream = await self._when_started()
        if not self._material.is_set():
            try:
                async with asyncio.timeout(FIRST_CHUNK_WAIT_S):
                    await self._material.wait()
            except TimeoutError:
                self.stats.count("answer.waited_for_first_chunk")
        if self._failure is not None:
            raise self._failure
        return stream

    async def _when_started(self) -> OmniStream:
        """The stream, once source and model are there: the model is waited for; a source that
        cannot be had is not.
        """
        if not self._opened.done() and self._capture.state.name != "offline":
            await asyncio.wait({self._opened}, timeout=FIRST_CHUNK_WAIT_S)
        if not self._opened.done():
            reason = self._capture.state.reason or "it has not answered yet"
            raise NothingHeld(
                f"the source is not there ({reason}), so nothing of it is held; it is tried again "
                "and again: ask once it is live"
            )
        return await asyncio.shield(self._ready)

    def _open_chunk(self) -> Chunk | None:
        """On the model thread: the open chunk as it would be taken in, where it follows the
        trunk.
        """
        chunk = self._capture.open_chunk() if self._feed.idle else None
        return self._feed.lightened(chunk) if chunk is not None else None

    def cancel(self, id: str) -> bool:
        """Cancel an answer in progress; it ends with finish ``cancelled``. False where there is
        none.
        """
        return self._answers.cancel(id)

    async def reached(self, stream_s: float) -> None:
        """Wait until stream time reaches ``stream_s``, or the source ends."""
        done = asyncio.Event()
        if not self.ended.is_set():
            self._capture.when(stream_s, lambda: self._post(done.set))
            await done.wait()

    async def drained(self) -> None:
        """Wait until the source has ended, everything captured is in the trunk, and everything
        watched for is told.
        """
        await self.ended.wait()
        while not self._feed.idle and self._failure is None:
            self._settled.clear()
            await self._settled.wait()
        await self.watching.settled()

    # -- controls

    def retry_now(self) -> bool:
        """Try a lost source, or a model that is waited for, again at once; False where the source
        is none that can be lost.
        """
        self.host.retry_now()
        return self._capture.retry_now()

    def pause(self, on: bool = True) -> None:
        """Stop or resume watching, also before the session is entered; what is held stays."""
        (self._paused.set if on else self._paused.clear)()

    def mute(self, on: bool = True) -> None:
        """Throw sound away before anything sees it; also before the session is entered."""
        (self._muted.set if on else self._muted.clear)()

    def set_retention(self, fraction: float) -> None:
        """Target mean retention of later questions; raises ConfigError with what is reachable."""
        pruning = with_retention(self.config, self._pruning, fraction)
        if self._stream is not None:
            self._stream.check_reachable(pruning)
        self._pruning = pruning

    async def set_depth(self, depth: int | DepthName) -> int:
        """Ask for another prefill depth, reached in the background; returns it as a number."""
        stream = await self._when_started()

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
        self._answers.cancel_all()
        self.watching.forget()
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
        if (refused := self._keeping.committed(status)) is not None:
            self._fail(refused)
        self.watching.committed()
        self._material.set()
        self._settled.set()

    def _source_opened(self, info: SourceInfo) -> None:
        self._info = info
        if not self._opened.done():
            self._opened.set_result(info)

    def _source_ended(self, error: BaseException | None) -> None:
        if error is not None:
            not_coming(self._opened, error)
            self._fail(error)
            return
        not_coming(self._opened, SourceError("the source ended before it was open"))
        if self._feed.idle:
            self._material.set()  # nothing will come: whoever waits is told that nothing is held
        self.ended.set()

    def _fail(self, error: BaseException) -> None:
        self._begin.set()
        if self._failure is None:
            self._failure = error
            if not isinstance(error, OmniDropError):
                self.stats.count("session.unexpected_error")
        not_coming(self._ready, error)
        self._material.set()
        self._answers.fail(error)
        self.ended.set()
        self._settled.set()
