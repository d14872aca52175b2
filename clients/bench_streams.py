"""``omnidrop bench streams``: play, count what was late, write the report."""

from __future__ import annotations

from json import dumps
from pathlib import Path

from clients import terminal
from clients.outputs import check_outputs
from omnidrop_stream.config import Config, DepthName, load_config, merged
from omnidrop_stream.errors import UsageError
from runtime.memory import settle_heap

ORIGIN = "the command line"
NAMES: dict[str, DepthName] = {
    "exact": "exact",
    "auto": "auto",
    "half": "half",
    "read_side": "read_side",
}


def measure(
    model: str | None,
    config: Path | None,
    engine: str | None,
    streams: str,
    depths: str,
    seconds: float,
    window: int,
    ask_every: float,
    all_rows: bool,
    json: Path | None,
    markdown: Path | None,
) -> None:
    """Run; files are written after each row, the table is printed at the end."""
    from runtime.bench_streams import StreamsBench, run_streams
    from runtime.bench_streams_report import to_markdown

    check_outputs({"--json": json, "--markdown": markdown})
    bench = StreamsBench(
        streams=numbers(streams),
        depths=tuple(_depth(text) for text in _parts(depths)),
        seconds=seconds,
        window=window,
        ask_every_s=ask_every,
        stop_when_late=not all_rows,
    )
    how, text = _settings(config, model, engine), ""
    told = settle_heap() or ("the environment's own",)  # as a node that carries streams has it
    for report in run_streams(bench, how, tell=terminal.complain, allocator=told):
        text = to_markdown(report)
        if json is not None:
            json.write_text(dumps(report, indent=1) + "\n", encoding="utf-8")
        if markdown is not None:
            markdown.write_text(text, encoding="utf-8")
    terminal.write_out(text, end="")


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def numbers(text: str) -> tuple[int, ...]:
    """``8,16`` as numbers above 0. Raises UsageError."""
    parts = _parts(text)
    if not parts or not all(p.isascii() and p.isdigit() and int(p) for p in parts):
        raise UsageError(f"--streams = {text!r} is not allowed: give numbers such as 8,16,32")
    return tuple(int(part) for part in parts)


def _depth(text: str) -> int | DepthName:
    if text.isascii() and text.isdigit():
        return int(text)
    if text not in NAMES:
        raise UsageError(f"--depths: {text!r} is not allowed: numbers, or {', '.join(NAMES)}")
    return NAMES[text]


def _settings(path: Path | None, model: str | None, engine: str | None) -> Config:
    from runtime.models import default_model

    base = load_config(path) if path is not None else Config()
    name = model or (base.model.model if "model" in base.model.model_fields_set else None)
    given = {"model": name or default_model(), **({"engine": engine} if engine else {})}
    return merged(base, {"model": given}, ORIGIN)
