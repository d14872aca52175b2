"""All policies by name, each with the settings that concern it."""

import difflib
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from omnidrop_stream.method.diversity import Normalisation
from omnidrop_stream.method.policies.base import PruningPolicy
from omnidrop_stream.method.policies.controls import (
    IntraOnly,
    KeepAll,
    LastToken,
    Random,
    RecentFirst,
)
from omnidrop_stream.method.policies.dash import Dash
from omnidrop_stream.method.policies.dycoke import DyCoke
from omnidrop_stream.method.policies.inputs import InputPruned, RandomInput
from omnidrop_stream.method.policies.omnidrop import AudioGuided, OmniDrop
from omnidrop_stream.method.policies.omnizip import OmniZip
from omnidrop_stream.method.policies.seats import SeatsInLayer
from omnidrop_stream.method.policies.seats_input import Seats
from omnidrop_stream.method.policies.window import InputStage
from omnidrop_stream.method.schedule import Schedule


@dataclass(frozen=True, slots=True)
class PolicySettings:
    """Everything that some policy reads; each takes what concerns it."""

    schedule: Schedule = field(default_factory=Schedule)
    tds_from_layer: int | None = None
    div_weight: float = 0.2
    normalise: Normalisation = "none"
    guard_key_chunk: bool = False
    seed: int = 0
    retention: float | None = 0.3
    """For policies that pace themselves; None where a schedule is given instead."""


def _omnidrop(s: PolicySettings) -> OmniDrop:
    return OmniDrop(s.schedule, s.tds_from_layer, s.div_weight, s.normalise, s.guard_key_chunk)


def _printed(name: str, normalise: Normalisation, guard: bool, s: PolicySettings) -> OmniDrop:
    """Algorithm 1 with exactly these of its named deviations, whatever the settings say."""
    return replace(_omnidrop(s), normalise=normalise, guard_key_chunk=guard, name=name)


def _own_pace(name: str, s: PolicySettings) -> float:
    if s.retention is None:
        raise ValueError(
            f"policy is {name!r}, which paces itself; allowed: a retention (pruning.retention, "
            "--retention), no schedule"
        )
    return s.retention


def _input(name: str, stage: InputStage, s: PolicySettings) -> InputPruned:
    return InputPruned(name, stage, _own_pace(name, s))


POLICIES: dict[str, Callable[[PolicySettings], PruningPolicy]] = {
    "omnidrop": _omnidrop,
    "omnidrop-printed": lambda s: _printed("omnidrop-printed", "none", False, s),
    "omnidrop-normalised": lambda s: _printed("omnidrop-normalised", "max", False, s),
    "omnidrop-guarded": lambda s: _printed("omnidrop-guarded", "none", True, s),
    "omnidrop-no-tds": lambda s: replace(
        _printed("omnidrop-no-tds", "none", False, s), div_weight=0.0
    ),
    "omnidrop-exponential": lambda s: replace(
        _omnidrop(s),
        schedule=replace(s.schedule, kind="exponential"),
        name="omnidrop-exponential",
    ),
    "audio-guided": lambda s: AudioGuided(_omnidrop(s)),
    "last-token": lambda s: LastToken(s.schedule),
    "random": lambda s: Random(s.schedule, s.seed),
    "recent-first": lambda s: RecentFirst(s.schedule),
    "seats-in-layer": lambda s: SeatsInLayer(_own_pace("seats-in-layer", s)),
    "seats-in-layer-keep-kv": lambda s: SeatsInLayer(
        _own_pace("seats-in-layer-keep-kv", s), forgets=False, name="seats-in-layer-keep-kv"
    ),
    "seats": lambda s: Seats(_own_pace("seats", s)),
    "omnizip": lambda s: _input("omnizip", OmniZip(), s),
    "omnizip-no-anchors": lambda s: _input("omnizip-no-anchors", OmniZip("none"), s),
    "omnizip-random-anchors": lambda s: _input(
        "omnizip-random-anchors", OmniZip("random", s.seed), s
    ),
    "dash": lambda s: _input("dash", Dash(), s),
    "dycoke": lambda s: _input("dycoke", DyCoke(), s),
    "dycoke-as-coded": lambda s: _input("dycoke-as-coded", DyCoke(as_coded=True), s),
    "random-input": lambda s: _input("random-input", RandomInput(s.seed), s),
    "intra-only": lambda s: IntraOnly(),
    "keep-all": lambda s: KeepAll(),
}


def make_policy(name: str, settings: PolicySettings | None = None) -> PruningPolicy:
    """The policy called `name`, with `settings` (default: the paper's)."""
    if name not in POLICIES:
        near = difflib.get_close_matches(name, POLICIES, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"policy is {name!r}; {hint}allowed: {', '.join(sorted(POLICIES))}")
    return POLICIES[name](settings or PolicySettings())
