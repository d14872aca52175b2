"""Whether the model can carry a stream, and how deep it goes: looked at while a session runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from omnidrop_stream.errors import Overloaded
from runtime.model_load import MEASURED_CHUNKS, ModelLoad
from runtime.stats import Stats

if TYPE_CHECKING:  # torch comes with the model, on its thread
    from omnidrop_stream.stream_status import StreamStatus


class Keeping:
    """One stream's admission and depth; belongs to the event loop."""

    def __init__(
        self, load: ModelLoad, stream: object, stats: Stats, share: float, realtime: bool
    ) -> None:
        """stream: what the load knows it by. share: of the model's time that chunks and standing
        questions may take. realtime: else the stream waits for the model, and is always carried.
        """
        self._load = load
        self._stream = stream
        self._stats = stats
        self._share = share if realtime else None
        self._committed = 0
        self._depth: int | None = None
        self._reason = ""
        stats.gauge("depth.layers", lambda: self._depth)
        stats.gauge("depth.reason", lambda: self._reason)

    def admit(self) -> None:
        """Raise Overloaded where one more stream, at the cost of the others, is too much."""
        refusal = "" if self._share is None else self._load.refusal_of_stream(self._share)
        if refusal:
            self._stats.count("stream.refused")
            raise Overloaded(refusal)

    def committed(self, status: StreamStatus) -> Overloaded | None:
        """A chunk joined the trunk. What ends the session, if by its own measured cost it is one
        too many: those that begin at the same time are admitted before anything is measured.
        """
        self._committed += 1
        self._look(status)
        if self._share is None or self._committed != MEASURED_CHUNKS:
            return None
        refusal = self._load.refusal_of_stream(self._share, self._stream)
        if not refusal:
            return None
        self._stats.count("stream.refused")
        return Overloaded(refusal)

    def _look(self, status: StreamStatus) -> None:
        before, self._depth, self._reason = self._depth, status.depth, status.depth_reason
        if before is not None and status.depth != before:
            deeper = status.depth > before
            self._stats.count("depth.deeper" if deeper else "depth.shallower")
