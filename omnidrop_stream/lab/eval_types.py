"""What ``omnidrop eval`` is asked for, and what it tells."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from omnidrop_stream.config import Config, DepthName, Fraction, explain, make_config
from omnidrop_stream.errors import ConfigError
from omnidrop_stream.plan import NOTHING_DROPPED, UNSCHEDULED, policy_for

Record = dict[str, Any]
"""A line of the state file: the head, or all answers of one stream."""


class GridConfig(BaseModel):
    """The section ``eval`` of a configuration: which streams, and the grid of settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: Annotated[int, Field(ge=0)] = 100_000
    streams: Annotated[int, Field(ge=1, le=100_000)] = 60
    chunks: Annotated[tuple[Annotated[int, Field(ge=1, le=4096)], ...], Field(min_length=1)] = (
        4,
        8,
        16,
        32,
    )
    """Lengths at which a stream is asked."""
    gaps: Fraction = 0.25
    """Share of streams in which one chunk is missing."""
    policies: Annotated[tuple[str, ...], Field(min_length=1)] = ("keep-all", "omnidrop")
    retentions: Annotated[
        tuple[Annotated[float, Field(gt=0.0, le=1.0)], ...], Field(min_length=1)
    ] = (0.30,)
    depths: Annotated[tuple[Annotated[int, Field(ge=0)] | DepthName, ...], Field(min_length=1)] = (
        "exact",
    )

    @field_validator("chunks")
    @classmethod
    def _rising(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(sorted(set(value)))

    @field_validator("policies")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            try:
                policy_for(make_config({"pruning": {"policy": name}}).pruning, NOTHING_DROPPED)
            except ConfigError as error:
                raise ValueError(str(error).removeprefix("pruning.")) from None
        return value

    @field_validator("depths")
    @classmethod
    def _settled(cls, value: tuple[int | DepthName, ...]) -> tuple[int | DepthName, ...]:
        if "auto" in value:
            raise ValueError("auto depends on the machine's speed; give a number, exact or half")
        return value


@dataclass(frozen=True, slots=True)
class Cell:
    """One setting of the grid. retention: None where the policy drops nothing."""

    policy: str
    retention: float | None
    depth: int | str

    @property
    def name(self) -> str:
        """For tables."""
        kept = "" if self.retention is None else f" {self.retention * 100:g} %"
        return f"{self.policy}{kept}, depth {self.depth}"


@dataclass(frozen=True, slots=True)
class EvalSettings:
    """Everything a run depends on besides the model."""

    config: Config
    grid: GridConfig

    @property
    def cells(self) -> tuple[Cell, ...]:
        """The grid in its order, what is the same named once."""
        grid = self.grid
        all_ = [
            Cell(policy, None if policy in UNSCHEDULED else retention, depth)
            for policy in grid.policies
            for retention in grid.retentions
            for depth in grid.depths
        ]
        return tuple(dict.fromkeys(all_))


@dataclass(frozen=True, slots=True)
class Mean:
    """A share with its standard error (clustered by stream) and what it is a share of."""

    n: int
    value: float
    error: float | None
    """None where one stream alone tells nothing about spread."""


@dataclass(frozen=True, slots=True)
class EvidenceScore:
    """Of the correct answers that rest on something: is it among the named spans?"""

    hit: Mean
    """At least one true event lies in a named chunk."""
    chance: float
    """The same for as many chunks named at random."""
    all_hit: Mean
    """Every true event lies in a named chunk."""
    precision: Mean
    """Share of the named chunks that hold a true event."""
    named: float
    """Share of the window that is named."""
    most_spans: int


@dataclass(frozen=True, slots=True)
class Row:
    """One cell at one stream length."""

    cell: Cell
    chunks: int
    labels: dict[str, int]
    entering: float
    """Mean entering retention that was really reached."""
    leaving: float
    tokens: float
    """Audiovisual tokens that enter layer 0."""
    accuracy: dict[str, Mean]
    """By group of question kinds, ``single-hop`` and ``all`` among them."""
    kinds: dict[str, Mean]
    difference: Mean | None
    """Of all questions, to the first cell at the same length, question by question."""
    evidence: EvidenceScore | None


@dataclass(frozen=True, slots=True)
class Check:
    """A comparison of two ways to the same answers."""

    name: str
    about: dict[str, Any]
    n: int
    same_text: int
    first: Mean
    second: Mean
    difference: Mean
    unlike: tuple[dict[str, Any], ...] = ()
    """Some of the questions whose answers differ."""


@dataclass(frozen=True, slots=True)
class Report:
    """What came out, with everything it depends on."""

    conditions: dict[str, Any]
    settings: dict[str, Any]
    streams: int
    rows: tuple[Row, ...]
    unreachable: dict[str, str] = field(default_factory=dict)
    checks: tuple[Check, ...] = ()


def eval_settings(values: dict[str, Any], origin: str = "settings") -> EvalSettings:
    """From a file's or the command line's mapping; raises ConfigError in one plain sentence."""
    rest = dict(values)
    given = rest.pop("eval", None) or {}
    if not isinstance(given, dict):
        raise ConfigError(f"{origin}: eval must be a mapping, such as eval: {{streams: 20}}")
    try:
        grid = GridConfig.model_validate(given)
    except ValidationError as error:
        raise explain(error, GridConfig, f"{origin}: eval") from None
    return EvalSettings(make_config(rest, origin), grid)
