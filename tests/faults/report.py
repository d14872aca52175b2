"""One fault's figures against their limits, and the files they are written to."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.conftest import REPOSITORY

VERSIONS = ("av", "torch", "numpy", "sounddevice")


@dataclass(frozen=True, slots=True)
class Row:
    """One figure: what was done, what was measured, what is allowed, and whether it held."""

    condition: str
    figure: str
    limit: str
    passed: bool
    values: dict[str, Any] = field(default_factory=dict)
    """The numbers behind the figure."""


Tell = Callable[[Row], None]


@dataclass(frozen=True, slots=True)
class Result:
    """A fault, its rows, how long it took, and what stopped it (empty: nothing)."""

    fault: str
    rows: tuple[Row, ...]
    took_s: float
    broke: str = ""
    conditions: dict[str, Any] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether it ran to its end and every row held."""
        return not self.broke and bool(self.rows) and all(row.passed for row in self.rows)


def conditions() -> dict[str, Any]:
    """What the figures depend on besides the code."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load_average": [round(x, 2) for x in os.getloadavg()],
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in VERSIONS},
    }


def line(fault: str, row: Row) -> str:
    """A row as it is shown while the suite runs."""
    verdict = "ok  " if row.passed else "FAIL"
    return f"{verdict} {fault}: {row.condition}: {row.figure} (limit: {row.limit})"


def merged(before: Iterable[Result], new: Iterable[Result]) -> list[Result]:
    """The newest result of each fault, in the order they were first known."""
    by_name = {result.fault: result for result in before}
    by_name.update({result.fault: result for result in new})
    return list(by_name.values())


def read(path: Path) -> list[Result]:
    """Results of an earlier run; none where there is no such file."""
    if not path.is_file():
        return []
    found = json.loads(path.read_text("utf-8"))["faults"]
    return [
        Result(**{**entry, "rows": tuple(Row(**row) for row in entry["rows"])}) for entry in found
    ]


def write(results: Sequence[Result], path: Path) -> None:
    """The JSON at ``path`` and the Markdown beside it."""
    text = json.dumps({"faults": [asdict(result) for result in results]}, indent=1)
    path.write_text(text + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(to_markdown(results), encoding="utf-8")


def to_markdown(results: Sequence[Result]) -> str:
    """One table of all rows, and under it when and where each fault was run."""
    lines = ["# Faults: what live sources go through, and what held", ""]
    lines += ["| fault | condition | measured | limit | held |", "| --- | --- | --- | --- | --- |"]
    for result in results:
        for row in result.rows:
            cells = (result.fault, row.condition, row.figure, row.limit)
            held = "yes" if row.passed else "**no**"
            lines.append(
                "| " + " | ".join(cell.replace("|", "/") for cell in cells) + f" | {held} |"
            )
        if result.broke:
            lines.append(f"| {result.fault} | (did not finish) | {result.broke} | - | **no** |")
    lines += ["", "## Conditions", ""]
    for result in results:
        told = result.conditions
        lines.append(
            f"- {result.fault}: {told.get('date')}, commit {told.get('commit')}, "
            f"{told.get('processor')} ({told.get('machine')}), {told.get('cores')} cores shared "
            f"with other work, load average at the start {told.get('load_average')}, "
            f"Python {told.get('python')}, {_listed(told.get('versions', {}))}; "
            f"took {result.took_s:.0f} s{_noted(told)}"
        )
    return "\n".join(lines) + "\n"


def _noted(told: dict[str, Any]) -> str:
    return f". {told['note']}" if "note" in told else ""


def _listed(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or "unknown"


def _commit() -> str:
    """With ``+`` where files differ from it."""

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", *words], cwd=REPOSITORY, capture_output=True, text=True, check=False
        )
        return done.stdout.strip()

    commit = git("rev-parse", "--short=12", "HEAD")
    return commit + ("+" if git("status", "--porcelain") else "") if commit else "unknown"
