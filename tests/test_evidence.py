"""Which seconds an answer rests on, and which it could see."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from omnidrop_stream.cache import Segment
from omnidrop_stream.evidence import MAX_SHARE, MAX_SPANS, coverage_of, name_evidence
from omnidrop_stream.types import ChunkFlags, ChunkTokens, Gap

EMPTY = torch.zeros(0, 1, 1, 1)


def segment(
    index: int, kinds: str = "va", start_s: float | None = None, length_s: float = 2.0, wall=None
) -> Segment:
    modality = torch.tensor([0 if k == "v" else 1 for k in kinds], dtype=torch.uint8)
    tokens = ChunkTokens(
        torch.zeros(len(kinds), 1), modality, torch.zeros(3, len(kinds)), len(kinds), 0
    )
    begin = 2.0 * index if start_s is None else start_s
    return Segment(
        chunk=index,
        epoch=0,
        window=index // 2,
        start_s=begin,
        end_s=begin + length_s,
        wall_time_s=wall,
        flags=ChunkFlags(),
        tokens=tokens,
        keys=EMPTY,
        values=EMPTY,
        hidden=None,
        seen_from=0,
    )


def named(values: list[tuple[float, float]], **options):
    """Evidence of chunks with these (video, audio) scores."""
    held = [segment(i, **options) for i in range(len(values))]
    return name_evidence(torch.tensor(values).flatten(), held)


scores = st.lists(
    st.tuples(st.floats(0, 1, width=32), st.floats(0, 1, width=32)), min_size=1, max_size=64
)


@given(scores)
def test_at_most_three_spans_and_15_percent_with_weights_up_to_one(values):
    spans = named(values)
    assert len(spans) <= MAX_SPANS
    covered = {t for s in spans for t in range(int(s.from_s), int(s.to_s))}
    assert len(covered) <= max(MAX_SHARE * 2 * len(values), 2) + 1e-6
    assert sum(s.weight for s in spans) <= 1.0 + 1e-9
    assert all(0 < s.weight <= 1.0 for s in spans)
    assert [s.weight for s in spans] == sorted((s.weight for s in spans), reverse=True)


@given(scores)
def test_something_is_named_wherever_anything_was_attended_to(values):
    assert bool(named(values)) == any(v > 0 for pair in values for v in pair)


@given(scores)
def test_spans_of_one_modality_neither_overlap_nor_touch(values):
    spans = named(values)
    for a in spans:
        for b in spans:
            if a is not b and a.modality == b.modality:
                assert a.to_s < b.from_s or b.to_s < a.from_s


def test_the_strongest_chunk_and_modality_come_first():
    values = [(0.1, 0.1)] * 40
    values[7], values[20] = (0.1, 0.9), (0.5, 0.1)
    first, second = named(values)[:2]
    assert (first.from_s, first.to_s, first.modality) == (14.0, 16.0, "audio")
    assert (second.from_s, second.to_s, second.modality) == (40.0, 42.0, "video")


def test_chunks_side_by_side_join():
    values = [(0.0, 0.0)] * 40
    values[9] = values[10] = values[11] = (0.5, 0.0)
    (span,) = named(values)
    assert (span.from_s, span.to_s, span.modality, span.weight) == (18.0, 24.0, "video", 1.0)


def test_a_chunk_between_two_spans_joins_them():
    values = [(0.0, 0.0)] * 40
    values[9], values[10], values[11] = (0.9, 0.0), (0.3, 0.0), (0.8, 0.0)
    (span,) = named(values)
    assert (span.from_s, span.to_s) == (18.0, 24.0)


def test_chunks_with_a_hole_between_them_do_not_join():
    held = [segment(i) for i in range(20)] + [segment(i + 5) for i in range(20, 40)]
    values = torch.zeros(40, 2)
    values[19, 0] = values[20, 0] = 0.5
    spans = name_evidence(values.flatten(), held)
    assert sorted((s.from_s, s.to_s) for s in spans) == [(38.0, 40.0), (50.0, 52.0)]


def test_a_score_like_the_streams_mean_is_no_evidence():
    values = [(0.2, 0.4)] * 20
    values[3] = (0.3, 0.4)
    spans = named(values)
    assert [(s.from_s, s.modality) for s in spans] == [(6.0, "video")]
    assert spans[0].weight == 1.0


def test_nothing_gives_no_evidence():
    assert name_evidence(torch.zeros(0), []) == ()
    assert name_evidence(torch.zeros(0), [segment(0, "")]) == ()
    assert named([(0.0, 0.0)] * 5) == ()


def test_a_single_chunk_is_its_own_evidence():
    spans = named([(0.3, 0.1)])
    assert [(s.from_s, s.to_s, s.modality, s.weight) for s in spans] == [
        (0.0, 2.0, "video", 0.75),
        (0.0, 2.0, "audio", 0.25),
    ]


def test_one_chunk_may_always_be_named_although_the_oldest_is_a_short_one():
    held = [segment(0, length_s=0.4), *(segment(i) for i in range(1, 4))]
    values = torch.zeros(4, 2)
    values[2, 1] = 0.9
    (span,) = name_evidence(values.flatten(), held)
    assert (span.from_s, span.to_s, span.modality) == (4.0, 6.0, "audio")


def test_rounded_weights_never_add_up_to_more_than_one():
    for parts in ([0.33335, 0.33335, 0.3333], [0.16667] * 2 + [0.66666], [1 / 3] * 3):
        values = [(0.0, 0.0)] * 60
        for place, part in zip((3, 20, 40), parts, strict=True):
            values[place] = (part, 0.0)
        assert sum(s.weight for s in named(values)) <= 1.0 + 1e-9


def test_spans_carry_wall_time_where_it_is_known():
    held = [segment(i, wall=1000.0 + 2 * i) for i in range(30)]
    values = torch.zeros(30, 2)
    values[10, 0] = values[11, 0] = 1.0
    (span,) = name_evidence(values.flatten(), held)
    assert (span.from_wall_s, span.to_wall_s) == (1020.0, 1024.0)


def test_coverage_names_each_gap_with_the_reason_that_is_known():
    held = [segment(0), segment(1), segment(4), segment(9)]
    ledger = [Gap(3.0, 3.5, "before"), Gap(4.0, 8.0, "overload")]
    coverage = coverage_of(held, ledger)
    assert (coverage.from_s, coverage.to_s) == (0.0, 20.0)
    assert coverage.gaps == (Gap(4.0, 8.0, "overload"), Gap(10.0, 18.0, "missing"))


def test_coverage_without_holes_has_no_gaps():
    assert coverage_of([segment(i) for i in range(3, 6)], []).gaps == ()


def test_a_chunk_whose_sound_is_missing_is_a_gap():
    mute = replace(segment(1), flags=ChunkFlags(audio_absent=True))
    gaps = coverage_of([segment(0), mute], []).gaps
    assert gaps == (Gap(2.0, 4.0, "audio_absent"),)


@pytest.mark.parametrize("shift", [0.0, 5e-4])
def test_a_hair_between_chunks_is_no_gap(shift):
    held = [segment(0), segment(1, start_s=2.0 + shift)]
    assert coverage_of(held, []).gaps == ()
