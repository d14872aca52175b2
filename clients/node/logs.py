"""The node's log: one line an event, on stderr, for people or as JSON; secrets never pass.

structlog writes it; the standard library's loggers (uvicorn, paho, our sources) go the same way.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO

import structlog

from clients.terminal import clean, sentence
from runtime.redact import redact

HIDDEN_KEYS = ("password", "token", "secret", "authorization", "credential")


def set_up(level: str, json_lines: bool, stream: TextIO | None = None) -> None:
    """Configure logging for the whole process; once, by the command."""
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        hide_secrets,
    ]
    shown: structlog.typing.Processor = (
        structlog.processors.JSONRenderer(default=str, ensure_ascii=True)
        if json_lines
        else structlog.dev.ConsoleRenderer(colors=False, pad_event_to=32)
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[level.upper()]
        ),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared[:-1], hide_secrets],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, shown],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # Its news are those of any server; ours say what matters.
    logging.getLogger("uvicorn").setLevel(logging.WARNING)


def hide_secrets(
    logger: Any, method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Take logins, and what drives a terminal, out of every value; what cannot be read goes."""
    return {str(key): _hidden(str(key), value) for key, value in event.items()}


def _hidden(key: str, value: Any) -> Any:
    if any(word in key.lower() for word in HIDDEN_KEYS):
        return "***"
    if isinstance(value, bool | int | float) or value is None:
        return value
    if isinstance(value, dict):
        return {str(k): _hidden(str(k), v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_hidden(key, inner) for inner in value]
    return sentence(value) if key == "event" else clean(redact(value))
