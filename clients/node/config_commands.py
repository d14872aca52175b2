"""``omnidrop config``: check, show and reload the file of a node, and print its schema."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from clients.mqtt.config import TlsConfig
from clients.node.config import NodeConfig, load_node_config
from clients.terminal import write_err, write_out
from omnidrop_stream.config import read_yaml
from omnidrop_stream.errors import ConfigError, NodeError, UsageError
from runtime.redact import redact
from runtime.sources import FileSource, open_source

PID_FILE = "node.pid"
app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
File = Annotated[Path, typer.Argument(metavar="FILE", help="The node's YAML file.")]


@app.callback(invoke_without_command=True)
def config(context: typer.Context) -> None:
    """Check, show and reload the configuration of a node."""
    if context.invoked_subcommand is None:
        write_out(context.get_help())


@app.command(short_help="Tell whether `omnidrop serve` would take FILE.")
def check(file: File) -> None:
    """Read FILE and the environment as `omnidrop serve` would; say what is wrong, or that it is
    right.
    """
    if not read_yaml(file):
        raise ConfigError(
            f"{file} holds no setting; name a camera and a broker, as configs/node.yaml does"
        )
    config = load_node_config(file)
    for advice in (*advices(config), *_never_usable(config, str(file))):
        write_err(f"note: {advice}")
    count = len(config.cameras)
    broker = f"broker {redact(config.mqtt.host)}" if config.mqtt is not None else "no broker"
    write_out(f"{file}: right. {count} camera{'s' * (count != 1)}, {broker}.")


def _never_usable(config: NodeConfig, origin: str) -> list[str]:
    """What a node that runs would try again for ever: raises ConfigError for what no waiting mends,
    and returns what may only be missing yet. Nothing is connected to.
    """
    mqtt = config.mqtt
    if mqtt is not None:
        mqtt.secret()
        if mqtt.encrypted:
            (mqtt.tls or TlsConfig()).context()
    missing = []
    for name, camera in config.cameras.items():
        try:
            source = open_source(camera.source, options=camera.options)
        except UsageError as error:
            raise ConfigError(f"{origin}: cameras.{name}.source: {error}") from None
        if isinstance(source, FileSource) and not source.path.exists():
            missing.append(f"camera {name}: there is no file {redact(source.path)} at present")
    return missing


@app.command(short_help="Print every setting with its value.")
def show(
    file: File,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of YAML.")] = False,
) -> None:
    """Print every setting with its value, defaults included; secrets are hidden."""
    values = shown(load_node_config(file))
    if as_json:
        write_out(json.dumps(values, indent=2))
        return
    write_out(yaml.safe_dump(values, sort_keys=False, allow_unicode=True), end="")


@app.command(short_help="Print the file's JSON schema, for editors.")
def schema() -> None:
    """Print the JSON schema of the file, for editors."""
    write_out(json.dumps(file_schema(), indent=2))


@app.command(short_help="Tell the running node to read FILE again.")
def reload(file: File) -> None:
    """Tell the node that runs with FILE to read it again; the other cameras are not disturbed."""
    config = load_node_config(file)
    path = config.state_folder / PID_FILE
    try:
        number = int(path.read_text("ascii"))
        os.kill(number, signal.SIGHUP)
    except (OSError, ValueError):
        raise NodeError(
            f"no node of the name {config.name!r} runs here ({path} names no running process); "
            f"start it: omnidrop serve {file}"
        ) from None
    write_out(f"told process {number} to read {file} again; its log says what changed.")


def shown(config: NodeConfig) -> dict[str, Any]:
    """Plain values; secrets as ``***`` (empty where none is set), logins in addresses too."""
    values: dict[str, Any] = _redacted(json.loads(config.model_dump_json()))
    return values


def _redacted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _redacted(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_redacted(inner) for inner in value]
    if isinstance(value, str):
        return "***" if set(value) == {"*"} else redact(value)
    return value


def file_schema() -> dict[str, Any]:
    """The schema of the file as people write it: shorthands included."""
    made = NodeConfig.model_json_schema()
    made["title"] = "OmniDrop Stream node"
    made["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    properties = made["properties"]
    for name in ("mqtt", "model"):
        properties[name] = {"anyOf": [{"type": "string"}, properties[name]]}
    cameras = properties["cameras"]
    for key in ("additionalProperties", "patternProperties"):
        if isinstance(cameras.get(key), dict):
            cameras[key] = _or_text(cameras[key], key == "patternProperties")
    watches = made["$defs"]["CameraConfig"]["properties"]["watches"]
    for key in ("additionalProperties", "patternProperties"):
        if isinstance(watches.get(key), dict):
            watches[key] = _or_text(watches[key], key == "patternProperties")
    return made


def _or_text(schema: dict[str, Any], by_pattern: bool) -> dict[str, Any]:
    if by_pattern:
        return {pattern: _or_text(inner, False) for pattern, inner in schema.items()}
    return {"anyOf": [{"type": "string"}, schema]}


def advices(config: NodeConfig) -> list[str]:
    """What is allowed but probably not meant."""
    told = []
    if not config.cameras:
        told.append("there is no camera yet; add one under `cameras`")
    if config.mqtt is None:
        told.append("there is no broker: nobody can ask this node until `mqtt` names one")
    for name, camera in config.cameras.items():
        if "@" in camera.source.partition("://")[2].partition("/")[0]:
            told.append(
                f"camera {name}: its address holds a login; `user` and `password_file` keep it "
                "out of the file"
            )
    return told
