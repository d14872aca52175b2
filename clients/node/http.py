"""``/metrics``, ``/healthz`` and ``/readyz`` of a node.

Starlette and uvicorn speak HTTP. ``healthz``: the loops live. ``readyz``: the model is loaded and
at least one camera is fresh. Where a token is set, every path asks for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from omnidrop_stream.errors import UsageError

END_S = 2.0


@dataclass(frozen=True, slots=True)
class Health:
    """One answer to "are you well": yes or no, and why."""

    ok: bool
    reasons: tuple[str, ...] = ()


class _Bearer(BaseHTTPMiddleware):
    """Refuses requests without the token, in constant time."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        super().__init__(app)
        self._wanted = f"Bearer {token}".encode()

    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        given = request.headers.get("authorization", "").encode("latin-1")
        if hmac.compare_digest(given, self._wanted):
            return await call_next(request)
        return PlainTextResponse(
            "A bearer token is needed: Authorization: Bearer ...\n",
            401,
            {"WWW-Authenticate": "Bearer"},
        )


def application(
    metrics: Callable[[], tuple[bytes, str]],
    alive: Callable[[], Awaitable[Health]],
    ready: Callable[[], Health],
    token: str = "",
) -> Starlette:
    """The three paths. metrics: the text and its content type."""

    async def show_metrics(request: Request) -> Response:
        body, kind = await asyncio.to_thread(metrics)
        return Response(body, media_type=kind)

    async def show_alive(request: Request) -> Response:
        return _told(await alive())

    async def show_ready(request: Request) -> Response:
        return _told(ready())

    routes = [
        Route("/metrics", show_metrics),
        Route("/healthz", show_alive),
        Route("/readyz", show_ready),
    ]
    guard = [Middleware(_Bearer, token=token)] if token else []
    return Starlette(routes=routes, middleware=guard)


def _told(health: Health) -> Response:
    body = {"ok": health.ok, "reasons": list(health.reasons)}
    return JSONResponse(body, 200 if health.ok else 503)


@asynccontextmanager
async def serving(app: Starlette, bind: str, port: int) -> AsyncIterator[int]:
    """Serve ``app`` inside the block; gives the port. Raises UsageError where it cannot be had."""
    family = socket.AF_INET6 if ":" in bind else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((bind, port))
        listener.listen()  # from now on nobody is refused, though answers wait for the server
    except OSError as error:
        listener.close()
        raise UsageError(
            f"http.bind = {bind}, http.port = {port}: cannot be had ({error.strerror}); choose "
            "another port, or 0 for any free one"
        ) from None
    config = uvicorn.Config(
        app, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=1
    )
    server = _Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]), name="http")
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(END_S):
                await asyncio.shield(task)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        listener.close()


class _Server(uvicorn.Server):
    """Leaves the process's signals to whoever owns the process."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Nothing is captured."""
        yield
