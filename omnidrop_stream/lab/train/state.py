"""Checkpoints that a stage resumes from bit for bit, and its log of JSON lines."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch


class StageFiles:
    """Where one stage keeps its state (`<name>.pt`, replaced atomically) and its log
    (`log.jsonl`).
    """

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.name = name
        self.path = folder / f"{name}.pt"
        self.log_path = folder / "log.jsonl"
        self._began = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """The saved state, or None at the beginning."""
        if not self.path.exists():
            return None
        state: dict[str, Any] = torch.load(self.path, weights_only=True)
        return state

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace the saved state; an interruption leaves the old one."""
        part = self.path.with_suffix(".part")
        torch.save(dict(state), part)
        os.replace(part, self.path)

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
