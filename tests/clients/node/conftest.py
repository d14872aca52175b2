"""A node meets the same broker as the service's own tests."""

from tests.clients.mqtt.conftest import broker, needs_mosquitto

__all__ = ["broker", "needs_mosquitto"]
