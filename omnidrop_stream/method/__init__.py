"""The paper, one short file for each idea. Imports torch, the standard library and nothing of ours.

Read in this order: `schedule` (how many tokens leave), `budget` (which schedule reaches a mean
retention), `importance` (how tokens are scored), `diversity` (which ones leave), `intra` (what is
pruned before the decoder), `policies` (all behind one interface: the paper's, its controls, its
peers).
"""

from omnidrop_stream.method.budget import (
    BudgetLimits,
    BudgetSolution,
    UnreachableRetention,
    closed_form_p_final,
    retention_curve,
    solve_budget,
)
from omnidrop_stream.method.diversity import (
    Normalisation,
    lowest_prune,
    temporal_diversity_prune,
)
from omnidrop_stream.method.importance import (
    audio_guided_importance,
    last_token_importance,
    query_importance,
)
from omnidrop_stream.method.intra import (
    MergeCarry,
    audio_saliency,
    block_attention,
    keep_salient,
    merge_clip,
    merge_patch,
    whole_clip_audio_saliency,
)
from omnidrop_stream.method.policies import (
    POLICIES,
    AudioGuided,
    Guidance,
    InputStage,
    IntraOnly,
    KeepAll,
    LastToken,
    OmniDrop,
    Pace,
    PolicySettings,
    PruningPolicy,
    Random,
    RecentFirst,
    SeatsInLayer,
    Selection,
    Window,
    make_policy,
)
from omnidrop_stream.method.schedule import (
    Schedule,
    ScheduleKind,
    catch_up_counts,
    exact_depth,
    first_dropping_layer,
    leaving_counts,
    mean_entering,
    mean_leaving,
    pruned_count,
    pruning_ratio,
    token_counts,
)

__all__ = [
    "POLICIES",
    "AudioGuided",
    "BudgetLimits",
    "BudgetSolution",
    "Guidance",
    "InputStage",
    "IntraOnly",
    "KeepAll",
    "LastToken",
    "MergeCarry",
    "Normalisation",
    "OmniDrop",
    "Pace",
    "PolicySettings",
    "PruningPolicy",
    "Random",
    "RecentFirst",
    "Schedule",
    "ScheduleKind",
    "SeatsInLayer",
    "Selection",
    "UnreachableRetention",
    "Window",
    "audio_guided_importance",
    "audio_saliency",
    "block_attention",
    "catch_up_counts",
    "closed_form_p_final",
    "exact_depth",
    "first_dropping_layer",
    "keep_salient",
    "last_token_importance",
    "leaving_counts",
    "lowest_prune",
    "make_policy",
    "mean_entering",
    "mean_leaving",
    "merge_clip",
    "merge_patch",
    "pruned_count",
    "pruning_ratio",
    "query_importance",
    "retention_curve",
    "solve_budget",
    "temporal_diversity_prune",
    "token_counts",
    "whole_clip_audio_saliency",
]
