"""What a node answers, as a client reads it: the JSON contract coming in. Pure."""

from __future__ import annotations

import json
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from clients import contract
from omnidrop_stream.errors import NodeError
from omnidrop_stream.types import Coverage, Evidence

EXIT_CODES = {
    "bad_request": 2,
    "too_large": 2,
    "unknown_camera": 2,
    "unauthorized": 3,
    "model_not_ready": 4,
    "camera_offline": 5,
    "busy": 5,
    "rate_limited": 5,
    "expired": 5,
    "cancelled": 5,
    "internal": 1,
}
"""Of a node's error codes, as the same failure has it where no node is between."""


class _Part(BaseModel):
    """Keys that a newer node may add are no reason not to read an answer."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Tokens(_Part):
    """Where the audiovisual tokens went."""

    mean_entering: float = 0.0


class Reply(_Part):
    """One message about a question; what its type does not have is empty."""

    type: Literal["accepted", "delta", "final", "error", "summary"]
    id: str | None = None
    text: str = ""
    seq: int = 0
    finish: str = "stop"
    source: str = ""
    label: str = ""
    evidence: tuple[Evidence, ...] = ()
    ttft_ms: float = 0.0
    tokens: Tokens = Tokens()
    coverage: Coverage = Coverage(0.0, 0.0)
    staleness_s: float = 0.0
    code: str = ""
    message: str = ""

    @property
    def exit_code(self) -> int:
        """What a command ends with after it."""
        return EXIT_CODES.get(self.code, 1) if self.type == "error" else 0


def read_reply(payload: bytes) -> tuple[Reply, str]:
    """A message and the same as one line of JSON. Raises NodeError for what is no such message."""
    try:
        line = contract.line(json.loads(payload))
        return Reply.model_validate_json(line), line
    except (ValueError, RecursionError, ValidationError) as error:
        reason = " ".join(str(error).split())[:200]
        raise NodeError(
            f"what came as an answer is no message of an OmniDrop node ({reason}); does another "
            "program write to this node's topics?"
        ) from None
