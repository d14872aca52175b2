"""`Node`: named cameras on one model. They join, leave, fail and come back; anyone may ask them."""

from __future__ import annotations

import asyncio
import importlib.metadata
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from omnidrop_stream.config import Config, DecodeConfig, PruningConfig
from omnidrop_stream.errors import NothingHeld, OmniDropError, UnknownCamera, UsageError
from omnidrop_stream.types import Answer, Delta
from omnidrop_stream.watch_config import WatchConfig
from runtime.backoff import Outage
from runtime.group import SessionGroup
from runtime.host import ModelHost
from runtime.node_watches import NodeWatches
from runtime.opening import with_retention
from runtime.redact import redact
from runtime.session import StreamSession
from runtime.sources import SourceOptions
from runtime.sources.base import Source
from runtime.stats import Stats
from runtime.status import SessionStatus
from runtime.status import failed as why_failed
from runtime.watch_telling import Told
from runtime.watch_types import WatchState


@dataclass(frozen=True, slots=True)
class CameraSpec:
    """What a camera is made of."""

    source: str | Callable[[], Source]
    """What ``open_source`` takes, or what makes a source anew each time."""
    config: Config = field(default_factory=Config)
    options: SourceOptions | None = None
    enabled: bool = True
    muted: bool = False
    watches: Mapping[str, WatchConfig] = field(default_factory=dict)
    """Standing questions by name."""


@dataclass(frozen=True, slots=True)
class AskRequest:
    """A question to a camera; what is None is as the camera's settings say."""

    text: str
    id: str = ""
    session: str = ""
    look_back_s: float | None = None
    max_tokens: int | None = None
    retention: float | None = None


@dataclass(frozen=True, slots=True)
class CameraStatus:
    """What a camera says of itself. Without a password, for anyone to see."""

    camera: str
    state: str
    """One of `runtime.status.STATES`."""
    code: str
    """A key of `runtime.status.CODES`."""
    reason: str
    since_s: float
    """For how many seconds it has been so."""
    enabled: bool
    muted: bool
    session: SessionStatus | None
    """More of it, once it was opened."""

    def message(self, wall_s: float) -> dict[str, Any]:
        """As JSON, for ``P/<camera>/status``; times are wall time (POSIX seconds)."""
        told: dict[str, Any] = {
            "v": 1,
            "type": "camera",
            "camera": self.camera,
            "state": self.state,
            "code": self.code,
            "reason": self.reason,
            "since_wall_s": round(wall_s - self.since_s, 1),
            "enabled": self.enabled,
            "muted": self.muted,
        }
        if self.session is not None:
            held = self.session
            told |= {
                "video": held.video,
                "audio": held.audio,
                "chunk_age_s": None if held.chunk_age_s is None else round(held.chunk_age_s, 2),
                "lag_s": round(held.lag_s, 2),
                "reconnects": held.reconnects,
                "gaps": held.gaps,
                "dropped": held.dropped,
                "tokens": held.tokens,
                "budget_tokens": held.budget_tokens,
                "ttft_ms": None if held.ttft_ms is None else round(held.ttft_ms, 1),
            }
        return told


@dataclass(slots=True)
class _Camera:
    """A camera that is kept open."""

    name: str
    spec: CameraSpec
    stats: Stats
    enabled: bool
    muted: bool
    keeping: asyncio.Task[None] | None = None
    failure: OmniDropError | None = None
    failed_at_s: float = 0.0


class Node:
    """Cameras by name; an async context manager. All methods belong to the event loop.

    A camera whose session fails is opened again with the waits of `runtime.backoff`; a file that
    ends stays, and is asked about what is held of it.
    """

    def __init__(
        self,
        config: Config | None = None,
        host: ModelHost | None = None,
        stats: Stats | None = None,
        wait_for_model: bool = True,
        draw: Callable[[], float] | None = None,
    ) -> None:
        """host: a running one to share; without it the node has its own."""
        self.config = config or Config()
        self.stats = stats or Stats()
        self._own_host = host is None
        self.host = host or ModelHost(
            self.config.model, stats=self.stats, wait_for_model=wait_for_model
        )
        self.group = SessionGroup(self.host)
        self._draw = draw
        self._cameras: dict[str, _Camera] = {}
        self._asked: dict[str, str] = {}
        self._watches = NodeWatches(self.stats)

    async def __aenter__(self) -> Self:
        """Start loading the model; returns at once."""
        if self._own_host:
            await self.host.__aenter__()
        await self.group.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close all cameras, side by side, and the model."""
        await asyncio.gather(*(self.remove_camera(name) for name in list(self._cameras)))
        await self.group.__aexit__(kind, error, trace)
        if self._own_host:
            await self.host.__aexit__(kind, error, trace)

    # -- cameras

    @property
    def decode(self) -> DecodeConfig:
        """Bounds of questions and answers."""
        return self.config.decode

    def cameras(self) -> list[str]:
        """Names, in the order they were added."""
        return list(self._cameras)

    def about(self) -> dict[str, Any]:
        """Version and model."""
        return {
            "version": importlib.metadata.version("omnidrop-stream"),
            "model": redact(self.config.model.model),
        }

    def add_camera(self, name: str, spec: CameraSpec) -> None:
        """Open a camera and keep it open; returns at once. Raises UsageError for a taken name."""
        if name in self._cameras:
            raise UsageError(f"there is a camera called {name!r} already; choose another name")
        camera = _Camera(name, spec, Stats(), spec.enabled, spec.muted)
        self._cameras[name] = camera
        self._watches.want(name, spec.watches)
        camera.keeping = asyncio.get_running_loop().create_task(
            self._keep(camera), name=f"camera {name}"
        )

    async def remove_camera(self, name: str) -> None:
        """Close it within 2 s; the others go on. Raises UnknownCamera."""
        camera = self._camera(name)
        del self._cameras[name]
        self._watches.drop(name)
        if camera.keeping is not None:
            camera.keeping.cancel()
            with suppress(asyncio.CancelledError):
                await camera.keeping

    async def _keep(self, camera: _Camera) -> None:
        outage = Outage(self._draw) if self._draw is not None else Outage()
        while True:
            try:
                await self._hold(camera, outage)
            except Exception as error:
                known = isinstance(error, OmniDropError)
                camera.failure = (
                    error
                    if isinstance(error, OmniDropError)
                    else OmniDropError(f"a fault of ours: {error!r}")
                )
                camera.failed_at_s = time.monotonic()
                self.stats.count("camera.failed" if known else "camera.unexpected_error")
            await asyncio.sleep(outage.failed(time.monotonic()))

    async def _hold(self, camera: _Camera, outage: Outage) -> None:
        """Open it and keep it until it fails (raised); a source that ends by itself stays held."""
        spec = camera.spec
        source = spec.source if isinstance(spec.source, str) else spec.source()
        session = await self.group.add(
            camera.name,
            source,
            spec.config,
            options=spec.options,
            stats=camera.stats,
            paused=not camera.enabled,
            muted=camera.muted,
        )
        watching = asyncio.get_running_loop().create_task(self._watches.serve(camera.name, session))
        try:
            session.mute(camera.muted)
            session.pause(not camera.enabled)
            camera.failure = None
            outage.good(time.monotonic())
            await session.ended.wait()
            if session.failure is None:
                await asyncio.get_running_loop().create_future()  # held until removed
        finally:
            watching.cancel()
            failure = await asyncio.shield(self.group.remove(camera.name))
            await asyncio.gather(watching, return_exceptions=True)
        raise failure or OmniDropError("the source ended")

    def status(self, camera: str) -> CameraStatus:
        """The present state; raises UnknownCamera."""
        kept = self._camera(camera)
        session = self.group.sessions.get(camera)
        if session is not None:
            now = session.status()
            state, code, reason, since_s = now.state, now.code, now.reason, now.since_s
        else:
            now = None
            failed = kept.failure
            state, code, reason = ("connecting", "connecting", "")
            since_s = 0.0
            if failed is not None:
                told = why_failed(failed)
                state, code, reason = told.state, told.code, told.reason
                since_s = time.monotonic() - kept.failed_at_s
        return CameraStatus(
            camera=camera,
            state=state,
            code=code,
            reason=redact(reason),
            since_s=since_s,
            enabled=kept.enabled,
            muted=kept.muted,
            session=now,
        )

    def camera_stats(self, camera: str) -> Stats:
        """A camera's own counters; they outlive its sessions. Raises UnknownCamera."""
        return self._camera(camera).stats

    async def set_enabled(self, camera: str, on: bool) -> None:
        """Watch, or do not watch (what is held stays). Raises UnknownCamera."""
        self._camera(camera).enabled = on
        session = self.group.sessions.get(camera)
        if session is not None:
            session.pause(not on)

    async def set_muted(self, camera: str, on: bool) -> None:
        """Throw sound away before anything sees it. Raises UnknownCamera."""
        self._camera(camera).muted = on
        session = self.group.sessions.get(camera)
        if session is not None:
            session.mute(on)

    async def forget(self, camera: str, last_s: float | None = None) -> int:
        """Forget the last seconds (None: everything); returns how many chunks left. Raises
        UnknownCamera.
        """
        self._camera(camera)
        session = self.group.sessions.get(camera)
        return await session.forget(last_s) if session is not None else 0

    # -- standing questions

    async def set_watch(self, camera: str, name: str, watch: WatchConfig) -> WatchState:
        """Watch for it, instead of what had the name before. Raises UnknownCamera, UsageError,
        ModelMismatch, and Busy where the node cannot carry it (with the figures).
        """
        limit = self._camera(camera).spec.config.stream.watches.limit
        session = self.group.sessions.get(camera)
        return await self._watches.set(camera, name, watch, session, limit)

    def remove_watch(self, camera: str, name: str) -> bool:
        """Watch no longer for it; False where there is none of that name. Raises UnknownCamera."""
        self._camera(camera)
        return self._watches.remove(camera, name, self.group.sessions.get(camera))

    def watches(self, camera: str) -> tuple[WatchState, ...]:
        """A camera's standing questions as they are now. Raises UnknownCamera."""
        self._camera(camera)
        return self._watches.states(camera, self.group.sessions.get(camera))

    def watch_events(self) -> AsyncGenerator[tuple[str, Told], None]:
        """Camera and what happened there, from now on."""
        return self._watches.events()

    # -- questions

    async def ask(self, camera: str, request: AskRequest) -> AsyncGenerator[Delta | Answer, None]:
        """Pieces of text, then one `Answer`; leaving the loop early cancels within one step.

        Waits for model and first chunk. Raises UnknownCamera, NothingHeld, QuestionError,
        ConfigError, Busy, or what ended the camera's session.
        """
        session = self._session(camera)
        decode = session.config.decode
        if request.max_tokens is not None:
            decode = decode.model_copy(update={"max_tokens": request.max_tokens})
        if request.id:
            self._asked[request.id] = camera
        answer = session.ask(
            request.text,
            request.session,
            pruning=_pruning(session.config, request.retention),
            decode=decode,
            id=request.id,
            look_back_s=request.look_back_s,
        )
        try:
            async with aclosing(answer) as events:
                async for event in events:
                    yield event
        finally:
            self._asked.pop(request.id, None)

    def cancel(self, id: str) -> bool:
        """End an answer early (its finish is ``cancelled``); False where none is in progress."""
        session = self.group.sessions.get(self._asked.get(id, ""))
        return session is not None and session.cancel(id)

    def control_tokens_in(self, text: str) -> list[str]:
        """The model's control tokens spelt out in a text; they are read as plain characters."""
        for session in self.group.sessions.values():
            if found := session.control_tokens_in(text):
                return found
        return []

    def _camera(self, name: str) -> _Camera:
        camera = self._cameras.get(name)
        if camera is None:
            known = ", ".join(self._cameras) or "none"
            raise UnknownCamera(f"there is no camera called {name!r}; known are: {known}")
        return camera

    def _session(self, name: str) -> StreamSession:
        camera = self._camera(name)
        session = self.group.sessions.get(name)
        if session is None:
            why = redact(camera.failure) if camera.failure is not None else "it is being opened"
            raise NothingHeld(f"the camera {name!r} is not there: {why}; ask again once it is")
        return session


def _pruning(config: Config, retention: float | None) -> PruningConfig | None:
    """The camera's pruning with another target; None: as it is."""
    return None if retention is None else with_retention(config, config.pruning, retention)
