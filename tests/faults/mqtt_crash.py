"""The broker killed with questions queued, the node killed in mid-answer: what is lost."""

from __future__ import annotations

import signal
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.clients.mqtt.broker import Broker
from tests.faults.mqtt_parts import GENEROUS, Device, Runtime

CAMERAS = {"door": "demo:?seed=1"}
CALM_S = 900.0


def broker_killed(
    shipped: bool = True,
    kills: int = 20,
    queries: int = 500,
    settle_s: float = 0.1,
    node_kills: int = 20,
) -> dict[str, Any]:
    """Figures of one run.

    First ``queries`` questions of QoS 1 are queued for a node that is away, and the broker is
    killed ``kills`` times between them, by SIGKILL and SIGTERM in turn, ``settle_s`` after it
    confirmed the last one. Then the node answers; ``node_kills`` times it is SIGKILLed at a piece
    of an answer, and the broker is killed beside it. At the end everything may run out in peace.
    """
    with tempfile.TemporaryDirectory() as folder:
        broker = Broker(Path(folder) / "broker", shipped)
        broker.start()
        limits = {**GENEROUS, "at_once": 2}
        runtime = Runtime(broker, Path(folder) / "node", CAMERAS, limits=limits, oldest_s=7200)
        device = Device(broker.port)
        try:
            return _run(broker, runtime, device, kills, queries, settle_s, node_kills)
        finally:
            device.stop()
            runtime.stop(signal.SIGKILL)
            broker.stop(signal.SIGKILL)


def _run(
    broker: Broker,
    runtime: Runtime,
    device: Device,
    kills: int,
    queries: int,
    settle_s: float,
    node_kills: int,
) -> dict[str, Any]:
    began_s = time.monotonic()
    runtime.start()  # so that the broker knows its session
    runtime.stop(signal.SIGTERM)
    device.start()
    signals = [signal.SIGKILL, signal.SIGTERM]
    ids = [f"q{number}" for number in range(queries)]
    share = -(-queries // kills)
    for round_ in range(kills):
        part = ids[round_ * share : (round_ + 1) * share]
        assert device.connected.wait(30)
        for id_ in part:
            device.ask(id_)
        assert device.until(lambda p=part: device.confirmed >= set(p), 60), "not confirmed"
        time.sleep(settle_s)
        broker.stop(signals[round_ % 2])
        device.connected.clear()
        broker.start()
    mid_answer, killed = _kill_node(broker, runtime, device, node_kills, signals)
    runtime.start()
    accepted = _settled(device, ids)
    unanswered = [id_ for id_ in accepted if not device.ended(id_)]
    silent = [id_ for id_ in ids if id_ not in accepted]
    # A device repeats what was not accepted: the guarantee begins with ``accepted``.
    for id_ in silent:
        device.ask(id_)
    device.until(lambda: all(device.ended(id_) for id_ in silent), CALM_S)
    counts = [sum(kind in ("final", "error") for kind in device.types(id_)) for id_ in device.told]
    return {
        "broker": "shipped configuration" if broker.shipped else "default configuration",
        "broker_kills": kills + killed,
        "killed_after_confirmation_s": settle_s,
        "node_kills": killed,
        "node_kills_in_mid_answer": mid_answer,
        "queries_confirmed_by_the_broker": len(device.confirmed & set(ids)),
        "without_accepted": len(silent),
        "accepted": len(accepted),
        "accepted_without_an_end": len(unanswered),
        "ids_with_two_different_ends": sum(len(device.ends(id_)) > 1 for id_ in device.told),
        "ends_that_came_more_than_once": sum(count > 1 for count in counts),
        "errors": sum("error" in device.types(id_) for id_ in ids),
        "ended_after_repeating": sum(device.ended(id_) for id_ in silent),
        "took_s": round(time.monotonic() - began_s, 1),
    }


def _kill_node(
    broker: Broker, runtime: Runtime, device: Device, kills: int, signals: list[signal.Signals]
) -> tuple[int, int]:
    """How many kills fell between a piece of an answer and its end, and how many there were."""
    mid_answer = killed = 0
    struck: list[str] = []

    def strike(id_: str) -> None:
        if not struck and runtime.alive:
            struck.append(id_)
            runtime.strike(signal.SIGKILL)

    for round_ in range(kills):
        runtime.start(wait=False)
        device.on_delta = strike
        if not device.until(lambda: bool(struck), 120):
            break  # nothing is left to be answered
        device.on_delta = None
        runtime.stop(signal.SIGKILL)
        killed += 1
        mid_answer += not device.ended(struck[0])
        struck.clear()
        broker.stop(signals[round_ % 2])
        device.connected.clear()
        broker.start()
        assert device.connected.wait(30)
    device.on_delta = None
    return mid_answer, killed


def _settled(device: Device, ids: list[str]) -> set[str]:
    """Wait until every accepted id has ended and nothing more is accepted; which were."""

    def accepted() -> set[str]:
        return {id_ for id_ in ids if "accepted" in device.types(id_)}

    until_s = time.monotonic() + CALM_S
    while time.monotonic() < until_s:
        before = len(accepted())
        done = device.until(lambda: all(device.ended(id_) for id_ in accepted()), 10)
        if done and before and not device.until(lambda n=before: len(accepted()) > n, 5):
            break
    return accepted()
