"""`omnidrop serve` as a process: real broker, real signals, the tiny model, made-up cameras."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import sys

import httpx
import pytest
import yaml

from tests.clients.mqtt.broker import Broker
from tests.clients.mqtt.device import Device
from tests.clients.mqtt.test_presence import Home

LONG_S = 60


class Served:
    """A running node, its log line by line."""

    def __init__(self, process):
        self.process = process
        self.lines = []

    async def said(self, words):
        """The first line from here on that has ``words``."""
        async with asyncio.timeout(LONG_S):
            while True:
                line = (await self.process.stderr.readline()).decode()
                assert line, f"ended without {words!r}:\n" + "".join(self.lines)
                self.lines.append(line)
                if words in line:
                    return line

    async def ended(self):
        async with asyncio.timeout(LONG_S):
            rest = (await self.process.stderr.read()).decode()
            self.lines.append(rest)
            return await self.process.wait()


@pytest.fixture
async def start(tmp_path, repository):
    """Start `omnidrop serve` on a file with these values; ended with the test."""
    running = []

    async def started(values, *words):
        path = tmp_path / "node.yaml"
        given = {"name": "home", "state_dir": str(tmp_path / "state"), "http": {"port": 0}}
        path.write_text(yaml.safe_dump({**given, **values}))
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "clients.cli", "serve", str(path), "--model", "tiny", *words),
            cwd=repository,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        running.append(process)
        return Served(process)

    yield started
    for process in running:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


def _write(tmp_path, values):
    path = tmp_path / "node.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **values}))


def _live(camera):
    return f'omnidrop_camera_state{{camera="{camera}",state="live"}} 1.0'


async def _shown(web, path, words):
    """Read ``path`` until it has ``words``; what has no event is looked at again."""
    async with asyncio.timeout(LONG_S):
        while words not in (await web.get(path)).text:  # noqa: ASYNC110
            await asyncio.sleep(0.1)


async def test_a_node_comes_up_answers_reloads_and_drains(broker: Broker, start, tmp_path):
    mqtt = {"host": "127.0.0.1", "port": broker.port, "user": "omnidrop", "prefix": "omnidrop"}
    password = tmp_path / "pw"
    password.write_text("node-secret\n")
    mqtt["password_file"] = str(password)
    node = await start({"cameras": {"one": "demo:"}, "mqtt": mqtt}, "--log-json")
    address = json.loads(await node.said("metrics and health"))["address"]
    await node.said("connected to the broker")
    async with Device(broker.port) as device, httpx.AsyncClient(base_url=address) as web:
        await device.listen("omnidrop/node/reply/lamp/#")
        await node.said("one is live")
        query = {"v": 1, "id": "q1", "text": "what is shown?", "max_tokens": 4}
        await device.send("omnidrop/one/query", query, "omnidrop/node/reply/lamp/1")
        assert (await device.ended("q1", LONG_S))["type"] == "final"
        assert (await web.get("/healthz")).status_code == 200
        assert (
            'omnidrop_camera_state{camera="one",state="live"} 1.0'
            in (await web.get("/metrics")).text
        )
        _write(tmp_path, {"cameras": {"one": "demo:", "two": "demo:?seed=2"}})
        node.process.send_signal(signal.SIGHUP)
        assert "added two" in await node.said("read again")
        await _shown(web, "/metrics", _live("two"))
        _write(tmp_path, {"cameras": {"one": "demo:", "Two": "x"}})
        node.process.send_signal(signal.SIGHUP)
        assert "cameras.Two" in await node.said("not taken over")
        node.process.send_signal(signal.SIGTERM)
        await node.said("draining")
    assert await node.ended() == 0
    assert "Traceback" not in "".join(node.lines)
    assert "node-secret" not in "".join(node.lines)


async def test_standing_questions_follow_the_file_and_those_of_mqtt_outlive_the_process(
    broker: Broker, start, tmp_path
):
    mqtt = {"host": "127.0.0.1", "port": broker.port, "user": "omnidrop", "prefix": "omnidrop"}
    (tmp_path / "pw").write_text("node-secret\n")
    mqtt["password_file"] = str(tmp_path / "pw")

    def cameras(**watches):
        return {"one": {"source": "demo:", "watches": watches}}

    async with Home(broker) as home:
        await home.listen("omnidrop/one/watch/#")

        async def watched(**texts):
            def shown():
                told = {name: home.last(f"one/watch/{name}/state") for name in texts}
                return {
                    name: json.loads(state)["text"] if state else None
                    for name, state in told.items()
                }

            await home.until(lambda: shown() == texts, LONG_S)

        node = await start({"cameras": cameras(bell="a bell rings", gate="it opens"), "mqtt": mqtt})
        await watched(bell="a bell rings", gate="it opens")
        await home.send("omnidrop/one/watch/cat/set", "a cat comes")
        await home.send("omnidrop/one/watch/gate/set", "it closes")
        await watched(bell="a bell rings", gate="it closes", cat="a cat comes")
        _write(tmp_path, {"cameras": cameras(dog="a dog barks", gate="it falls off")})
        node.process.send_signal(signal.SIGHUP)
        assert "other standing questions for one" in await node.said("read again")
        await watched(bell=None, dog="a dog barks", gate="it closes", cat="a cat comes")
        node.process.kill()
        await node.ended()
        home.came.clear()
        await start(yaml.safe_load((tmp_path / "node.yaml").read_text()))
        await watched(bell=None, dog="a dog barks", gate="it closes", cat="a cat comes")


async def test_without_a_broker_it_serves_and_says_that_it_waits(start):
    node = await start({"cameras": {"one": "demo:"}, "mqtt": "127.0.0.1:1"})
    await node.said("no broker at 127.0.0.1:1")
    await node.said("next attempt")
    node.process.send_signal(signal.SIGINT)
    assert await node.ended() == 0


async def test_a_camera_that_is_absent_at_start_harms_nobody(start):
    cameras = {"gone": "rtsp://127.0.0.1:1/x", "none": "/no/such.mp4", "one": "demo:"}
    node = await start({"cameras": cameras})
    address = re.search(r"http://\S+", await node.said("metrics and health"))[0]
    async with httpx.AsyncClient(base_url=address) as web:
        await _shown(web, "/readyz", '{"ok":true')
        await _shown(web, "/metrics", 'omnidrop_camera_state{camera="gone",state="offline"} 1.0')
        await _shown(web, "/metrics", 'omnidrop_camera_state{camera="none",state="failed"} 1.0')
    node.process.send_signal(signal.SIGTERM)
    assert await node.ended() == 0


async def test_a_second_node_with_the_same_state_is_refused_with_the_first_ones_number(start):
    first = await start({})
    await first.said("serving")
    second = await start({})
    assert await second.ended() == 2
    assert f"runs already (process {first.process.pid}" in "".join(second.lines)


async def test_a_wrong_file_is_one_sentence_and_exit_code_2(start):
    node = await start({"camera": {}})
    assert await node.ended() == 2
    assert "did you mean 'cameras'?" in "".join(node.lines)
    assert len("".join(node.lines).splitlines()) == 1


async def test_without_a_broker_the_log_tells_of_a_camera_that_fails(start):
    served = await start({"cameras": {"door": {"source": "no-such-file.mp4"}}})
    line = await served.said("door is failed")
    assert "there is no such file" in line
