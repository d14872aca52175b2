"""The flags of ``omnidrop ask`` that are about a running node. No MQTT yet: a source is asked more
often.
"""

from __future__ import annotations

from dataclasses import dataclass

from omnidrop_stream.errors import UsageError


@dataclass(frozen=True, slots=True)
class NodeFlags:
    """What the command line says of the node; None where it says nothing."""

    node: str | None = None
    camera: str | None = None
    prefix: str | None = None
    look_back: float | None = None
    timeout: float | None = None


def refuse_without_node(given: NodeFlags) -> None:
    """Raise UsageError for a flag that only a node understands."""
    for name in ("camera", "prefix", "look_back", "timeout"):
        if getattr(given, name) is not None:
            raise UsageError(
                f"{flag(name)} is about a running node: give --node HOST too, or leave it out"
            )


def flag(name: str) -> str:
    """A field's name as it is typed."""
    return "--" + name.replace("_", "-")
