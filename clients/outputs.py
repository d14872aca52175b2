"""Where reports go: refused before the work begins, not after it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from omnidrop_stream.errors import UsageError


def check_outputs(places: Mapping[str, Path | None]) -> None:
    """Raise UsageError for the first place that cannot be written, by flag. Changes no file."""
    for flag, path in places.items():
        if path is not None:
            _check(flag, path)


def _check(flag: str, path: Path) -> None:
    reason = ""
    try:
        if not path.parent.is_dir():
            raise UsageError(f"{flag} = {path} cannot be written: there is no folder {path.parent}")
        if path.is_fifo() or path.is_socket():  # opening one waits for a reader
            return
        fresh = not os.path.lexists(path)
        path.open("a", encoding="utf-8").close()
        if fresh:
            path.unlink(missing_ok=True)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
    if reason:
        raise UsageError(
            f"{flag} = {path} cannot be written ({reason}): name a file in a folder that you may "
            "write to"
        )
