"""In which order a node is put together."""

from __future__ import annotations

import yaml

from clients.node import serve as serving
from clients.node.config import load_node_config
from clients.node.systemd import Notifier


async def test_the_cameras_are_there_before_the_broker_is_told_of_them(tmp_path, monkeypatch):
    seen = []

    class Service:
        """Ends at once, and the node with it."""

        def __init__(self, config, node, *rest, **named):
            self._node, self.state = node, "starting"

        async def run(self):
            seen.append((self._node.cameras(), [w.id for w in self._node.watches("door")]))

        async def drain(self, seconds):
            """Nothing was begun."""

    monkeypatch.setattr(serving, "MqttService", Service)
    path = tmp_path / "node.yaml"
    door = {"source": "demo:", "watches": {"bell": "sound: a bell rings"}}
    values = {"cameras": {"door": door}, "mqtt": "127.0.0.1", "http": {"port": 0}}
    path.write_text(yaml.safe_dump({**values, "state_dir": str(tmp_path / "state")}))
    flags = {"model": {"model": "tiny"}}
    await serving._Serving(path, flags, load_node_config(path, flags), Notifier()).run()
    assert seen == [(["door"], ["bell"])]
