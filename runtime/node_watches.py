"""The standing questions of a node's cameras: kept by name while sessions come and go."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

from omnidrop_stream.errors import Busy, OmniDropError
from omnidrop_stream.watch_config import WatchConfig
from runtime.session import StreamSession
from runtime.stats import Stats
from runtime.watch_telling import Told
from runtime.watch_types import WatchStage, WatchState

MOST_UNREAD = 256


class NodeWatches:
    """What each camera is to be watched for. Belongs to the event loop."""

    def __init__(self, stats: Stats) -> None:
        self._stats = stats
        self._wanted: dict[str, dict[str, WatchConfig]] = {}
        self._refused: dict[tuple[str, str], WatchState] = {}
        """By sessions that were opened since; the next one is asked again."""
        self._readers: list[asyncio.Queue[tuple[str, Told]]] = []

    def want(self, camera: str, watches: Mapping[str, WatchConfig]) -> None:
        """A camera was added, with these."""
        self._wanted[camera] = dict(watches)

    def drop(self, camera: str) -> None:
        """A camera was removed."""
        for name in self._wanted.pop(camera, {}):
            self._refused.pop((camera, name), None)

    async def set(
        self,
        camera: str,
        name: str,
        watch: WatchConfig,
        session: StreamSession | None,
        limit: int,
    ) -> WatchState:
        """Watch for it, instead of what had the name before. What is refused (UsageError,
        ModelMismatch, Busy: more than ``limit``, or than the model can carry) is raised, and what
        had the name before is watched for again.
        """
        wanted = self._wanted[camera]
        before = wanted.get(name)
        if before is None and len(wanted) >= limit:
            raise Busy(
                f"{camera} has {len(wanted)} standing questions, and stream.watches.limit allows "
                f"{limit}: remove one first"
            )
        self._refused.pop((camera, name), None)
        wanted[name] = watch
        if session is None:
            return _waiting(name, watch)
        session.watching.remove(name)
        try:
            return await session.watching.add(watch, name)
        except BaseException:
            if wanted.get(name) is watch:
                await self._back(camera, name, before, session)
            raise

    async def _back(
        self, camera: str, name: str, before: WatchConfig | None, session: StreamSession
    ) -> None:
        if before is None:
            self._wanted[camera].pop(name, None)
        else:
            self._wanted[camera][name] = before
            await self._put(camera, name, before, session)

    def remove(self, camera: str, name: str, session: StreamSession | None) -> bool:
        """Watch no longer for it; False where there is no such standing question."""
        self._refused.pop((camera, name), None)
        if session is not None:
            session.watching.remove(name)
        return self._wanted[camera].pop(name, None) is not None

    def states(self, camera: str, session: StreamSession | None) -> tuple[WatchState, ...]:
        """All of a camera's, as they are now; last those that the library's settings ask."""
        known: dict[str, WatchState] = {}
        if session is not None:
            known = {state.id: state for state in session.watching.states()}
        wanted = self._wanted.get(camera, {})
        named = [
            known.get(name) or self._refused.get((camera, name)) or _waiting(name, watch)
            for name, watch in wanted.items()
        ]
        return (*named, *(state for name, state in known.items() if name not in wanted))

    async def serve(self, camera: str, session: StreamSession) -> None:
        """Put what is wanted to a new session, and hand on what it tells, until it ends."""
        async with aclosing(session.watching.events()) as events:
            for name, watch in list(self._wanted.get(camera, {}).items()):
                # While one was put to it, the others may have been set anew, or removed.
                there = any(state.id == name for state in session.watching.states())
                if not there and self._wanted.get(camera, {}).get(name) is watch:
                    await self._put(camera, name, watch, session)
            async for told in events:
                self._tell(camera, told)

    async def _put(
        self, camera: str, name: str, watch: WatchConfig, session: StreamSession
    ) -> None:
        self._refused.pop((camera, name), None)
        try:
            await session.watching.add(watch, name)
        except OmniDropError as error:
            refused = WatchState(
                name, watch.text, watch.sound_only, WatchStage.REFUSED, str(error), refusal=error
            )
            self._refused[camera, name] = refused
            self._tell(camera, refused)

    async def events(self) -> AsyncGenerator[tuple[str, Told], None]:
        """Camera and event (or a state: it was refused late), from now on."""
        unread: asyncio.Queue[tuple[str, Told]] = asyncio.Queue(MOST_UNREAD)
        self._readers.append(unread)
        try:
            while True:
                yield await unread.get()
        finally:
            self._readers.remove(unread)

    def _tell(self, camera: str, told: Told) -> None:
        for reader in self._readers:
            if reader.full():
                self._stats.count("watch.dropped.unread")
                with contextlib.suppress(asyncio.QueueEmpty):
                    reader.get_nowait()
            reader.put_nowait((camera, told))


def _waiting(name: str, watch: WatchConfig) -> WatchState:
    return WatchState(name, watch.text, watch.sound_only, WatchStage.WAITING)
