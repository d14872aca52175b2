"""`ModelHost`: one model on one thread, for any number of sessions."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Self

from omnidrop_stream.config import ModelConfig
from omnidrop_stream.errors import ModelError
from runtime.backoff import Outage
from runtime.models import load as load_named
from runtime.stats import Stats
from runtime.worker import JOIN_S, ModelWorker

if TYPE_CHECKING:  # torch comes with the model, on its thread
    from omnidrop_stream.model.base import OmniModel

LOADING_JOIN_S = 0.1


class ModelHost:
    """Loads the model on the model thread and keeps that thread; an async context manager.

    Entering returns at once; the model loads meanwhile (``await model()``).
    """

    def __init__(
        self,
        config: ModelConfig | None = None,
        load: Callable[[], OmniModel] | None = None,
        stats: Stats | None = None,
        wait_for_model: bool = False,
        draw: Callable[[], float] = random.random,
    ) -> None:
        """load: makes the model instead of the configured checkpoint (tests, random weights).
        wait_for_model: one that is not there, or not whole, is tried again and again (with the
        waits of `runtime.backoff`), instead of failing. draw: a random number in [0, 1).
        """
        settings = config or ModelConfig()
        self._load: Callable[[], OmniModel] = load or (lambda: load_named(settings))
        self.stats = stats or Stats()
        self.worker = ModelWorker(self.stats)
        self.trouble = ""
        """Why the model is not there yet; empty while it loads, and once it is there."""
        self._wait_for_model = wait_for_model
        self._outage = Outage(draw)
        self._loading: asyncio.Task[OmniModel] | None = None
        self._retry = asyncio.Event()
        self.warm = False
        """Whether a stream was opened before; for the model thread."""

    @property
    def loaded(self) -> bool:
        """Whether the model is there."""
        loading = self._loading
        return loading is not None and loading.done() and not loading.cancelled()

    async def model(self) -> OmniModel:
        """The model, once loaded; raises what the loading raised."""
        if self._loading is None:
            raise RuntimeError("use `async with` before asking for the model")
        return await asyncio.shield(self._loading)

    def retry_now(self) -> None:
        """Try to load again at once instead of waiting; nothing where none is waited for."""
        self._retry.set()

    async def __aenter__(self) -> Self:
        """Start the thread and the loading."""
        self.worker.start()
        self._loading = asyncio.get_running_loop().create_task(self._loaded(), name="load-model")
        # A failed load is reported by whoever awaits it; if nobody does, that is no warning.
        self._loading.add_done_callback(lambda f: f.cancelled() or f.exception())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Cancel what runs and end the thread (a load in progress is left to the daemon thread)."""
        wait_s = JOIN_S if self.loaded or self.trouble else LOADING_JOIN_S
        if self._loading is not None:
            self._loading.cancel()
        ended = await asyncio.to_thread(self.worker.close, wait_s)
        if not ended:
            self.stats.count("worker.not_ended")

    async def _loaded(self) -> OmniModel:
        while True:
            try:
                model = await asyncio.wrap_future(self.worker.call(self._load))
            except (ModelError, OSError) as error:
                if not self._wait_for_model:
                    raise
                self.trouble = " ".join(str(error).split())
                self.stats.count("model.load_failed")
            else:
                self.trouble = ""
                return model
            with suppress(TimeoutError):
                async with asyncio.timeout(self._outage.failed(time.monotonic())):
                    await self._retry.wait()
            self._retry.clear()
