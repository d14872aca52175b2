"""``omnidrop bench watches``: play, score, write the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clients import terminal
from clients.outputs import check_outputs
from omnidrop_stream.config import Config, load_config, make_watch, merged
from omnidrop_stream.errors import ModelMismatch

ORIGIN = "the command line"


def measure(
    model: str | None,
    config: Path | None,
    streams: int,
    chunks: int,
    seed: int,
    threshold: float | None,
    json: Path | None,
    markdown: Path | None,
) -> None:
    """Run; files are written after each stream, the tables are printed at the end."""
    check_outputs({"--json": json, "--markdown": markdown})
    from runtime.models import import_torch

    import_torch()
    from omnidrop_stream.lab.watch_eval import WatchBench, report_of, steps
    from omnidrop_stream.lab.watch_report import to_json, to_markdown
    from omnidrop_stream.model.qwen_omni import QwenOmni
    from runtime.models import load

    settings = _settings(config, model)
    rule: dict[str, Any] = {"text": "what is watched for", "cool_down_s": 0.0}
    if threshold is not None:
        rule["threshold"] = threshold
    bench = WatchBench(settings, make_watch(rule, ORIGIN), seed, streams, chunks)
    loaded = load(settings.model)
    if not isinstance(loaded, QwenOmni):
        raise ModelMismatch("only a Qwen2.5-Omni checkpoint can be measured")
    played = []
    report = None
    for one in steps(loaded, bench, terminal.complain):
        played.append(one)
        report = report_of(loaded, bench, played)
        for path, text in ((json, to_json), (markdown, to_markdown)):
            if path is not None:
                path.write_text(text(report), encoding="utf-8")
    if report is not None:
        terminal.write_out(to_markdown(report), end="")


def _settings(path: Path | None, model: str | None) -> Config:
    from runtime.models import default_model

    base = load_config(path) if path is not None else Config()
    name = model or (base.model.model if "model" in base.model.model_fields_set else None)
    return merged(base, {"model": {"model": name or default_model()}}, ORIGIN)
