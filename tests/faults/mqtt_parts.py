"""What the broker's faults share: the node as a child, and a device that never gives up."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from socket import IPPROTO_TCP, TCP_NODELAY
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tests.clients.mqtt.broker import ACCOUNTS, Broker
from tests.conftest import REPOSITORY

READY_S = 90.0
ENDS = ("final", "error", "summary")
GENEROUS = {
    "queries_per_s": 10_000,
    "queries_burst": 100_000,
    "tokens_per_s": 1_000_000,
    "tokens_burst": 10_000_000,
    "refusals_per_s": 10_000,
    "waiting": 100_000,
}


class Runtime:
    """A node in a process of its own; the same journal and client id at every start."""

    def __init__(
        self,
        broker: Broker,
        folder: Path,
        cameras: dict[str, str],
        stream: dict[str, Any] | None = None,
        **mqtt: Any,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.output = folder / "output"
        self._settings = {
            "mqtt": {
                "host": "127.0.0.1",
                "port": broker.port,
                "user": "omnidrop",
                "password": ACCOUNTS["omnidrop"],
                "client_id": "fault-node",
                "prefix": "omnidrop",
                "will_delay_s": 0,
                **mqtt,
            },
            "journal": str(folder / "journal.db"),
            "cameras": cameras,
            "stream": stream or {},
        }
        self._process: subprocess.Popen[str] | None = None

    def start(self, wait: bool = True) -> None:
        command = [sys.executable, "-m", "tests.faults.mqtt_runtime", json.dumps(self._settings)]
        with self.output.open("ab") as errors:
            self._process = subprocess.Popen(
                command,
                cwd=REPOSITORY,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
        if wait:
            self.wait_ready()

    def wait_ready(self) -> None:
        assert self._process is not None
        out = self._process.stdout
        assert out is not None
        assert select.select([out], [], [], READY_S)[0], "the node was not ready in time"
        assert out.readline() == "ready\n", self.output.read_text()[-2000:]

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def strike(self, number: signal.Signals) -> None:
        """Without waiting: it may be called from any thread."""
        if self._process is not None:
            os.kill(self._process.pid, number)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(number)
            process.wait(60)
            assert process.stdout is not None
            process.stdout.close()


class Device:
    """paho in a thread of its own: a session that lasts, publishes that are repeated until the
    broker confirms them. Keeps every message by id.
    """

    def __init__(
        self,
        port: int,
        name: str = "lamp",
        on_delta: Callable[[str], None] | None = None,
        inflight: int = 20,
    ) -> None:
        self.name = name
        self.reply_to = f"omnidrop/node/reply/{name}/x"
        self.told: dict[str, list[tuple[float, str, bytes]]] = defaultdict(list)
        self.extra: list[tuple[str, bytes, bytes | None]] = []
        self.sent_at: dict[str, float] = {}
        self.confirmed: set[str] = set()
        self.connected = threading.Event()
        self.news = threading.Condition()
        self.on_delta = on_delta
        self._mids: dict[int, str] = {}
        self._early: set[int] = set()
        client = paho.Client(CallbackAPIVersion.VERSION2, f"fault-{name}", protocol=paho.MQTTv5)
        client.username_pw_set(name, ACCOUNTS.get(name, "x"))
        client.reconnect_delay_set(1, 1)
        client.max_inflight_messages_set(inflight)
        client.max_queued_messages_set(0)
        # Without it a question waits up to 40 ms behind the confirmation of the answer before.
        client.on_socket_open = lambda client, data, socket: socket.setsockopt(
            IPPROTO_TCP, TCP_NODELAY, 1
        )
        client.on_connect = self._on_connect
        client.on_disconnect = lambda *_: self.connected.clear()
        client.on_publish = self._on_publish
        client.on_message = self._on_message
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = 3600
        client.connect_async("127.0.0.1", port, 30, clean_start=False, properties=properties)
        self.client = client

    def start(self) -> None:
        self.client.loop_start()
        assert self.connected.wait(10)

    def stop(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()

    def _on_connect(self, client: Any, *_: Any) -> None:
        client.subscribe([(f"omnidrop/node/reply/{self.name}/#", 1), ("omnidrop/stats", 0)])
        self.connected.set()

    def _on_publish(self, client: Any, data: Any, mid: int, *_: Any) -> None:
        with self.news:
            id_ = self._mids.pop(mid, None)
            if id_ is None:
                self._early.add(mid)  # confirmed before `send` knew its number
            else:
                self.confirmed.add(id_)
            self.news.notify_all()

    def _on_message(self, client: Any, data: Any, message: Any) -> None:
        now = time.monotonic()
        given = message.properties.json()
        correlation = given.get("CorrelationData")
        told = json.loads(message.payload) if message.topic == self.reply_to else {}
        id_ = told.get("id")
        with self.news:
            if id_ is not None:
                self.told[id_].append((now, told["type"], message.payload))
            back = None if correlation is None else bytes.fromhex(correlation)
            self.extra.append((message.topic, message.payload, back))
            self.news.notify_all()
        if told.get("type") == "delta" and self.on_delta is not None:
            self.on_delta(id_)

    def ask(self, id_: str, text: str = "What is there?", qos: int = 1, **values: Any) -> None:
        self.send(json.dumps({"id": id_, "text": text, **values}).encode(), id_, qos=qos)

    def send(
        self, payload: bytes, id_: str, correlation: bytes | None = None, qos: int = 1
    ) -> None:
        properties = Properties(PacketTypes.PUBLISH)
        properties.ResponseTopic = self.reply_to
        if correlation is not None:
            properties.CorrelationData = correlation
        self.sent_at[id_] = time.monotonic()
        # Without our lock: paho holds its own while it calls us.
        info = self.client.publish("omnidrop/door/query", payload, qos, properties=properties)
        with self.news:
            if info.mid in self._early:
                self._early.discard(info.mid)
                self.confirmed.add(id_)
            else:
                self._mids[info.mid] = id_

    def until(self, there: Callable[[], bool], limit_s: float) -> bool:
        with self.news:
            return self.news.wait_for(there, limit_s)

    def types(self, id_: str) -> list[str]:
        return [kind for _, kind, _ in self.told.get(id_, ())]

    def ended(self, id_: str) -> bool:
        return any(kind in ENDS for kind in self.types(id_))

    def ends(self, id_: str) -> set[bytes]:
        return {payload for _, kind, payload in self.told.get(id_, ()) if kind in ENDS}
