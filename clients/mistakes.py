"""What becomes of an exception that ends a command: one of ours, with a sentence that says what to
do.
"""

from __future__ import annotations

import errno
from difflib import get_close_matches

import typer
from pydantic import ValidationError

from omnidrop_stream.allowed import allowed
from omnidrop_stream.errors import MissingDependency, OmniDropError, UsageError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


def told_of(error: Exception) -> OmniDropError:
    """Any exception as one of ours, with a sentence that says what to do."""
    if isinstance(error, OmniDropError):
        return error
    if isinstance(error, typer.BadParameter) and isinstance(error.__cause__, ValidationError):
        return _value(error, error.__cause__)
    if isinstance(error, typer.TyperException):
        return _misused(error)
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
        return OmniDropError(_refused(error))
    reason = str(error).strip() or "no message"
    return OmniDropError(
        f"this is a bug: {type(error).__name__}: {reason}; run again with --debug and report it"
    )


def _misused(error: typer.TyperException) -> UsageError:
    """A command or flag that there is not, or one that is missing."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "omnidrop"
    text = error.format_message().strip().rstrip(".")
    if text.startswith("No such command") and get_close_matches(text.split("'")[1], ["help"]):
        return UsageError(f"{text}. Did you mean {command} --help?")
    return UsageError(f"{text}{'' if text.endswith('?') else '.'} See {command} --help.")


def _value(error: typer.BadParameter, cause: ValidationError) -> UsageError:
    """A word that is no value of its flag."""
    mistake = cause.errors(include_url=False)[0]
    names = getattr(error.param, "opts", None) or ["the value"]
    flag = max(names, key=len) if names[0].startswith("-") else names[0].upper()
    return UsageError(f"{flag} = {mistake['input']!r} is not allowed: {allowed(mistake, None)}")


def _refused(error: OSError) -> str:
    """What the system did not want, with the file's name where it tells one."""
    name = "" if error.filename is None else f" {error.filename!r}"
    reason = error.strerror or str(error)
    advice = "check the name, and run again with --debug if it is right"
    if error.errno in _FULL:
        advice = "free some space"
    elif error.errno in _FORBIDDEN:
        advice = "check the permissions"
    return f"the system refused{name}: {reason}; {advice}"
