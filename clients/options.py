"""From the flags of a command to settings and questions; each refusal names the flag."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, overload

from clients.counted import counted
from omnidrop_stream.config import Config, DepthName, ScheduleConfig, load_config, merged
from omnidrop_stream.errors import ConfigError, UsageError
from omnidrop_stream.types import StreamKind

if TYPE_CHECKING:
    from runtime.sources.options import SourceOptions

PASSWORD_VARIABLE = "OMNIDROP_PASSWORD"
ORIGIN = "the command line"
_FLAG_OF = {
    "model.device": "--device",
    "model.dtype": "--dtype",
    "model.attention": "--attention",
    "model.weights": "--weights",
    "model.engine": "--engine",
    "stream.budget_tokens": "--budget-tokens",
    "decode.max_tokens": "--max-tokens",
    "pruning.schedule.p_init": "--p-init",
    "pruning.schedule.p_final": "--p-final",
    "pruning.schedule.t_mid": "--t-mid",
    "pruning.schedule.beta": "--beta",
    "pruning.schedule.kind": "--schedule",
}


@dataclass(frozen=True, slots=True)
class Flags:
    """What the command line says; None where it says nothing."""

    model: str | None = None
    config: Path | None = None
    retention: float | None = None
    p_init: float | None = None
    p_final: float | None = None
    t_mid: float | None = None
    beta: float | None = None
    schedule: str | None = None
    policy: str | None = None
    prefill_depth: str | None = None
    budget_tokens: int | None = None
    max_tokens: int | None = None
    device: str | None = None
    dtype: str | None = None
    attention: str | None = None
    weights: str | None = None
    engine: str | None = None
    stream_kind: str | None = None


@dataclass(frozen=True, slots=True)
class SourceFlags:
    """What the command line says of the source; None where it says nothing. The password is never a
    flag: other users of the machine see a process's arguments.
    """

    microphone: str | None = None
    camera_backend: str | None = None
    camera_size: str | None = None
    camera_fps: float | None = None
    user: str | None = None
    password_file: Path | None = None
    transport: str | None = None
    tls_ca_file: Path | None = None
    tls_no_verify: bool = False
    video_stream: int | None = None
    audio_stream: int | None = None
    hwaccel: str | None = None
    open_timeout: float | None = None
    stall_timeout: float | None = None
    wait: bool | None = None


def source_options(flags: SourceFlags, environment: Mapping[str, str]) -> SourceOptions:
    """The options of a source. Raises UsageError, which names the flag."""
    from pydantic import ValidationError

    from runtime.sources.options import SourceOptions

    given = {
        "microphone": flags.microphone,
        "camera_backend": flags.camera_backend,
        "camera_size": flags.camera_size,
        "camera_fps": flags.camera_fps,
        "user": flags.user,
        "password": password_of(flags.password_file, environment),
        "transport": flags.transport,
        "tls_ca_file": _readable(flags.tls_ca_file, "--tls-ca-file"),
        "tls_verify": False if flags.tls_no_verify else None,
        "video_stream": flags.video_stream,
        "audio_stream": flags.audio_stream,
        "hwaccel": flags.hwaccel,
        "open_timeout_s": flags.open_timeout,
        "stall_timeout_s": flags.stall_timeout,
        "wait_for_first": flags.wait,
    }
    if flags.hwaccel is not None:
        _check_device(flags.hwaccel)
    try:
        return SourceOptions.model_validate(_said(given))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = str(first["loc"][0])
        flag = "--" + key.removesuffix("_s").replace("_", "-")
        value = "" if key == "password" else f" = {first['input']!r}"
        raise UsageError(
            f"{flag}{value} is not allowed: {_ALLOWED.get(key, first['msg'])}"
        ) from None


_ALLOWED = {
    "camera_backend": "give auto, pyav or opencv",
    "camera_size": "write it like 1280x720",
    "camera_fps": "give more than 0, at most 240",
    "transport": "give tcp or udp",
    "video_stream": "give a number from 0 on",
    "audio_stream": "give a number from 0 on",
    "open_timeout_s": "give seconds, from 0.1 to 300",
    "stall_timeout_s": "give seconds, from 0.1 to 300",
}


def _check_device(name: str) -> None:
    from runtime.sources.hwaccel import check_device

    try:
        check_device(name)
    except ConfigError as error:
        raise UsageError(f"--{error}") from None


def password_of(path: Path | None, environment: Mapping[str, str]) -> str | None:
    """The first line of the file, else what the environment says."""
    if path is None:
        return environment.get(PASSWORD_VARIABLE) or None
    text = _read(path, "--password-file").partition("\n")[0].rstrip("\r")
    if not text:
        raise UsageError(f"--password-file = {path} is empty: its first line is the password")
    return text


def _readable(path: Path | None, flag: str) -> str | None:
    if path is not None:
        _read(path, flag)
    return None if path is None else str(path)


def _read(path: Path, flag: str) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise UsageError(f"{flag} = {path} cannot be read ({reason}): name a text file") from None


def settings(flags: Flags, default_model: str) -> Config:
    """Flags over the file over the defaults. Raises ConfigError or UsageError."""
    config = load_config(flags.config) if flags.config is not None else Config()
    model = flags.model
    if model is None and "model" not in config.model.model_fields_set:
        model = default_model
    given: dict[str, dict[str, Any]] = {
        "model": {
            "model": model,
            "device": flags.device,
            "dtype": flags.dtype,
            "attention": flags.attention,
            "weights": flags.weights,
            "engine": flags.engine,
        },
        "stream": {
            "budget_tokens": flags.budget_tokens,
            "prefill_depth": depth_named(flags.prefill_depth),
        },
        "decode": {"max_tokens": flags.max_tokens},
    }
    changes = {name: _said(values) for name, values in given.items()}
    changes["pruning"] = _pruning(flags, config)
    try:
        return merged(config, {name: new for name, new in changes.items() if new}, ORIGIN)
    except ConfigError as error:
        message = str(error)
        for key, flag in _FLAG_OF.items():
            message = message.replace(f"{key} =", f"{flag} =")
        raise ConfigError(message) from None


def kind_of(flags: Flags, config: Config) -> StreamKind | None:
    """The kind of stream that is asked for; None: whatever the source carries."""
    if flags.stream_kind is None:
        return config.stream.kind if "kind" in config.stream.model_fields_set else None
    if flags.stream_kind == "auto":
        return None
    if flags.stream_kind not in list(StreamKind):
        raise UsageError(
            f"--stream-kind = {flags.stream_kind!r} is not allowed: give av, video, audio or auto"
        )
    return StreamKind(flags.stream_kind)


def moments(questions: Sequence[str], at_s: Sequence[float]) -> list[float | None]:
    """A moment of stream time for each question: none given, one for all, or one for each."""
    for value in at_s:
        if not math.isfinite(value) or value < 0:
            raise UsageError(f"--at = {value:g} is not allowed: give seconds of stream, 0 or more")
    if len(at_s) <= 1:
        return [at_s[0] if at_s else None] * len(questions)
    if len(at_s) != len(questions):
        raise UsageError(
            f"there {'is' if len(questions) == 1 else 'are'} {counted(len(questions), 'question')} "
            f"but {counted(len(at_s), 'time')} --at: give none, one for "
            "all, or one for each question in the same order"
        )
    return list(at_s)


def _said(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


@overload
def depth_named(text: str) -> int | str: ...


@overload
def depth_named(text: str | None) -> int | str | None: ...


def depth_named(text: str | None) -> int | str | None:
    """A depth as the command line writes it. Raises UsageError."""
    if text is None:
        return None
    name = {"l": "read_side", "read-side": "read_side"}.get(text.lower(), text.lower())
    if name in get_args(DepthName):
        return name
    if text.isascii() and text.isdigit():
        return int(text)
    raise UsageError(
        f"--prefill-depth = {text!r} is not allowed: give a number from 0 to the model's number of "
        "layers, exact, auto, half, or L (read_side)"
    )


def _pruning(flags: Flags, config: Config) -> dict[str, Any]:
    new: dict[str, Any] = _said({"policy": flags.policy})
    values = _said(
        {
            "kind": flags.schedule,
            "p_init": flags.p_init,
            "p_final": flags.p_final,
            "t_mid": flags.t_mid,
            "beta": flags.beta,
        }
    )
    if flags.retention is not None:
        if values:
            raise UsageError(
                "--retention and schedule values (--schedule, --p-init, --p-final, --t-mid, "
                "--beta) say the same thing twice: give one or the other"
            )
        if not 1 <= flags.retention <= 100:
            raise UsageError(
                f"--retention = {flags.retention:g} is not allowed: give percent, from 1 to 100; "
                "for example --retention 30"
            )
        new |= {"retention": flags.retention / 100, "schedule": None}
    elif values:
        before = config.pruning.schedule or ScheduleConfig()
        new |= {"retention": None, "schedule": {**before.model_dump(), **values}}
    return new
