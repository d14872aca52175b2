"""The faults by name; each module is imported only where its fault is run."""

from __future__ import annotations

import importlib
from collections.abc import Callable

from tests.faults.report import Tell
from tests.faults.scale import Scale

FAULTS = {
    "restarts": "tests.faults.restarts",
    "silence": "tests.faults.silence",
    "cut": "tests.faults.cut",
    "corrupt": "tests.faults.corrupt",
    "changes": "tests.faults.changes",
    "sound": "tests.faults.sound",
    "clocks": "tests.faults.clocks",
    "overload": "tests.faults.overload",
    "together": "tests.faults.together",
    "secrets": "tests.faults.secrets",
    "mqtt": "tests.faults.mqtt",
    "soak": "tests.faults.soak",
}
"""Name -> module with ``run(tell, scale)``."""


def load(name: str) -> Callable[[Tell, Scale], None]:
    """What runs a fault."""
    run: Callable[[Tell, Scale], None] = importlib.import_module(FAULTS[name]).run
    return run
