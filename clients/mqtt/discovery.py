"""Home Assistant: one retained message for each camera makes it a device with entities.

Device-based MQTT discovery (Home Assistant 2024.11 and newer):
https://www.home-assistant.io/integrations/mqtt/#device-discovery-payload
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

BIRTH = "online"
LONGEST_STATE = 255
"""Home Assistant cuts the state of an entity here; the whole text is in the attributes."""
_REACHABLE = "{{ 'online' if value_json.state in ('live', 'degraded') else 'offline' }}"


@dataclass(frozen=True, slots=True)
class Camera:
    """What discovery needs to know of one camera. watches: name -> its words."""

    name: str
    watches: Mapping[str, str]


def topic_of(node: str, camera: str, discovery_prefix: str = "homeassistant") -> str:
    """Where a camera's discovery message stands. An empty message there removes the device."""
    return f"{discovery_prefix}/device/omnidrop_{_id(node)}_{_id(camera)}/config"


def message(prefix: str, node: str, camera: Camera, version: str) -> dict[str, Any]:
    """The discovery message of a camera, as JSON values.

    prefix: of the node's topics. The device is available while node and camera are; what can be
    done without the camera (its switches, the connectivity itself) while the node is.
    """
    base = f"{prefix}/{camera.name}"
    unique = f"omnidrop_{_id(node)}_{_id(camera.name)}"
    parts = [*_sensors(base), *_controls(base, prefix), *_events(base, camera.watches)]
    node_only = [_node_availability(prefix)]
    both = [*node_only, {"topic": f"{base}/status", "value_template": _REACHABLE}]
    components = {}
    for key, needs_camera, part in parts:
        unique_id = f"{unique}_{key}"
        components[unique_id] = {
            **part,
            "unique_id": unique_id,
            "availability": both if needs_camera else node_only,
            "availability_mode": "all",
        }
    return {
        "device": {
            "identifiers": [unique],
            "name": f"{camera.name} ({node})",
            "manufacturer": "OmniDrop Stream",
            "model": "camera that answers questions",
            "sw_version": version,
        },
        "origin": {"name": "omnidrop-stream", "sw_version": version},
        "components": components,
        "qos": 1,
    }


def _id(name: str) -> str:
    return name.replace("-", "_")


def _node_availability(prefix: str) -> dict[str, Any]:
    """A node that drains answers what it has accepted: it is no longer available for more."""
    template = "{{ 'online' if value == 'online' else 'offline' }}"
    return {"topic": f"{prefix}/node/status", "value_template": template}


_Part = tuple[str, bool, dict[str, Any]]
"""Key, whether it needs the camera, and the entity."""


def _sensors(base: str) -> Sequence[_Part]:
    status = {"state_topic": f"{base}/status", "entity_category": "diagnostic"}
    answer = f"{base}/last_answer"
    return (
        (
            "connectivity",
            False,
            {
                **status,
                "platform": "binary_sensor",
                "name": "Connection",
                "device_class": "connectivity",
                "value_template": _REACHABLE.replace("'online'", "'ON'").replace(
                    "'offline'", "'OFF'"
                ),
                "json_attributes_topic": f"{base}/status",
            },
        ),
        (
            "answer",
            False,
            {
                "platform": "sensor",
                "name": "Last answer",
                "icon": "mdi:message-text",
                "state_topic": answer,
                "value_template": f"{{{{ value_json.text[:{LONGEST_STATE}] }}}}",
                "json_attributes_topic": answer,
            },
        ),
        (
            "latency",
            False,
            {
                "platform": "sensor",
                "name": "First token",
                "entity_category": "diagnostic",
                "device_class": "duration",
                "unit_of_measurement": "ms",
                "state_class": "measurement",
                "state_topic": answer,
                "value_template": "{{ value_json.ttft_ms | round(0) }}",
            },
        ),
        (
            "tokens",
            True,
            {
                **status,
                "platform": "sensor",
                "name": "Tokens held",
                "icon": "mdi:memory",
                "unit_of_measurement": "tokens",
                "state_class": "measurement",
                "value_template": "{{ value_json.tokens }}",
            },
        ),
    )


def _controls(base: str, prefix: str) -> Sequence[_Part]:
    camera = base.removeprefix(f"{prefix}/")
    switches = tuple(
        (
            key,
            False,
            {
                "platform": "switch",
                "name": name,
                "icon": icon,
                "command_topic": f"{base}/{key}/set",
                "state_topic": f"{base}/{key}/state",
            },
        )
        for key, name, icon in (
            ("enabled", "Watching", "mdi:eye"),
            ("muted", "Muted", "mdi:microphone-off"),
        )
    )
    forget = {
        "platform": "button",
        "name": "Forget everything",
        "icon": "mdi:eraser",
        "entity_category": "config",
        "command_topic": f"{base}/forget",
        "payload_press": '{"last_s": 86400}',
    }
    # The answer's own topic is not needed: "Last answer" shows it.
    query = (
        "{{ {'v': 1, 'id': 'ha-' ~ (now().timestamp() * 1000) | int, 'client': "
        "'homeassistant', 'text': value} | tojson }}"
    )
    ask = {
        "platform": "text",
        "name": "Ask",
        "icon": "mdi:comment-question",
        "command_topic": f"{base}/query",
        "command_template": query,
        "max": LONGEST_STATE,
        "state_topic": f"{prefix}/{camera}/last_answer",
        "value_template": f"{{{{ value_json.question[:{LONGEST_STATE}] }}}}",
    }
    return (*switches, ("forget", False, forget), ("ask", True, ask))


def _events(base: str, watches: Mapping[str, str]) -> Sequence[_Part]:
    pictures = tuple(
        (
            f"frame_{_id(name)}",
            False,  # the last picture stays worth seeing while the camera is away
            {
                "platform": "image",
                "name": f"{words} (picture)",
                "image_topic": f"{base}/watch/{name}/frame",
                "content_type": "image/jpeg",
            },
        )
        for name, words in watches.items()
    )
    events = tuple(
        (
            f"watch_{_id(name)}",
            True,
            {
                "platform": "event",
                "name": words,
                "icon": "mdi:bell-ring",
                "event_types": ["happened"],
                "state_topic": f"{base}/watch/{name}/event",
                # Everything else of the event becomes an attribute of the entity, but for the
                # picture: that is an entity of its own.
                "value_template": "{{ dict(value_json, event_type='happened', key_frame=none)"
                " | tojson }}",
            },
        )
        for name, words in watches.items()
    )
    return (*events, *pictures)
