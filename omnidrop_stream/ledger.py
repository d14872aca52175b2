"""The ledger of a stream's holes: bounded, and a hole that goes on is one hole."""

from __future__ import annotations

from collections.abc import Sequence

from omnidrop_stream.types import Gap

MAX_LEDGER = 1024


def with_gap(ledger: Sequence[Gap], gap: Gap) -> list[Gap]:
    """The ledger with one more hole; the oldest leaves where there are too many."""
    if ledger and gap.continues(ledger[-1]):
        return [*ledger[:-1], Gap(ledger[-1].from_s, gap.to_s, gap.reason)]
    return [*ledger[-(MAX_LEDGER - 1) :], gap]
