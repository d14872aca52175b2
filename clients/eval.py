"""``omnidrop eval``: what is scored, and where the report goes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from clients import terminal
from clients.outputs import check_outputs
from omnidrop_stream.config import DepthName, read_yaml
from omnidrop_stream.errors import ModelMismatch, UsageError

ORIGIN = "the command line"
QUICK: dict[str, Any] = {"streams": 3, "chunks": [2, 4]}
ROLLING = 300

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command(name="eval")
def evaluate(
    config: Annotated[
        Path | None, typer.Option(help="A YAML file, as configs/eval.yaml; flags stand above it.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Hub id, folder, embedded or tiny.", metavar="ID")
    ] = None,
    policies: Annotated[
        str | None, typer.Option(help="Grid: which tokens leave, as keep-all,omnidrop.")
    ] = None,
    retentions: Annotated[
        str | None, typer.Option(help="Grid: mean shares kept in percent, as 30,45.")
    ] = None,
    depths: Annotated[
        str | None, typer.Option(help="Grid: prefill depths, as 0,exact,half,read_side.")
    ] = None,
    chunks: Annotated[str | None, typer.Option(help="Grid: stream lengths, as 4,8,32.")] = None,
    split: Annotated[
        str | None, typer.Option(help="dev to choose settings by, test to be run once.")
    ] = None,
    baselines: Annotated[
        str | None, typer.Option(help="Policies that the others are compared with.")
    ] = None,
    streams: Annotated[int | None, typer.Option(help="Streams.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the first stream.")] = None,
    batch: Annotated[
        int | None, typer.Option(help="Questions that share a pass; 1: each alone, as live.")
    ] = None,
    gate: Annotated[
        bool,
        typer.Option(
            "--gate", help="First measure what dropping 95 % at random costs after each layer."
        ),
    ] = False,
    past: Annotated[
        bool,
        typer.Option("--past", help="Also compare eviction policies on the recent and older past."),
    ] = False,
    streamed_check: Annotated[
        bool,
        typer.Option("--streamed-check", help="Also compare depth exact, live, with offline."),
    ] = False,
    rolling: Annotated[
        int,
        typer.Option(
            help=f"Also compare a rolling stream of so many chunks with fresh ones (as {ROLLING})."
        ),
    ] = 0,
    state: Annotated[
        Path | None,
        typer.Option(help="Finished streams, as JSON lines; a run started again goes on there."),
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Write the report there.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write tables there.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda[:n].")] = None,
    dtype: Annotated[str | None, typer.Option(help="auto, bf16 or fp32.")] = None,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="A minute or two: 3 streams of 2 and 4 chunks."),
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> int:
    """Play streams of the world, ask about them, score answers and evidence.

    The grid is policies x retentions x depths at each length; its first cell is the one that the
    others are compared with.
    """
    given = {
        "policies": _words(policies),
        "retentions": _percents(retentions),
        "depths": _depths(depths),
        "chunks": _numbers("--chunks", chunks),
        "streams": streams,
        "seed": seed,
        "split": split,
        "baselines": _words(baselines),
        "batch": batch,
    }
    grid = (QUICK if quick else {}) | {k: v for k, v in given.items() if v is not None}
    chosen = {"model": model, "device": device, "dtype": dtype}
    values = _values(config, grid, {k: v for k, v in chosen.items() if v is not None})
    check_outputs({"--json": json, "--markdown": markdown, "--state": state})
    _evaluate(values, config, state, json, markdown, streamed_check, rolling, gate, past)
    return 0


def _evaluate(
    values: dict[str, Any],
    config: Path | None,
    state: Path | None,
    json: Path | None,
    markdown: Path | None,
    streamed_check: bool,
    rolling: int,
    gate: bool,
    past: bool,
) -> None:
    """Run; every finished stream is kept at once, the report is written at the end or when the
    user interrupts.
    """
    import tempfile
    import time

    from runtime.models import import_torch

    import_torch()
    from omnidrop_stream.lab.eval import Evaluation
    from omnidrop_stream.lab.eval_report import to_json, to_markdown
    from omnidrop_stream.lab.eval_state import Pace, StateFile
    from omnidrop_stream.lab.eval_types import eval_settings
    from omnidrop_stream.model.qwen_omni import QwenOmni
    from runtime.models import load

    settings = eval_settings(values, ORIGIN if config is None else str(config))
    model = load(settings.config.model)
    if not isinstance(model, QwenOmni):
        raise ModelMismatch("only a Qwen2.5-Omni checkpoint can be evaluated")
    evaluation = Evaluation(model, settings)
    for name, reason in evaluation.unreachable.items():
        terminal.complain(f"not measured: {name}: {reason}")
    with tempfile.TemporaryDirectory() as folder:
        kept = StateFile(state or Path(folder) / "state.jsonl", evaluation.head())
        if kept.records:
            terminal.complain(f"going on after {len(kept.records)} finished pieces of work")
        stopped: KeyboardInterrupt | None = None
        try:
            pace = Pace(settings.grid.streams, time.monotonic())
            for record in evaluation.steps(list(kept.records), streamed_check, rolling, gate, past):
                kept.add(record)
                done = sum(r["type"] == "stream" for r in kept.records)
                told = pace.told(done, time.monotonic())
                terminal.complain(f"done: {record['type']} {record['seed']}{told}")
        except KeyboardInterrupt as interrupt:
            stopped = interrupt
        report = evaluation.report(kept.records)
    for path, text in ((json, to_json), (markdown, to_markdown)):
        if path is not None:
            path.write_text(text(report), encoding="utf-8")
    terminal.write_out(to_markdown(report))
    if stopped is not None:
        raise stopped


def _values(path: Path | None, grid: dict[str, Any], model: dict[str, Any]) -> dict[str, Any]:
    """The file's mapping with the flags over it."""
    from runtime.models import default_model

    values: dict[str, Any] = {"decode": {"max_tokens": 12}}
    values = read_yaml(path) if path is not None else values
    for name, new in (("eval", grid), ("model", model)):
        section = values.get(name) or {}
        if not isinstance(section, dict):
            raise UsageError(f"{path}: {name} must be a mapping of settings")
        values[name] = section | new
    values["model"] = {"model": default_model(), **values["model"]}
    return values


def _words(text: str | None) -> list[str] | None:
    if text is None:
        return None
    return [part.strip() for part in text.split(",") if part.strip()]


def _numbers(flag: str, text: str | None) -> list[int] | None:
    parts = _words(text)
    if parts is not None and not all(part.isascii() and part.isdigit() for part in parts):
        raise UsageError(f"{flag} = {text!r} is not allowed: give numbers such as 4,8,32")
    return None if parts is None else [int(part) for part in parts]


def _percents(text: str | None) -> list[float] | None:
    parts = _words(text)
    if parts is None:
        return None
    try:
        values = [float(part) for part in parts]
    except ValueError:
        values = []
    if not values or not all(1 <= value <= 100 for value in values):
        raise UsageError(
            f"--retentions = {text!r} is not allowed: give percent from 1 to 100, such as 30,45"
        )
    return [value / 100 for value in values]


def _depths(text: str | None) -> list[int | str] | None:
    parts = _words(text)
    if parts is None:
        return None
    for part in parts:
        if part not in get_args(DepthName) and not (part.isascii() and part.isdigit()):
            raise UsageError(
                f"--depths = {text!r} is not allowed: give numbers of layers, exact, half or "
                "read_side, such as 0,exact"
            )
    return [int(part) if part.isdigit() else part for part in parts]
