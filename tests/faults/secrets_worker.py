"""The command line, called many times in one process with logging at its loudest.

One line of JSON on standard input: a list of {"arguments": [...], "password": ... or null}. So the
process list holds only what the program itself puts there. Everything comes out on stdout/stderr.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading

import av.logging

from clients.cli import main as command_line

LIMIT_S = 60.0
"""A call that takes longer counts as hanging; the worker then ends by itself."""


def main() -> None:
    """Every call, one after the other."""
    logging.basicConfig(level=1, stream=sys.stderr)
    for name in ("libav", "runtime", "asyncio", "clients"):
        logging.getLogger(name).setLevel(1)
    av.logging.set_level(av.logging.TRACE)
    for call in json.loads(sys.stdin.readline()):
        if call["password"] is not None:
            os.environ["OMNIDROP_PASSWORD"] = call["password"]
        guard = threading.Timer(LIMIT_S, lambda: os._exit(99))
        guard.start()
        try:
            code = command_line(call["arguments"])
        except SystemExit as ended:
            code = ended.code
        guard.cancel()
        os.environ.pop("OMNIDROP_PASSWORD", None)
        sys.stdout.flush()
        sys.stderr.flush()
        print(f"\nexit {code}", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
