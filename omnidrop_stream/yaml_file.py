"""YAML that people wrote: one strict reader. A key that stands twice is refused, and a mistake is
told with its line, but without that line's text, which may hold a password.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from omnidrop_stream.errors import ConfigError

_SOURCE = re.compile(r"([\w-]+):\s+((?:demo|camera|mic|picture):)(?=[\s,}]|$)")
_OPEN_COLONS = ("mapping values are not allowed here", "expected ',' or '}', but got ':'")


class _Twice(yaml.MarkedYAMLError):
    """A key stands twice in one mapping, and YAML would take the second silently."""


class _Loader(yaml.SafeLoader):
    """Safe tags only, and no key twice: seen before merge keys are resolved."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """A mapping as it stands in the file."""
        node = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if (key.tag, key.value) in lines:
                problem = (
                    f"the key {key.value!r} stands there a second time, after line "
                    f"{lines[key.tag, key.value]}, and only one can count: rename or remove one"
                )
                raise _Twice(problem=problem, problem_mark=key.start_mark)
            lines[key.tag, key.value] = key.start_mark.line + 1
        return node


def read_values(path: Path) -> Any:
    """What a YAML file holds, None where it is empty. Raises FileNotFoundError; ConfigError for
    what cannot be read, with the line and what to do.
    """
    text = ""
    try:
        text = path.read_text(encoding="utf-8")
        return yaml.load(text, _Loader)
    except FileNotFoundError:
        raise
    except IsADirectoryError:
        raise ConfigError(
            f"{path} is a directory; give a YAML file, as those under configs/"
        ) from None
    except yaml.MarkedYAMLError as error:
        raise ConfigError(_told(path, text, error)) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"{path} cannot be read as YAML ({reason}); see configs/ for examples"
        ) from None


def _told(path: Path, text: str, error: yaml.MarkedYAMLError) -> str:
    """A mistake with its line, and what to do."""
    problem = " ".join((error.problem or error.context or "unknown").split())
    if error.problem_mark is None:
        return f"{path} cannot be read as YAML ({problem}); see configs/ for examples"
    line = error.problem_mark.line
    where = f"{path}, line {line + 1}"
    if isinstance(error, _Twice):
        return f"{where}: {problem}"
    advice = "see configs/ for examples"
    if problem in _OPEN_COLONS:
        source = _SOURCE.search("".join(text.splitlines()[line : line + 1]))
        advice = (
            "a value that holds a colon needs quotes"
            if source is None
            else f"put the source in quotes: {source[1]}: '{source[2]}'"
        )
    return f"{where} cannot be read as YAML ({problem}): {advice}"
