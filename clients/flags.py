"""The flags that several commands share, as types of their parameters, and how a command picks them
up: a parameter's name is the name of the field that it fills.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from omnidrop_stream.errors import UsageError

T = TypeVar("T")


def picked(kind: type[T], parameters: Mapping[str, Any]) -> T:
    """A dataclass of flags, from a command's parameters (``context.params``)."""
    return kind(**{field.name: parameters[field.name] for field in fields(kind)})  # type: ignore[arg-type]


def percent(text: str) -> float:
    """``30`` or ``30%``. Raises UsageError."""
    try:
        return float(text.strip().removesuffix("%"))
    except ValueError:
        raise UsageError(
            f"--retention = {text!r} is not allowed: give percent, from 1 to 100; for example "
            "--retention 30"
        ) from None


# -- model, schedule, budget

Model = Annotated[
    str | None,
    typer.Option("--model", help="Hub id, folder, embedded, or tiny (random words).", metavar="ID"),
]
Config = Annotated[Path | None, typer.Option("--config", help="A YAML file, as under configs/.")]
Retention = Annotated[
    float | None,
    typer.Option(
        "--retention",
        parser=percent,
        help="Mean share of tokens kept, in percent (default 30).",
        metavar="PERCENT",
    ),
]
PInit = Annotated[float | None, typer.Option("--p-init", help="Schedule: first layer's ratio.")]
PFinal = Annotated[float | None, typer.Option("--p-final", help="Schedule: last layer's ratio.")]
TMid = Annotated[float | None, typer.Option("--t-mid", help="Schedule: midpoint, 0 to 1.")]
Beta = Annotated[float | None, typer.Option("--beta", help="Schedule: slope.")]
Schedule = Annotated[str | None, typer.Option("--schedule", help="sigmoid or exponential.")]
Policy = Annotated[
    str | None,
    typer.Option(
        "--policy",
        help="Which tokens leave: omnidrop (default), a variant (omnidrop-printed, -no-tds, "
        "-exponential, ...), a control (random, last-token, recent-first, audio-guided), a peer "
        "(seats, omnizip, dash, dycoke, ...), intra-only or keep-all; a wrong name prints all "
        "of them.",
        metavar="NAME",
    ),
]
Depth = Annotated[
    str | None,
    typer.Option(
        "--prefill-depth",
        help="Layers a chunk passes on arrival: 0, a number, exact, auto, half, or L.",
    ),
]
Budget = Annotated[int | None, typer.Option("--budget-tokens", help="Tokens a stream holds.")]
MaxTokens = Annotated[int | None, typer.Option("--max-tokens", help="Longest answer.")]
Device = Annotated[str | None, typer.Option("--device", help="auto, cpu or cuda[:n].")]
Dtype = Annotated[str | None, typer.Option("--dtype", help="auto, bf16 or fp32.")]
Attention = Annotated[str | None, typer.Option("--attention", help="auto, sdpa or flash.")]
Weights = Annotated[
    str | None,
    typer.Option("--weights", help="auto, int8 or int4: quantise the decoder, for less memory."),
]
Engine = Annotated[
    str | None,
    typer.Option("--engine", help="auto, fast or plain: the slow one that fast is tested against."),
]
Kind = Annotated[str | None, typer.Option("--stream-kind", help="av, video, audio or auto.")]

# -- a running node

Node = Annotated[
    str | None,
    typer.Option(
        "--node",
        help="Ask a running node through its broker instead of reading a source.",
        metavar="HOST[:PORT]",
    ),
]
Camera = Annotated[
    str | None,
    typer.Option(
        "--camera", help="With --node: which of its cameras, or all for each.", metavar="NAME"
    ),
]
Prefix = Annotated[
    str | None,
    typer.Option(
        "--prefix", help="With --node: its name or mqtt.prefix (default omnidrop).", metavar="NAME"
    ),
]
LookBack = Annotated[
    float | None,
    typer.Option(
        "--look-back", help="With --node: see only the last so many seconds.", metavar="SECONDS"
    ),
]
Timeout = Annotated[
    float | None,
    typer.Option(
        "--timeout",
        help="With --node: the longest to wait for an answer (default 60).",
        metavar="SECONDS",
    ),
]

# -- output

Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Only answers and errors.")]
Json = Annotated[bool, typer.Option("--json", help="JSON lines on stdout.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]

# -- the source

Microphone = Annotated[
    str | None,
    typer.Option(
        "--microphone",
        help="Pair live pictures with this microphone: default, a number or name of omnidrop "
        "devices, or none.",
        metavar="NAME",
    ),
]
CameraBackend = Annotated[
    str | None, typer.Option("--camera-backend", help="auto, pyav or opencv.", metavar="NAME")
]
CameraSize = Annotated[
    str | None, typer.Option("--camera-size", help="Ask a camera for WxH.", metavar="WxH")
]
CameraFps = Annotated[
    float | None, typer.Option("--camera-fps", help="Ask a camera for so many pictures a second.")
]
User = Annotated[
    str | None, typer.Option("--user", help="User name of a stream or a broker, as it is.")
]
PasswordFile = Annotated[
    Path | None,
    typer.Option(
        "--password-file",
        help="A file whose first line is the password; or set OMNIDROP_PASSWORD.",
        metavar="FILE",
    ),
]
Transport = Annotated[
    str | None, typer.Option("--transport", help="RTSP: tcp (default) or udp.", metavar="NAME")
]
TlsCaFile = Annotated[
    Path | None,
    typer.Option("--tls-ca-file", help="Authorities to trust instead.", metavar="FILE"),
]
TlsNoVerify = Annotated[
    bool, typer.Option("--tls-no-verify", help="Take any certificate: no protection.")
]
VideoStream = Annotated[
    int | None, typer.Option("--video-stream", help="Which video stream of a feed, from 0.")
]
AudioStream = Annotated[
    int | None, typer.Option("--audio-stream", help="Which audio stream of a feed, from 0.")
]
Hwaccel = Annotated[
    str | None,
    typer.Option(
        "--hwaccel",
        help="Decode on the device: none, auto, cuda, qsv, videotoolbox ...",
        metavar="NAME",
    ),
]
OpenTimeout = Annotated[
    float | None, typer.Option("--open-timeout", help="Seconds to wait for a source to open.")
]
StallTimeout = Annotated[
    float | None, typer.Option("--stall-timeout", help="Seconds without data: it is lost.")
]
Wait = Annotated[
    bool | None,
    typer.Option(
        "--wait/--no-wait",
        help="Wait for a live source that is absent at first, or refuse it (the default).",
    ),
]
