"""``omnidrop ask SOURCE "question" ...``: read a source as fast as it comes and answer."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import closing

from clients.options import Flags, SourceFlags, kind_of, moments, settings, source_options
from clients.terminal import make_printer


def ask(
    source: str,
    questions: Sequence[str],
    at_s: Sequence[float],
    flags: Flags,
    taken: SourceFlags,
    session: str = "",
    json: bool = False,
    quiet: bool = False,
    verbose: bool = False,
) -> int:
    """Print what happens; returns the exit code of the first question that failed, or 0."""
    from runtime.asking import Failed, Question, ask_source
    from runtime.models import default_model
    from runtime.sources.complaints import listen

    listen()
    config = settings(flags, default_model())
    options = source_options(taken, os.environ)
    times = moments(questions, at_s)
    asked = [
        Question(f"q{number}", text, moment, session)
        for number, (text, moment) in enumerate(zip(questions, times, strict=True), start=1)
    ]
    code = 0
    printer = make_printer(json, quiet, verbose)
    try:
        kind = kind_of(flags, config)
        with closing(ask_source(source, asked, config, kind, options=options)) as events:
            for event in events:
                printer.show(event)
                if isinstance(event, Failed):
                    code = code or event.error.exit_code
    finally:
        printer.close()
    return code
