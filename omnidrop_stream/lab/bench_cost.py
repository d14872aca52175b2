"""How a benchmark measures: wall and processor time, peak allocation, conditions."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch.profiler import ProfilerActivity, profile

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Spread:
    """Samples of one quantity."""

    median: float
    min: float
    max: float
    samples: tuple[float, ...]

    @classmethod
    def of(cls, samples: Sequence[float]) -> Spread:
        """At least one sample."""
        return cls(statistics.median(samples), min(samples), max(samples), tuple(samples))


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many times less: ratio of medians; min and max set the extremes against each other."""

    median: float
    min: float
    max: float

    @classmethod
    def of(cls, more: Spread, less: Spread) -> Ratio:
        """``more`` by ``less``."""
        return cls(more.median / less.median, more.min / less.max, more.max / less.min)


@dataclass(frozen=True, slots=True)
class Cost:
    """One measurement. Processor time counts all threads; on a GPU it tells nothing and is 0."""

    wall_ms: float
    cpu_ms: float


class Stopwatch:
    """Time on one device: on CUDA everything that was launched has ended before it is read."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def now(self) -> float:
        """Seconds of wall clock."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def cpu(self) -> float:
        """Seconds of processor time of this process, all threads; on a GPU it tells nothing: 0."""
        return time.process_time() if self._device.type == "cpu" else 0.0

    def time(self, work: Callable[[], Result]) -> tuple[Result, Cost]:
        """Run ``work`` and tell what it took."""
        wall, cpu = self.now(), time.process_time()
        result = work()
        wall = self.now() - wall
        cpu = time.process_time() - cpu if self._device.type == "cpu" else 0.0
        return result, Cost(wall * 1e3, cpu * 1e3)

    def peak_bytes(self, work: Callable[[], object]) -> int:
        """Most bytes of tensors that ``work`` had allocated at once, beyond what was there."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
            before = torch.cuda.memory_allocated(self._device)
            torch.cuda.reset_peak_memory_stats(self._device)
            work()
            torch.cuda.synchronize(self._device)
            return int(torch.cuda.max_memory_allocated(self._device) - before)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
            work()
        with tempfile.TemporaryDirectory() as folder:
            trace = Path(folder) / "trace.json"
            watched.export_chrome_trace(str(trace))
            events = json.loads(trace.read_text("utf-8"))["traceEvents"]
        return _highest([e for e in events if e.get("name") == "[memory]"])


def _highest(events: list[dict[str, Any]]) -> int:
    held = most = 0
    for event in sorted(events, key=lambda e: (e["ts"], e["args"]["Ev Idx"])):
        held += int(event["args"]["Bytes"])
        most = max(most, held)
    return most


def conditions(device: torch.device) -> dict[str, Any]:
    """What a figure depends on besides the settings."""
    names = ("torch", "transformers", "numpy")
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "device": _device_name(device),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": [round(x, 2) for x in os.getloadavg()],
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in names},
    }


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"cpu: {named[0] if named else platform.processor() or 'unknown'}"


def _commit() -> str:
    """The checkout's commit, with ``+`` where files differ from it; "unknown" outside of one."""
    folder = Path(__file__).parent

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", *words], cwd=folder, capture_output=True, text=True, check=True, timeout=20
        )
        return done.stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--short") else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"
