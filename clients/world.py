"""``omnidrop world``: the synthetic world as files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clients.outputs import check_outputs
from clients.terminal import sentence, write_out

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def world(context: typer.Context) -> None:
    """The synthetic world that the embedded model knows."""
    if context.invoked_subcommand is None:
        write_out(context.get_help())


@app.command(short_help="Write some seconds of the world to OUT.")
def render(
    out: Annotated[Path, typer.Argument(help="The mp4 file to write.")],
    seed: Annotated[int, typer.Option(help="Which world; each seed is another.")] = 0,
    seconds: Annotated[float, typer.Option(help="Its length.")] = 20.0,
    split: Annotated[str, typer.Option(help="test (never trained on) or train.")] = "test",
    fps: Annotated[float, typer.Option(help="Pictures a second.")] = 25.0,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> int:
    """Write some seconds of the world to OUT, and what is true about them to OUT's .truth.json."""
    from runtime.world_media import render_world, truth_path

    check_outputs({"OUT": out, "OUT's truth": truth_path(out) if out.name else None})
    told = render_world(out, seed, seconds, split, fps)
    write_out(f"{sentence(out)}: {seconds:g} s of the world with seed {seed}, split {split}")
    write_out(f"{sentence(told)}: what is shown and heard in it, and when")
    return 0
