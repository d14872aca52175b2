"""The JSON contract: every line fits the schema, and the schema fits the answer."""

from __future__ import annotations

import dataclasses
import json

import jsonschema
import pytest

from clients import contract
from omnidrop_stream.errors import Busy
from omnidrop_stream.types import (
    Answer,
    Coverage,
    Delta,
    Evidence,
    Gap,
    LayerCount,
    TokenUse,
)
from runtime.overload import TITLES
from runtime.status import STATES, SessionStatus
from tests.clients.conftest import Omnidrop

ISSUE_KEYS = [
    *("id", "question", "text", "finish", "source", "session", "asked_at", "asked_at_s", "ttft_ms"),
    *("total_ms", "prefill_depth", "label", "policy", "open_chunk", "tokens", "evidence"),
    *("coverage", "staleness_s", "dropped_chunks"),
]
ANSWER = Answer(
    id="q1",
    question="¿Qué?",
    text="tab\there \x1b[31m\u2028 \U0001f600 \ud800",
    finish="stop",
    session="me",
    asked_at_s=12.5,
    ttft_ms=41.25,
    total_ms=99.5,
    ttft_parts_ms={"prefill": 40.0},
    prefill_depth=3,
    label="exact",
    policy="omnidrop",
    open_chunk=True,
    tokens=TokenUse(100, 45, 0.3, 0.25, (LayerCount(0, 30, 15, 2),)),
    evidence=(Evidence(2.0, 4.0, "audio", 0.5), Evidence(4.0, 6.0, "video", 0.2, 1e9, 1e9 + 2)),
    coverage=Coverage(0.0, 12.5, (Gap(6.0, 7.0, "no picture came"),)),
    staleness_s=0.0,
    dropped_chunks=0,
    answer_tokens=9,
)
SESSION = SessionStatus(
    *("degraded", "rtsp://u:geheim@cam/1: no sound comes", 83.0, 1.25, 1024, 12_000, 3, 231.4),
    *(2, 1, False, "no_audio", 12.3456, True, False, 0.4567, 3, 5, 2),
)
YOUNG = SessionStatus("connecting", "", 0.0, 0.0, 0, 12_000, 0, None, 0, 0, False)
MESSAGES = {
    "status": contract.status("reading", "reading", 2.0, 10.0),
    "status of a session": contract.status("degraded", "no sound", 2.0, session=SESSION),
    "status of a new session": contract.status("connecting", "", session=YOUNG),
    "delta": contract.delta(Delta("q1", 0, "a")),
    "error": contract.error(Busy("full"), "full", "q1"),
    "error of all": contract.error(Busy("full"), "full"),
    "final": contract.final(ANSWER, "demo:", 1_700_000_000.25),
}


@pytest.fixture(scope="module")
def valid() -> jsonschema.Draft202012Validator:
    schema = contract.schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("name", MESSAGES)
def test_every_message_fits_the_schema(valid: jsonschema.Draft202012Validator, name: str) -> None:
    valid.validate(MESSAGES[name])


@pytest.mark.parametrize("key", ["id", "text", "tokens", "coverage", "v"])
def test_a_final_without_one_of_its_keys_does_not_fit(
    valid: jsonschema.Draft202012Validator, key: str
) -> None:
    cut = {name: value for name, value in MESSAGES["final"].items() if name != key}
    assert not valid.is_valid(cut)


def test_a_key_that_is_not_in_the_contract_does_not_fit(
    valid: jsonschema.Draft202012Validator,
) -> None:
    assert not valid.is_valid({**MESSAGES["final"], "mood": "good"})


def test_what_the_command_prints_fits_the_schema(
    valid: jsonschema.Draft202012Validator, omnidrop: Omnidrop
) -> None:
    rest = ["--model", "tiny", "--max-tokens", "4", "--json"]
    ran = omnidrop("ask", "demo:?seconds=5", "a", "b", "--at", "0", "--at", "3.3", *rest)
    assert {message["type"] for message in ran.messages} == {"status", "delta", "error", "final"}
    for message in ran.messages:
        valid.validate(message)


def test_a_final_carries_every_field_of_the_answer_under_its_own_name() -> None:
    final = contract.final(ANSWER, "demo:", 0.0)
    fields = {field.name for field in dataclasses.fields(Answer)}
    assert set(final) - {"v", "type", "source", "asked_at"} == fields - {"answer_tokens"}
    for part, value in {
        "tokens": TokenUse,
        "coverage": Coverage,
    }.items():
        assert set(final[part]) == {field.name for field in dataclasses.fields(value)}
    rows = {"per_layer": (final["tokens"]["per_layer"][0], LayerCount)}
    rows["gaps"] = (final["coverage"]["gaps"][0], Gap)
    rows["evidence"] = (final["evidence"][1], Evidence)
    for message, kind in rows.values():
        assert set(message) == {field.name for field in dataclasses.fields(kind)}


def test_a_final_has_the_keys_that_were_promised_and_one_more() -> None:
    assert set(MESSAGES["final"]) == {"v", "type", *ISSUE_KEYS, "ttft_parts_ms"}


def test_the_schema_asks_for_all_that_a_final_has() -> None:
    assert set(contract.schema()["$defs"]["final"]["required"]) == set(MESSAGES["final"])


def test_evidence_has_wall_times_only_where_the_source_has_them() -> None:
    without, with_them = MESSAGES["final"]["evidence"]
    assert set(without) == {"from_s", "to_s", "modality", "weight"}
    assert with_them["from_wall_s"] == 1e9


def test_asked_at_is_utc_to_the_millisecond() -> None:
    assert MESSAGES["final"]["asked_at"] == "2023-11-14T22:13:20.250Z"


def test_a_line_is_plain_ascii_without_control_characters() -> None:
    line = contract.line(MESSAGES["final"])
    assert line.isascii()
    assert line.isprintable()
    assert json.loads(line)["text"] == ANSWER.text


def test_a_sessions_status_tells_state_code_media_age_and_step() -> None:
    message = MESSAGES["status of a session"]
    told = {key: message[key] for key in ("code", "since_s", "video", "audio", "chunk_age_s")}
    assert told == {
        "code": "no_audio",
        "since_s": 12.346,
        "video": True,
        "audio": False,
        "chunk_age_s": 0.457,
    }
    assert (message["step"], message["step_name"]) == (2, "smaller frames")
    assert (message["reconnects"], message["gaps"], message["dropped"]) == (3, 5, 2)


def test_a_sessions_status_holds_no_password() -> None:
    assert "geheim" not in contract.line(MESSAGES["status of a session"])


def test_a_session_tells_all_of_its_keys_or_none(valid: jsonschema.Draft202012Validator) -> None:
    cut = {key: value for key, value in MESSAGES["status of a session"].items() if key != "audio"}
    assert not valid.is_valid(cut)


def test_the_schema_knows_every_state_and_step_of_a_session() -> None:
    known = contract.schema()["$defs"]["status"]["properties"]
    assert set(STATES) <= set(known["state"]["enum"])
    assert known["step_name"]["enum"] == list(TITLES.values())


def test_a_number_that_json_cannot_say_is_refused() -> None:
    with pytest.raises(ValueError, match="Out of range"):
        contract.line({"v": 1, "x": float("nan")})
