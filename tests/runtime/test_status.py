"""The one thing a session says first."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnidrop_stream.errors import SourceNotFound
from omnidrop_stream.types import ChunkFlags, StreamKind
from runtime.overload import Step
from runtime.sources.base import SourceState
from runtime.status import CODES, STATES, Came, condition, media
from tests.helpers import make_chunks

BOTH = Came(True, True)
FINE: dict[str, Any] = {
    "source": SourceState(),
    "came": BOTH,
    "live": True,
    "opened": True,
    "loaded": True,
}


@pytest.mark.parametrize(
    ("changes", "state", "code"),
    [
        ({}, "live", ""),
        ({"step": Step.AUDIO_ONLY}, "degraded", "overload"),
        ({"came": Came(True, False)}, "degraded", "no_audio"),
        ({"came": Came(False, True), "step": Step.SKIP}, "degraded", "no_video"),
        ({"came": Came(True, False), "live": False}, "live", ""),
        ({"loaded": False}, "loading", "loading"),
        ({"loaded": False, "trouble": "not there"}, "loading", "model_not_ready"),
        ({"opened": False}, "connecting", "connecting"),
        ({"opened": False, "source": SourceState("offline", "x", code="tls")}, "offline", "tls"),
        ({"source": SourceState("offline", "x", code="busy")}, "offline", "busy"),
        ({"source": SourceState("offline", "x", code="busy"), "paused": True}, "paused", ""),
        ({"paused": True, "ended": True}, "ended", ""),
        ({"ended": True, "failure": SourceNotFound("gone")}, "failed", "not_found"),
        ({"failure": RuntimeError("broken")}, "failed", "failed"),
    ],
)
def test_what_matters_most_is_said(changes: dict[str, Any], state: str, code: str) -> None:
    said = condition(**{**FINE, **changes})
    assert (said.state, said.code) == (state, code)


flags = st.booleans()
sources = st.builds(
    SourceState,
    st.sampled_from(["connecting", "live", "degraded", "offline"]),
    st.text(max_size=5),
    code=st.sampled_from(["", "timeout", "no_audio"]),
)
cames = st.builds(Came, st.none() | flags, st.none() | flags)


@given(sources, cames, flags, flags, flags, flags, flags, st.sampled_from(list(Step)))
def test_every_state_and_code_is_one_that_is_documented(
    source: SourceState,
    came: Came,
    live: bool,
    opened: bool,
    loaded: bool,
    paused: bool,
    ended: bool,
    step: Step,
) -> None:
    said = condition(
        source=source,
        came=came,
        live=live,
        opened=opened,
        loaded=loaded,
        paused=paused,
        ended=ended,
        step=step,
    )
    assert said.state in STATES
    assert said.code in CODES


def test_a_medium_comes_only_if_neither_source_nor_chunk_denies_it() -> None:
    source = SourceState(video=True, audio=False)
    assert media(source, BOTH, muted=False) == Came(True, False)
    assert media(SourceState(video=True), Came(False, True), muted=False) == Came(False, True)


def test_a_chunk_tells_what_came_of_the_media_of_its_stream() -> None:
    (chunk,) = make_chunks(1)
    silent = replace(chunk, audio=None, flags=ChunkFlags(audio_absent=True))
    frozen = replace(chunk, flags=ChunkFlags(repeated_frames=4))
    assert Came.of(chunk, StreamKind.AV) == BOTH
    assert Came.of(silent, StreamKind.AV) == Came(True, False)
    assert Came.of(frozen, StreamKind.AV) == Came(False, True)
    assert Came.of(chunk, StreamKind.AUDIO) == Came(None, True)
