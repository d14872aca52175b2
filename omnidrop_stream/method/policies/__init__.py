"""A policy: which audiovisual tokens leave, and after which layer. One short file for each source.

`base` is the protocol, `omnidrop` the paper, `controls` what it has to beat, `seats` a peer that
prunes inside the decoder, `registry` all of them by name.
"""

from omnidrop_stream.method.policies.base import Guidance, Pace, PruningPolicy
from omnidrop_stream.method.policies.controls import (
    IntraOnly,
    KeepAll,
    LastToken,
    Random,
    RecentFirst,
)
from omnidrop_stream.method.policies.omnidrop import AudioGuided, OmniDrop
from omnidrop_stream.method.policies.registry import POLICIES, PolicySettings, make_policy
from omnidrop_stream.method.policies.seats import SeatsInLayer

__all__ = [
    "POLICIES",
    "AudioGuided",
    "Guidance",
    "IntraOnly",
    "KeepAll",
    "LastToken",
    "OmniDrop",
    "Pace",
    "PolicySettings",
    "PruningPolicy",
    "Random",
    "RecentFirst",
    "SeatsInLayer",
    "make_policy",
]
