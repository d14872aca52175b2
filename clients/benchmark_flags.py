"""The flags of ``omnidrop benchmark`` as settings, and the folders that they name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omnidrop_stream.config import read_yaml
from omnidrop_stream.errors import UsageError

DEFAULTS: dict[str, Any] = {
    "stream": {"prefill_depth": 0, "budget_tokens": 60_000, "history_tokens": 0},
    "decode": {"max_tokens": 100, "question_chars": 3_000},
}
"""Without a file: the paper's method on the whole clip, and room for it."""


def values_of(
    path: Path | None,
    sets: str | None,
    rows: list[dict[str, Any]] | None,
    model: dict[str, Any],
) -> dict[str, Any]:
    """The file's mapping with the flags over it; without a file the defaults of this command."""
    from runtime.models import default_model

    values = read_yaml(path) if path is not None else {k: dict(v) for k, v in DEFAULTS.items()}
    section = values.get("benchmark") or {}
    own = values.get("model") or {}
    if not isinstance(section, dict) or not isinstance(own, dict):
        raise UsageError(f"{path}: model and benchmark must be mappings of settings")
    given = {"sets": words_of(sets), "cells": rows}
    values["benchmark"] = section | {k: v for k, v in given.items() if v is not None}
    if path is None:
        values["benchmark"].setdefault("cells", rows_of("keep-all,omnidrop", None))
        if sets is None:
            raise UsageError("give --config, or --benchmark with a name such as worldsense")
    values["model"] = {"model": default_model()} | own | model
    return values


def rows_of(policies: str | None, retentions: str | None) -> list[dict[str, Any]] | None:
    """The table's rows from the two flags; None where neither is given."""
    if policies is None and retentions is None:
        return None
    rows = []
    for policy in words_of(policies) or ["keep-all", "omnidrop"]:
        if policy in ("keep-all", "intra-only"):
            ratio = 100.0 if policy == "keep-all" else 45.0
            rows.append({"method": policy, "ratio": ratio, "pruning": {"policy": policy}})
            continue
        for share in _percents(retentions) if retentions is not None else [30.0]:
            pruning = {"policy": policy, "retention": share / 100, "schedule": None}
            rows.append({"method": policy, "ratio": share, "pruning": pruning})
    return rows


def _percents(text: str) -> list[float]:
    try:
        values = [float(part) for part in words_of(text) or []]
    except ValueError:
        values = []
    if not values or not all(1 <= value <= 100 for value in values):
        raise UsageError(
            f"--retention = {text!r} is not allowed: give percent from 1 to 100, such as 30,20"
        )
    return values


def words_of(text: str | None) -> list[str] | None:
    """The parts of a list with commas."""
    if text is None:
        return None
    return [part.strip() for part in text.split(",") if part.strip()]


def said(values: dict[str, Any]) -> dict[str, Any]:
    """Without what is not given."""
    return {name: value for name, value in values.items() if value is not None}


def check_name(name: str) -> None:
    """Refuse what is no benchmark."""
    from omnidrop_stream.lab.benchmarks import BENCHMARKS

    if name not in BENCHMARKS:
        raise UsageError(
            f"--benchmark = {name!r} is not allowed: known are {', '.join(BENCHMARKS)}"
        )


def folders_of(names: Sequence[str], data: Sequence[str], partly: bool = False) -> dict[str, Path]:
    """``--data`` by benchmark: a folder alone where there is one benchmark, else NAME=DIR."""
    found: dict[str, Path] = {}
    for text in data:
        name, equals, folder = text.partition("=")
        if equals and name in names:
            found[name] = Path(folder)
        elif len(names) == 1:
            found[names[0]] = Path(text)
        else:
            raise UsageError(
                f"--data = {text!r} does not say of which benchmark: give NAME=DIR with a name of "
                f"{', '.join(names)}"
            )
    missing = [name for name in names if name not in found]
    if missing and not (partly and found):
        raise UsageError(
            f"--data is missing for {', '.join(missing)}: give --data {missing[0]}=DIR, the folder "
            "that its files were downloaded to"
        )
    return found
