"""Calls into libraries that may block for ever, made on a thread that can be left behind.

A sound system that has hung keeps whoever calls it; so nobody waits for it but this thread, and the
source that asked goes on, or ends, after its time is over.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")

_LOOK_EVERY_S = 0.05


class Stuck(Exception):
    """The call did not come back in time, or its result is no longer wanted."""


class _Job(Generic[T]):
    """One call and what became of it."""

    def __init__(self, call: Callable[[], T]) -> None:
        self._call = call
        self.done = threading.Event()
        self._result: list[T] = []
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            self._result.append(self._call())
        except BaseException as error:  # told to who asked
            self._error = error
        self.done.set()

    def result(self) -> T:
        if self._error is not None:
            raise self._error
        return self._result[0]


class BoundedCalls:
    """Makes calls one after the other on one thread of its own, which ends after ``close``."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: queue.SimpleQueue[_Job[Any] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._pending: _Job[Any] | None = None

    def call(
        self, call: Callable[[], T], limit_s: float, stopped: threading.Event | None = None
    ) -> T:
        """What ``call`` returns or raises. Raises Stuck after ``limit_s``, or once ``stopped``."""
        job: _Job[T] = _Job(call)
        self._put(job)
        until_s = time.monotonic() + limit_s
        while not job.done.wait(_LOOK_EVERY_S):
            if time.monotonic() >= until_s or (stopped is not None and stopped.is_set()):
                raise Stuck
        return job.result()

    def wait(self, call: Callable[[], T], limit_s: float) -> T | None:
        """What ``call`` returns or raises; None: it has not come back yet, and the next ``wait``
        goes on waiting for the same one.
        """
        job: _Job[T] | None = self._pending
        if job is None:
            job = self._pending = _Job(call)
            self._put(job)
        if not job.done.wait(limit_s):
            return None
        self._pending = None
        return job.result()

    def post(self, call: Callable[[], object]) -> None:
        """Make a call whose result nobody waits for."""
        self._put(_Job(call))

    def close(self, limit_s: float) -> bool:
        """Let the thread end after the calls made so far; False if it does not in ``limit_s``."""
        thread, self._thread = self._thread, None
        if thread is None:
            return True
        self._jobs.put(None)
        thread.join(limit_s)
        return not thread.is_alive()

    def _put(self, job: _Job[T]) -> None:
        self._jobs.put(job)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            job.run()
