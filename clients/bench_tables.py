"""``omnidrop bench table2``, ``profile``, ``weights`` and ``ways``: flags, files, tables."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from clients import terminal
from clients.options import depth_named
from clients.outputs import check_outputs
from omnidrop_stream.config import Config, load_config, make_config, merged
from omnidrop_stream.errors import UsageError

ORIGIN = "the command line"
Model = Annotated[str | None, typer.Option(help="Hub id, folder or embedded.", metavar="ID")]
Shape = Annotated[
    str | None,
    typer.Option(
        help="Real shapes, random values: 7b, 3b, bench, tiny or a YAML file (default: bench "
        "where no --model is given).",
        metavar="SHAPE",
    ),
]
Settings = Annotated[Path | None, typer.Option(help="A YAML file, as configs/bench.yaml.")]
Json = Annotated[Path | None, typer.Option(help="Write the report there.")]
Markdown = Annotated[Path | None, typer.Option(help="Write tables there.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu or cuda[:n].")]
Dtype = Annotated[str | None, typer.Option(help="auto, bf16 or fp32.")]
Weights = Annotated[str | None, typer.Option(help="auto, int8 or int4.")]
Quick = Annotated[bool, typer.Option("--quick", help="Seconds instead of minutes: tiny shape.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def table2(
    model: Model = None,
    random_weights: Shape = None,
    config: Settings = None,
    chunks: Annotated[int, typer.Option(help="Length of the clip in chunks of 2 s.")] = 32,
    repeats: Annotated[int, typer.Option(help="Rounds.")] = 3,
    answer_tokens: Annotated[int, typer.Option(help="Tokens of the short answer.")] = 4,
    stock: Annotated[
        bool, typer.Option("--stock/--no-stock", help="Also the unchanged forward.")
    ] = True,
    json: Json = None,
    markdown: Markdown = None,
    device: Device = None,
    dtype: Dtype = None,
    weights: Weights = None,
    quick: Quick = False,
    debug: Debug = False,
) -> int:
    """The paper's Table 2: full tokens, intra-modality only, OmniDrop at 30 and 20 %, offline.

    First in the paper's definitions, then with the last position alone through the head.
    """
    profiled()
    from runtime.models import import_torch

    import_torch()
    from omnidrop_stream.lab.bench_table2 import Table2Settings, run
    from omnidrop_stream.lab.bench_table2_report import to_json, to_markdown

    if quick:
        chunks, repeats, answer_tokens = 2, 1, 2
    settings = Table2Settings(
        config=settings_of(config, model, device, dtype, weights),
        shape=shape_of(model, random_weights, quick),
        chunks=chunks,
        repeats=repeats,
        answer_tokens=answer_tokens,
        stock=stock,
    )
    files = Files(json, to_json, markdown, to_markdown)
    for report in run(settings, terminal.complain):
        files.write(report)
    terminal.write_out(files.last, end="")
    return 0


def profile(
    trace: Annotated[
        Path, typer.Option(help="The trace, for Perfetto or chrome://tracing; .gz is compressed.")
    ] = Path("omnidrop-profile.json.gz"),
    model: Model = None,
    random_weights: Shape = None,
    config: Settings = None,
    chunks: Annotated[int, typer.Option(help="The window in chunks of 2 s.")] = 32,
    prefill_depth: Annotated[
        str | None,
        typer.Option(help="0, a number, exact, half or read_side (default: the file's)."),
    ] = None,
    answer_tokens: Annotated[int, typer.Option(help="Longest answer.")] = 4,
    top: Annotated[int, typer.Option(help="Operators told of each stretch.")] = 12,
    json: Json = None,
    markdown: Markdown = None,
    device: Device = None,
    dtype: Dtype = None,
    weights: Weights = None,
    quick: Quick = False,
    debug: Debug = False,
) -> int:
    """A Chrome trace of one chunk and one question, and the operators that took most."""
    profiled()
    check_outputs({"--trace": trace, "--json": json, "--markdown": markdown})
    from runtime.models import import_torch

    import_torch()
    from omnidrop_stream.lab.bench_profile import ProfileSettings, run, to_json, to_markdown

    files = Files(json, to_json, markdown, to_markdown)
    settings = settings_of(config, model, device, dtype, weights)
    depth = depth_named(prefill_depth)
    watched = ProfileSettings(
        config=settings,
        shape=shape_of(model, random_weights, quick),
        chunks=2 if quick else chunks,
        depth=settings.stream.prefill_depth if depth is None else depth,
        answer_tokens=answer_tokens,
        top=top,
    )
    files.write(run(watched, trace, terminal.complain))
    terminal.write_out(files.last, end="")
    return 0


def weights(
    model: Annotated[
        str | None, typer.Option(help="Hub id or folder (default: embedded).", metavar="ID")
    ] = None,
    config: Settings = None,
    streams: Annotated[int, typer.Option(help="Test streams of the world.")] = 3,
    chunks: Annotated[int, typer.Option(help="Chunks of each, 2 s.")] = 8,
    seed: Annotated[int, typer.Option(help="Seed of the first stream.", min=0)] = 100_000,
    json: Json = None,
    markdown: Markdown = None,
    device: Device = None,
    dtype: Dtype = None,
    quick: Annotated[bool, typer.Option("--quick", help="One stream of 2 chunks.")] = False,
    debug: Debug = False,
) -> int:
    """int8 and int4 weights: bytes, how far the logits move, questions still answered right; and
    which card the 3B and 7B fit, counted.
    """
    from runtime.models import import_torch

    import_torch()
    from omnidrop_stream.lab.bench_weights import WeightsSettings, run
    from omnidrop_stream.lab.bench_weights_report import to_json, to_markdown

    if quick:
        streams, chunks = 1, 2
    settings = settings_of(config, model or "embedded", device, dtype)
    measured = WeightsSettings(settings, streams, chunks, seed)
    files = Files(json, to_json, markdown, to_markdown)
    for report in run(measured, terminal.complain):
        files.write(report)
    terminal.write_out(files.last, end="")
    return 0


def ways(
    model: Model = None,
    random_weights: Shape = None,
    config: Settings = None,
    ways: Annotated[
        str | None,
        typer.Option(
            help="Some of fast, flash, graphs, fast+graphs, overlap, compile (default: all but "
            "compile, which takes minutes)."
        ),
    ] = None,
    chunks: Annotated[int, typer.Option(help="The window in chunks of 2 s.")] = 32,
    prefill_depth: Annotated[
        str, typer.Option(help="0, a number, exact, half or read_side.")
    ] = "read_side",
    repeats: Annotated[int, typer.Option(help="Rounds.")] = 10,
    json: Json = None,
    markdown: Markdown = None,
    device: Device = None,
    dtype: Dtype = None,
    weights: Weights = None,
    quick: Quick = False,
    debug: Debug = False,
) -> int:
    """Every way to compute beside the plain one: what this device gains, and how far logits move.

    Engines, flash attention, CUDA graphs, a CUDA stream for the towers, torch's compiler.
    """
    from runtime.models import import_torch

    import_torch()
    from omnidrop_stream.lab.bench_ways import USUAL, WaysSettings, run
    from omnidrop_stream.lab.bench_ways_report import to_json, to_markdown

    if quick:
        chunks, repeats = 2, 1
    wanted = USUAL if ways is None else tuple(n.strip() for n in ways.split(","))
    measured = WaysSettings(
        config=settings_of(config, model, device, dtype, weights),
        shape=shape_of(model, random_weights, quick),
        ways=wanted,
        chunks=chunks,
        depth=depth_named(prefill_depth),
        repeats=repeats,
    )
    files = Files(json, to_json, markdown, to_markdown)
    for report in run(measured, terminal.complain):
        files.write(report)
    terminal.write_out(files.last, end="")
    return 0


class Files:
    """Where a report goes, written anew after each part. Raises UsageError where a place cannot be
    written.
    """

    def __init__(
        self,
        json: Path | None,
        to_json: Callable[[Any], str],
        markdown: Path | None,
        to_markdown: Callable[[Any], str],
    ) -> None:
        check_outputs({"--json": json, "--markdown": markdown})
        self._json, self._to_json = json, to_json
        self._markdown, self._to_markdown = markdown, to_markdown
        self.last = ""

    def write(self, report: object) -> None:
        """Both files; ``last`` is the Markdown."""
        self.last = self._to_markdown(report)
        if self._json is not None:
            self._json.write_text(self._to_json(report), encoding="utf-8")
        if self._markdown is not None:
            self._markdown.write_text(self.last, encoding="utf-8")


def profiled() -> None:
    """Keep torch's profiler, which counts peak memory, from talking. Before torch is imported."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")


def shape_of(model: str | None, random_weights: str | None, quick: bool) -> str | None:
    """The shape of random weights; None where a checkpoint is named."""
    if model is not None and random_weights is not None:
        raise UsageError("--model and --random-weights exclude each other: give one of them")
    return random_weights or (None if model else "tiny" if quick else "bench")


def settings_of(
    path: Path | None,
    model: str | None,
    device: str | None,
    dtype: str | None,
    weights: str | None = None,
) -> Config:
    """The file with the flags over it; without a file the benchmark's own settings."""
    base = load_config(path) if path is not None else make_config({"pruning": {"retention": 0.30}})
    flags = {"model": model, "device": device, "dtype": dtype, "weights": weights}
    given = {name: value for name, value in flags.items() if value is not None}
    return merged(base, {"model": given}, ORIGIN) if given else base
