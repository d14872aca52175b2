"""What FFmpeg's log says while it decodes: some damage it neither raises nor marks.

PyAV switches that log off, and it is one for the whole process. So it is the program that turns it
on, by `listen`; where it stays off nobody complains. A decoder of one thread works in its caller's:
what is said during a call is said of that call.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import av.logging

_log = logging.getLogger(__name__)
_ASIDE = "SEI"
"""Side information: no picture rests on it."""


def listen() -> None:
    """Let decoders hear FFmpeg's errors: for a program, before it opens anything. What is said
    outside of them still goes nowhere, and who has chosen a level already keeps it.
    """
    if av.logging.get_level() is None:
        av.logging.set_level(av.logging.ERROR)
        logging.getLogger("libav").setLevel(logging.CRITICAL + 1)
    av.logging.set_skip_repeated(False)


@contextmanager
def complaints() -> Iterator[list[str]]:
    """What FFmpeg complains about in this thread, of pictures and sound: full once it is over."""
    said: list[str] = []
    with av.logging.Capture() as lines:
        yield said
    errors = [line for line in lines if line[0] <= av.logging.ERROR]
    for _, name, text in errors:
        _log.debug("%s: %s", name, text.strip())
    said += [text for _, _, text in errors if _ASIDE not in text]
