"""The first and last thing that runs in ``omnidrop``'s process. Imports next to nothing, so that
Ctrl-C is met from the beginning; what a shell closed (``>&-``) is opened onto nothing.
"""

from __future__ import annotations

import os
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing takes longer than all else here
    from types import FrameType
    from typing import NoReturn

INTERRUPTED = 130
REFUSED = 1
_MODES = {"stdin": "r", "stdout": "w", "stderr": "w"}


def main() -> int:
    """Run the command line of this process; returns the exit code."""
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # else: a background job
    if ours:
        signal.signal(signal.SIGINT, _interrupted)
    closed = _open_closed()
    from clients import cli

    if "stdout" in closed and not cli.writes_nothing(sys.argv[1:]):
        sys.stderr.write(
            "omnidrop: standard output is closed: nobody would see what comes out; leave it open, "
            f"or send it to a file or to {os.devnull}\n"
        )
        return REFUSED
    try:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        code = cli.main()
    except KeyboardInterrupt:  # beside the places that expect it
        _interrupted()
    if code == INTERRUPTED:
        _leave(code)
    _give_up_unwritten()
    if ours:
        signal.signal(signal.SIGINT, lambda *_: os._exit(code))  # taking torch down takes seconds
    return code


def _leave(code: int) -> NoReturn:
    """Now, and with this code: Python ends by the signal where that fell into an ``exec``."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            continue
    os._exit(code)


def _give_up_unwritten() -> None:
    """What a full or closed place did not take, and has been told of, goes nowhere: Python's own
    last try would end the process with 120.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            if not stream.closed:
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _interrupted(number: int = signal.SIGINT, frame: FrameType | None = None) -> NoReturn:
    """Nothing is begun, or nothing is left: say so and go."""
    try:
        os.write(2, b"omnidrop: interrupted\n")
    finally:
        os._exit(INTERRUPTED)


def _open_closed() -> list[str]:
    """Open the standard streams that are closed, as nothing else may get their numbers."""
    closed = [name for name in _MODES if getattr(sys, name) is None]
    for name in closed:
        setattr(sys, name, open(os.devnull, _MODES[name], encoding="utf-8"))  # noqa: SIM115
    return closed


if __name__ == "__main__":
    sys.exit(main())
