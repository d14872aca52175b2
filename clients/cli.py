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

from clients import flags, terminal
from clients.mistakes import told_of
from clients.options import Flags, SourceFlags
from omnidrop_stream.errors import MissingDependency, UsageError

INTERRUPTED = 130
ENDED_BY_SIGNAL = {INTERRUPTED: "interrupted", 143: "terminated"}

app = typer.Typer(
    name="omnidrop",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


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
    context: typer.Context,
    source: Annotated[
        str | None,
        typer.Argument(help="A media file, or demo: (made on the spot). None with --node."),
    ] = None,
    questions: Annotated[list[str] | None, typer.Argument(help="One question or more.")] = None,
    at: Annotated[
        list[float] | None,
        typer.Option(
            help="Second of the stream to ask at: once for all questions, or once for each, in "
            "order. Default: the end (20 s where there is none)."
        ),
    ] = None,
    model: flags.Model = None,
    config: flags.Config = None,
    retention: flags.Retention = None,
    p_init: flags.PInit = None,
    p_final: flags.PFinal = None,
    t_mid: flags.TMid = None,
    beta: flags.Beta = None,
    schedule: flags.Schedule = None,
    policy: flags.Policy = None,
    prefill_depth: flags.Depth = None,
    budget_tokens: flags.Budget = None,
    max_tokens: flags.MaxTokens = None,
    device: flags.Device = None,
    dtype: flags.Dtype = None,
    attention: flags.Attention = None,
    weights: flags.Weights = None,
    engine: flags.Engine = None,
    stream_kind: flags.Kind = None,
    microphone: flags.Microphone = None,
    camera_backend: flags.CameraBackend = None,
    camera_size: flags.CameraSize = None,
    camera_fps: flags.CameraFps = None,
    user: flags.User = None,
    password_file: flags.PasswordFile = None,
    transport: flags.Transport = None,
    tls_ca_file: flags.TlsCaFile = None,
    tls_no_verify: flags.TlsNoVerify = False,
    video_stream: flags.VideoStream = None,
    audio_stream: flags.AudioStream = None,
    hwaccel: flags.Hwaccel = None,
    open_timeout: flags.OpenTimeout = None,
    stall_timeout: flags.StallTimeout = None,
    wait: flags.Wait = None,
    node: flags.Node = None,
    camera: flags.Camera = None,
    prefix: flags.Prefix = None,
    look_back: flags.LookBack = None,
    timeout: flags.Timeout = None,
    session: Annotated[str, typer.Option(help="Questions of one name see earlier ones.")] = "",
    json: flags.Json = False,
    quiet: flags.Quiet = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Say what goes on.")] = False,
    debug: flags.Debug = False,
) -> int:
    """Ask questions of a file or source, or of a running node.

    SOURCE is read as a stream, as fast as it comes; with --node and --camera a node is asked.
    """
    from clients.node_flags import NodeFlags, refuse_without_node

    if quiet and verbose:
        raise UsageError("-q and -v say the opposite of each other: give one of them")
    wanted = flags.picked(Flags, context.params)
    taken = flags.picked(SourceFlags, context.params)
    asked = flags.picked(NodeFlags, context.params)
    if node is not None:
        from clients.node.asking import ask_node

        texts = [source, *(questions or [])] if source is not None else []
        return ask_node(asked, texts, at or [], wanted, taken, session, json, quiet, verbose)
    refuse_without_node(asked)
    if source is None or not questions:
        missing = "SOURCE" if source is None else "QUESTIONS..."
        raise UsageError(f"Missing argument '{missing}'. See omnidrop ask --help.")
    from clients.ask import ask as run

    return run(source, questions, at or [], wanted, taken, session, json, quiet, verbose)


@app.command()
def live(
    context: typer.Context,
    source: Annotated[
        str | None,
        typer.Argument(
            help="camera:, camera:0+mic:default, mic:, rtsp://HOST/PATH, http://HOST/PATH, a media "
            "file (at its own pace), or demo:. Without it: the first camera and the default "
            "microphone."
        ),
    ] = None,
    ask: Annotated[
        list[str] | None,
        typer.Option(
            help="Ask this, and end when all is answered; may be given again. - reads questions "
            "and /commands from stdin, one after the other."
        ),
    ] = None,
    watch: Annotated[
        list[str] | None,
        typer.Option(
            help="Tell me when this happens, in plain words; sound: in front judges by the sound "
            "alone. May be given again.",
            metavar="TEXT",
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
        float | None,
        typer.Option(
            "--for",
            help="End after so many seconds; loading the model counts.",
            metavar="SECONDS",
        ),
    ] = None,
    model: flags.Model = None,
    config: flags.Config = None,
    retention: flags.Retention = None,
    p_init: flags.PInit = None,
    p_final: flags.PFinal = None,
    t_mid: flags.TMid = None,
    beta: flags.Beta = None,
    schedule: flags.Schedule = None,
    policy: flags.Policy = None,
    prefill_depth: flags.Depth = None,
    budget_tokens: flags.Budget = None,
    max_tokens: flags.MaxTokens = None,
    device: flags.Device = None,
    dtype: flags.Dtype = None,
    attention: flags.Attention = None,
    weights: flags.Weights = None,
    engine: flags.Engine = None,
    stream_kind: flags.Kind = None,
    microphone: flags.Microphone = None,
    camera_backend: flags.CameraBackend = None,
    camera_size: flags.CameraSize = None,
    camera_fps: flags.CameraFps = None,
    user: flags.User = None,
    password_file: flags.PasswordFile = None,
    transport: flags.Transport = None,
    tls_ca_file: flags.TlsCaFile = None,
    tls_no_verify: flags.TlsNoVerify = False,
    video_stream: flags.VideoStream = None,
    audio_stream: flags.AudioStream = None,
    hwaccel: flags.Hwaccel = None,
    open_timeout: flags.OpenTimeout = None,
    stall_timeout: flags.StallTimeout = None,
    wait: flags.Wait = None,
    fast: Annotated[
        bool,
        typer.Option(
            "--fast",
            help="Read a file as fast as the model takes it; a question sees what is in by then.",
        ),
    ] = False,
    trace: Annotated[
        Path | None, typer.Option(help="Write the hand-overs as a Chrome trace.", metavar="FILE")
    ] = None,
    stats: Annotated[
        bool, typer.Option("--stats", help="At the end, the statistics as JSON on stderr.")
    ] = False,
    json: flags.Json = False,
    quiet: flags.Quiet = False,
    debug: flags.Debug = False,
) -> int:
    """Watch and listen to SOURCE, and ask while it runs.

    Type on a terminal, or use --ask.
    """
    from clients.live import Wishes
    from clients.live import live as run

    wanted = flags.picked(Flags, context.params)
    taken = flags.picked(SourceFlags, context.params)
    wishes = Wishes(ask or [], watch or [], at or [], for_s, json, fast, trace, stats, quiet)
    return run(source, wanted, taken, wishes, own_process=bool(context.obj))


@app.command()
def demo(
    seed: Annotated[int, typer.Option(help="Which world; each seed is another.")] = 1,
    seconds: Annotated[float, typer.Option(help="Length of the stream, 10 to 600 s.")] = 32.0,
    speed: Annotated[float, typer.Option(help="Times real time.")] = 1.0,
    model: flags.Model = None,
    debug: flags.Debug = False,
) -> int:
    """Watch a made-up world live and check the answers (a minute).

    On a terminal it goes on afterwards and takes questions of your own.
    """
    from clients.demo import demo as run

    return run(seed, seconds, model, speed)


@app.command()
def doctor(json: flags.Json = False, debug: flags.Debug = False) -> int:
    """Tell what is installed or missing, and what mends it."""
    from clients.doctor import doctor as run

    return run(json)


@app.command()
def devices(json: flags.Json = False, debug: flags.Debug = False) -> int:
    """List cameras and microphones, and what to type for each."""
    from clients.devices import devices as run

    return run(json)


@app.command()
def probe(
    context: typer.Context,
    source: Annotated[
        str, typer.Argument(help="What live takes: rtsp://, http://, camera:, a file, demo: ...")
    ],
    seconds: Annotated[float, typer.Option(help="For how long to look, 0.5 to 600 s.")] = 6.0,
    microphone: flags.Microphone = None,
    camera_backend: flags.CameraBackend = None,
    camera_size: flags.CameraSize = None,
    camera_fps: flags.CameraFps = None,
    user: flags.User = None,
    password_file: flags.PasswordFile = None,
    transport: flags.Transport = None,
    tls_ca_file: flags.TlsCaFile = None,
    tls_no_verify: flags.TlsNoVerify = False,
    video_stream: flags.VideoStream = None,
    audio_stream: flags.AudioStream = None,
    hwaccel: flags.Hwaccel = None,
    open_timeout: flags.OpenTimeout = None,
    stall_timeout: flags.StallTimeout = None,
    wait: flags.Wait = None,
    json: flags.Json = False,
    debug: flags.Debug = False,
) -> int:
    """Tell what SOURCE is, with advice.

    Codec, size, rate, keyframes, time to open, A/V offset.
    """
    from clients.options import source_options
    from clients.probe import probe as run

    taken = flags.picked(SourceFlags, context.params)
    return run(source, source_options(taken, os.environ), seconds, json)


@app.command()
def serve(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="The node's YAML file; configs/node.yaml shows it.")],
    model: flags.Model = None,
    device: flags.Device = None,
    name: Annotated[str | None, typer.Option(help="The node's name in topics and logs.")] = None,
    state_dir: Annotated[
        Path | None, typer.Option(help="Where journal and client id are kept.")
    ] = None,
    log_level: Annotated[
        str | None, typer.Option(help="debug, info (default), warning or error.")
    ] = None,
    log_json: Annotated[
        bool, typer.Option("--log-json", help="Log one JSON object a line.")
    ] = False,
    debug: flags.Debug = False,
) -> int:
    """Run cameras and devices from one file, for weeks.

    With MQTT, standing questions and metrics.
    """
    from clients.node.serve import flags_of
    from clients.node.serve import serve as run

    given = flags_of(model, device, name, state_dir, log_level, log_json)
    return run(file, given, own_process=context.obj is True)


_PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


@app.command(context_settings=_PASSED_ON)
def bench(context: typer.Context) -> int:
    """Measure on this machine: latency, memory, many streams."""
    return _handed_on("bench", context.args)


@app.command(name="eval", context_settings=_PASSED_ON)
def evaluate(context: typer.Context) -> int:
    """Score answers and evidence on test streams of the world."""
    return _handed_on("eval", context.args)


@app.command(context_settings=_PASSED_ON)
def benchmark(context: typer.Context) -> int:
    """Score published benchmarks on any checkpoint."""
    return _handed_on("benchmark", context.args)


@app.command(context_settings=_PASSED_ON)
def inspect(context: typer.Context) -> int:
    """Show what a checkpoint attends to and keeps."""
    return _handed_on("inspect", context.args, "inspecting")


@app.command(context_settings=_PASSED_ON)
def world(context: typer.Context) -> int:
    """Write the world to a file, as world render OUT.mp4."""
    return _handed_on("world", context.args)


@app.command(context_settings=_PASSED_ON)
def config(context: typer.Context) -> int:
    """Check, show and reload a node's file, print its schema."""
    return _handed_on("config", context.args, "node.config_commands")


def writes_nothing(arguments: Sequence[str]) -> bool:
    """Whether the command has nothing to say on stdout: a node logs to stderr."""
    return next((word for word in arguments if not word.startswith("-")), "") == "serve"


def _handed_on(name: str, arguments: Sequence[str], module: str = "") -> int:
    """A command with arguments of its own, in a module of its own."""
    where = f"clients.{module or name}"
    if importlib.util.find_spec(where) is None:
        raise MissingDependency(f"omnidrop {name} is not part of this installation; reinstall it")
    command = typer.main.get_command(importlib.import_module(where).app)
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
    except SystemExit as ended:
        if isinstance(ended.__context__, BrokenPipeError):  # what Typer makes of one
            raise terminal.ReaderGone from None
        raise
    except Exception as error:
        if debug:
            terminal.show_traceback()
        told = told_of(error)
        terminal.report(told, as_json=as_json)
        return told.exit_code


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
    from clients.start import main as start

    sys.exit(start())
