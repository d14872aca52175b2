"""The answers of one session in progress: questions become jobs of the model thread."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator
from typing import TYPE_CHECKING, Any

from omnidrop_stream.config import DecodeConfig, PruningConfig
from omnidrop_stream.types import Answer, Chunk, Delta, Query
from runtime.stats import Stats
from runtime.turns import Kind
from runtime.worker import Job, ModelWorker

if TYPE_CHECKING:  # torch comes with the model, on its thread
    from omnidrop_stream.stream import OmniStream

Post = Callable[..., None]
"""From any thread to the event loop: ``post(call, *values)``."""


class Answers:
    """What is being answered; belongs to the event loop."""

    def __init__(
        self,
        worker: ModelWorker,
        stats: Stats,
        post: Post,
        open_chunk: Callable[[], Chunk | None],
    ) -> None:
        """open_chunk: the newest material, asked for on the model thread at an answer's first
        turn.
        """
        self._worker = worker
        self._stats = stats
        self._post = post
        self._open_chunk = open_chunk
        self._running: dict[str, tuple[Job, asyncio.Queue[Any]]] = {}
        self.ttft_ms: float | None = None
        """Time to first token of the last answer."""

    def __len__(self) -> int:
        return len(self._running)

    async def ask(
        self,
        stream: OmniStream,
        query: Query,
        pruning: PruningConfig,
        decode: DecodeConfig | None,
    ) -> AsyncGenerator[Delta | Answer, None]:
        """Pieces of text, then one `Answer`. Leaving the loop early cancels within one step."""
        events: asyncio.Queue[Any] = asyncio.Queue()
        job = self._job(stream, query, pruning, decode, events)
        self._running[query.id] = (job, events)
        try:
            self._worker.submit(job)
            while True:
                event = await events.get()
                if isinstance(event, BaseException):
                    raise event
                if event is None:
                    return
                if isinstance(event, Answer):
                    self._count(event)
                yield event
        finally:
            job.cancelled.set()
            self._worker.wake()
            self._running.pop(query.id, None)

    def cancel(self, id: str) -> bool:
        """Cancel one; it ends with finish ``cancelled``. False where there is none."""
        found = self._running.get(id)
        if found is None:
            return False
        found[0].cancelled.set()
        self._worker.wake()
        return True

    def cancel_all(self) -> None:
        """Cancel every answer in progress."""
        for job, _ in list(self._running.values()):
            job.cancelled.set()

    def fail(self, error: BaseException) -> None:
        """Every answer in progress ends with ``error``."""
        for _, events in self._running.values():
            events.put_nowait(error)

    def _count(self, answer: Answer) -> None:
        self.ttft_ms = answer.ttft_ms
        self._stats.timing("answer.ttft", answer.ttft_ms)
        self._stats.timing("answer.total", answer.total_ms)
        self._stats.count(f"answer.{answer.finish}")
        used = answer.tokens
        if not used.entering:
            return  # cancelled before its prefill
        kept = round(used.unpruned * used.mean_entering)
        self._stats.count("answer.tokens.kept", kept)
        self._stats.count("answer.tokens.pruned", used.unpruned - kept)

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
            open_chunk = self._open_chunk()
            cancelled = job.cancelled.is_set
            yield from stream.ask_together(query, pruning, decode, open_chunk, cancelled)

        job = Job(
            name=query.id,
            kind=Kind.PREFILL,
            turns=turns(),
            on_event=lambda event: self._post(events.put_nowait, event),
            on_end=lambda error: self._post(events.put_nowait, error),
        )
        return job
