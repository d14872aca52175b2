"""The file of a node: its cameras, the model, the broker, the ways in. Three lines are enough:

    cameras:
      door: rtsp://192.168.1.20/stream1
    mqtt: broker.local

Flags win over the environment (``OMNIDROP_MQTT__PORT``, ``OMNIDROP_CAMERAS__DOOR__PASSWORD``), that
over the file, that over the defaults. A secret stands in the environment or in a file of its own
(``password_file``); in this file it is taken too, and never shown.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from platformdirs import user_state_path
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from clients.live_watch import from_words
from clients.mqtt.config import MqttConfig
from clients.mqtt.topics import RESERVED
from clients.variables import settings_in, with_variables
from omnidrop_stream.config import (
    Config,
    DecodeConfig,
    DepthName,
    IntraConfig,
    ModelConfig,
    PruningConfig,
    StreamConfig,
    explain,
    read_yaml,
)
from omnidrop_stream.errors import ConfigError
from omnidrop_stream.types import StreamKind
from omnidrop_stream.watch_config import WatchConfig
from runtime.redact import HIDDEN, redact
from runtime.sources import SourceOptions

ENV_PREFIX = "OMNIDROP_"
LARGEST_SECRET = 4096
_SECRETS = ("password", "token")
_HOST_AND_PORT = re.compile(r"(?P<host>\[[^\[\]]+\]|[^:@/]+):(?P<port>\d+)")
_NO_LOGIN = re.compile(r"(?:\w+://)?[^@:/]*(?::\d{0,5})?/?")

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
FilePath = Annotated[str, AfterValidator(with_variables)]
"""May hold ``${CREDENTIALS_DIRECTORY}`` and the like."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class CameraConfig(SourceOptions):
    """One camera: a source, its options, and what differs from the node's own settings."""

    source: Annotated[str, Field(min_length=1, repr=False)]
    """What ``omnidrop live`` takes: a URL, ``camera:0``, a path, ``demo:``."""
    password_file: FilePath | None = None
    enabled: bool = True
    muted: bool = False
    """While muted, sound is thrown away before anything sees it."""
    wait_for_first: bool = True
    kind: StreamKind | None = None
    budget_tokens: Annotated[int, Field(ge=1)] | None = None
    prefill_depth: Annotated[int, Field(ge=0)] | DepthName | None = None
    retention: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    watches: dict[Name, WatchConfig] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _secret_from_file(cls, values: Any) -> Any:
        return secret_from_file(values, "password")

    @property
    def options(self) -> SourceOptions:
        """The part that the source itself takes."""
        return SourceOptions(**{name: getattr(self, name) for name in SourceOptions.model_fields})


class HttpConfig(_Section):
    """Metrics and health over HTTP. On this machine only, unless a token is set."""

    bind: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 9464
    """0: any free one, told in the log."""
    enabled: bool = True
    token: SecretStr = SecretStr("")
    """Asked for as ``Authorization: Bearer ...``; needed where others can reach ``bind``."""
    token_file: FilePath | None = None

    @model_validator(mode="before")
    @classmethod
    def _secret_from_file(cls, values: Any) -> Any:
        return secret_from_file(values, "token")

    @model_validator(mode="after")
    def _token_where_others_can_reach_it(self) -> Self:
        if not self.loopback and not self.token.get_secret_value():
            raise ValueError(
                f"bind = {self.bind} can be reached from other machines, and there is no token: "
                "set http.token_file, or bind 127.0.0.1"
            )
        return self

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return self.bind in ("127.0.0.1", "::1", "localhost")


class LogConfig(_Section):
    """What is logged, to stderr."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    json_lines: bool = False
    """One JSON object a line, for machines."""


class NodeConfig(BaseSettings):
    """A whole node. Values are frozen; a reload makes a new one."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix=ENV_PREFIX,
        env_nested_delimiter="__",
        env_ignore_empty=True,
        # A section's value in the environment would have to be JSON: only keys are taken from it.
        enable_decoding=False,
        nested_model_default_partial_update=False,
    )

    name: Name = "omnidrop"
    """Its name in topics and logs; every node of one broker needs its own."""
    cameras: dict[Name, CameraConfig] = Field(default_factory=dict)
    mqtt: MqttConfig | None = None
    http: HttpConfig = Field(default_factory=HttpConfig)
    log: LogConfig = Field(default_factory=LogConfig)
    model: ModelConfig = Field(default_factory=ModelConfig)
    stream: StreamConfig = Field(default_factory=StreamConfig)
    intra: IntraConfig = Field(default_factory=IntraConfig)
    pruning: PruningConfig = Field(default_factory=PruningConfig)
    decode: DecodeConfig = Field(default_factory=DecodeConfig)
    state_dir: FilePath | None = None
    """Journal, client id and process number live here; None: the user's state folder."""
    wait_for_model: bool = True
    """Try again for ever while the model cannot be had; else end."""

    @field_validator("cameras")
    @classmethod
    def _names_are_free(cls, cameras: dict[str, CameraConfig]) -> dict[str, CameraConfig]:
        taken = [name for name in cameras if name in RESERVED]
        if taken:
            raise ValueError(f"a camera cannot be called {taken[0]!r}: the topics use that name")
        return cameras

    @property
    def state_folder(self) -> Path:
        """Where this node keeps what must outlive it."""
        if self.state_dir is not None:
            return Path(self.state_dir)
        return user_state_path("omnidrop") / self.name

    @property
    def library(self) -> Config:
        """The library's part of the settings."""
        sections = {name: getattr(self, name) for name in Config.model_fields}
        values = {
            name: section.model_dump(exclude_unset=True) for name, section in sections.items()
        }
        return Config.model_validate(values)

    def of_camera(self, name: str) -> Config:
        """The library's settings for one camera: its own over the node's."""
        camera = self.cameras[name]
        values = self.library.model_dump(exclude_unset=True)
        own = {
            "kind": camera.kind,
            "budget_tokens": camera.budget_tokens,
            "prefill_depth": camera.prefill_depth,
        }
        given = {key: value for key, value in own.items() if value is not None}
        values["stream"] = {**values.get("stream", {}), **given}
        if camera.retention is not None:
            pruning = {k: v for k, v in values.get("pruning", {}).items() if k != "schedule"}
            values["pruning"] = {**pruning, "retention": camera.retention}
        return Config.model_validate(values)


class _Loaded(NodeConfig):
    """Takes ``_flags`` and ``_file`` as sources of values, below and above the environment."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags, environment, file."""
        given = init_settings()
        flags, file = given.get("_flags", {}), given.get("_file", {})
        return (
            InitSettingsSource(settings_cls, flags),
            env_settings,
            InitSettingsSource(settings_cls, file),
        )


def load_node_config(path: Path | None, flags: Mapping[str, Any] | None = None) -> NodeConfig:
    """Flags over environment over file over defaults. Raises ConfigError: key, value, what to do.

    flags: nested as the file is; shorthands are allowed in both.
    """
    origin = str(path) if path is not None else "settings"
    _check_environment(os.environ)
    values = expanded(read_yaml(path)) if path is not None else {}
    _check_cameras(os.environ, (values, flags or {}))
    try:
        given: dict[str, Any] = {"_flags": expanded(dict(flags or {})), "_file": values}
        loaded = _Loaded(**given)
    except ValidationError as error:
        told = explain(error, NodeConfig, origin, settings_in(os.environ, ENV_PREFIX))
        raise _hidden(told, error) from None
    except SettingsError as error:
        raise ConfigError(
            f"{origin}: the environment has a value for a whole section ({error}); set its keys "
            f"one by one, as {ENV_PREFIX}MQTT__HOST"
        ) from None
    return loaded


def _check_environment(environment: Mapping[str, str]) -> None:
    """Raise ConfigError for the key of a section that there is not: it would be passed over."""
    for name in environment:
        section, nested, _ = name.upper().removeprefix(ENV_PREFIX).partition("__")
        known = [field.upper() for field in NodeConfig.model_fields]
        if not name.upper().startswith(ENV_PREFIX) or not nested or section in known:
            continue
        near = difflib.get_close_matches(section, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(known)}."
        raise ConfigError(f"the environment has {name}, and {section} is no setting; {hint}")


def _check_cameras(
    environment: Mapping[str, str], settings: tuple[Mapping[str, Any], Mapping[str, Any]]
) -> None:
    """Raise ConfigError for a variable about a camera that nothing else names: a slip."""
    known: set[str] = set()
    for values in settings:
        cameras = values.get("cameras")
        known |= {str(name) for name in cameras} if isinstance(cameras, dict) else set()
    given = settings_in(environment, ENV_PREFIX)
    for key, variable in given.items():
        section, name, setting = (*key.split(".", 2), "", "")[:3]
        if section != "cameras" or not setting or name in known:
            continue
        if f"cameras.{name}.source" not in given:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "name it in the file, or unset this"
            raise ConfigError(
                f"the environment has {variable}, and there is no camera {name!r}; {hint}"
            )


def expanded(values: dict[str, Any]) -> dict[str, Any]:
    """Shorthands written out: a camera that is only its source, a broker that is only its host, a
    model that is only its name, a watch that is only its words.
    """
    values = dict(values)
    if isinstance(values.get("model"), str):
        values["model"] = {"model": values["model"]}
    if isinstance(values.get("mqtt"), str):
        found = _HOST_AND_PORT.fullmatch(values["mqtt"])
        values["mqtt"] = found.groupdict() if found is not None else {"host": values["mqtt"]}
    if isinstance(values.get("cameras"), dict):
        values["cameras"] = {
            str(name): _camera(camera) for name, camera in values["cameras"].items()
        }
    return values


def _camera(camera: Any) -> Any:
    if isinstance(camera, str):
        return {"source": camera}
    if isinstance(camera, dict) and isinstance(camera.get("watches"), dict):
        watches = {
            str(name): from_words(watch) if isinstance(watch, str) else watch
            for name, watch in camera["watches"].items()
        }
        return {**camera, "watches": watches}
    return camera


def secret_from_file(values: Any, name: str) -> Any:
    """Put the contents of ``<name>_file`` into ``name``; raises ValueError in plain words."""
    if not isinstance(values, dict) or values.get(f"{name}_file") is None:
        return values
    if _plain(values.get(name)):
        raise ValueError(f"give either {name} or {name}_file, not both")
    path = Path(with_variables(str(values[f"{name}_file"])))
    try:
        text = path.read_bytes()[: LARGEST_SECRET + 1].decode("utf-8").strip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise ValueError(f"{name}_file = {path} cannot be read: {reason}") from None
    if not text or len(text) > LARGEST_SECRET or "\n" in text:
        raise ValueError(
            f"{name}_file = {path} must hold one line of 1 to {LARGEST_SECRET} characters"
        )
    return {**values, name: text}


def _plain(secret: Any) -> str:
    return secret.get_secret_value() if isinstance(secret, SecretStr) else str(secret or "")


def _hidden(told: ConfigError, error: ValidationError) -> ConfigError:
    """The same sentence without any value that may be a secret."""
    text = str(told)
    for item in error.errors():
        if item["loc"] == ("mqtt", "host") and not _NO_LOGIN.fullmatch(str(item["input"])):
            text = text.replace(repr(item["input"]), HIDDEN)
        for secret in _secrets(item["input"], any(part in _SECRETS for part in item["loc"])):
            text = text.replace(secret, HIDDEN)
    return ConfigError(redact(text))


def _secrets(value: Any, inside: bool) -> Iterator[str]:
    """Every text at or below a key that names a secret, as it is and as Python would print it."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _secrets(inner, inside or key in _SECRETS)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _secrets(inner, inside)
    elif inside and _plain(value):
        yield repr(_plain(value))[1:-1]
        yield _plain(value)
