"""The JSON contract: one object a line, ``v`` and ``type`` in each, pinned by a schema.

The command line and, later, MQTT carry the same. Only ASCII is written (other characters as
``\\uXXXX``), so that no line breaks inside and no terminal is driven by an answer's text.
"""

from __future__ import annotations

import base64
import datetime
import json
from importlib import resources
from typing import TYPE_CHECKING, Any

from omnidrop_stream.errors import OmniDropError
from omnidrop_stream.types import Answer, Delta, Evidence
from runtime.redact import redact

if TYPE_CHECKING:
    from runtime.status import SessionStatus
    from runtime.watch_types import WatchEvent

VERSION = 1
Message = dict[str, Any]


def line(message: Message) -> str:
    """One line of JSON, without the line feed."""
    return json.dumps(message, ensure_ascii=True, allow_nan=False)


def schema() -> Message:
    """The JSON schema of a line."""
    text = resources.files("clients").joinpath("contract.schema.json").read_text("utf-8")
    loaded: Message = json.loads(text)
    return loaded


def status(
    state: str,
    text: str,
    done_s: float | None = None,
    total_s: float | None = None,
    session: SessionStatus | None = None,
) -> Message:
    """What is going on; ``done_s`` of ``total_s`` seconds of stream where that is known. session:
    what a live session says of itself.
    """
    message: Message = {"v": VERSION, "type": "status", "state": state, "text": text}
    if done_s is not None:
        message["done_s"] = round(done_s, 3)
    if total_s is not None:
        message["total_s"] = round(total_s, 3)
    return message if session is None else message | _session(session)


def _session(status: SessionStatus) -> Message:
    """The keys that only a live session's status has; all of them, always."""
    age_s = status.chunk_age_s
    return {
        "code": status.code,
        "reason": " ".join(redact(status.reason).split()),
        "since_s": round(status.since_s, 3),
        "video": status.video,
        "audio": status.audio,
        "muted": status.muted,
        "lag_s": round(status.lag_s, 3),
        "chunk_age_s": None if age_s is None else round(age_s, 3),
        "reconnects": status.reconnects,
        "gaps": status.gaps,
        "dropped": status.dropped,
        "step": status.step,
        "step_name": status.step_name,
    }


def delta(piece: Delta) -> Message:
    """A piece of an answer's text."""
    head = {"v": VERSION, "type": "delta"}
    return {**head, "id": piece.id, "seq": piece.seq, "text": piece.text}


def error(failure: OmniDropError, message: str, id: str | None = None) -> Message:
    """A failure; ``id`` is the question's, or null where it concerns all of them."""
    return problem(failure.code, message, id)


def problem(code: str, message: str, id: str | None, retry_after_ms: int | None = None) -> Message:
    """A failure by its code; ``retry_after_ms`` where asking again later helps."""
    told: Message = {"v": VERSION, "type": "error", "id": id, "code": code, "message": message}
    if retry_after_ms is not None:
        told["retry_after_ms"] = retry_after_ms
    return told


def accepted(id: str) -> Message:
    """The question is written down: it will end in exactly one ``final`` or ``error``."""
    return {"v": VERSION, "type": "accepted", "id": id}


def summary(id: str, answers: list[Message]) -> Message:
    """The end of a question to all cameras: how each of its parts ended.

    answers: ``{"id", "camera", "type", "code"?}`` of each.
    """
    return {"v": VERSION, "type": "summary", "id": id, "answers": answers}


def event(told: WatchEvent, source: str) -> Message:
    """What a standing question waits for has begun."""
    at = datetime.datetime.fromtimestamp(told.wall_s, datetime.UTC)
    frame = told.key_frame
    return {
        "v": VERSION,
        "type": "event",
        "id": told.id,
        "seq": told.seq,
        "watch": told.text,
        "source": source,
        "at": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "time_s": round(told.time_s, 3),
        "from_s": round(told.from_s, 3),
        "confidence": round(told.confidence, 4),
        "odds": round(told.odds, 3),
        "baseline": round(told.baseline, 3),
        "evidence": [_evidence(span) for span in told.evidence],
        "key_frame": None
        if frame is None
        else {
            "time_s": round(frame.time_s, 3),
            "media_type": "image/jpeg",
            "data": base64.b64encode(frame.jpeg).decode("ascii"),
        },
        "answer": None if told.answer is None else final(told.answer, source, told.wall_s),
        "problem": told.problem,
    }


def final(answer: Answer, source: str, asked_wall_s: float) -> Message:
    """A finished answer; exactly one for each question that is answered."""
    asked_at = datetime.datetime.fromtimestamp(asked_wall_s, datetime.UTC)
    tokens, coverage = answer.tokens, answer.coverage
    return {
        "v": VERSION,
        "type": "final",
        "id": answer.id,
        "question": answer.question,
        "text": answer.text,
        "finish": answer.finish,
        "source": source,
        "session": answer.session,
        "asked_at": asked_at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "asked_at_s": round(answer.asked_at_s, 3),
        "ttft_ms": round(answer.ttft_ms, 3),
        "ttft_parts_ms": {name: round(ms, 3) for name, ms in answer.ttft_parts_ms.items()},
        "total_ms": round(answer.total_ms, 3),
        "prefill_depth": answer.prefill_depth,
        "label": answer.label,
        "policy": answer.policy,
        "open_chunk": answer.open_chunk,
        "tokens": {
            "unpruned": tokens.unpruned,
            "entering": tokens.entering,
            "mean_entering": round(tokens.mean_entering, 6),
            "mean_leaving": round(tokens.mean_leaving, 6),
            "per_layer": [
                {"layer": n.layer, "video": n.video, "audio": n.audio, "dropped": n.dropped}
                for n in tokens.per_layer
            ],
        },
        "evidence": [_evidence(span) for span in answer.evidence],
        "coverage": {
            "from_s": round(coverage.from_s, 3),
            "to_s": round(coverage.to_s, 3),
            "gaps": [
                {"from_s": round(gap.from_s, 3), "to_s": round(gap.to_s, 3), "reason": gap.reason}
                for gap in coverage.gaps
            ],
        },
        "staleness_s": round(answer.staleness_s, 3),
        "dropped_chunks": answer.dropped_chunks,
    }


def _evidence(span: Evidence) -> Message:
    """Wall times only where the source has them."""
    message: Message = {
        "from_s": round(span.from_s, 3),
        "to_s": round(span.to_s, 3),
        "modality": span.modality,
        "weight": round(span.weight, 4),
    }
    if span.from_wall_s is not None and span.to_wall_s is not None:
        message["from_wall_s"], message["to_wall_s"] = span.from_wall_s, span.to_wall_s
    return message
