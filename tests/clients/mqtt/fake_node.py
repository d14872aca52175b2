"""A node whose answers the test lets go, piece by piece; the service before it is the real one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from omnidrop_stream.config import DecodeConfig
from omnidrop_stream.errors import UnknownCamera
from omnidrop_stream.types import Answer, Coverage, Delta, TokenUse
from runtime.node import AskRequest, CameraStatus
from runtime.stats import Stats


def answer_to(request: AskRequest, text: str, finish: str = "stop") -> Answer:
    return Answer(
        id=request.id,
        question=request.text,
        text=text,
        finish=finish,
        session=request.session,
        asked_at_s=1.0,
        ttft_ms=1.0,
        total_ms=2.0,
        ttft_parts_ms={},
        prefill_depth=0,
        label="exact",
        policy="omnidrop",
        open_chunk=False,
        tokens=TokenUse(1, 1, 1.0, 1.0, ()),
        evidence=(),
        coverage=Coverage(0.0, 1.0),
        staleness_s=0.0,
        dropped_chunks=0,
        answer_tokens=len(text.split()),
    )


class FakeNode:
    """Answers with the question's own words, one a piece. While ``held``, an answer waits for
    ``let()`` before each piece.
    """

    def __init__(self, *cameras: str, piece_s: float = 0.0) -> None:
        self.stats = Stats()
        self.decode = DecodeConfig(max_tokens=16, question_chars=500)
        self.names = list(cameras or ("door",))
        self.piece_s = piece_s
        self.held = False
        self.errors: dict[str, Exception] = {}
        self.asked: list[tuple[str, AskRequest]] = []
        self.running: dict[str, asyncio.Event] = {}
        self.most_running = 0
        self.enabled = dict.fromkeys(self.names, True)
        self.muted = dict.fromkeys(self.names, False)
        self.forgot: list[tuple[str, float | None]] = []
        self.state, self.reason = "live", ""
        self._permits = asyncio.Semaphore(0)

    def let(self, pieces: int = 1) -> None:
        for _ in range(pieces):
            self._permits.release()

    def cameras(self) -> list[str]:
        return list(self.names)

    def about(self) -> dict[str, Any]:
        return {"version": "0", "model": "fake"}

    def status(self, camera: str) -> CameraStatus:
        if camera not in self.names:
            raise UnknownCamera(f"there is no camera called {camera!r}")
        on, muted = self.enabled[camera], self.muted[camera]
        return CameraStatus(camera, self.state, "", self.reason, 0.0, on, muted, None)

    async def ask(self, camera: str, request: AskRequest) -> AsyncGenerator[Delta | Answer, None]:
        self.asked.append((camera, request))
        if request.text in self.errors:
            raise self.errors[request.text]
        cancelled = self.running[request.id] = asyncio.Event()
        self.most_running = max(self.most_running, len(self.running))
        said: list[str] = []
        try:
            for seq, word in enumerate(request.text.split()):
                await self._turn(cancelled)
                if cancelled.is_set():
                    break
                said.append(word)
                yield Delta(request.id, seq, word + " ")
            finish = "cancelled" if cancelled.is_set() else "stop"
            yield answer_to(request, " ".join(said), finish)
        finally:
            self.running.pop(request.id, None)

    async def _turn(self, cancelled: asyncio.Event) -> None:
        if self.piece_s:
            await asyncio.sleep(self.piece_s)
        if not self.held:
            return
        stop = asyncio.ensure_future(cancelled.wait())
        go = asyncio.ensure_future(self._permits.acquire())
        try:
            await asyncio.wait({stop, go}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stop.cancel()
            go.cancel()

    def cancel(self, id: str) -> bool:
        running = self.running.get(id)
        if running is not None:
            running.set()
        return running is not None

    async def forget(self, camera: str, last_s: float | None = None) -> int:
        self.forgot.append((camera, last_s))
        return 3

    async def set_enabled(self, camera: str, on: bool) -> None:
        self.enabled[camera] = on

    async def set_muted(self, camera: str, on: bool) -> None:
        self.muted[camera] = on

    def control_tokens_in(self, text: str) -> list[str]:
        return ["<|im_end|>"] if "<|im_end|>" in text else []
