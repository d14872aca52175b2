"""The environment in a node's settings: ``${VARIABLE}`` in the name of a file, and which variable a
setting came from.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

_VARIABLE = re.compile(r"\$(?:\{([^}]*)\}|(\w+))")


def with_variables(text: str) -> str:
    """``text`` with ``${NAME}`` replaced. Raises ValueError for one that is not set."""
    for braced, bare in _VARIABLE.findall(text):
        name = braced or bare
        if name not in os.environ:
            raise ValueError(
                f"{text} names the variable {name}, which is not set in this environment: set it, "
                "or write the path in full"
            )
    return os.path.expandvars(text)


def settings_in(environment: Mapping[str, str], prefix: str) -> dict[str, str]:
    """Key of a setting, such as ``mqtt.port``, to the variable that gives it."""
    return {
        name[len(prefix) :].lower().replace("__", "."): name
        for name in environment
        if name.upper().startswith(prefix)
    }
