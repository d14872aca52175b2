"""One broker for each module of tests; a node of its own, and a device, for each test."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from clients.mqtt.config import MqttConfig
from clients.mqtt.service import MqttService
from runtime.journal import Journal
from tests.clients.mqtt.broker import ACCOUNTS, PROGRAM, Broker
from tests.clients.mqtt.device import Device
from tests.clients.mqtt.fake_node import FakeNode

_NUMBERS = itertools.count(1)


@pytest.fixture(scope="session")
def needs_mosquitto() -> None:
    if not Path(PROGRAM).exists() or shutil.which("mosquitto_passwd") is None:
        pytest.skip("no mosquitto here. Mend it with: sh tests/tools/apt-packages")


@pytest.fixture(scope="module")
def broker(needs_mosquitto: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """With the shipped configuration."""
    broker = Broker(tmp_path_factory.mktemp("broker"))
    broker.start()
    yield broker
    broker.stop()


def mqtt_config(broker: Broker, **values: Any) -> MqttConfig:
    base: dict[str, Any] = {
        "host": "127.0.0.1",
        "port": broker.port,
        "user": "omnidrop",
        "password": ACCOUNTS["omnidrop"],
        "client_id": f"node-{next(_NUMBERS)}",
        "prefix": "omnidrop",
        "will_delay_s": 0,
    }
    return MqttConfig.model_validate({**base, **values})


@asynccontextmanager
async def serving(
    node: FakeNode, config: MqttConfig, journal: Path, **options: Any
) -> AsyncIterator[MqttService]:
    """A running service, connected; ended as a process is that gets no time to say goodbye."""
    async with Journal(journal, node.stats) as kept:
        service = MqttService(config, node, kept, **options)
        running = asyncio.create_task(service.run())
        try:
            async with asyncio.timeout(10):
                online = asyncio.create_task(service.online.wait())
                await asyncio.wait({online, running}, return_when=asyncio.FIRST_COMPLETED)
                online.cancel()
                if running.done():
                    running.result()
            yield service
        finally:
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running
            await service.answering.drain(0)


async def until(there: Callable[[], bool], limit_s: float = 10.0) -> None:
    """Wait for what has no event of its own, such as a counter."""
    async with asyncio.timeout(limit_s):
        while not there():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


Serve = Callable[..., AbstractAsyncContextManager[MqttService]]


@pytest.fixture
def node() -> FakeNode:
    return FakeNode("door", "yard")


@pytest.fixture
async def service(broker: Broker, node: FakeNode, tmp_path: Path) -> AsyncIterator[MqttService]:
    async with serving(node, mqtt_config(broker), tmp_path / "journal.db") as service:
        yield service


@pytest.fixture
async def device(broker: Broker, service: MqttService) -> AsyncIterator[Device]:
    """An account that reads its own answers."""
    async with Device(broker.port) as device:
        await device.listen("omnidrop/node/reply/lamp/#")
        yield device
