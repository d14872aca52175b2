"""Damage is damage: what a mutation returns differs as it says, and nothing else."""

from __future__ import annotations

import random

import pytest

from tests.faults import clips, mutations
from tests.faults.mutations import Mutation


@pytest.fixture(scope="module", params=["h264", "hevc"])
def group(request: pytest.FixtureRequest) -> tuple[str, list[bytes]]:
    """Codec and the packets of a group of pictures."""
    container = clips.pictures(request.param, clips.GOP)
    packets = [bytes(p) for p in container.demux(container.streams.video[0]) if p.size]
    container.close()
    return request.param, packets


def test_a_packet_is_its_units_and_a_keyframe_begins_with_parameter_sets(
    group: tuple[str, list[bytes]],
) -> None:
    codec, packets = group
    for packet in packets:
        assert b"".join(mutations.units(packet)) == packet
    kinds = {mutations.unit_type(unit, codec) for unit in mutations.units(packets[0])}
    assert mutations.PARAMETERS[codec] <= kinds


@pytest.mark.parametrize(
    "way", [mutations.flip_bits, mutations.cut, mutations.lose, mutations.lose_unit]
)
def test_most_damage_changes_something_and_keeps_the_number_of_packets(
    group: tuple[str, list[bytes]], way: Mutation
) -> None:
    _, packets = group
    damaged = [way(packets, random.Random(seed)) for seed in range(20)]
    assert all(len(each) == len(packets) for each in damaged)
    assert sum(each != packets for each in damaged) >= 18


def test_missing_or_spoilt_parameter_sets_leave_the_pictures_alone(
    group: tuple[str, list[bytes]],
) -> None:
    codec, packets = group
    missing = 0
    for seed in range(20):
        damaged = mutations.parameters(codec)(packets, random.Random(seed))
        assert damaged != packets
        assert damaged[1:] == packets[1:]
        kinds = {mutations.unit_type(unit, codec) for unit in mutations.units(damaged[0])}
        missing += not kinds & mutations.PARAMETERS[codec]
    assert 5 < missing < 15
