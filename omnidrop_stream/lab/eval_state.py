"""The state of an evaluation: a file of JSON lines that only grows, so a run can go on."""

from __future__ import annotations

import json
from pathlib import Path

from omnidrop_stream.errors import UsageError
from omnidrop_stream.lab.eval_types import Record


class Pace:
    """How long the rest will take, from what this run has done so far."""

    def __init__(self, streams: int, began_s: float) -> None:
        self._streams, self._began_s = streams, began_s
        self._first: int | None = None

    def told(self, done: int, now_s: float) -> str:
        """`` (3 of 200 streams, about 12 min left)``; without the time until a stream is done."""
        if self._first is None:
            self._first = max(0, done - 1)
        own = done - self._first
        left_s = (now_s - self._began_s) / own * (self._streams - done) if own > 0 else None
        rest = "" if left_s is None else f", about {left_s / 60:.0f} min left"
        return f" ({done} of {self._streams} streams{rest})"


class StateFile:
    """A head and one record a line. A last line that was cut off is thrown away."""

    def __init__(self, path: Path, head: Record, command: str = "omnidrop eval") -> None:
        """Read what is there, or begin. Raises UsageError where it belongs to another run.

        command: whose state it is, for messages.
        """
        self._path = path
        self.records: list[Record] = []
        text = b""
        try:
            text = path.read_bytes() if path.exists() else b""
            whole = text[: text.rfind(b"\n") + 1]
            lines = [json.loads(line) for line in whole.splitlines()]
            if lines and lines[0] != head:
                raise UsageError(
                    f"{path} was begun with other settings or another model; give another --state "
                    "or remove it"
                )
            self.records = lines[1:]
            if len(whole) < len(text) or not lines:
                path.write_bytes(whole or (json.dumps(head) + "\n").encode())
        except ValueError:
            raise UsageError(
                f"{path} is no state file of {command}; give another --state or remove it"
            ) from None
        except OSError as error:
            reason = error.strerror or error
            raise UsageError(f"{path} cannot be used as --state ({reason})") from None

    def add(self, record: Record) -> None:
        """Write a finished piece of work; it is there when this returns."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        self.records.append(record)


def read_state(path: Path, command: str) -> list[Record]:
    """A state file's whole lines, its head first; raises UsageError for what is none."""
    try:
        text = path.read_bytes()
        lines = [json.loads(line) for line in text[: text.rfind(b"\n") + 1].splitlines()]
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror or error})") from None
    except ValueError:
        lines = []
    if not lines or not all(isinstance(line, dict) and "type" in line for line in lines):
        raise UsageError(f"{path} is no state file of {command}; give what --state has written")
    return lines
