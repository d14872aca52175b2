"""The ``mqtt`` section of a node's file: the broker, the way in, and the limits for those who ask.

On this machine a broker is spoken to in the clear; anywhere else with TLS, unless ``tls: false`` is
written down. Nothing falls back from one to the other.
"""

from __future__ import annotations

import ipaddress
import re
import secrets
import ssl
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from clients.mqtt.topics import PREFIX_PATTERN, check_reply_pattern
from clients.variables import with_variables
from omnidrop_stream.errors import ConfigError

LARGEST_SECRET = 4096
_HOST = re.compile(
    r"\[?(?:[0-9A-Fa-f.]*:){2,}[0-9A-Fa-f.]*(?:%\w+)?\]?"  # IPv6
    r"|[^\s/@:?#%\\\[\]]+"
)


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TlsConfig(_Section):
    """How the broker proves who it is, and how we do."""

    enabled: bool = True
    ca: Path | None = None
    """Certificates to trust, PEM; None: the system's."""
    cert: Path | None = None
    """Our own certificate, where the broker asks for one."""
    key: Path | None = None

    @model_validator(mode="after")
    def _both_or_none(self) -> Self:
        if (self.cert is None) != (self.key is None):
            raise ValueError("a certificate needs its key: give both tls.cert and tls.key")
        return self

    def context(self) -> ssl.SSLContext:
        """What a connection needs. Raises ConfigError where a file is missing or is none."""
        try:
            context = ssl.create_default_context(cafile=self.ca)
            if self.cert is not None:
                context.load_cert_chain(self.cert, self.key)
        except (OSError, ssl.SSLError) as error:
            named = ", ".join(str(path) for path in (self.ca, self.cert, self.key) if path)
            raise ConfigError(
                f"mqtt.tls: {named} cannot be used ({error}); give PEM files that this user reads"
            ) from None
        return context


class LimitsConfig(_Section):
    """What one client may ask of the node. Each has its own; nobody's flood slows another."""

    queries_per_s: Annotated[float, Field(gt=0.0, le=10_000.0)] = 5.0
    queries_burst: Annotated[int, Field(ge=1, le=100_000)] = 20
    tokens_per_s: Annotated[float, Field(gt=0.0, le=1_000_000.0)] = 200.0
    """Of answers; a question takes its ``max_tokens`` and gives back what it did not use."""
    tokens_burst: Annotated[int, Field(ge=1, le=10_000_000)] = 8_192
    refusals_per_s: Annotated[float, Field(gt=0.0, le=10_000.0)] = 5.0
    """Errors told to a client a second; those beyond are dropped and counted."""
    waiting: Annotated[int, Field(ge=1, le=100_000)] = 64
    """Accepted questions of one client that may wait; past it: ``busy``."""
    at_once: Annotated[int, Field(ge=1, le=256)] = 2
    """Answers of one client at the same time."""
    at_once_together: Annotated[int, Field(ge=1, le=1024)] = 8
    """Answers of all clients at the same time."""


class MqttConfig(_Section):
    """A broker, and how this node appears on it."""

    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    """None: 8883 with TLS, 1883 without."""
    version: Literal["5", "3.1.1"] = "5"
    user: str = ""
    password: SecretStr = SecretStr("")
    password_file: Path | None = None
    """Read at each connection, so that a new password needs no restart."""
    tls: TlsConfig | None = None
    """``true``, ``false``, or its keys; None: off on this machine, on elsewhere."""
    prefix: Annotated[str, Field(pattern=PREFIX_PATTERN)] | None = None
    """Topics begin with it; one for each node of a broker. None: the node's name."""
    client_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")] | None = None
    """None: the node's name and a random part, made once and kept on disk."""
    send_apart: bool = True
    """Whether answers go over a connection of their own (client id with ``-send`` behind it). A
    broker takes packets of each connection in turn, and Mosquitto writes its file in between: over
    one connection an answer waits behind the confirmations of everybody's questions. ``false``
    where the broker allows each user one connection only."""
    keepalive_s: Annotated[int, Field(ge=5, le=3600)] = 15
    session_expiry_s: Annotated[int, Field(ge=60, le=2**31)] = 86_400
    """So long the broker keeps questions for a node that is away."""
    will_delay_s: Annotated[int, Field(ge=0, le=600)] = 5
    """A shorter absence is not told as ``offline`` (MQTT 5)."""
    reply_prefixes: tuple[str, ...] = ()
    """Where answers may be sent, beside ``P/+/answer/`` and ``P/node/reply/+/``; one ``+`` stands
    for one level and names the client."""
    largest_bytes: Annotated[int, Field(ge=256, le=1_048_576)] = 16_384
    deepest: Annotated[int, Field(ge=1, le=64)] = 8
    journal: Path | None = None
    """None: ``journal.db`` in the node's state folder."""
    journal_days: Annotated[float, Field(gt=0.0, le=3650.0)] = 7.0
    oldest_s: Annotated[float, Field(ge=1.0, le=86_400.0)] = 300.0
    """A question without a deadline of its own is out of date after this."""
    waiting_deltas: Annotated[int, Field(ge=1, le=100_000)] = 256
    """Pieces of answers that may wait for a slow connection; those beyond are dropped, counted."""
    discovery: bool = True
    """Whether cameras are described to Home Assistant."""
    discovery_prefix: Annotated[str, Field(pattern=PREFIX_PATTERN)] = "homeassistant"
    status_every_s: Annotated[float, Field(ge=1.0, le=3600.0)] = 60.0
    stats_every_s: Annotated[float, Field(ge=1.0, le=3600.0)] = 30.0
    limits: LimitsConfig = Field(default_factory=LimitsConfig)

    @field_validator("host")
    @classmethod
    def _alone(cls, host: str) -> str:
        if _HOST.fullmatch(host):
            return host.strip("[]")
        if "@" in host:
            raise ValueError(
                "it holds a login: give the host alone, and the login as mqtt.user and "
                "mqtt.password_file"
            )
        raise ValueError(
            "give the host alone, as broker.local; its port is mqtt.port, and mqtt.tls says "
            "whether it is encrypted"
        )

    @field_validator("tls", mode="before")
    @classmethod
    def _switch(cls, value: Any) -> Any:
        named = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
        value = named.get(value.lower(), value) if isinstance(value, str) else value
        return {"enabled": value} if isinstance(value, bool) else value

    @field_validator("reply_prefixes")
    @classmethod
    def _usable(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            check_reply_pattern(pattern)
        return patterns

    @model_validator(mode="after")
    def _one_password(self) -> Self:
        if self.password_file is not None and self.password.get_secret_value():
            raise ValueError("give either password or password_file, not both")
        return self

    @property
    def encrypted(self) -> bool:
        """Whether the connection is made with TLS."""
        return self.tls.enabled if self.tls is not None else not on_this_machine(self.host)

    @property
    def endpoint(self) -> tuple[str, int]:
        """Host and port."""
        return self.host, self.port or (8883 if self.encrypted else 1883)

    def secret(self) -> str:
        """The password, empty where there is none. Raises ConfigError for an unreadable file."""
        if self.password_file is None:
            return self.password.get_secret_value()
        try:
            path = Path(with_variables(str(self.password_file)))
        except ValueError as error:
            raise ConfigError(f"mqtt.password_file: {error}") from None
        try:
            return path.read_bytes()[:LARGEST_SECRET].decode("utf-8").strip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise ConfigError(
                f"mqtt.password_file = {path} cannot be read: {reason}; it must hold one line"
            ) from None


def on_this_machine(host: str) -> bool:
    """Whether ``host`` is this machine by its name alone; nothing is looked up."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def kept_client_id(folder: Path, name: str) -> str:
    """The client id of the node whose state is in ``folder``; made once. Raises ConfigError."""
    path = folder / "mqtt-client-id"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            kept = path.read_text("utf-8").strip()
            if re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", kept):
                return kept
        made = f"{name[:40]}-{secrets.token_hex(4)}"
        fresh = path.with_suffix(".new")
        fresh.write_text(made + "\n", "utf-8")
        fresh.replace(path)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path} cannot be kept ({error}); give state_dir a folder that this user may write, "
            "or set mqtt.client_id"
        ) from None
    return made
