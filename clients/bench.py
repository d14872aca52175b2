"""``omnidrop bench``: what is measured, and where the report goes."""

from __future__ import annotations

import asyncio
import os
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clients import bench_tables, terminal
from clients.outputs import check_outputs
from omnidrop_stream.config import Config, load_config, make_config, merged
from omnidrop_stream.errors import UsageError

if TYPE_CHECKING:
    from omnidrop_stream.lab.bench import BenchSettings, Report

QUICK_WINDOWS = "2,4"
_ORIGIN = "the command line"

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def bench(context: typer.Context) -> None:
    """Measure on this machine."""
    if context.invoked_subcommand is None:
        terminal.write_out(context.get_help())


@app.command(short_help="Question to first token, against the stock path.")
def latency(
    model: Annotated[str | None, typer.Option(help="Hub id or folder.", metavar="ID")] = None,
    random_weights: Annotated[
        str | None,
        typer.Option(
            help="Real shapes, random values: 7b, 3b, bench, tiny or a YAML file (default: bench "
            "where no --model is given).",
            metavar="SHAPE",
        ),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="A YAML file, as configs/bench.yaml.")] = None,
    chunks: Annotated[str, typer.Option(help="Windows in chunks of 2 s.")] = "8,16,32,64",
    repeats: Annotated[int, typer.Option(help="Rounds.")] = 5,
    stock_repeats: Annotated[int, typer.Option(help="Rounds with the slow stock rows.")] = 3,
    stock_seconds: Annotated[
        float, typer.Option(help="Stop the stock rows of a window after this time.")
    ] = 300.0,
    rolling: Annotated[
        bool, typer.Option("--rolling", help="Also compare a long-run stream with a young one.")
    ] = False,
    rolling_chunks: Annotated[
        int, typer.Option(help="How far the long-run stream has come.")
    ] = 600,
    rolling_window: Annotated[int, typer.Option(help="Chunks that both hold.")] = 32,
    rolling_rounds: Annotated[int, typer.Option(help="Rounds of that comparison.")] = 15,
    engines: Annotated[
        bool, typer.Option("--engines", help="Also compare the fast engine with the plain one.")
    ] = False,
    json: Annotated[Path | None, typer.Option(help="Write the report there.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write tables there.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda[:n].")] = None,
    dtype: Annotated[str | None, typer.Option(help="auto, bf16 or fp32.")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Seconds instead of minutes: tiny shape, 2,4 chunks.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> int:
    """Time from question to first token: the stock path, D = 0, exact, catch_up, read_side.

    The number of threads is torch's own choice, or OMP_NUM_THREADS.
    """
    if model is not None and random_weights is not None:
        raise UsageError("--model and --random-weights exclude each other: give one of them")
    check_outputs({"--json": json, "--markdown": markdown})
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # torch's profiler, which counts peak memory
    from runtime.models import import_torch

    import_torch()
    from omnidrop_stream.lab.bench import BenchSettings, RollingSettings

    shape = random_weights or (None if model else "tiny" if quick else "bench")
    if quick:
        chunks, repeats, stock_repeats = QUICK_WINDOWS, 1, 1
        rolling_chunks, rolling_window, rolling_rounds = 8, 4, 5
    ages = RollingSettings(rolling_chunks, rolling_window, rolling_rounds) if rolling else None
    settings = BenchSettings(
        config=_config(config, {"model": model, "device": device, "dtype": dtype}),
        shape=shape,
        windows=_windows(chunks),
        repeats=repeats,
        stock_repeats=stock_repeats,
        stock_seconds=stock_seconds,
        rolling=ages,
        engines=engines,
        engine_windows=(2, 4) if quick else (16, 32, 64, 128),
    )
    _measure(settings, json, markdown)
    return 0


def _measure(settings: BenchSettings, json: Path | None, markdown: Path | None) -> None:
    """Run; files are written after each part, the table is printed at the end."""
    from omnidrop_stream.lab.bench import run
    from omnidrop_stream.lab.bench_report import to_json, to_markdown, to_text

    report: Report | None = None
    for report in run(settings, terminal.complain):
        if json is not None:
            json.write_text(to_json(report), encoding="utf-8")
        if markdown is not None:
            markdown.write_text(to_markdown(report), encoding="utf-8")
    if report is not None:
        terminal.write_out(to_text(report))


def _config(path: Path | None, model: dict[str, Any]) -> Config:
    """The file with the flags over it; without a file the benchmark's own settings."""
    base = load_config(path) if path is not None else make_config({"pruning": {"retention": 0.30}})
    given = {name: value for name, value in model.items() if value is not None}
    return merged(base, {"model": given}, _ORIGIN) if given else base


def _windows(text: str) -> tuple[int, ...]:
    """``8,16`` as numbers; an empty text measures no window (with --rolling alone)."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise UsageError(f"--chunks = {text!r} is not allowed: give numbers such as 8,16,32,64")
    return tuple(int(part) for part in parts)


app.command(short_help="The paper's Table 2: prefill, latency, memory.")(bench_tables.table2)
app.command(short_help="A Chrome trace of one chunk and one question.")(bench_tables.profile)
app.command(short_help="int8 and int4 weights: bytes, logits, cards.")(bench_tables.weights)
app.command(short_help="Engines, flash, graphs beside the plain way.")(bench_tables.ways)


@app.command(short_help="Watch in real time: late chunks, first token.")
def live(
    source: Annotated[str, typer.Option(help="What to watch.")] = "demo:",
    model: Annotated[str | None, typer.Option(help="Hub id or folder.", metavar="ID")] = None,
    seconds: Annotated[float, typer.Option(help="How long to watch.")] = 40.0,
    ask_every: Annotated[float, typer.Option(help="Seconds between questions.")] = 5.0,
    answer_tokens: Annotated[int, typer.Option(help="Longest answer.")] = 200,
    json: Annotated[Path | None, typer.Option(help="Write the report there.")] = None,
) -> None:
    """Watch in real time and ask: chunks on time, first token, delay of the event loop."""
    from runtime.bench import LiveBench, run_live
    from runtime.models import default_model

    check_outputs({"--json": json})
    config = _config(None, {"model": model or default_model()})
    options = LiveBench(source, seconds, ask_every, answer_tokens)
    text = dumps(asyncio.run(run_live(options, config)), indent=2)
    if json is not None:
        json.write_text(text + "\n", encoding="utf-8")
    terminal.write_out(text)


@app.command(short_help="Standing questions: precision, recall, delay.")
def watches(
    model: Annotated[str | None, typer.Option(help="Hub id or folder.", metavar="ID")] = None,
    config: Annotated[Path | None, typer.Option(help="A YAML file, as configs/eval.yaml.")] = None,
    streams: Annotated[int, typer.Option(help="Test streams.", min=1)] = 16,
    chunks: Annotated[int, typer.Option(help="Chunks of each, 2 s.", min=10, max=150)] = 90,
    seed: Annotated[int, typer.Option(help="Seed of the first stream.", min=0)] = 200_000,
    threshold: Annotated[
        float | None, typer.Option(help="Odds above the baseline, in nats, that are told.")
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Write the report there.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write tables there.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Two streams of 20 chunks.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Standing questions on test streams: precision, recall, delay from event to message, cost."""
    from clients.bench_watches import measure

    if quick:
        streams, chunks = 2, 20
    measure(model, config, streams, chunks, seed, threshold, json, markdown)


@app.command(short_help="Live streams carried with every chunk on time.")
def streams(
    model: Annotated[str | None, typer.Option(help="Hub id or folder.", metavar="ID")] = None,
    config: Annotated[Path | None, typer.Option(help="A YAML file.")] = None,
    engine: Annotated[
        str | None, typer.Option(help="plain or fast: how states are kept and read.")
    ] = None,
    streams: Annotated[str, typer.Option(help="Numbers of streams.")] = "8,16,32,48,64",
    depths: Annotated[
        str, typer.Option(help="Prefill depths: numbers, exact, auto, half, read_side.")
    ] = "exact,half",
    seconds: Annotated[float, typer.Option(help="How long each row plays.", min=4.0)] = 40.0,
    window: Annotated[int, typer.Option(help="Chunks that each stream holds.", min=2)] = 30,
    ask_every: Annotated[float, typer.Option(help="Seconds between questions.", min=0.5)] = 5.0,
    all_rows: Annotated[
        bool, typer.Option("--all-rows", help="Go on after a number that does not hold.")
    ] = False,
    json: Annotated[Path | None, typer.Option(help="Write the report there.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write the table there.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Two streams, 6 s.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Live streams carried with every chunk on time while questions are asked on random ones."""
    from clients.bench_streams import measure

    if quick:
        streams, depths, seconds, window = "2", "exact", 6.0, 4
    measure(
        model, config, engine, streams, depths, seconds, window, ask_every, all_rows, json, markdown
    )
