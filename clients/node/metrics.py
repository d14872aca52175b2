"""What Prometheus reads: the node's numbers, collected when it asks.

Few labels (camera, reason, state), no address in any of them; times in seconds, as is the custom.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import psutil
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from runtime.stats import Stats
from runtime.status import STATES, SessionStatus

_TIMINGS = {
    "answer.ttft": ("first_token", "From the question to its answer's first token"),
    "answer.total": ("answer", "From the question to the end of its answer"),
    "chunk.to_prefill": ("capture_to_prefill", "From a chunk's capture to its place in the cache"),
    "chunk.waited": ("chunk_wait", "From a chunk's capture until the model takes it"),
    "watch.judge": ("watch", "One judgement of a standing question"),
}
_REASONS = ("feed.dropped.", "source.dropped.", "mqtt.dropped.", "watch.dropped.")
_TOKENS = "answer.tokens."


@dataclass(frozen=True, slots=True)
class CameraView:
    """One camera at this moment. status: None while it is not open."""

    name: str
    state: str
    status: SessionStatus | None
    stats: Stats


@dataclass(frozen=True, slots=True)
class NodeView:
    """The node at this moment. stats: what belongs to no camera; broker: None without one."""

    cameras: Sequence[CameraView]
    stats: Sequence[Stats]
    model_loaded: bool
    broker: bool | None


class NodeMetrics(Collector):
    """Made once; ``look`` is called for each reading, on the reader's thread."""

    def __init__(self, look: Callable[[], NodeView]) -> None:
        self._look = look
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def text(self) -> tuple[bytes, str]:
        """The exposition and its content type."""
        return generate_latest(self._registry), CONTENT_TYPE_LATEST

    def describe(self) -> Iterable[Metric]:
        """Nothing is collected only to be described."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Everything."""
        view = self._look()
        yield from _node(view)
        yield from _states(view.cameras)
        yield from _gauges(view.cameras)
        yield from _kept_gauges(view)
        yield from _counters(view)
        yield from _histograms(view)


def _node(view: NodeView) -> Iterator[Metric]:
    memory = float(psutil.Process().memory_info().rss)
    yield GaugeMetricFamily("omnidrop_memory_bytes", "Resident memory", value=memory)
    yield GaugeMetricFamily(
        "omnidrop_model_loaded", "1 once the model is there", value=float(view.model_loaded)
    )
    if view.broker is not None:
        yield GaugeMetricFamily(
            "omnidrop_broker_connected", "1 while the broker is there", value=float(view.broker)
        )


def _states(cameras: Sequence[CameraView]) -> Iterator[Metric]:
    family = GaugeMetricFamily(
        "omnidrop_camera_state", "1 for the present state", labels=("camera", "state")
    )
    for camera in cameras:
        for state in STATES:
            family.add_metric((camera.name, state), float(camera.state == state))
    yield family


def _gauges(cameras: Sequence[CameraView]) -> Iterator[Metric]:
    tokens = GaugeMetricFamily(
        "omnidrop_tokens", "Audiovisual tokens: held, and the most allowed", labels=("camera", "of")
    )
    for camera in cameras:
        if camera.status is not None:
            tokens.add_metric((camera.name, "held"), float(camera.status.tokens))
            tokens.add_metric((camera.name, "budget"), float(camera.status.budget_tokens))
    yield tokens
    for name, help, read in _READINGS:
        family = GaugeMetricFamily(f"omnidrop_{name}", help, labels=("camera",))
        for camera in cameras:
            value = None if camera.status is None else read(camera.status)
            if value is not None:
                family.add_metric((camera.name,), float(value))
        yield family


_READINGS: tuple[tuple[str, str, Callable[[SessionStatus], float | None]], ...] = (
    ("lag_seconds", "Age of the newest chunk in the cache", lambda s: s.lag_s),
    ("chunk_age_seconds", "Age of the newest chunk when given", lambda s: s.chunk_age_s),
    ("stream_seconds", "Stream time", lambda s: s.stream_s),
    ("prefill_depth_layers", "Layers done ahead of a question", lambda s: s.depth),
    ("overload_step", "Step of the overload ladder, 0 to 5", lambda s: s.step),
    ("answers_in_progress", "Answers being given", lambda s: s.answers),
    ("video", "1 while pictures come", lambda s: s.video),
    ("audio", "1 while sound comes", lambda s: s.audio),
)
_CAMERA_GAUGES = (
    ("source.skew_s", "av_skew_seconds", "Sound's time minus the pictures'"),
    ("feed.waiting", "queue_chunks", "Chunks that wait for the model"),
)
_NODE_GAUGES = (
    ("mqtt.waiting", "questions_waiting", "Accepted questions that wait for their turn"),
    ("mqtt.answering", "questions_answering", "Accepted questions that are being answered"),
    ("mqtt.outbox", "messages_waiting", "Messages that the broker has not confirmed yet"),
)


def _kept_gauges(view: NodeView) -> Iterator[Metric]:
    """Those that the statistics read themselves, where there are such."""
    for key, name, help in _CAMERA_GAUGES:
        family = GaugeMetricFamily(f"omnidrop_{name}", help, labels=("camera",))
        for camera in view.cameras:
            value = camera.stats.snapshot()["gauges"].get(key)
            if value is not None:
                family.add_metric((camera.name,), float(value))
        yield family
    for stats in view.stats:
        gauges = stats.snapshot()["gauges"]
        for key, name, help in _NODE_GAUGES:
            if key in gauges:
                yield GaugeMetricFamily(f"omnidrop_{name}", help, value=float(gauges[key]))


def _counters(view: NodeView) -> Iterator[Metric]:
    reconnects = CounterMetricFamily(
        "omnidrop_reconnects", "Times the source came back", labels=("camera",)
    )
    drops = CounterMetricFamily(
        "omnidrop_dropped", "What was dropped, by reason", labels=("camera", "reason")
    )
    tokens = CounterMetricFamily(
        "omnidrop_answer_tokens",
        "Audiovisual tokens that answers were given with, mean over the layers: kept and pruned",
        labels=("camera", "of"),
    )
    events = CounterMetricFamily(
        "omnidrop_events", "Every other counter of the runtime", labels=("camera", "name")
    )
    sums: dict[tuple[str, str], float] = {}
    sources = [(camera.name, camera.stats) for camera in view.cameras]
    for camera in view.cameras:
        if camera.status is not None:
            reconnects.add_metric((camera.name,), float(camera.status.reconnects))
    for name, stats in (*sources, *(("", stats) for stats in view.stats)):
        for key, value in stats.snapshot()["counters"].items():
            sums[name, key] = sums.get((name, key), 0.0) + value
    for (name, key), total in sums.items():
        if key.startswith(_REASONS):
            drops.add_metric((name, key.replace(".dropped.", "_")), total)
        elif key.startswith(_TOKENS):
            tokens.add_metric((name, key.removeprefix(_TOKENS)), total)
        else:
            events.add_metric((name, key), total)
    yield from (reconnects, drops, tokens, events)


def _histograms(view: NodeView) -> Iterator[Metric]:
    families = {
        key: HistogramMetricFamily(f"omnidrop_{name}_seconds", help, labels=("camera",))
        for key, (name, help) in _TIMINGS.items()
    }
    for camera in view.cameras:
        for key, (rows, sum_ms) in camera.stats.histograms().items():
            if key in families:
                buckets = [(_bound(ms), float(count)) for ms, count in rows]
                families[key].add_metric((camera.name,), buckets, sum_ms / 1e3)
    yield from families.values()


def _bound(ms: float) -> str:
    return "+Inf" if ms == float("inf") else f"{ms / 1e3:g}"
