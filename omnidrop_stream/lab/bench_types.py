"""What a latency benchmark is asked for, and what it tells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from omnidrop_stream.config import Config
from omnidrop_stream.errors import ConfigError
from omnidrop_stream.lab.bench_cost import Ratio, Spread
from omnidrop_stream.lab.bench_engines import Engines
from omnidrop_stream.lab.bench_feed import WINDOW_CHUNKS
from omnidrop_stream.lab.bench_rolling import Rolling, RollingSettings

MOMENTS = ("boundary", "mid_chunk")
STOCK = ("stock_layers", "stock_with_encoders", "stock_as_shipped")


@dataclass(frozen=True, slots=True)
class BenchSettings:
    """What is measured. ``windows`` are in chunks, whole merging windows."""

    config: Config
    shape: str | None = "bench"
    """A shape for random weights; None: ``config.model`` is loaded."""
    windows: tuple[int, ...] = (8, 16, 32, 64)
    repeats: int = 5
    stock_repeats: int = 3
    """Rounds that the slow stock rows take part in, at most ``repeats``."""
    stock_seconds: float = 300.0
    """Once they have taken this long at a window (processor time on a CPU), they take part in no
    further round of it.
    """
    rolling: RollingSettings | None = None
    engines: bool = False
    """Also measure both engines side by side, at ``engine_windows``."""
    engine_windows: tuple[int, ...] = (16, 32, 64, 128)
    seed: int = 0

    def __post_init__(self) -> None:
        for window in self.windows:
            if window < WINDOW_CHUNKS or window % WINDOW_CHUNKS:
                raise ConfigError(
                    f"--chunks = {window} is not allowed: give even numbers from 2 on, because "
                    "merging windows hold two chunks"
                )
        for name, value in (("repeats", self.repeats), ("stock-repeats", self.stock_repeats)):
            if value < 1:
                raise ConfigError(f"--{name} = {value} is not allowed: give 1 or more")


@dataclass(frozen=True, slots=True)
class Row:
    """One path at one window and moment. Stock rows have no label, depth or arrival."""

    window: int
    moment: str
    path: str
    label: str
    depth: int | None
    unpruned: int
    per_layer: tuple[int, ...]
    """Audiovisual tokens entering each layer."""
    mean_entering: float
    ttft_ms: Spread
    cpu_ms: Spread
    parts_ms: dict[str, float]
    speedup: Ratio | None
    """How many times faster than ``stock_layers`` of the same window and moment."""
    cpu_speedup: Ratio | None
    arrival_ms: Spread | None
    """Work on arrival of one chunk: mean over a merging window at the full window."""
    real_time_factor: float | None
    held_bytes: int | None
    peak_bytes: int | None
    """Allocated while the question ran, beyond weights and what was held; at a boundary only."""


@dataclass(frozen=True, slots=True)
class Report:
    """What came out, with everything it depends on."""

    conditions: dict[str, Any]
    settings: dict[str, Any]
    rows: tuple[Row, ...] = ()
    rolling: Rolling | None = None
    engines: Engines | None = None
