"""The broker's faults: what is lost, who is held up, what breaks, what it costs.

Each figure against its limit; the functions that measure are in `mqtt_crash` and `mqtt_load`.
"""

from __future__ import annotations

from typing import Any

from tests.faults.mqtt_crash import broker_killed
from tests.faults.mqtt_idle import idle_processor
from tests.faults.mqtt_load import bad_messages, cancel_storm, first_delta_overhead, flood
from tests.faults.report import Row, Tell
from tests.faults.scale import Scale

LARGEST_RATIO = 1.5
ADDED_MS = 15.0

__all__ = ["bad_messages", "broker_killed", "cancel_storm", "first_delta_overhead", "flood", "run"]


def run(tell: Tell, scale: Scale) -> None:
    """All of it; fewer of each where quick."""
    kills, queries = scale.pick(20, 2), scale.pick(500, 20)
    _killed(tell, broker_killed(True, kills, queries, node_kills=kills), limit=True)
    _killed(tell, broker_killed(False, kills, queries, node_kills=1), limit=False)
    _flooded(tell, flood(blocks=scale.pick(5, 1), questions=scale.pick(20, 10)))
    _bad(tell, bad_messages(scale.pick(10_000, 500), scale.pick(10, 1)))
    _cancelled(tell, cancel_storm(scale.pick(1000, 30)))
    _idle(tell, idle_processor(4, scale.pick(60, 5), scale.pick(40, 5)))
    added = first_delta_overhead(scale.pick(200, 30))
    tell(
        Row(
            "query to first delta, over the model's own first-token time, loopback, median",
            f"{added['added_ms_median']} ms",
            f"{ADDED_MS:g} ms",
            added["added_ms_median"] <= ADDED_MS,
            added,
        )
    )


def _killed(tell: Tell, found: dict[str, Any], limit: bool) -> None:
    lost = found["without_accepted"], found["accepted_without_an_end"]
    twice = found["ids_with_two_different_ends"]
    tell(
        Row(
            f"broker ({found['broker']}) killed {found['broker_kills']}x, node "
            f"{found['node_kills']}x ({found['node_kills_in_mid_answer']} in mid-answer), "
            f"{found['queries_confirmed_by_the_broker']} queries",
            f"{lost[0]} without accepted, {lost[1]} without an end, {twice} with two ends",
            "0, 0, 0" if limit else "measured; 0 of the accepted",
            (lost[0] == 0 or not limit) and lost[1] == twice == 0,
            found,
        )
    )


def _flooded(tell: Tell, found: dict[str, Any]) -> None:
    tell(
        Row(
            f"polite client beside {found['flood_per_s']} questions/s, p95 of the whole answer",
            f"{found['answer_p95_ratio']}x idle ({found['answer_p95_ms_flooded']} ms)",
            f"{LARGEST_RATIO}x",
            found["answer_p95_ratio"] <= LARGEST_RATIO and found["node_alive"],
            found,
        )
    )


def _bad(tell: Tell, found: dict[str, Any]) -> None:
    silent = sum(found["without_any_reply"].values())
    counted = sum(found["counted_drops"].values())
    clean = not found["secrets_in_messages_or_output"] and not found["tracebacks_in_output"]
    tell(
        Row(
            f"{found['messages']} bad messages of {len(found['kinds'])} kinds",
            f"{silent} without a reply, {counted} counted drops; ends {found['ends_by_code']}",
            "each replied to or counted; alive; no secret",
            silent <= counted and found["node_alive"] and found["answers_afterwards"] and clean,
            found,
        )
    )


def _cancelled(tell: Tell, found: dict[str, Any]) -> None:
    late = found["steps_after_the_cancel_reached_the_answer_max"]
    same = found["trunk_equals_never_asked"]
    tell(
        Row(
            f"{found['cancels']} cancels over the broker at random pieces",
            f"{late} decode steps after at most; trunk {'equal' if same else 'DIFFERS'}",
            "1 step; equal",
            late <= 1 and same and not found["answers_left"],
            found,
        )
    )


def _idle(tell: Tell, found: dict[str, Any]) -> None:
    width, height, fps = found["picture"]
    tell(
        Row(
            f"node with {found['cameras']} RTSP cameras ({width}x{height}, {fps} fps) and no "
            f"question, {found['seconds']:.0f} s",
            f"{found['processor_percent_of_one_core']} % of one core "
            f"({found['processor_ms_per_camera_and_chunk']} ms for each camera and chunk)",
            "published",
            True,
            found,
        )
    )
