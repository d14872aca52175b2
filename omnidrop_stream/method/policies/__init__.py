"""A policy: which audiovisual tokens leave, and after which layer. One short file for each source.

`base` is the protocol, `omnidrop` the paper, `controls` what it has to beat, `seats` a peer that
prunes inside the decoder, `registry` all of them by name. The peers that prune before the decoder
are `omnizip`, `dash`, `dycoke` and `seats_input`: stages over a `window`, made a policy by
`inputs`.
"""

from omnidrop_stream.method.policies.base import Guidance, Pace, PruningPolicy
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
from omnidrop_stream.method.policies.registry import POLICIES, PolicySettings, make_policy
from omnidrop_stream.method.policies.seats import SeatsInLayer
from omnidrop_stream.method.policies.window import InputStage, Selection, Window

__all__ = [
    "POLICIES",
    "AudioGuided",
    "Dash",
    "DyCoke",
    "Guidance",
    "InputPruned",
    "InputStage",
    "IntraOnly",
    "KeepAll",
    "LastToken",
    "OmniDrop",
    "OmniZip",
    "Pace",
    "PolicySettings",
    "PruningPolicy",
    "Random",
    "RandomInput",
    "RecentFirst",
    "SeatsInLayer",
    "Selection",
    "Window",
    "make_policy",
]
