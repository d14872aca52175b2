"""`SessionGroup`: many streams on one model, joining and leaving while the others run."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import MappingProxyType, TracebackType
from typing import Self

from omnidrop_stream.config import Config
from omnidrop_stream.errors import UsageError
from runtime.host import ModelHost
from runtime.session import StreamSession
from runtime.sources.base import Source
from runtime.sources.options import SourceOptions
from runtime.stats import Stats
from runtime.status import SessionStatus


class SessionGroup:
    """Sessions by name on one `ModelHost`; an async context manager inside the host's.

    A session that fails stays in the group, and says so, until it is removed; nothing of it reaches
    the others: each source has its own thread and queue, and the model thread takes the chunk that
    was due first.
    """

    def __init__(self, host: ModelHost) -> None:
        self.host = host
        self._sessions: dict[str, StreamSession] = {}
        self._joining: set[str] = set()

    @property
    def sessions(self) -> Mapping[str, StreamSession]:
        """Those that are open, in the order in which they joined."""
        return MappingProxyType(self._sessions)

    def status(self) -> dict[str, SessionStatus]:
        """The present state of each."""
        return {name: session.status() for name, session in self._sessions.items()}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove all, side by side; what ended one is not raised again."""
        await asyncio.gather(*(self.remove(name) for name in list(self._sessions)))

    async def add(
        self,
        name: str,
        source: str | Source,
        config: Config | None = None,
        *,
        options: SourceOptions | None = None,
        realtime: bool = True,
        stats: Stats | None = None,
        paused: bool = False,
        muted: bool = False,
    ) -> StreamSession:
        """Open a session; returns once its source is open, with ``options.wait_for_first`` at once.

        paused, muted: from before the first picture and sound.
        Raises UsageError for a name that is taken, and whatever opening raises; the others go on.
        """
        if name in self._sessions or name in self._joining:
            raise UsageError(f"there is a stream called {name!r} already; choose another name")
        session = StreamSession(source, config, self.host, realtime, stats, options=options)
        session.pause(paused)
        session.mute(muted)
        self._joining.add(name)
        try:
            await session.__aenter__()
        finally:
            self._joining.discard(name)
        self._sessions[name] = session
        return session

    async def remove(self, name: str) -> BaseException | None:
        """Close a session within 2 s; returns what had ended it, or did meanwhile, if anything did.
        Raises UsageError for an unknown name.
        """
        session = self._sessions.pop(name, None)
        if session is None:
            known = ", ".join(map(repr, self._sessions)) or "none"
            raise UsageError(f"there is no stream called {name!r}; known are: {known}")
        # What ended it is returned, not raised: the others are no part of it.
        return await session.close()
