"""``omnidrop live SOURCE``: watch and listen, and ask while it runs.

On a terminal one types (`live_screen`); with ``--ask`` or ``--json``, or in a pipe, a script runs
(`live_pipe`). Ends within 2 s on Ctrl-C (130), SIGTERM (143), the end of the source and any error
(its own code); a reader that closes stdout ends it with 0. What cannot be ended in time, a model
being loaded or a print into a full pipe, is left behind when the process exits.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from clients.live_output import Shown
from clients.live_pipe import PipeFront, Script
from clients.live_watch import watch_of
from clients.options import Flags, SourceFlags, kind_of, moments, settings, source_options
from clients.outputs import check_outputs
from clients.terminal import ReaderGone, complain, is_terminal, report, write_err
from omnidrop_stream.config import Config, make_config
from omnidrop_stream.errors import OmniDropError, UsageError
from omnidrop_stream.types import StreamKind
from runtime.memory import settle_heap

if TYPE_CHECKING:
    from clients.live_desk import Desk
    from runtime.host import ModelHost
    from runtime.sources.options import SourceOptions
    from runtime.stats import Stats

STDIN = "-"
LONGEST_RUN_S = 1e7
INTERRUPTED, TERMINATED = 130, 143
JOIN_S = 0.1


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the command line says besides the `Flags`."""

    ask: Sequence[str] = ()
    watch: Sequence[str] = ()
    at_s: Sequence[float] = ()
    for_s: float | None = None
    json: bool = False
    fast: bool = False
    trace: Path | None = None
    stats: bool = False
    quiet: bool = False


class Front(Protocol):
    """How a run meets people or programs."""

    async def show(self, event: Shown) -> None:
        """One event of the desk, or a line of a reply."""

    async def run(self, desk: Desk) -> int:
        """Ask and tell until done; returns the exit code."""

    async def ready(self) -> None:
        """Wait until it can be seen; only then the heavy work begins."""

    def interrupt(self) -> bool:
        """SIGINT; True where the run is to end."""

    async def close(self) -> None:
        """Leave everything tidy; bounded."""


def live(
    source: str | None,
    flags: Flags,
    taken: SourceFlags,
    wishes: Wishes,
    own_process: bool = False,
) -> int:
    """Run until done; returns the exit code. Raises OmniDropError, ReaderGone.

    source None: the first camera and the default microphone. own_process: nothing else lives in
    this process, so it may end here and now.
    """
    from runtime.models import default_model
    from runtime.sources.complaints import listen

    listen()
    config = settings(flags, default_model())
    config = _with_watches(_with_kind(config, kind_of(flags, config)), wishes.watch)
    script = _script(config, wishes)
    check_outputs({"--trace": wishes.trace})
    options = source_options(taken, os.environ)
    if source is None:
        from runtime.sources.devices import default_source

        source, told = default_source(options.microphone)
        if not wishes.quiet:
            complain(f"watching {told}")
    run = _Run(source, config, script, wishes, options)
    code, failure = 0, None
    try:
        settle_heap()
        code = asyncio.run(run.result())
    except (OmniDropError, ReaderGone) as error:
        failure = error
    left = _threads_left() if own_process else set()
    if left or (own_process and (run.interactive or code in (INTERRUPTED, TERMINATED))):
        _leave(code, failure, wishes.json, printing="omnidrop-print" in left)
    if failure is not None:
        raise failure
    return code


def _with_kind(config: Config, kind: StreamKind | None) -> Config:
    values = config.model_dump(exclude_unset=True)
    stream = {name: value for name, value in values.get("stream", {}).items() if name != "kind"}
    return make_config({**values, "stream": stream | ({"kind": kind} if kind is not None else {})})


def _with_watches(config: Config, texts: Sequence[str]) -> Config:
    """The configuration's standing questions and those of the command line."""
    watches = config.stream.watches
    asked = (*watches.questions, *(watch_of(text) for text in texts))
    if len(asked) > watches.limit:
        raise UsageError(
            f"there are {len(asked)} standing questions, and stream.watches.limit allows "
            f"{watches.limit}; give fewer --watch, or raise it"
        )
    watches = watches.model_copy(update={"questions": asked})
    return config.model_copy(
        update={"stream": config.stream.model_copy(update={"watches": watches})}
    )


def _script(config: Config, wishes: Wishes) -> Script:
    texts = [text for text in wishes.ask if text != STDIN]
    for text in texts:
        config.decode.check_question(text)
    times = moments(texts, wishes.at_s)
    if wishes.for_s is not None and not 0 < wishes.for_s <= LONGEST_RUN_S:
        raise UsageError(
            f"--for = {wishes.for_s:g} is not allowed: give seconds, more than 0 and at most "
            f"{LONGEST_RUN_S:g}"
        )
    return Script(
        questions=list(zip(texts, times, strict=True)),
        lines=sys.stdin if STDIN in wishes.ask else None,
        for_s=wishes.for_s,
        json=wishes.json,
        quiet=wishes.quiet,
    )


def _threads_left() -> set[str]:
    """Names of our threads that do not end."""
    ours = [thread for thread in threading.enumerate() if thread.name.startswith("omnidrop-")]
    for thread in ours:
        thread.join(JOIN_S)
    return {thread.name for thread in ours if thread.is_alive()}


def _leave(code: int, failure: Exception | None, as_json: bool, printing: bool) -> NoReturn:
    """End the process at once. Python would wait for a thread that still runs, or abort; and taking
    torch down takes seconds that somebody who quits does not have.
    """
    if isinstance(failure, OmniDropError):
        code = failure.exit_code
        report(failure, as_json=as_json and not printing)
    elif failure is None and code in (INTERRUPTED, TERMINATED):
        complain("interrupted" if code == INTERRUPTED else "terminated")
    with suppress(OSError, ValueError):
        if not printing:
            sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


class _Run:
    """One run: model, session, front and what ends them."""

    def __init__(
        self, source: str, config: Config, script: Script, wishes: Wishes, options: SourceOptions
    ) -> None:
        self._source = source
        self._config = config
        self._script = script
        self._wishes = wishes
        self._options = options
        self.interactive = False

    async def result(self) -> int:
        """The exit code; raises what went wrong."""
        from clients.live_desk import Desk
        from runtime.host import ModelHost
        from runtime.session import StreamSession
        from runtime.stats import Stats

        stats = Stats(trace=self._wishes.trace is not None)
        host = ModelHost(self._config.model, stats=stats)
        realtime = not self._wishes.fast
        session = StreamSession(
            self._source, self._config, host, realtime, stats, options=self._options
        )
        front = self._front(stats)
        desk = Desk(session, self._source, front.show)
        try:
            return await self._until_done(host, desk, front)
        finally:
            await front.close()
            self._write_down(stats)

    def _front(self, stats: Stats) -> Front:
        script = self._script
        asked = bool(script.questions) or script.lines is not None or script.json
        if asked or not (is_terminal(sys.stdin) and is_terminal(sys.stdout)):
            return PipeFront(script, stats)
        from clients.live_screen import Screen

        self.interactive = True
        return Screen(script.for_s)

    async def _until_done(self, host: ModelHost, desk: Desk, front: Front) -> int:
        loop = asyncio.get_running_loop()
        stop: asyncio.Future[int] = loop.create_future()

        def end(code: int) -> None:
            if not stop.done() and (code != INTERRUPTED or front.interrupt()):
                stop.set_result(code)

        for number, code in ((signal.SIGINT, INTERRUPTED), (signal.SIGTERM, TERMINATED)):
            loop.add_signal_handler(number, end, code)
        talk = loop.create_task(front.run(desk), name="front")
        tasks: list[asyncio.Task[Any]] = [talk]
        waits: set[asyncio.Future[Any]] = {stop, talk, desk.broken}
        try:
            first = loop.create_task(front.ready(), name="front ready")
            await asyncio.wait({*waits, first}, return_when=asyncio.FIRST_COMPLETED)
            async with host:
                hold = loop.create_task(desk.hold(), name="session")
                tasks += [first, hold, loop.create_task(desk.watch(), name="watch")]
                waits |= {hold}
                try:
                    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    await self._wind_up(desk, tasks)
        finally:
            await self._wind_up(desk, tasks)
        if stop.done():
            return stop.result()
        if desk.session.failure is not None:
            raise desk.session.failure
        for wait in waits - {stop, talk}:
            if wait.done() and not wait.cancelled() and (error := wait.exception()) is not None:
                raise error
        return talk.result()

    async def _wind_up(self, desk: Desk, tasks: list[asyncio.Task[Any]]) -> None:
        await desk.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _write_down(self, stats: Stats) -> None:
        if self._wishes.trace is not None:
            try:
                stats.write_trace(self._wishes.trace)
            except OSError as error:
                complain(f"the trace could not be written: {error}")
        if self._wishes.stats:
            write_err(json.dumps(stats.snapshot()))
