"""A node as its own process, to be killed: the embedded model, made-up cameras, a real broker.

``python -m tests.faults.mqtt_runtime SETTINGS`` where SETTINGS is JSON: ``mqtt`` (the section of a
node's file), ``journal``, ``cameras`` (name -> source), ``stream`` (the library's section).
Prints ``ready`` once it serves.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path
from typing import Any

from clients.mqtt.config import MqttConfig
from clients.mqtt.service import MqttService
from clients.node.serve import SWITCH_S
from omnidrop_stream.config import make_config
from runtime.journal import Journal
from runtime.node import CameraSpec, Node
from runtime.sources import SourceOptions


async def serve(settings: dict[str, Any]) -> None:
    """Until SIGTERM."""
    stream = settings.get("stream", {})
    config = make_config({"model": {"model": "embedded", "device": "cpu"}, "stream": stream})
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with Node(config) as node:
        options = SourceOptions(wait_for_first=True)
        for name, source in settings["cameras"].items():
            node.add_camera(name, CameraSpec(source, config, options))
        first = next(iter(settings["cameras"]))
        async with Journal(Path(settings["journal"]), node.stats) as journal:
            mqtt = MqttConfig.model_validate(settings["mqtt"])
            service = MqttService(mqtt, node, journal, watch_node=node)
            running = asyncio.create_task(service.run())
            await service.online.wait()
            while node.camera_stats(first).counter("chunk.committed") == 0:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            print("ready", flush=True)  # noqa: T201
            await asyncio.wait(
                {asyncio.create_task(stop.wait()), running}, return_when="FIRST_COMPLETED"
            )
            await service.drain(4.0)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


if __name__ == "__main__":
    sys.setswitchinterval(SWITCH_S)
    asyncio.run(serve(json.loads(sys.argv[1])))
