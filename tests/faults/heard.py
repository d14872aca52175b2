"""What a live source's decoders heard FFmpeg complain about: they write it to their own log."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import av.logging

from runtime.sources import complaints


class _Heard(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@contextmanager
def heard() -> Iterator[list[str]]:
    """The lines, as they come. When it is over, every error that FFmpeg told in this process is
    among them: nothing was said past the decoders.
    """
    log, handler = logging.getLogger(complaints.__name__), _Heard()
    level, before = log.level, av.logging.get_last_error()[0]
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)
    try:
        yield handler.lines
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
    told = av.logging.get_last_error()[0] - before
    assert len(handler.lines) >= told, f"{told} errors told, {len(handler.lines)} heard"


@contextmanager
def listening() -> Iterator[None]:
    """FFmpeg's log is on, as in a program; afterwards it is as it was before any."""
    libav = logging.getLogger("libav")
    level = libav.level
    complaints.listen()
    try:
        yield
    finally:
        libav.setLevel(level)
        av.logging.set_skip_repeated(True)
        av.logging.set_level(None)
