"""The towers beside the decoder: a CUDA stream of their own (``model.overlap``).

What is launched on one CUDA stream runs in that order, so questions and answers would wait for the
towers while a chunk is being encoded. On a stream beside, the decoder waits for them only where it
takes what they made; the chunk takes no turn until they are done (`wants.encode_wanted`), and
whatever else there is to do has the decoder meanwhile. Whether that pays was never measured: a
device that the towers fill alone has nothing to share.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

import torch

T = TypeVar("T")


class Beside(Protocol):
    """Where the towers' work goes."""

    def run(self, work: Callable[[], T]) -> T:
        """What ``work`` returns; its tensors hold nothing yet for who has not come to `join`."""

    def join(self) -> None:
        """From here on all that was run is there."""

    def done(self) -> bool:
        """Whether it is there already, so that nobody would wait in `join`."""


class InTurn:
    """`Beside` in the one order of all work."""

    def run(self, work: Callable[[], T]) -> T:
        """See `Beside`."""
        return work()

    def join(self) -> None:
        """See `Beside`."""

    def done(self) -> bool:
        """See `Beside`."""
        return True


class CudaBeside:
    """`Beside` on a CUDA stream; for one thread.

    The towers' tensors lie in memory of that stream, which is handed out again there as soon as
    nobody holds it, while the decoder may not have come to read it. So each run first waits for all
    that was launched before it. Of the decoder's own memory the towers read nothing.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._own = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._end = torch.cuda.Event()  # type: ignore[no-untyped-call]

    def run(self, work: Callable[[], T]) -> T:
        """See `Beside`."""
        self._own.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._own):
            made = work()
        self._end.record(self._own)
        return made

    def join(self) -> None:
        """See `Beside`. The device waits, not the host."""
        torch.cuda.current_stream(self._device).wait_stream(self._own)

    def done(self) -> bool:
        """See `Beside`."""
        return bool(self._end.query())  # type: ignore[no-untyped-call]
