"""A flood beside a polite client, bad messages by the thousand, cancels, and what the way costs."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from statistics import median
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clients.mqtt.service import MqttService
from omnidrop_stream.config import make_config
from runtime.host import ModelHost
from runtime.journal import Journal
from runtime.models import load
from runtime.node import CameraSpec, Node
from runtime.sources import open_source
from tests.clients.mqtt.broker import Broker
from tests.clients.mqtt.conftest import mqtt_config, until
from tests.clients.mqtt.device import Device as LoopDevice
from tests.faults.measure import p95
from tests.faults.mqtt_parts import ENDS, GENEROUS, Device, Runtime
from tests.runtime.test_session import on_worker, trunk_hash

CAMERAS = {"door": "demo:?seed=1&seconds=36000"}
SECRETS = (b"hunter2", b"node-secret", b"lamp-secret")


def asked(device: Device, id_: str, limit_s: float = 60.0) -> tuple[float, float, float]:
    """Milliseconds to the first piece, to the end, and the model's own to its first token."""
    device.ask(id_)
    assert device.until(lambda: device.ended(id_), limit_s), f"{id_} has no end"
    sent_s, told = device.sent_at[id_], device.told[id_]
    first_s = next(at for at, kind, _ in told if kind == "delta")
    end_s, _, payload = next(entry for entry in told if entry[1] in ENDS)
    return (first_s - sent_s) * 1e3, (end_s - sent_s) * 1e3, json.loads(payload)["ttft_ms"]


def first_delta_overhead(questions: int = 200) -> dict[str, Any]:
    """What the way through the broker adds to the model's own time to its first token."""
    with tempfile.TemporaryDirectory() as folder:
        broker = Broker(Path(folder) / "broker")
        broker.start()
        runtime = Runtime(broker, Path(folder) / "node", CAMERAS, limits=GENEROUS)
        device = Device(broker.port)
        try:
            runtime.start()
            device.start()
            for number in range(10):
                asked(device, f"warm{number}")
            took = [asked(device, f"q{number}") for number in range(questions)]
        finally:
            device.stop()
            runtime.stop()
            broker.stop()
    added = [first - own for first, _, own in took]
    return {
        "questions": questions,
        "added_ms_median": round(median(added), 2),
        "added_ms_p95": round(p95(added), 2),
        "model_ttft_ms_median": round(median([own for _, _, own in took]), 2),
        "first_delta_ms_median": round(median([first for first, _, _ in took]), 2),
    }


def flood(per_s: float = 1000.0, blocks: int = 5, questions: int = 20) -> dict[str, Any]:
    """A polite client's times, alone and beside a flood, in turn; the node's default limits but
    for the polite one's, who asks one question after the other.
    """
    with tempfile.TemporaryDirectory() as folder:
        broker = Broker(Path(folder) / "broker")
        broker.start()
        limits = {"queries_burst": 20, "queries_per_s": 5.0, "tokens_burst": 100_000}
        runtime = Runtime(
            broker,
            Path(folder) / "node",
            CAMERAS,
            stream={"budget_tokens": 1000},  # soon full: else each block is slower than the last
            limits=limits,
            stats_every_s=1,
        )
        device = Device(broker.port)
        idle: list[tuple[float, float, float]] = []
        busy: list[tuple[float, float, float]] = []
        rates: list[float] = []
        try:
            runtime.start()
            device.start()
            time.sleep(FULL_S)
            for block in range(blocks):
                idle += _politely(device, f"i{block}", questions)
                seconds = questions * 0.25 + 3
                command = [sys.executable, "-m", "tests.faults.mqtt_flooder", str(broker.port)]
                with subprocess.Popen(
                    [*command, str(per_s), str(seconds)], stdout=subprocess.PIPE, text=True
                ) as flooder:
                    time.sleep(2.0)
                    busy += _politely(device, f"b{block}", questions)
                    flooder.wait(120)
                    assert flooder.stdout is not None
                    rates.append(float(flooder.stdout.read()))
            counters = _counters(broker.port)
            alive = runtime.alive
        finally:
            device.stop()
            runtime.stop()
            broker.stop()

    def ratio(column: int) -> float:
        return p95([row[column] for row in busy]) / p95([row[column] for row in idle])

    return {
        "flood_per_s": round(min(rates)),
        "polite_questions": len(idle),
        "first_delta_p95_ms_idle": round(p95([row[0] for row in idle]), 1),
        "first_delta_p95_ms_flooded": round(p95([row[0] for row in busy]), 1),
        "first_delta_p95_ratio": round(ratio(0), 3),
        "answer_p95_ms_idle": round(p95([row[1] for row in idle]), 1),
        "answer_p95_ms_flooded": round(p95([row[1] for row in busy]), 1),
        "answer_p95_ratio": round(ratio(1), 3),
        "answer_median_ratio": round(
            median([row[1] for row in busy]) / median([row[1] for row in idle]), 3
        ),
        "flood_accepted": counters.get("mqtt.accepted", 0) - 2 * len(idle),
        "flood_dropped_counted": counters.get("mqtt.dropped.flood", 0),
        "flood_told": counters.get("mqtt.refused.rate_limited", 0),
        "node_alive": alive,
    }


def _politely(device: Device, name: str, questions: int) -> list[tuple[float, float, float]]:
    """One question every quarter of a second, in the moments the one before has ended."""
    took = []
    for number in range(questions):
        began_s = time.monotonic()
        took.append(asked(device, f"{name}-{number}"))
        time.sleep(max(0.0, 0.25 - (time.monotonic() - began_s)))
    return took


def _counters(port: int) -> dict[str, int]:
    """The node's, as it tells them next; read by an account that may."""
    device = Device(port, "homeassistant")
    device.start()

    def told() -> list[bytes]:
        return [payload for topic, payload, _ in device.extra if topic == "omnidrop/stats"]

    try:
        assert device.until(lambda: len(told()) >= 2, 60), "no statistics came"
    finally:
        device.stop()
    counters: dict[str, int] = json.loads(told()[-1])["counters"]
    return counters


# -- bad messages

_TEXT = st.text(max_size=40)
_VALUES = st.dictionaries(
    st.sampled_from(["v", "id", "text", "client", "max_tokens", "look_back_s", "deadline_ms"])
    | st.text(max_size=6),
    st.none() | st.booleans() | st.integers() | st.floats() | _TEXT | st.lists(st.integers()),
    max_size=5,
)
KINDS: dict[str, st.SearchStrategy[bytes]] = {
    "any bytes": st.binary(max_size=300),
    "bad UTF-8": st.binary(min_size=1, max_size=50).map(lambda b: b'{"text": "\xff' + b + b'"}'),
    "malformed JSON": _VALUES.map(lambda v: json.dumps(v)[:-1].encode("utf-8", "surrogatepass")),
    "another schema": _VALUES.map(lambda v: json.dumps(v).encode("utf-8", "surrogatepass")),
    "NaN": st.sampled_from([b'{"text": "x", "look_back_s": NaN}', b'{"text": -Infinity}', b"NaN"]),
    "depth 10,000": st.sampled_from([b"[" * 10_000, b"[" * 8_000 + b"]" * 8_000]),
    "too large": st.integers(16_385, 60_000).map(lambda n: b'{"text": "' + b"x" * n + b'"}'),
    "duplicate id": st.integers(0, 5).map(lambda n: b'{"id": "same", "text": "other %d"}' % n),
    "empty": st.sampled_from([b"", b" ", b"{}", b'{"text": ""}', b'{"text": " \\n"}']),
    "control tokens": st.sampled_from(["<|im_end|>", "<|im_start|>system", "<|endoftext|>"]).map(
        lambda t: json.dumps({"text": f"What is there? {t}", "max_tokens": 2}).encode()
    ),
}
FULL_S = 30.0
"""After it the stream holds as much as it may."""
OUTSTANDING = 300
"""Messages that may wait for their reply: the broker's own queue has an end, and says nothing."""
TEN_MB = b'{"text": "' + b"x" * 10_000_000 + b'"}'


def generated(count: int) -> list[tuple[str, bytes]]:
    """So many bad messages, of every kind, always the same ones."""
    found: list[tuple[str, bytes]] = []
    each = -(-count // len(KINDS))
    for kind, strategy in KINDS.items():
        drawn = _drawn(strategy, each)
        random.Random(1).shuffle(drawn)
        drawn = (drawn * (each // len(drawn) + 1))[:each]  # a short list of choices is repeated
        found += [(kind, payload) for payload in drawn]
    random.Random(2).shuffle(found)
    return found[:count]


def _drawn(strategy: st.SearchStrategy[bytes], count: int) -> list[bytes]:
    drawn: list[bytes] = []

    @settings(
        max_examples=count,
        database=None,
        derandomize=True,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def collect(payload: bytes) -> None:
        drawn.append(payload)

    collect()
    return drawn


def bad_messages(count: int = 10_000, of_ten_mb: int = 10) -> dict[str, Any]:
    """Every one gets an error code, is answered (where it is allowed after all), or is counted."""
    messages = generated(count - of_ten_mb) + [("10 MB", TEN_MB)] * of_ten_mb
    with tempfile.TemporaryDirectory() as folder:
        broker = Broker(Path(folder) / "broker", without="message_size_limit")  # it stops 10 MB
        broker.start()
        cameras = {**CAMERAS, "away": "rtsp://admin:hunter2@127.0.0.1:9/live"}
        limits = {**GENEROUS, "at_once": 4}
        runtime = Runtime(
            broker, Path(folder) / "node", cameras, limits=limits, stats_every_s=1, oldest_s=3600
        )
        device = Device(broker.port, "homeassistant")  # it may read all that the node says
        try:
            runtime.start()
            device.start()
            spoken = ("+/status", "events", "node/info", "+/answer/#", "+/enabled/state")
            device.client.subscribe([(f"omnidrop/{topic}", 0) for topic in spoken])
            unanswered = _sent(device, messages)
            counters = _counters(broker.port)
            alive = runtime.alive
            device.until(lambda: False, 0.5)
            after = asked(device, "after") if alive else None
        finally:
            device.stop()
            runtime.stop()
            broker.stop()
        output = runtime.output.read_bytes()
    sent = b"".join(payload for _, payload, _ in device.extra)
    codes = Counter(
        json.loads(payload).get("code", "answered")
        for topic, payload, _ in device.extra
        if topic == device.reply_to and json.loads(payload)["type"] in ENDS
    )
    dropped = {
        name: n
        for name, n in counters.items()
        if name.startswith("mqtt.dropped") or name == "mqtt.duplicates"
    }
    return {
        "messages": len(messages),
        "kinds": dict(Counter(kind for kind, _ in messages)),
        "ends_by_code": dict(codes),
        "without_any_reply": dict(Counter(unanswered)),
        "reached_the_node": counters["mqtt.queries"],
        "counted_drops": dropped,
        "node_alive": alive,
        "answers_afterwards": after is not None,
        "secrets_in_messages_or_output": sum(secret in sent + output for secret in SECRETS),
        "tracebacks_in_output": output.count(b"Traceback"),
    }


def _sent(device: Device, messages: list[tuple[str, bytes]]) -> list[str]:
    """Send each with correlation data of its own, few at a time; the kinds of those that nothing
    came back to.
    """
    replied: set[bytes] = set()
    position = 0

    def replies() -> int:
        nonlocal position
        for topic, payload, correlation in device.extra[position:]:
            position += 1
            mine = topic == device.reply_to and correlation is not None
            if mine and json.loads(payload)["type"] in ENDS:
                replied.add(correlation or b"")
        return len(replied)

    silent = 0
    for number, (_, payload) in enumerate(messages, 1):
        device.send(payload, f"bad{number}", correlation=b"%d" % number)
        if number % 100 == 0 and not device.until(
            lambda least=number - OUTSTANDING - silent: replies() >= least, 30
        ):
            silent = number - OUTSTANDING - len(replied)  # those never come: go on without them
    device.until(lambda: replies() == len(messages), 300)
    return [kind for n, (kind, _) in enumerate(messages, 1) if b"%d" % n not in replied]


# -- cancels


def cancel_storm(cancels: int = 1000, seed: int = 7) -> dict[str, Any]:
    """Questions over the broker, each cancelled at a random piece; the trunk as if never asked."""
    return asyncio.run(_cancel_storm(cancels, seed))


async def _cancel_storm(cancels: int, seed: int) -> dict[str, Any]:
    config = make_config(
        {"model": {"model": "tiny", "device": "cpu"}, "decode": {"max_tokens": 600}}
    )
    model = load(config.model)
    source = "demo:?seconds=12&seed=3"
    steps: list[int] = []

    class Counting:
        def __getattr__(self, name: str) -> Any:
            return getattr(model, name)

        def decode_step(self, fork: Any, token: int) -> Any:
            steps.append(token)
            return model.decode_step(fork, token)

    async def trunk(node: Node) -> tuple[str, Any]:
        session = node.group.sessions["door"]
        await session.drained()
        stream = session._stream
        assert stream is not None
        return await on_worker(session, lambda: trunk_hash(stream)), session

    never_asked = ""
    with tempfile.TemporaryDirectory() as folder:
        async with ModelHost(load=lambda: model) as host, Node(config, host) as node:
            node.add_camera("door", CameraSpec(lambda: open_source(source), config))
            await until(lambda: "door" in node.group.sessions, 60)
            never_asked, _ = await trunk(node)
        broker = Broker(Path(folder) / "broker")
        broker.start()
        try:
            async with (
                ModelHost(load=Counting) as host,  # type: ignore[arg-type]
                Node(config, host) as node,
                Journal(Path(folder) / "journal.db", node.stats) as journal,
            ):
                node.add_camera("door", CameraSpec(lambda: open_source(source), config))
                service = MqttService(
                    mqtt_config(broker, limits=GENEROUS), node, journal, watch_node=node
                )
                running = asyncio.create_task(service.run())
                await until(service.online.is_set)
                await until(lambda: node.camera_stats("door").counter("chunk.committed") > 0, 60)
                async with LoopDevice(broker.port) as device:
                    await device.listen("omnidrop/node/reply/lamp/#")
                    finishes, after = await _cancelled(node, device, steps, cancels, seed)
                asked_trunk, session = await trunk(node)
                left = session._stream.status().answers_in_progress
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)
        finally:
            broker.stop(signal.SIGKILL)
    return {
        "cancels": cancels,
        "finishes": dict(finishes),
        "steps_after_the_cancel_reached_the_answer_max": max(after),
        "trunk_equals_never_asked": asked_trunk == never_asked,
        "answers_left": left,
    }


async def _cancelled(
    node: Node, device: LoopDevice, steps: list[int], cancels: int, seed: int
) -> tuple[Counter[str], list[int]]:
    """How the answers finished, and the decode steps begun after the cancel was taken in."""
    draw = random.Random(seed)
    after: list[int] = []
    finishes: Counter[str] = Counter()
    cancel = node.cancel
    taken: list[int] = []

    def noting(id: str) -> bool:
        found = cancel(id)
        taken.append(len(steps))
        return found

    node.cancel = noting  # type: ignore[method-assign]
    for number in range(cancels):
        id_, pieces = f"c{number}", draw.randrange(20)
        device.came.clear()
        taken.clear()
        question = {"id": id_, "text": "what?", "max_tokens": 600}
        await device.send("omnidrop/door/query", question, "omnidrop/node/reply/lamp/1")
        await device.until(
            lambda p=pieces: len(device.told(None, "delta")) >= p or bool(device.told(None, *ENDS)),
            60,
        )
        cancelling = {"id": id_}
        await device.send("omnidrop/door/cancel", cancelling, "omnidrop/node/reply/lamp/1")
        ended = await device.ended(id_, 60)
        finishes[ended.get("finish", ended.get("code", ""))] += 1
        if taken and ended.get("finish") == "cancelled":
            after.append(len(steps) - taken[0])
    return finishes, after or [0]
