"""``omnidrop``: the commands, their flags, and what becomes of a mistake.

Exit codes are those of ``omnidrop_stream/errors.py``; 130 where the user interrupts, 143
after SIGTERM. A reader that closes stdout (``| head -1``) has what it wanted: 0, and no word.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from clients import terminal
from clients.options import Flags
from omnidrop_stream.errors import MissingDependency, OmniDropError, UsageError

INTERRUPTED = 130
ENDED_BY_SIGNAL = {INTERRUPTED: "interrupted", 143: "terminated"}

app = typer.Typer(
    name="omnidrop",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ModelFlag = Annotated[
    str | None,
    typer.Option("--model", help="Hub id, folder, embedded, or tiny (random words).", metavar="ID"),
]
ConfigFlag = Annotated[
    Path | None, typer.Option("--config", help="A YAML file, as under configs/.")
]
RetentionFlag = Annotated[
    float | None,
    typer.Option("--retention", help="Mean share of tokens kept, in percent (default 30)."),
]
PInitFlag = Annotated[float | None, typer.Option("--p-init", help="Schedule: first layer's ratio.")]
PFinalFlag = Annotated[
    float | None, typer.Option("--p-final", help="Schedule: last layer's ratio.")
]
TMidFlag = Annotated[float | None, typer.Option("--t-mid", help="Schedule: midpoint, 0 to 1.")]
BetaFlag = Annotated[float | None, typer.Option("--beta", help="Schedule: slope.")]
ScheduleFlag = Annotated[str | None, typer.Option("--schedule", help="sigmoid or exponential.")]
PolicyFlag = Annotated[str | None, typer.Option("--policy", help="Which tokens leave; omnidrop.")]
DepthFlag = Annotated[
    str | None,
    typer.Option(
        "--prefill-depth",
        help="Layers a chunk passes on arrival: 0, a number, exact, auto, half, or L.",
    ),
]
BudgetFlag = Annotated[int | None, typer.Option("--budget-tokens", help="Tokens a stream holds.")]
MaxTokensFlag = Annotated[int | None, typer.Option("--max-tokens", help="Longest answer.")]
DeviceFlag = Annotated[str | None, typer.Option("--device", help="auto, cpu or cuda[:n].")]
DtypeFlag = Annotated[str | None, typer.Option("--dtype", help="auto, bf16 or fp32.")]
AttentionFlag = Annotated[str | None, typer.Option("--attention", help="auto, sdpa or flash.")]
KindFlag = Annotated[str | None, typer.Option("--stream-kind", help="av, video, audio or auto.")]
QuietFlag = Annotated[bool, typer.Option("-q", "--quiet", help="Only answers and errors.")]
JsonFlag = Annotated[bool, typer.Option("--json", help="JSON lines on stdout.")]
DebugFlag = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """A live assistant that watches and listens: ask questions of a stream at any moment."""
    if version:
        terminal.write_out(f"omnidrop {importlib.metadata.version('omnidrop-stream')}")
    elif context.invoked_subcommand is None:
        terminal.write_out(context.get_help())


@app.command()
def ask(
    source: Annotated[str, typer.Argument(help="A media file, or demo: (made on the spot).")],
    questions: Annotated[list[str], typer.Argument(help="One question or more.")],
    at: Annotated[
        list[float] | None,
        typer.Option(
            help="Second of the stream to ask at: once for all questions, or once for each, in "
            "order. Default: the end (20 s where there is none)."
        ),
    ] = None,
    model: ModelFlag = None,
    config: ConfigFlag = None,
    retention: RetentionFlag = None,
    p_init: PInitFlag = None,
    p_final: PFinalFlag = None,
    t_mid: TMidFlag = None,
    beta: BetaFlag = None,
    schedule: ScheduleFlag = None,
    policy: PolicyFlag = None,
    prefill_depth: DepthFlag = None,
    budget_tokens: BudgetFlag = None,
    max_tokens: MaxTokensFlag = None,
    device: DeviceFlag = None,
    dtype: DtypeFlag = None,
    attention: AttentionFlag = None,
    stream_kind: KindFlag = None,
    session: Annotated[str, typer.Option(help="Questions of one name see earlier ones.")] = "",
    json: JsonFlag = False,
    quiet: QuietFlag = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Say what goes on.")] = False,
    debug: DebugFlag = False,
) -> int:
    """Read SOURCE as a stream, as fast as it comes, and answer each question."""
    from clients.ask import ask as run

    flags = Flags(
        model=model,
        config=config,
        retention=retention,
        p_init=p_init,
        p_final=p_final,
        t_mid=t_mid,
        beta=beta,
        schedule=schedule,
        policy=policy,
        prefill_depth=prefill_depth,
        budget_tokens=budget_tokens,
        max_tokens=max_tokens,
        device=device,
        dtype=dtype,
        attention=attention,
        stream_kind=stream_kind,
    )
    return run(source, questions, at or [], flags, session, json, quiet, verbose)


@app.command()
def live(
    context: typer.Context,
    source: Annotated[
        str, typer.Argument(help="rtsp://HOST/PATH, a media file (at its own pace), or demo:")
    ],
    ask: Annotated[
        list[str] | None,
        typer.Option(
            help="Ask this, and end when all is answered; may be given again. - reads questions "
            "and /commands from stdin, one after the other."
        ),
    ] = None,
    at: Annotated[
        list[float] | None,
        typer.Option(
            help="Second of the stream to ask at: once for all questions, or once for each, in "
            "order. Default: as soon as there is material."
        ),
    ] = None,
    for_s: Annotated[
        float | None, typer.Option("--for", help="End after so many seconds.", metavar="SECONDS")
    ] = None,
    model: ModelFlag = None,
    config: ConfigFlag = None,
    retention: RetentionFlag = None,
    p_init: PInitFlag = None,
    p_final: PFinalFlag = None,
    t_mid: TMidFlag = None,
    beta: BetaFlag = None,
    schedule: ScheduleFlag = None,
    policy: PolicyFlag = None,
    prefill_depth: DepthFlag = None,
    budget_tokens: BudgetFlag = None,
    max_tokens: MaxTokensFlag = None,
    device: DeviceFlag = None,
    dtype: DtypeFlag = None,
    attention: AttentionFlag = None,
    stream_kind: KindFlag = None,
    fast: Annotated[
        bool, typer.Option("--fast", help="Read a file as fast as the model takes it.")
    ] = False,
    trace: Annotated[
        Path | None, typer.Option(help="Write the hand-overs as a Chrome trace.", metavar="FILE")
    ] = None,
    stats: Annotated[
        bool, typer.Option("--stats", help="At the end, the statistics as JSON on stderr.")
    ] = False,
    json: JsonFlag = False,
    quiet: QuietFlag = False,
    debug: DebugFlag = False,
) -> int:
    """Watch and listen to SOURCE and ask while it runs: type on a terminal, or use --ask."""
    from clients.live import Wishes
    from clients.live import live as run

    flags = Flags(
        model=model,
        config=config,
        retention=retention,
        p_init=p_init,
        p_final=p_final,
        t_mid=t_mid,
        beta=beta,
        schedule=schedule,
        policy=policy,
        prefill_depth=prefill_depth,
        budget_tokens=budget_tokens,
        max_tokens=max_tokens,
        device=device,
        dtype=dtype,
        attention=attention,
        stream_kind=stream_kind,
    )
    wishes = Wishes(ask or [], at or [], for_s, json, fast, trace, stats, quiet)
    return run(source, flags, wishes, own_process=bool(context.obj))


@app.command()
def demo(
    seed: Annotated[int, typer.Option(help="Which world; each seed is another.")] = 1,
    seconds: Annotated[float, typer.Option(help="Length of the stream, 10 to 600 s.")] = 32.0,
    speed: Annotated[float, typer.Option(help="Times real time.")] = 1.0,
    model: ModelFlag = None,
    debug: DebugFlag = False,
) -> int:
    """Watch a small made-up world live, ask about it, and compare with the truth (a minute)."""
    from clients.demo import demo as run

    return run(seed, seconds, model, speed)


@app.command()
def doctor(json: JsonFlag = False, debug: DebugFlag = False) -> int:
    """Tell what is installed, what is missing, and the command that mends it."""
    from clients.doctor import doctor as run

    return run(json)


_PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


@app.command(context_settings=_PASSED_ON)
def bench(context: typer.Context) -> int:
    """Measure: omnidrop bench latency (see omnidrop bench --help)."""
    return _handed_on("bench", context.args)


@app.command(name="eval", context_settings=_PASSED_ON)
def evaluate(context: typer.Context) -> int:
    """Score answers and evidence on test streams of the world (see omnidrop eval --help)."""
    return _handed_on("eval", context.args)


@app.command(context_settings=_PASSED_ON)
def world(context: typer.Context) -> int:
    """Write the world to a file: omnidrop world render OUT.mp4 (see omnidrop world --help)."""
    return _handed_on("world", context.args)


def _handed_on(name: str, arguments: Sequence[str]) -> int:
    """A command with arguments of its own, in a module of its own."""
    if importlib.util.find_spec(f"clients.{name}") is None:
        raise MissingDependency(f"omnidrop {name} is not part of this installation; reinstall it")
    command = typer.main.get_command(importlib.import_module(f"clients.{name}").app)
    given = list(arguments)
    code = command.main(given, prog_name=f"omnidrop {name}", standalone_mode=False)
    return code if isinstance(code, int) else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="backslashreplace")
    if not terminal.is_terminal(sys.stderr):
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    options = given[: given.index("--")] if "--" in given else given
    try:
        return _run(
            given,
            as_json="--json" in options,
            debug="--debug" in options,
            own_process=arguments is None,
        )
    except (terminal.ReaderGone, BrokenPipeError):
        _forget_output()
        return 0


def _run(given: list[str], as_json: bool, debug: bool, own_process: bool) -> int:
    try:
        code = app(given, prog_name="omnidrop", standalone_mode=False, obj=own_process)
        if code in ENDED_BY_SIGNAL:
            terminal.complain(ENDED_BY_SIGNAL[code])
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except KeyboardInterrupt:
        terminal.complain("interrupted")
        return INTERRUPTED
    except (terminal.ReaderGone, BrokenPipeError):
        raise
    except Exception as error:
        if debug:
            terminal.show_traceback()
        told = _told(error)
        terminal.report(told, as_json=as_json)
        return told.exit_code


def _told(error: Exception) -> OmniDropError:
    """Any exception as one of ours, with a sentence that says what to do."""
    if isinstance(error, OmniDropError):
        return error
    if isinstance(error, typer.TyperException):
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "omnidrop"
        text = error.format_message().strip().rstrip(".")
        return UsageError(f"{text}. See {command} --help.")
    if isinstance(error, ModuleNotFoundError):
        return MissingDependency(
            f"the package {error.name} is not installed; run omnidrop doctor to see what mends it"
        )
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
        return OmniDropError(
            f"out of memory ({type(error).__name__}); use a smaller model, a lower --budget-tokens "
            "or --dtype bf16"
        )
    if isinstance(error, OSError):
        return OmniDropError(f"the system refused: {error}; free some space or check permissions")
    reason = str(error).strip() or "no message"
    return OmniDropError(
        f"this is a bug: {type(error).__name__}: {reason}; run again with --debug and report it"
    )


def _forget_output() -> None:
    """Nobody reads any more: let what is left go nowhere, also when Python exits."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


if __name__ == "__main__":
    sys.exit(main())
