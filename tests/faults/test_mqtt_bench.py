"""A new figure of the broker's takes the place of the old one."""

from __future__ import annotations

from typing import Any

from tests.faults.mqtt_bench import merged


def entry(fault: str, at: int, broker: str | None = None) -> dict[str, Any]:
    return {"fault": fault, "figures": {"at": at} | ({} if broker is None else {"broker": broker})}


def test_a_new_figure_stands_where_the_old_one_stood_and_others_stay() -> None:
    before = {"faults": [entry("a", 1), entry("kill", 1, "x"), entry("kill", 1, "y")]}
    after = merged(before, entry("kill", 2, "x"))
    assert after["faults"] == [entry("a", 1), entry("kill", 2, "x"), entry("kill", 1, "y")]


def test_the_first_of_its_name_is_added_at_the_end() -> None:
    assert merged({}, entry("a", 1)) == {"faults": [entry("a", 1)]}
