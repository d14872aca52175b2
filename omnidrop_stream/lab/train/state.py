"""Checkpoints that a stage resumes from bit for bit, and its log of JSON lines."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

PIECE_BYTES = 12_000_000
"""What a machine that is lent for minutes may hand back in one file."""


class Paused(Exception):
    """The time is up, and all is saved: the same command goes on from there."""


class StageFiles:
    """Where one stage keeps its state and its log (`log.jsonl`).

    The state is in pieces of at most 12 MB, `<name>.<what>.0` and on, and `<name>.json` says which;
    it is replaced as a whole: an interruption leaves the old one.
    """

    def __init__(self, folder: Path, name: str, until_s: float = math.inf) -> None:
        """until_s: monotonic seconds from which a save ends the run."""
        folder.mkdir(parents=True, exist_ok=True)
        self.name = name
        self.path = folder / f"{name}.json"
        self.log_path = folder / "log.jsonl"
        self._began, self._until_s = time.monotonic(), until_s

    def load(self) -> dict[str, Any] | None:
        """The saved state, or None at the beginning."""
        if not self.path.exists():
            return None
        pieces = json.loads(self.path.read_text(encoding="utf-8"))
        whole = b"".join((self.path.parent / piece).read_bytes() for piece in pieces)
        state: dict[str, Any] = torch.load(io.BytesIO(whole), weights_only=True)
        return state

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace the saved state. Raises Paused, all saved, where the time is up."""
        buffer = io.BytesIO()
        torch.save(dict(state), buffer)
        whole = buffer.getvalue()
        what = hashlib.sha256(whole).hexdigest()[:8]
        starts = range(0, len(whole), PIECE_BYTES)
        pieces = [f"{self.name}.{what}.{number}" for number in range(len(starts))]
        for piece, start in zip(pieces, starts, strict=True):
            (self.path.parent / piece).write_bytes(whole[start : start + PIECE_BYTES])
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps(pieces), encoding="utf-8")
        os.replace(part, self.path)
        for old in self.path.parent.glob(f"{self.name}.{'?' * 8}.*"):
            if old.name not in pieces:
                old.unlink()
        if time.monotonic() >= self._until_s:
            raise Paused

    def log(self, step: int, **values: Any) -> None:
        """Add one line to the log and show it."""
        line = {
            "stage": self.name,
            "step": step,
            "s": round(time.monotonic() - self._began, 1),
            **values,
        }
        with self.log_path.open("a") as out:
            out.write(json.dumps(line) + "\n")
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


def learning_rate(step: int, steps: int, warm: int, decay: float) -> float:
    """Factor in 0..1: linear warm-up, flat, then linear down to 3 % over the last `decay` of the
    steps.
    """
    left = (steps - step) / max(1.0, steps * decay)
    return min(1.0, (step + 1) / warm) * max(0.03, min(1.0, left))
