"""What ``omnidrop benchmark`` is asked for: benchmarks, and the rows of a table as cells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from omnidrop_stream.config import Config, explain, make_config, merged
from omnidrop_stream.errors import ConfigError
from omnidrop_stream.lab.benchmarks import BENCHMARKS
from omnidrop_stream.plan import NOTHING_DROPPED, policy_for

Table = Literal[1, 2, 3, 4, 6, 7]


class CellConfig(BaseModel):
    """A row of the table: what it is called, and the settings that make it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Annotated[str, Field(min_length=1, max_length=80)]
    ratio: Annotated[float, Field(gt=0.0, le=100.0)]
    """The retained ratio in percent that the row is printed under; what came out is told beside."""
    pruning: dict[str, Any] = Field(default_factory=dict)
    """Keys of the section ``pruning``, in place of those above."""
    intra: dict[str, Any] = Field(default_factory=dict)

    @property
    def name(self) -> str:
        """For tables and messages."""
        return f"{self.method} {self.ratio:g} %"


class BenchmarkConfig(BaseModel):
    """The section ``benchmark`` of a configuration."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sets: Annotated[tuple[str, ...], Field(min_length=1)]
    """Benchmarks, by name."""
    cells: Annotated[tuple[CellConfig, ...], Field(min_length=1)]
    """The first is what the others are compared with."""
    table: Table | None = None
    """The table of the paper whose form the report begins with; None: Table 2's."""
    max_frames: dict[str, Annotated[int, Field(ge=2, le=100_000)]] = Field(default_factory=dict)
    """Pictures of a clip at most, by benchmark, in place of the paper's 768 and 128."""

    @field_validator("sets")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name not in BENCHMARKS:
                raise ValueError(f"{name!r} is no benchmark; known: {', '.join(BENCHMARKS)}")
        return tuple(dict.fromkeys(value))

    @field_validator("cells")
    @classmethod
    def _told_apart(cls, value: tuple[CellConfig, ...]) -> tuple[CellConfig, ...]:
        names = [cell.name for cell in value]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"{twice!r} stands there twice; give each row its own method or ratio")
        return value


@dataclass(frozen=True, slots=True)
class Cell:
    """A row with its whole configuration."""

    name: str
    method: str
    ratio: float
    config: Config


@dataclass(frozen=True, slots=True)
class BenchmarkSettings:
    """Everything a run depends on besides the model and the data."""

    config: Config
    wanted: BenchmarkConfig
    cells: tuple[Cell, ...]

    def max_frames(self, name: str) -> int:
        """Pictures of a clip at most."""
        return self.wanted.max_frames.get(name, BENCHMARKS[name].max_frames)


def benchmark_settings(values: dict[str, Any], origin: str = "settings") -> BenchmarkSettings:
    """From a file's or the command line's mapping; raises ConfigError in one plain sentence."""
    rest = dict(values)
    given = rest.pop("benchmark", None)
    if not isinstance(given, dict):
        raise ConfigError(
            f"{origin}: the section benchmark is missing; it names sets and cells, as the files "
            "under configs/benchmarks/ do"
        )
    try:
        wanted = BenchmarkConfig.model_validate(given)
    except ValidationError as error:
        raise explain(error, BenchmarkConfig, f"{origin}: benchmark") from None
    config = make_config(rest, origin)
    return BenchmarkSettings(config, wanted, tuple(_cell(c, config, origin) for c in wanted.cells))


def _cell(cell: CellConfig, config: Config, origin: str) -> Cell:
    changes = {"pruning": cell.pruning, "intra": cell.intra}
    own = merged(config, {k: v for k, v in changes.items() if v}, f"{origin}: {cell.name}")
    try:
        policy_for(own.pruning, NOTHING_DROPPED)
    except ConfigError as error:
        raise ConfigError(f"{origin}: {cell.name}: {error}") from None
    return Cell(cell.name, cell.method, cell.ratio, own)
