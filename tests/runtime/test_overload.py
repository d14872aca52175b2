"""The overload ladder: up when chunks are late for long, down when there is room."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnidrop_stream.types import StreamKind
from runtime.overload import DWELL, ENGAGE_AT, LONGEST_DWELL, TRY_ANYWAY, Ladder, Step, steps_for

PERIOD = 2.0
ALL = tuple(Step)


def observe(ladder: Ladder, cost_s: float, times: int = 1, lost: int = 0) -> list[Step]:
    """The steps that the ladder moved to."""
    changes = [ladder.observe(0.0, cost_s, PERIOD, lost) for _ in range(times)]
    return [change.after for change in changes if change is not None]


def climbed(to: Step, cost_s: float = 10.0) -> Ladder:
    ladder = Ladder(ALL)
    while ladder.step < to:
        observe(ladder, cost_s)
    return ladder


def test_chunks_in_time_leave_it_alone() -> None:
    assert observe(Ladder(ALL), 1.9, times=500) == []


def test_a_few_late_chunks_leave_it_alone() -> None:
    ladder = Ladder(ALL)
    assert observe(ladder, 2.5, times=ENGAGE_AT - 1) == []
    assert observe(ladder, 0.5, times=ENGAGE_AT) == []
    assert observe(ladder, 2.5, times=ENGAGE_AT - 1) == []


def test_lateness_that_lasts_engages_one_step_at_a_time_in_the_order_of_the_design() -> None:
    moved = observe(Ladder(ALL), 10.0, times=100)
    assert moved == [
        Step.FEWER_FRAMES,
        Step.SMALLER_FRAMES,
        Step.STRONGER_MERGING,
        Step.AUDIO_ONLY,
        Step.SKIP,
    ]


def test_waiting_makes_a_chunk_late_as_well_as_working_does() -> None:
    ladder = Ladder(ALL)
    changes = [ladder.observe(1.5, 1.0, PERIOD) for _ in range(ENGAGE_AT)]
    assert changes[-1] is not None


def test_lost_chunks_engage_it_sooner() -> None:
    assert observe(Ladder(ALL), 10.0, times=ENGAGE_AT // 2, lost=4) == [Step.FEWER_FRAMES]


def test_a_step_is_undone_once_the_easier_one_would_fit() -> None:
    ladder = climbed(Step.FEWER_FRAMES)
    observe(ladder, 8.0, times=2)  # so much it saves
    calm = 0
    while not observe(ladder, 0.4):
        calm += 1
    assert ladder.step is Step.NORMAL
    assert DWELL - 1 <= calm <= 2 * DWELL


def test_a_step_is_kept_while_the_easier_one_would_not_fit() -> None:
    ladder = Ladder(ALL)
    while ladder.step is Step.NORMAL:
        observe(ladder, 3.0)
    # It saved half, so the easier step would still cost 3 s a chunk.
    assert observe(ladder, 1.5, times=TRY_ANYWAY * DWELL - 1) == []


def test_an_estimate_that_is_wrong_for_good_is_tried_after_a_long_calm() -> None:
    ladder = Ladder(ALL)
    while ladder.step is Step.NORMAL:
        observe(ladder, 3.0)
    assert observe(ladder, 1.5, times=TRY_ANYWAY * DWELL) == [Step.NORMAL]


def test_it_comes_all_the_way_down() -> None:
    assert observe(climbed(Step.SKIP), 0.1, times=200)[-1] is Step.NORMAL


def test_flapping_makes_it_wait_longer_each_time_up_to_a_limit() -> None:
    ladder, dwells = climbed(Step.FEWER_FRAMES), []
    for _ in range(8):
        while ladder.step is not Step.NORMAL:
            observe(ladder, 0.1)
        observe(ladder, 10.0, times=ENGAGE_AT)
        dwells.append(ladder.dwell)
    assert dwells[:4] == [8, 16, 32, 64]
    assert max(dwells) == LONGEST_DWELL


def test_a_long_calm_forgets_that_it_flapped() -> None:
    ladder = climbed(Step.FEWER_FRAMES)
    while ladder.step is not Step.NORMAL:
        observe(ladder, 0.1)
    observe(ladder, 10.0, times=ENGAGE_AT)
    assert ladder.dwell > DWELL
    observe(ladder, 0.1, times=20 * LONGEST_DWELL)
    assert ladder.dwell == DWELL


@pytest.mark.parametrize(
    ("kind", "fps", "merging", "left_out"),
    [
        (StreamKind.AV, 2.0, True, set()),
        (StreamKind.AV, 1.0, True, {Step.FEWER_FRAMES}),
        (StreamKind.AV, 2.0, False, {Step.STRONGER_MERGING}),
        (StreamKind.VIDEO, 2.0, True, {Step.AUDIO_ONLY}),
        (StreamKind.AUDIO, 2.0, True, set(ALL) - {Step.NORMAL, Step.SKIP}),
    ],
)
def test_steps_that_save_nothing_on_a_stream_are_skipped(
    kind: StreamKind, fps: float, merging: bool, left_out: set[Step]
) -> None:
    assert set(ALL) - set(steps_for(kind, fps, merging=merging)) == left_out


observations = st.lists(
    st.tuples(st.floats(0, 30), st.floats(0, 30), st.integers(0, 5)), max_size=200
)


@given(observations)
def test_it_never_moves_by_more_than_one_step_and_never_leaves_the_ladder(
    seen: list[tuple[float, float, int]],
) -> None:
    ladder = Ladder(ALL)
    for waited_s, cost_s, lost in seen:
        before = ladder.step
        change = ladder.observe(waited_s, cost_s, PERIOD, lost)
        assert abs(ladder.step - before) == (change is not None)


@given(observations, st.floats(0.0, 0.17))
def test_whatever_happened_it_comes_down_when_there_is_room(
    seen: list[tuple[float, float, int]], cost_s: float
) -> None:
    ladder = Ladder(ALL)
    for waited_s, seen_s, lost in seen:
        ladder.observe(waited_s, seen_s, PERIOD, lost)
    observe(ladder, cost_s, times=len(ALL) * LONGEST_DWELL)
    assert ladder.step is Step.NORMAL
