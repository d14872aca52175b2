"""How a question will be pruned, decided before it runs: schedule, counts per layer, depth and its
label.

Pure functions of settings and counts (design sections 3.11 and 4).
"""

from __future__ import annotations

from dataclasses import dataclass

from omnidrop_stream.config import (
    DecodeConfig,
    IntraConfig,
    PruningConfig,
    ScheduleConfig,
    StreamConfig,
)
from omnidrop_stream.errors import ConfigError
from omnidrop_stream.method import (
    PolicySettings,
    PruningPolicy,
    Schedule,
    UnreachableRetention,
    catch_up_counts,
    make_policy,
    solve_budget,
)
from omnidrop_stream.types import StreamKind

AUDIO_TOKENS_PER_CHUNK = 50
NOTHING_DROPPED = Schedule("sigmoid", 0.0, 0.0, 0.5, 20.0)
UNSCHEDULED = ("keep-all", "intra-only")
"""Policies that drop nothing in the decoder, for which no target can be out of reach."""
TEMPLATE_TOKENS = 32
"""Room kept for the template's own tokens when positions are budgeted."""
EXPONENTIAL_START = Schedule("exponential", 0.001, 0.001)
"""From where the solver moves an exponential schedule; the paper names no values. Its p_init cannot
be 0, from which no growth by a factor begins.
"""
MIN_LAYERS = 3
R0_MARGIN = 1.05
"""A head start is planned for a slightly fuller window, so that a fluctuating r0 does not break its
promise.
"""
_MANY = 1_000_000
"""Tokens of an imagined window, large enough that rounding does not matter."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What one question's prefill does."""

    policy: PruningPolicy
    entering: tuple[int, ...]
    """Audiovisual tokens entering each layer, as this depth makes them."""
    label: str


def slots_within(
    max_positions: int, base: int, ids_per_chunk: int, stream: StreamConfig, decode: DecodeConfig
) -> int:
    """How many slots a window may take so that all ids stay within the model's trained range.

    base: the block's first id. Raises ConfigError where not even one window of two chunks fits.
    """
    rest = stream.history_tokens + decode.question_chars + decode.max_tokens + TEMPLATE_TOKENS
    slots = (max_positions - base - rest) // ids_per_chunk
    if slots < 2:
        raise ConfigError(
            f"prompt, history, question and answer take {base + rest} of this model's "
            f"{max_positions} positions and leave no room for a window of two chunks; lower "
            "history_tokens, question_chars or max_tokens"
        )
    return slots


def nominal_r0(stream: StreamConfig, intra: IntraConfig, frame_tokens: int) -> float:
    """Share of the towers' tokens that pruning within each modality leaves, over a full merging
    window.
    """
    if not intra.enabled:
        return 1.0
    video, audio, kept_video, kept_audio = _nominal_window(stream, intra, frame_tokens)
    return (kept_video + kept_audio) / (video + audio)


def nominal_video_share(stream: StreamConfig, intra: IntraConfig, frame_tokens: int) -> float:
    """Share of pictures among the tokens that a full merging window holds."""
    video, audio, *kept = _nominal_window(stream, intra, frame_tokens)
    held = kept if intra.enabled else (video, audio)
    return held[0] / max(1, sum(held))


def _nominal_window(
    stream: StreamConfig, intra: IntraConfig, frame_tokens: int
) -> tuple[int, int, int, int]:
    """Tokens of a merging window: of pictures and of sound, and those kept of each."""
    window_chunks = max(1, round(4 / stream.fps))
    windows = max(1, round(stream.fps / 4))
    video = windows * 4 * frame_tokens if stream.kind is not StreamKind.AUDIO else 0
    audio = window_chunks * AUDIO_TOKENS_PER_CHUNK if stream.kind is not StreamKind.VIDEO else 0
    kept_video = windows * (frame_tokens + 3 * int(intra.video_keep * frame_tokens))
    kept_audio = window_chunks * int(intra.audio_keep * AUDIO_TOKENS_PER_CHUNK)
    return video, audio, kept_video if video else 0, kept_audio if audio else 0


def needs_depth_zero(pruning: PruningConfig) -> bool:
    """Whether the policy lets no layer run before the question."""
    return policy_for(pruning, NOTHING_DROPPED).requires_depth_zero


def schedule_for(pruning: PruningConfig, n_layers: int, r0: float) -> Schedule:
    """The schedule that is given, or the one that reaches the target retention from ``r0``.

    Raises ConfigError with the reachable minimum where the target cannot be met.
    """
    policy = policy_for(pruning, NOTHING_DROPPED)
    if policy.paced_by == "nothing":
        return NOTHING_DROPPED
    if n_layers < MIN_LAYERS:
        raise ConfigError(
            f"this model has {n_layers} layers, and a schedule needs {MIN_LAYERS} or more; use a "
            "deeper model, or pruning.policy intra-only or keep-all"
        )
    target = pruning.retention if pruning.retention is not None else 1.0
    try:
        if policy.paced_by == "retention":
            policy.counts(round(r0 * _MANY), n_layers, _MANY)
            return NOTHING_DROPPED
        if pruning.schedule is not None:
            return _given(pruning.schedule, policy)
        if target >= r0:
            return NOTHING_DROPPED
        start = EXPONENTIAL_START if policy.paced_by == "exponential" else None
        return solve_budget(target, n_layers=n_layers, r0=r0, start=start).schedule
    except UnreachableRetention as error:
        raise ConfigError(f"retention = {target:.0%}: {error}") from None


def _given(given: ScheduleConfig, policy: PruningPolicy) -> Schedule:
    if policy.name == "omnidrop-exponential" and given.kind != "exponential":
        raise ConfigError(
            f"pruning.schedule.kind = {given.kind!r} is not allowed with policy {policy.name!r}: "
            "use exponential, or policy omnidrop"
        )
    try:
        return Schedule(given.kind, given.p_init, given.p_final, given.t_mid, given.beta)
    except ValueError as error:
        raise ConfigError(f"pruning.schedule: {error}") from None


def describe_schedule(pruning: PruningConfig, n_layers: int, r0: float) -> str:
    """For people: the schedule a full window gets, and how the budget solver came to it.

    Appendix E's closed form stands beside the exact value.
    """
    policy = policy_for(pruning, NOTHING_DROPPED)
    if policy.paced_by == "nothing":
        return f"{pruning.policy}: nothing leaves in the decoder"
    target = pruning.retention if pruning.retention is not None else 1.0
    if policy.paced_by == "retention":
        counts = policy.counts(round(r0 * _MANY), n_layers, _MANY)
        shares = ", ".join(f"{n / _MANY:.1%}" for n in counts)
        return f"{pruning.policy}: retention {target:.1%}, by layer {shares}"
    if pruning.schedule is not None:
        return f"schedule as given: {pruning.schedule.model_dump()}"
    if target >= r0:
        return f"retention {target:.1%}: {r0:.1%} enters, nothing leaves in the decoder"
    start = EXPONENTIAL_START if policy.paced_by == "exponential" else None
    solved = solve_budget(target, n_layers=n_layers, r0=r0, start=start)
    return f"retention {target:.1%}: {solved.describe()}"


def policy_for(pruning: PruningConfig, schedule: Schedule) -> PruningPolicy:
    """The policy by name with its settings; raises ConfigError naming the known ones."""
    settings = PolicySettings(
        schedule=schedule,
        tds_from_layer=pruning.diversity_from_layer,
        div_weight=pruning.diversity_weight,
        normalise=pruning.diversity_normalise,
        guard_key_chunk=pruning.diversity_guard,
        seed=pruning.seed,
        retention=None if pruning.schedule is not None else pruning.retention,
    )
    try:
        return make_policy(pruning.policy, settings)
    except ValueError as error:
        raise ConfigError(f"pruning.{error}") from None


def intra_for(pruning: PruningConfig, intra: IntraConfig) -> IntraConfig:
    """Pruning within each modality as a stream opened with this policy does it.

    keep-all prunes nothing anywhere; a single question may still use it on a pruned stream.
    """
    wanted = policy_for(pruning, NOTHING_DROPPED).intra
    return intra.model_copy(update={"enabled": intra.enabled and wanted})


def resolve_depth(
    stream: StreamConfig,
    intra: IntraConfig,
    pruning: PruningConfig,
    n_layers: int,
    frame_tokens: int,
) -> int:
    """``prefill_depth`` as a number of layers; ``auto`` starts as ``exact`` does."""
    wanted = stream.prefill_depth
    r0 = nominal_r0(stream, intra, frame_tokens)
    schedule = schedule_for(
        pruning, n_layers, r0
    )  # refuses an unreachable retention before anything runs
    policy = policy_for(pruning, schedule)
    if policy.guidance == "audio" and stream.kind is StreamKind.VIDEO:
        raise ConfigError(
            f"policy {policy.name!r} is guided by audio tokens, and a stream of kind video has no "
            "sound; use omnidrop, or kind av"
        )
    _check_input(policy, pruning, stream, frame_tokens)
    if isinstance(wanted, int):
        if wanted > n_layers:
            raise ConfigError(
                f"stream.prefill_depth = {wanted} is not allowed: this model has {n_layers} "
                "layers; "
                f"allowed: 0 to {n_layers}, exact, auto, half, read_side"
            )
        depth = wanted
    elif wanted == "half":
        depth = n_layers // 2
    elif wanted == "read_side":
        depth = n_layers
    else:
        depth = 0 if policy.requires_depth_zero else _exact(stream, pruning, n_layers, r0)
    if policy.requires_depth_zero and depth > 0:
        raise ConfigError(
            f"policy {policy.name!r} {_why_zero(policy)}: use prefill_depth 0, not {wanted}"
        )
    return depth


def _check_input(
    policy: PruningPolicy, pruning: PruningConfig, stream: StreamConfig, frame_tokens: int
) -> None:
    """Refuse a retention that a stage before the decoder cannot reach on a typical window."""
    if policy.input_stage is None or pruning.retention is None:
        return
    patches = 0 if stream.kind is StreamKind.AUDIO else 16 * round(stream.fps)
    n_audio = 0 if stream.kind is StreamKind.VIDEO else 16 * AUDIO_TOKENS_PER_CHUNK
    total = n_audio + patches * frame_tokens
    least = policy.input_stage.least(n_audio, [frame_tokens] * patches)
    if pruning.retention * total < least:
        raise ConfigError(
            f"retention = {pruning.retention:.0%}: policy {policy.name!r} cannot keep so few "
            f"tokens; allowed on this kind of stream: {least / total:.1%} to 100 %"
        )


def _exact(stream: StreamConfig, pruning: PruningConfig, n_layers: int, r0: float) -> int:
    fuller = min(1.0, r0 * R0_MARGIN)
    try:
        schedule = schedule_for(pruning, n_layers, fuller)
    except ConfigError:
        fuller = r0
        schedule = schedule_for(pruning, n_layers, r0)
    # Fewer tokens than a full budget never drop earlier, so its depth serves every window. The
    # first layer that drops still sees every token.
    n = stream.budget_tokens
    counts = policy_for(pruning, schedule).counts(n, n_layers, max(n, round(n / fuller)))
    return next((layer for layer in range(n_layers) if counts[layer] < n), n_layers)


def plan_question(
    pruning: PruningConfig,
    n0: int,
    n_unpruned: int,
    n_layers: int,
    depth: int,
    nominal: float,
    remembers: bool,
) -> Plan:
    """Counts and label for a window of ``n0`` tokens kept of ``n_unpruned``.

    remembers: whether some held states were made while chunks that have left since were still
    there. Where a window too young to be typical cannot reach the target from its own r0, the
    schedule of the typical window is used; the answer tells the retention that came out.
    """
    r0 = n0 / n_unpruned if n_unpruned else nominal
    try:
        schedule = schedule_for(pruning, n_layers, r0 or nominal)
    except ConfigError:
        schedule = schedule_for(pruning, n_layers, nominal)
    policy = policy_for(pruning, schedule)
    if policy.requires_depth_zero and depth > 0:
        raise ConfigError(
            f"policy {policy.name!r} {_why_zero(policy)}: open the stream with prefill_depth 0"
        )
    paper = _counts(policy, n0, max(n_unpruned, n0, 1), n_layers, nominal)
    drops = paper[-1] < n0
    if depth == n_layers and drops:
        return Plan(policy, paper, "read_side")
    entering = catch_up_counts(paper, depth)
    if depth > 0 and entering != paper:
        return Plan(policy, entering, "catch_up")
    return Plan(policy, entering, "exact_schedule" if depth > 0 and remembers else "exact")


def _why_zero(policy: PruningPolicy) -> str:
    if policy.input_stage is not None:
        return "chooses tokens before the first layer, when the question comes"
    return "scores with rows that only exist at question time"


def _counts(
    policy: PruningPolicy, n0: int, n_unpruned: int, n_layers: int, nominal: float
) -> tuple[int, ...]:
    """The policy's counts; as for a typical window where one too young cannot reach the target."""
    try:
        return policy.counts(n0, n_layers, n_unpruned)
    except UnreachableRetention as young:
        try:
            return policy.counts(n0, n_layers, max(n0, round(n0 / nominal)))
        except UnreachableRetention:
            raise ConfigError(str(young)) from None
