"""The Home Assistant messages: what they say, and that their templates do what they should."""

from __future__ import annotations

import datetime
import json

import jinja2
import pytest

from clients.mqtt.discovery import Camera, message, topic_of

LONG = "a " * 400


def _message(watches=None):
    return message("omnidrop", "home-1", Camera("front-door", watches or {}), "0.1.0")


def _parts(**given):
    found = _message(**given)["components"]
    return {key.removeprefix("omnidrop_home_1_front_door_"): part for key, part in found.items()}


def _render(template, payload="", **values):
    environment = jinja2.Environment(autoescape=False)
    environment.globals["now"] = lambda: datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    parsed = json.loads(payload) if payload[:1] == "{" else None
    return environment.from_string(template).render(value=payload, value_json=parsed, **values)


def test_a_camera_is_one_device_with_all_its_entities():
    assert topic_of("home-1", "front-door") == (
        "homeassistant/device/omnidrop_home_1_front_door/config"
    )
    platforms = {key: part["platform"] for key, part in _parts(watches={"bell": "x"}).items()}
    assert platforms == {
        "connectivity": "binary_sensor",
        "answer": "sensor",
        "latency": "sensor",
        "tokens": "sensor",
        "enabled": "switch",
        "muted": "switch",
        "forget": "button",
        "ask": "text",
        "watch_bell": "event",
        "frame_bell": "image",
    }
    assert json.loads(json.dumps(_message())) == _message()


def test_every_entity_has_an_id_of_its_own():
    ids = [part["unique_id"] for part in _parts(watches={"a": "x", "b": "y"}).values()]
    assert len(ids) == len(set(ids)) == 12


@pytest.mark.parametrize(
    ("state", "reachable"),
    [("live", True), ("degraded", True), ("offline", False), ("connecting", False)],
)
def test_connection_and_availability_follow_the_camera(state, reachable):
    parts, payload = _parts(), json.dumps({"state": state})
    connection = _render(parts["connectivity"]["value_template"], payload)
    assert connection == ("ON" if reachable else "OFF")
    _, camera = parts["tokens"]["availability"]
    assert camera["topic"] == "omnidrop/front-door/status"
    assert _render(camera["value_template"], payload) == ("online" if reachable else "offline")


@pytest.mark.parametrize(("state", "there"), [("online", 1), ("draining", 0), ("offline", 0)])
def test_nothing_is_available_without_its_node(state, there):
    for part in _parts(watches={"bell": "x"}).values():
        node = part["availability"][0]
        assert node["topic"] == "omnidrop/node/status"
        assert _render(node["value_template"], state) == ["offline", "online"][there]
        assert part["availability_mode"] == "all"


def test_what_needs_no_camera_stays_usable_while_it_is_offline():
    parts = _parts()
    without = {key for key, part in parts.items() if len(part["availability"]) == 1}
    assert without == {"connectivity", "answer", "latency", "enabled", "muted", "forget"}


def test_a_long_answer_is_cut_for_the_state_and_whole_in_the_attributes():
    answer = _parts()["answer"]
    assert _render(answer["value_template"], json.dumps({"text": LONG})) == LONG[:255]
    assert answer["json_attributes_topic"] == answer["state_topic"]


def test_a_question_typed_in_home_assistant_becomes_a_query():
    ask = _parts()["ask"]
    text = 'a "quoted" \\ ü question?'
    sent = json.loads(
        jinja2.Environment(autoescape=False)
        .from_string(ask["command_template"])
        .render(value=text, now=lambda: datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC))
    )
    assert ask["command_topic"] == "omnidrop/front-door/query"
    assert sent == {"v": 1, "id": "ha-1767225600000", "client": "homeassistant", "text": text}


def test_an_event_of_a_watch_is_an_event_entity_with_its_details():
    part = _parts(watches={"bell": "a bell rings"})["watch_bell"]
    assert (part["name"], part["event_types"]) == ("a bell rings", ["happened"])
    payload = json.dumps({"watch": "bell", "confidence": 0.9, "key_frame": {"data": "/9j/"}})
    shown = json.loads(_render(part["value_template"], payload))
    assert shown.pop("key_frame") is None
    assert shown == {"watch": "bell", "confidence": 0.9, "event_type": "happened"}


def test_the_picture_of_a_watch_is_an_image_entity_of_its_topic():
    part = _parts(watches={"bell": "a bell rings"})["frame_bell"]
    assert part["image_topic"] == "omnidrop/front-door/watch/bell/frame"
    assert (part["content_type"], part["name"]) == ("image/jpeg", "a bell rings (picture)")


def test_watches_whose_names_end_alike_have_ids_of_their_own():
    parts = _parts(watches={"bell": "x", "bell_frame": "y", "frame_bell": "z"})
    ids = [part["unique_id"] for part in parts.values()]
    assert len(ids) == len(set(ids)) == 14
