"""``omnidrop inspect``: what a checkpoint looks at, what it keeps, and where that is written."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clients import flags, terminal
from clients.counted import counted
from clients.options import Flags, SourceFlags, settings, source_options
from clients.outputs import check_outputs
from clients.spans import clock
from omnidrop_stream.errors import ModelMismatch, SourceError, UsageError

if TYPE_CHECKING:
    from omnidrop_stream.config import Config
    from omnidrop_stream.lab.inspect import Inspector
    from omnidrop_stream.lab.inspect_types import Asked, Inspection
    from omnidrop_stream.types import Chunk

DEMO = "demo:"
DEMO_CLIPS, DEMO_CHUNKS, DEMO_SEED = 16, 16, 200_000
BENCHMARK_CLIPS = 64
"""As in the paper's appendix A."""
ENDLESS_S = 20.0
"""How much is read of a source that never ends, unless told otherwise."""

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command(name="inspect")
def inspect(
    source: Annotated[
        str,
        typer.Argument(
            help="A media file, or another source as live takes it. With questions of their own: "
            "demo:, or a benchmark's folder as worldsense=DIR."
        ),
    ],
    questions: Annotated[list[str] | None, typer.Argument(help="One question or more.")] = None,
    kind: Annotated[
        list[str] | None,
        typer.Option(
            help="What kind the question is counted under: once for each question, in order. "
            "Without questions: only those of this kind; may be given again."
        ),
    ] = None,
    for_s: Annotated[
        float | None,
        typer.Option("--for", help="Read so many seconds of the source.", metavar="SECONDS"),
    ] = None,
    clips: Annotated[
        int | None,
        typer.Option(
            help=f"Streams of demo: (default {DEMO_CLIPS}), or clips of a benchmark (64)."
        ),
    ] = None,
    model: flags.Model = None,
    config: flags.Config = None,
    retention: flags.Retention = None,
    policy: flags.Policy = None,
    prefill_depth: flags.Depth = None,
    budget_tokens: flags.Budget = None,
    device: flags.Device = None,
    dtype: flags.Dtype = None,
    png: Annotated[Path | None, typer.Option(help="Draw it there (needs matplotlib).")] = None,
    json: Annotated[Path | None, typer.Option(help="Write all figures there as JSON.")] = None,
    debug: flags.Debug = False,
) -> int:
    """Show attention by chunk and layer, how concentrated it is, what pruning keeps of sound and
    pictures, and how the input embeddings lie (the paper's Figures 1, 2 and 4).
    """
    given = Flags(
        model=model,
        config=config,
        retention=retention,
        policy=policy,
        prefill_depth=prefill_depth,
        budget_tokens=budget_tokens,
        device=device,
        dtype=dtype,
    )
    asked = _asked(questions or [], kind or []) if questions else []
    own = source == DEMO or _folder(source) is not None
    if not asked and not own:
        name = terminal.sentence(source)
        raise UsageError(f"give a question about {name}; only {DEMO} and benchmarks have their own")
    if asked and _folder(source) is not None:
        raise UsageError(f"{source} has questions of its own: give none, or name one of its clips")
    if clips is not None and (asked or not 1 <= clips <= 10_000):
        raise UsageError("--clips is for sources with questions of their own: give 1 to 10000")
    if for_s is not None and not for_s > 0:
        raise UsageError(f"--for = {for_s:g} is not allowed: give more than 0 seconds")
    check_outputs({"--png": png, "--json": json})
    wanted = Wanted(source, asked, frozenset(kind or ()), for_s, clips)
    found = _inspect(wanted, given, png is not None)
    _write(found, png, json)
    return 0


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be looked at."""

    source: str
    asked: list[Asked]
    kinds: frozenset[str]
    """Of a source's own questions only these; empty: all."""
    for_s: float | None
    clips: int | None


def _inspect(wanted: Wanted, given: Flags, drawn: bool) -> Inspection:
    from runtime.models import import_torch

    import_torch()
    from omnidrop_stream.lab.inspect import Inspector
    from omnidrop_stream.lab.inspect_draw import need_matplotlib
    from omnidrop_stream.model.qwen_omni import QwenOmni
    from runtime.asking import within_reach
    from runtime.models import default_model, load

    if drawn:
        need_matplotlib()  # not after minutes of work
    config = settings(given, default_model())
    model = load(config.model)
    if not isinstance(model, QwenOmni):
        raise ModelMismatch("only a Qwen2.5-Omni checkpoint can be inspected")
    config, note = within_reach(config, model)
    if note:
        terminal.complain(note)
    inspector = Inspector(model, config)
    folder = _folder(wanted.source)
    if folder is not None:
        _add_benchmark(inspector, config, *folder, wanted)
    elif wanted.asked:
        _add_source(inspector, config, wanted)
    else:
        _add_world(inspector, wanted)
    return inspector.result()


def _folder(source: str) -> tuple[str, Path] | None:
    """A benchmark and its folder, from NAME=DIR."""
    from omnidrop_stream.lab.benchmarks import BENCHMARKS

    name, equals, folder = source.partition("=")
    return (name, Path(folder)) if equals and name in BENCHMARKS else None


def _add_source(inspector: Inspector, config: Config, wanted: Wanted) -> None:
    """The source as live use takes it in, as fast as it comes."""
    from omnidrop_stream.chunker import Chunker, ChunkerSettings
    from runtime.chunks import chunks_of
    from runtime.sources import open_source

    fps = config.stream.fps
    options = source_options(SourceFlags(), os.environ)
    with open_source(wanted.source, fps=fps, options=options) as opened:
        info, limit_s = opened.info, wanted.for_s
        if limit_s is None and info.duration_s is None:
            limit_s = ENDLESS_S
        chunks = chunks_of(opened, Chunker(ChunkerSettings(kind=info.kind, fps=fps)))
        inspector.add(info.kind, _first(chunks, limit_s), wanted.asked)


def _add_world(inspector: Inspector, wanted: Wanted) -> None:
    from omnidrop_stream.lab.inspect_world import world_clips
    from omnidrop_stream.types import CHUNK_SECONDS, StreamKind

    count = wanted.clips or DEMO_CLIPS
    length = DEMO_CHUNKS if wanted.for_s is None else max(1, round(wanted.for_s / CHUNK_SECONDS))
    clips = world_clips(DEMO_SEED, count, length)
    for number, (chunks, asked) in enumerate(clips, start=1):
        inspector.add(StreamKind.AV, chunks, _of(wanted.kinds, asked))
        terminal.complain(f"{number} of {count} streams")


def _add_benchmark(
    inspector: Inspector, config: Config, name: str, folder: Path, wanted: Wanted
) -> None:
    """The first clips that have questions of the wanted kinds; one that cannot be read is named."""
    from omnidrop_stream.lab.benchmarks import BENCHMARKS
    from omnidrop_stream.lab.inspect_types import Asked
    from runtime.clips import open_clip

    benchmark = BENCHMARKS[name]
    found = []
    for clip in benchmark.read(folder):
        if asked := _of(wanted.kinds, [Asked(q.text, q.task) for q in clip.questions]):
            found.append((clip, asked))
    if not found:
        raise UsageError(f"{name} has no question of the kind {', '.join(sorted(wanted.kinds))}")
    found = found[: wanted.clips or BENCHMARK_CLIPS]
    for number, (clip, asked) in enumerate(found, start=1):
        try:
            with open_clip(clip.path, config.stream.fps, benchmark.max_frames) as opened:
                chunks = _first(opened.chunks, wanted.for_s)
                inspector.add(opened.kind, chunks, asked, opened.fps)
            told = clip.id
        except SourceError as error:
            told = f"{clip.id} skipped: {terminal.sentence(error)}"
        terminal.complain(f"{number} of {len(found)}: {told}")


def _first(chunks: Iterator[Chunk], limit_s: float | None) -> Iterator[Chunk]:
    """Those that begin before ``limit_s``; None: all."""
    if limit_s is None:
        return chunks
    return itertools.takewhile(lambda chunk: chunk.start_s < limit_s - 1e-6, chunks)


def _of(kinds: frozenset[str], asked: Sequence[Asked]) -> list[Asked]:
    return [one for one in asked if not kinds or one.kind in kinds]


def _asked(questions: Sequence[str], kinds: Sequence[str]) -> list[Asked]:
    from omnidrop_stream.lab.inspect_types import Asked

    if kinds and len(kinds) != len(questions):
        raise UsageError(
            f"there {'is' if len(questions) == 1 else 'are'} {counted(len(questions), 'question')} "
            f"but {counted(len(kinds), 'time')} --kind: give none, or "
            "one for each question in the same order"
        )
    named = kinds or [""] * len(questions)
    return [Asked(text, kind) for text, kind in zip(questions, named, strict=True)]


def _write(found: Inspection, png: Path | None, json: Path | None) -> None:
    from omnidrop_stream.lab.inspect import to_json
    from omnidrop_stream.lab.inspect_draw import draw

    if json is not None:
        json.write_text(to_json(found), encoding="utf-8")
    if png is not None:
        draw(found, png)
    for line in _summary(found):
        terminal.write_out(line)


def _summary(found: Inspection) -> Iterator[str]:
    """The figures in a few lines."""
    model = found.settings["model"]
    seen = f"{counted(found.clips, 'clip')}, {counted(found.chunks, 'chunk')}"
    yield f"{model['name']}: {model['layers']} layers; {seen}"
    for one in found.maps:
        last = one.mean[-1]
        at = one.starts_s[last.index(max(last))]
        question = terminal.sentence(one.question)
        yield f"looks most at {clock(at)} in the last layer: {question}"
    half = model["layers"] // 2
    for medium, values in (("video", found.recall.video), ("audio", found.recall.audio)):
        if values:
            early, late = values[:half], values[half:]
            yield (
                f"{medium}: the strongest 20 % of tokens hold {sum(early) / len(early):.0%} of the "
                f"attention in layers 0 to {half - 1}, {sum(late) / len(late):.0%} from {half} on"
            )
    for kept in found.retention:
        shares = [
            f"{name} {values[-1]:.1%}"
            for name, values in (("video", kept.video), ("audio", kept.audio))
            if values
        ]
        yield f"enter the last layer, {kept.kind} ({kept.questions}): {', '.join(shares)}"
    if found.cosines is not None:
        means = ", ".join(f"{name} {value:.2f}" for name, value in found.cosines.mean.items())
        yield f"mean cosine of input embeddings: {means}"
