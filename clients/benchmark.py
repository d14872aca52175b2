"""``omnidrop benchmark``: published benchmarks, played and scored; where state and report go."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clients import flags, terminal
from clients.benchmark_flags import check_name, folders_of, rows_of, said, values_of, words_of
from clients.counted import counted
from clients.outputs import check_outputs
from omnidrop_stream.errors import ModelMismatch, SourceError, UsageError

if TYPE_CHECKING:
    from omnidrop_stream.lab.benchmarks import Benchmark, Clip
    from omnidrop_stream.lab.benchmarks.run import BenchmarkRun
    from omnidrop_stream.lab.benchmarks.settings import BenchmarkSettings
    from omnidrop_stream.lab.eval_types import Record

ORIGIN = "the command line"
COMMAND = "omnidrop benchmark"
app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Sets = Annotated[
    str | None,
    typer.Option("--benchmark", help="videomme, worldsense, avut; several: with commas."),
]
Data = Annotated[
    list[str] | None,
    typer.Option(
        "--data",
        help="The benchmark's folder; with several benchmarks NAME=DIR, once for each.",
        metavar="DIR",
    ),
]
Json = Annotated[Path | None, typer.Option("--json", help="Write the report there as JSON.")]
Markdown = Annotated[Path | None, typer.Option("--markdown", help="Write the tables there.")]


@app.callback(invoke_without_command=True)
def benchmark(context: typer.Context) -> None:
    """Published benchmarks on any checkpoint; a file under configs/benchmarks/ is a table of the
    paper.
    """
    if context.invoked_subcommand is None:
        terminal.write_out(context.get_help())


@app.command(short_help="Play the clips, ask every row's questions.")
def run(
    config: Annotated[
        Path | None,
        typer.Option(help="A YAML file, as configs/benchmarks/table2-7b.yaml; flags stand above."),
    ] = None,
    sets: Sets = None,
    data: Data = None,
    model: flags.Model = None,
    policies: Annotated[
        str | None,
        typer.Option("--policy", help="Rows: which tokens leave, as keep-all,omnidrop."),
    ] = None,
    retentions: Annotated[
        str | None, typer.Option("--retention", help="Rows: mean shares kept in percent, as 30,20.")
    ] = None,
    state: Annotated[
        Path | None,
        typer.Option(help="Finished clips, as JSON lines; a run started again goes on there."),
    ] = None,
    shard: Annotated[
        str,
        typer.Option(
            help="This process's part, as 2/8: every 8th clip. Each needs its own --state."
        ),
    ] = "1/1",
    clips: Annotated[
        int | None, typer.Option(help="Only so many clips of each benchmark (and part).")
    ] = None,
    json: Json = None,
    markdown: Markdown = None,
    device: flags.Device = None,
    dtype: flags.Dtype = None,
    debug: flags.Debug = False,
) -> int:
    """Play the clips, ask every question with every row's settings, print the tables."""
    chosen = {"model": model, "device": device, "dtype": dtype}
    values = values_of(config, sets, rows_of(policies, retentions), said(chosen))
    check_outputs({"--json": json, "--markdown": markdown, "--state": state})
    _run(values, config, data or [], state, shard, clips, json, markdown)
    return 0


@app.command(short_help="Put the parts of a run together as tables.")
def report(
    states: Annotated[list[Path], typer.Argument(help="State files of one run, all its parts.")],
    json: Json = None,
    markdown: Markdown = None,
    debug: flags.Debug = False,
) -> int:
    """Put the parts of a run together and print the tables; needs neither model nor clips."""
    from omnidrop_stream.lab.benchmarks.run import joined
    from omnidrop_stream.lab.eval_state import read_state

    check_outputs({"--json": json, "--markdown": markdown})
    lines = joined([read_state(path, COMMAND) for path in states], [str(p) for p in states])
    _write(lines, json, markdown)
    return 0


@app.command(short_help="Tell which annotated clips are not there.")
def check(
    sets: Sets = None,
    data: Data = None,
    debug: flags.Debug = False,
) -> int:
    """Read the annotations and tell which clips are not there; plays nothing."""
    from omnidrop_stream.lab.benchmarks import BENCHMARKS

    names = words_of(sets) or list(BENCHMARKS)
    for name in names:
        check_name(name)
    if sets is None:
        names = [name for name in names if name in folders_of(names, data or [], partly=True)]
    missing = 0
    for name, clips in _read(names, data or []).items():
        gone = [clip for clip in clips if not clip.path.is_file()]
        asked = sum(len(clip.questions) for clip in clips)
        missing += len(gone)
        told = (
            f"{counted(len(clips), 'clip')}, {counted(asked, 'question')}, "
            f"{counted(len(gone), 'clip')} missing"
        )
        terminal.write_out(f"{name}: {told}")
        for clip in gone[:20]:
            terminal.write_out(f"  missing: {terminal.sentence(clip.path)}")
    return 3 if missing else 0


def _run(
    values: dict[str, Any],
    config: Path | None,
    data: Sequence[str],
    state: Path | None,
    shard: str,
    first: int | None,
    json: Path | None,
    markdown: Path | None,
) -> None:
    """Every finished clip is kept at once; the report is written at the end, or at an interrupt."""
    import tempfile

    from runtime.models import import_torch

    import_torch()
    from omnidrop_stream.lab.benchmarks.run import BenchmarkRun, Shard
    from omnidrop_stream.lab.benchmarks.settings import benchmark_settings
    from omnidrop_stream.lab.eval_state import StateFile
    from omnidrop_stream.model.qwen_omni import QwenOmni
    from runtime.models import load

    settings = benchmark_settings(values, ORIGIN if config is None else str(config))
    part = Shard.parse(shard)
    if part.of > 1 and state is None:
        raise UsageError(f"--shard = {shard} needs a --state of its own, to be put together later")
    clips = _read(settings.wanted.sets, data)
    model = load(settings.config.model)
    if not isinstance(model, QwenOmni):
        raise ModelMismatch("only a Qwen2.5-Omni checkpoint can be measured")
    work = BenchmarkRun(model, settings, clips, part, first)
    with tempfile.TemporaryDirectory() as folder:
        head = work.head()
        kept = StateFile(state or Path(folder) / "state.jsonl", head, COMMAND)
        stopped: KeyboardInterrupt | None = None
        try:
            _play(work, settings, kept.records, kept.add)
        except KeyboardInterrupt as interrupt:
            stopped = interrupt
        _write([head, *kept.records], json, markdown)
    if stopped is not None:
        raise stopped


def _play(work: BenchmarkRun, settings: BenchmarkSettings, done: list[Record], keep: Any) -> None:
    """What is left, clip by clip."""
    if before := sum(record["type"] == "clip" for record in done):
        terminal.complain(f"going on after {before} finished clips")
    left = list(work.left(list(done)))
    if left:
        keep(work.conditions())
    for number, (benchmark, clip) in enumerate(left, start=1):
        record = _played(work, settings, benchmark, clip)
        keep(record)
        told = record.get("reason") or f"{record['chunks']} chunks"
        terminal.complain(
            f"{number} of {len(left)}: {benchmark.name} {clip.id}: "
            + (f"skipped: {terminal.sentence(told)}" if "reason" in record else told)
        )


def _played(
    work: BenchmarkRun, settings: BenchmarkSettings, benchmark: Benchmark, clip: Clip
) -> Record:
    from omnidrop_stream.lab.benchmarks.play import Played
    from omnidrop_stream.lab.benchmarks.run import skipped
    from runtime.clips import open_clip

    fps = settings.config.stream.fps
    try:
        with open_clip(clip.path, fps, settings.max_frames(benchmark.name)) as opened:
            played = Played(opened.kind, opened.fps, opened.chunks, opened.seconds)
            return work.play(benchmark, clip, played)
    except SourceError as error:
        reason = terminal.sentence(error).replace(str(clip.path), clip.path.name)
        return skipped(benchmark, clip, reason)


def _write(lines: list[Record], json: Path | None, markdown: Path | None) -> None:
    from omnidrop_stream.lab.benchmarks.report import report_of
    from omnidrop_stream.lab.benchmarks.tables import to_json, to_markdown

    found = report_of(lines)
    for path, text in ((json, to_json), (markdown, to_markdown)):
        if path is not None:
            path.write_text(text(found), encoding="utf-8")
    terminal.write_out(to_markdown(found))


def _read(names: Sequence[str], data: Sequence[str]) -> dict[str, list[Clip]]:
    """The clips of each benchmark."""
    from omnidrop_stream.lab.benchmarks import BENCHMARKS

    folders = folders_of(names, data)
    return {name: BENCHMARKS[name].read(folders[name]) for name in names}
