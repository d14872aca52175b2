"""``python -m tests.faults.mqtt_bench NAME ...``: one figure of the broker's after the other.

Each is added to ``benchmarks/mqtt.json`` (or ``--json``) in place of the last one of its name.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.conftest import REPOSITORY
from tests.faults import report
from tests.faults.mqtt_crash import broker_killed
from tests.faults.mqtt_idle import idle_processor
from tests.faults.mqtt_load import bad_messages, cancel_storm, first_delta_overhead, flood

MEASURES: dict[str, Callable[[], dict[str, Any]]] = {
    "first_delta_overhead": first_delta_overhead,
    "bad_messages": bad_messages,
    "cancel_storm": cancel_storm,
    "broker_killed": broker_killed,
    "broker_killed_default": lambda: broker_killed(shipped=False, node_kills=0),
    "flood": flood,
    "idle_processor": idle_processor,
}


def main() -> None:
    """Measure and write, one by one."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.mqtt_bench", description=__doc__)
    parser.add_argument("names", nargs="+", choices=sorted(MEASURES))
    parser.add_argument("--json", type=Path, default=REPOSITORY / "benchmarks" / "mqtt.json")
    parser.add_argument("--note", default="", help="what else the figures depend on")
    given = parser.parse_args()
    for name in given.names:
        entry = measured(name, given.note)
        print(json.dumps(entry, indent=1), flush=True)  # noqa: T201
        before = json.loads(given.json.read_text("utf-8")) if given.json.exists() else {}
        given.json.write_text(json.dumps(merged(before, entry), indent=1) + "\n", "utf-8")


def measured(name: str, note: str = "") -> dict[str, Any]:
    """A figure and its conditions."""
    conditions = report.conditions()
    figures = MEASURES[name]()
    after = [round(x, 2) for x in os.getloadavg()]
    noted = {"note": note} if note else {}
    fault = {"fault": name.removesuffix("_default")}
    return {**fault, **conditions, "load_average_after": after, **noted, "figures": figures}


def merged(before: dict[str, Any], entry: dict[str, Any]) -> dict[str, Any]:
    """The new one in the place of the old; the two brokers' are told apart."""

    def key(one: dict[str, Any]) -> tuple[Any, Any]:
        return one["fault"], one["figures"].get("broker")

    found = before.get("faults", [])
    places = [place for place, one in enumerate(found) if key(one) == key(entry)]
    kept = [one for one in found if key(one) != key(entry)]
    place = places[0] if places else len(kept)
    return {**before, "faults": [*kept[:place], entry, *kept[place:]]}


if __name__ == "__main__":
    main()
