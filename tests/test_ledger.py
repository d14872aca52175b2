"""The ledger of holes: bounded, and one hole stays one."""

from __future__ import annotations

from omnidrop_stream.ledger import MAX_LEDGER, with_gap
from omnidrop_stream.types import Gap


def test_a_hole_that_goes_on_for_an_hour_is_one_entry():
    ledger = []
    for number in range(1800):
        ledger = with_gap(ledger, Gap(2.0 * number, 2.0 * number + 2, "no sound came"))
    assert ledger == [Gap(0.0, 3600.0, "no sound came")]


def test_another_reason_or_a_stretch_between_makes_another_hole():
    ledger = [Gap(0.0, 2.0, "a")]
    assert len(with_gap(ledger, Gap(2.0, 4.0, "b"))) == 2
    assert len(with_gap(ledger, Gap(3.0, 4.0, "a"))) == 2


def test_holes_of_no_length_are_kept_apart():
    assert len(with_gap([Gap(1.0, 1.0, "a")], Gap(1.0, 1.0, "a"))) == 2


def test_only_the_newest_holes_are_kept():
    ledger = []
    for number in range(MAX_LEDGER + 5):
        ledger = with_gap(ledger, Gap(float(number), number + 0.5, "x"))
    assert len(ledger) == MAX_LEDGER
    assert ledger[0].from_s == 5.0
