"""What ``omnidrop eval`` is asked for, and what it tells."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from omnidrop_stream.config import (
    Config,
    DepthName,
    Fraction,
    PruningConfig,
    explain,
    make_config,
    merged,
)
from omnidrop_stream.errors import ConfigError
from omnidrop_stream.method import PruningPolicy
from omnidrop_stream.plan import NOTHING_DROPPED, intra_for, policy_for
from omnidrop_stream.world import Split

Record = dict[str, Any]
"""A line of the state file: the head, or all answers of one stream."""


Variants = dict[str, dict[str, dict[str, Any]]]
"""By name: sections with the keys that differ."""


class GridConfig(BaseModel):
    """The section ``eval`` of a configuration: which streams, and the grid of settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    split: Literal["dev", "test"] = "test"
    """dev: the training voices, renderings and wordings in streams that training never drew, to
    choose settings by; test: what training never showed, to be run once.
    """
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
    variants: Variants = Field(default_factory=dict)
    """A name for other settings: of any section, as {short: {pruning: {diversity_weight: 0}}}."""
    policies: Annotated[tuple[str, ...], Field(min_length=1)] = ("keep-all", "omnidrop")
    """Names of policies, or of `variants`."""
    baselines: tuple[str, ...] = ()
    """Policies or variants that every other cell is compared with, question by question."""
    retentions: Annotated[
        tuple[Annotated[float, Field(gt=0.0, le=1.0)], ...], Field(min_length=1)
    ] = (0.30,)
    depths: Annotated[tuple[Annotated[int, Field(ge=0)] | DepthName, ...], Field(min_length=1)] = (
        "exact",
    )
    past_chunks: Annotated[int, Field(ge=8, le=4096)] = 24
    """Length of the streams on which eviction policies are compared."""
    past_share: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.5
    """Share of such a stream's bytes that the budget holds."""
    batch: Annotated[int, Field(ge=1, le=4096)] = 32
    """Questions that share one pass; 1: each alone through `OmniStream.ask`."""
    timed: Annotated[int, Field(ge=0)] = 3
    """Streams of which a question a cell also goes through `OmniStream.ask`: time, and a check."""

    @field_validator("chunks")
    @classmethod
    def _rising(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(sorted(set(value)))

    @field_validator("variants")
    @classmethod
    def _meant(cls, value: Variants) -> Variants:
        for name in value:
            _policy(name, value)
        return value

    @field_validator("policies")
    @classmethod
    def _known(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        for name in value:
            _policy(name, info.data.get("variants", {}))
        return value

    @field_validator("baselines")
    @classmethod
    def _played(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        for name in value:
            if name not in (known := info.data.get("policies", ())):
                raise ValueError(f"{name!r} is not among the policies ({', '.join(known)})")
        return value

    @field_validator("depths")
    @classmethod
    def _settled(cls, value: tuple[int | DepthName, ...]) -> tuple[int | DepthName, ...]:
        if "auto" in value:
            raise ValueError("auto depends on the machine's speed; give a number, exact or half")
        return value


def _varied(config: Config, name: str, variants: Variants) -> Config:
    sections = variants.get(name, {})
    named = {} if name in variants else {"policy": name}
    pruning = {**named, **sections.get("pruning", {})}
    if pruning.get("schedule") is not None:
        pruning["retention"] = None
    origin = f"variant {name}" if name in variants else "settings"
    return merged(config, {**sections, "pruning": pruning}, origin)


def _policy(name: str, variants: Variants) -> None:
    """Raise ValueError for a name that means nothing."""
    try:
        policy_for(_varied(Config(), name, variants).pruning, NOTHING_DROPPED)
    except ConfigError as error:
        told = str(error).removeprefix("pruning.")
        raise ValueError(told.replace("policy is ", "there is no policy ", 1)) from None


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
            Cell(policy, retention if self._paced(policy) else None, depth)
            for policy in grid.policies
            for retention in grid.retentions
            for depth in self._depths(policy)
        ]
        return tuple(dict.fromkeys(all_))

    @property
    def split(self) -> Split:
        """The world's split that the streams come from."""
        return "test" if self.grid.split == "test" else "train"

    def varied(self, name: str) -> Config:
        """The configuration under the policy or variant ``name``; ConfigError where it has none."""
        return _varied(self.config, name, self.grid.variants)

    def policy(self, name: str) -> PruningPolicy:
        """What ``name`` stands for, with a schedule that drops nothing."""
        return policy_for(self.varied(name).pruning, NOTHING_DROPPED)

    def _paced(self, name: str) -> bool:
        """Whether a target retention means anything to it."""
        given = self.varied(name).pruning.schedule is not None
        return self.policy(name).paced_by != "nothing" and not given

    def _depths(self, name: str) -> tuple[int | DepthName, ...]:
        """The grid's, unless a variant stands for one."""
        own = self.grid.variants.get(name, {}).get("stream", {})
        if "prefill_depth" in own:
            return (self.varied(name).stream.prefill_depth,)
        return self.grid.depths

    def pruning(self, cell: Cell) -> PruningConfig:
        """The cell's policy at the cell's retention."""
        config = self.varied(cell.policy)
        if cell.retention is None:
            return config.pruning
        changes = {"pruning": {"retention": cell.retention, "schedule": None}}
        return merged(config, changes).pruning

    def opening(self, cell: Cell, depth: int) -> Config:
        """How a stream is opened for the cell, at ``depth``: cells with the same can share one."""
        config = self.varied(cell.policy)
        free = {"policy": "intra-only", "retention": None, "schedule": None}
        intra = intra_for(config.pruning, config.intra).model_dump()
        changes = {"pruning": free, "intra": intra, "stream": {"prefill_depth": depth}}
        return merged(config, changes)


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
    schedule: tuple[float, ...]
    """Share of the unpruned tokens that entered each layer."""
    cost: dict[str, float | None]
    """FLOPs of a prefill, in all and after the question; milliseconds, where it was timed."""
    accuracy: dict[str, Mean]
    """By group of question kinds, ``single-hop`` and ``all`` among them."""
    kinds: dict[str, Mean]
    difference: Mean | None
    """Of all questions, to the first cell at the same length, question by question."""
    evidence: EvidenceScore | None


@dataclass(frozen=True, slots=True)
class Versus:
    """A cell less a baseline on the same questions, over all lengths (chunks None) or at one."""

    cell: Cell
    baseline: Cell
    chunks: int | None
    streams: int
    difference: Mean


@dataclass(frozen=True, slots=True)
class Gate:
    """Share right when most tokens leave once, at random, after each layer but the last."""

    share: float
    kept: Mean
    dropped: tuple[Mean, ...]
    loss: tuple[Mean, ...]
    """What that costs, question by question."""

    @property
    def middle(self) -> Mean:
        """The loss after half of the layers, where the paper's schedule has its midpoint."""
        return self.loss[(len(self.loss) - 1) // 2]


@dataclass(frozen=True, slots=True)
class Past:
    """One eviction policy at the same budget of bytes."""

    policy: str
    streams: int
    tokens: float
    bytes: float
    chunks: float
    """Chunks of which something is held."""
    right: dict[str, Mean]
    """By half of the stream."""
    less: dict[str, Mean]
    """Less the oldest-window baseline, question by question."""


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
    missing: tuple[Cell, ...] = ()
    """The same cells."""
    checks: tuple[Check, ...] = ()
    versus: tuple[Versus, ...] = ()
    gate: Gate | None = None
    past: tuple[Past, ...] = ()
    plain: tuple[int, int] | None = None
    """Of the questions also asked through `OmniStream`: same text, in all."""


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
