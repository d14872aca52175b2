"""What Prometheus reads."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from clients.node.metrics import CameraView, NodeMetrics, NodeView
from runtime.stats import Stats
from runtime.status import STATES, SessionStatus


def _status(**changes):
    values = {
        "state": "live",
        "reason": "",
        "stream_s": 12.0,
        "lag_s": 1.5,
        "tokens": 900,
        "budget_tokens": 1000,
        "depth": 4,
        "ttft_ms": 3.0,
        "dropped": 0,
        "answers": 1,
        "muted": False,
        "reconnects": 7,
        "audio": False,
    }
    return SessionStatus(**{**values, **changes})


def _read(*cameras, stats=(), loaded=True, broker=True):
    text, kind = NodeMetrics(lambda: NodeView(cameras, stats, loaded, broker)).text()
    assert kind.startswith("text/plain")
    found = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            found[sample.name, *sorted(sample.labels.values())] = sample.value
    return found


def test_a_cameras_state_tokens_and_ages_are_gauges():
    found = _read(CameraView("door", "live", _status(), Stats()))
    states = {state: found["omnidrop_camera_state", *sorted(("door", state))] for state in STATES}
    assert states == {state: float(state == "live") for state in STATES}
    assert found["omnidrop_tokens", "door", "held"] == 900
    assert found["omnidrop_tokens", "budget", "door"] == 1000
    assert found["omnidrop_lag_seconds", "door"] == 1.5
    assert found["omnidrop_audio", "door"] == 0


def test_what_is_not_known_is_left_out():
    found = _read(CameraView("door", "live", _status(), Stats()), broker=None)
    assert ("omnidrop_video", "door") not in found
    assert ("omnidrop_av_skew_seconds", "door") not in found
    assert ("omnidrop_broker_connected",) not in found


def test_drops_are_counted_by_reason_and_other_counters_by_name():
    stats = Stats()
    stats.count("feed.dropped.overload", 3)
    stats.count("chunk.committed", 5)
    found = _read(CameraView("door", "live", _status(), stats))
    assert found["omnidrop_dropped_total", "door", "feed_overload"] == 3
    assert found["omnidrop_events_total", "chunk.committed", "door"] == 5
    assert found["omnidrop_reconnects_total", "door"] == 7


def test_timings_are_histograms_in_seconds():
    stats = Stats()
    for ms in (4.0, 40.0, 400_000.0):
        stats.timing("answer.ttft", ms)
    found = _read(CameraView("door", "live", _status(), stats))
    name = "omnidrop_first_token_seconds"
    assert found[f"{name}_count", "door"] == 3
    assert found[f"{name}_sum", "door"] == 400.044
    assert found[f"{name}_bucket", "0.005", "door"] == 1
    assert found[f"{name}_bucket", "0.05", "door"] == 2
    assert found[f"{name}_bucket", "60", "door"] == 2


def test_the_skew_of_sound_and_pictures_is_shown_where_it_is_known():
    stats = Stats()
    stats.gauge("source.skew_s", lambda: -0.012)
    found = _read(CameraView("door", "live", _status(), stats))
    assert found["omnidrop_av_skew_seconds", "door"] == -0.012


def test_the_queue_and_the_node_itself_are_seen():
    stats = Stats()
    stats.gauge("feed.waiting", lambda: 2)
    found = _read(CameraView("door", "live", _status(), stats), loaded=False, broker=False)
    assert found["omnidrop_queue_chunks", "door"] == 2
    assert found["omnidrop_model_loaded",] == 0
    assert found["omnidrop_broker_connected",] == 0
    assert found["omnidrop_memory_bytes",] > 1e6


def test_counters_of_several_parts_of_the_node_are_added_up():
    one, other = Stats(), Stats()
    one.count("x", 1)
    other.count("x", 2)
    assert _read(stats=(one, other))["omnidrop_events_total", "", "x"] == 3


def test_a_camera_that_is_not_open_has_its_state_and_no_readings():
    found = _read(CameraView("door", "failed", None, Stats()))
    assert found["omnidrop_camera_state", "door", "failed"] == 1
    assert ("omnidrop_tokens", "door", "held") not in found
    assert ("omnidrop_lag_seconds", "door") not in found


def test_tokens_that_answers_kept_and_pruned_have_a_counter_of_their_own():
    stats = Stats()
    stats.count("answer.tokens.kept", 300)
    stats.count("answer.tokens.pruned", 700)
    found = _read(CameraView("door", "live", _status(), stats))
    assert found["omnidrop_answer_tokens_total", "door", "kept"] == 300
    assert found["omnidrop_answer_tokens_total", "door", "pruned"] == 700
    assert ("omnidrop_events_total", "answer.tokens.kept", "door") not in found


def test_questions_and_messages_that_wait_are_gauges_of_the_node():
    stats = Stats()
    for number, name in enumerate(("waiting", "answering", "outbox"), start=1):
        stats.gauge(f"mqtt.{name}", lambda number=number: number)
    found = _read(stats=(stats,))
    assert found["omnidrop_questions_waiting",] == 1
    assert found["omnidrop_questions_answering",] == 2
    assert found["omnidrop_messages_waiting",] == 3
