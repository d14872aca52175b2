"""Sound that is missing, late, vanishing, of odd kinds, or whose server dies: pictures go on."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from omnidrop_stream.config import ModelConfig, make_config
from omnidrop_stream.stream import OmniStream
from omnidrop_stream.types import Answer, Chunk, Modality
from runtime.models import load
from runtime.session import StreamSession
from runtime.sources import SourceOptions, open_source
from runtime.sources.base import LiveSource
from tests.faults.cameras import Camera
from tests.faults.feeds import Feed
from tests.faults.follow import Follower, Seen
from tests.faults.report import Row, Tell
from tests.faults.scale import Scale
from tests.faults.silence import FLOW_LIMIT_S, followed
from tests.runtime.sound_server import running

TOLD_LIMIT_S, BACK_LIMIT_CHUNKS = 5.0, 2
LATE_S, AWAY_S = 10.0, 9.0
STALL_S = SourceOptions().stall_timeout_s
TONE = 0.2 / 2**0.5
"""Root mean square of the feeds' tone."""


def run(tell: Tell, scale: Scale) -> None:
    """One after the other."""
    _odd_kinds(tell, scale)
    _late(tell)
    if not scale.quick:
        asyncio.run(_vanishing(tell))
        _server_dies(tell)
    _tokens(tell)


def _odd_kinds(tell: Tell, scale: Scale) -> None:
    kinds = {
        "no sound in the feed": Feed(sound=None),
        "G.711 A-law, 8 kHz": Feed(sound="alaw", rate=8_000),
        "G.711 mu-law, 8 kHz": Feed(sound="mulaw", rate=8_000),
        "AAC, 96 kHz, stereo": Feed(sound="aac", rate=96_000, channels=2),
    }
    for name, feed in list(kinds.items())[: scale.pick(4, 2)]:
        with Camera(feed) as camera, followed(camera.url) as follower:
            follower.wait(lambda f=follower: len(f.seen) >= 3, FLOW_LIMIT_S)  # type: ignore[misc]
            seen = follower.seen[:3]
        if feed.sound is None:
            right = all(s.samples is None and s.size is not None for s in seen)
            limit = "pictures, no sound, not called absent"
            right = right and not any(s.flags.audio_absent for s in seen)
        else:
            right = all(s.samples == 32_000 and abs(s.level - TONE) < 0.02 for s in seen)
            limit = f"32,000 samples a chunk, level {TONE:.3f} (what was sent)"
        figure = ", ".join(f"{s.samples} samples at {s.level:.3f}" for s in seen)
        tell(Row(name, figure or "no chunk", limit, right and len(seen) == 3))


def _late(tell: Tell) -> None:
    """The feed promises sound, and it comes ten seconds after the pictures."""
    with Camera(Feed()) as camera, _running(camera):
        camera.sound(False)
        with followed(camera.url, STALL_S) as follower:
            follower.wait(lambda: len(follower.media) > 0, FLOW_LIMIT_S)
            began_s = time.monotonic()
            _tell_absent(tell, f"sound {LATE_S:g} s late", follower, began_s)
            time.sleep(max(0.0, LATE_S - (time.monotonic() - began_s)))
            _tell_back(tell, f"sound {LATE_S:g} s late", follower, lambda: camera.sound(True))


@contextlib.contextmanager
def _running(camera: Camera) -> Iterator[None]:
    """Somebody watches already: GStreamer describes a feed only once all its media have begun."""
    with followed(camera.url) as watcher:
        watcher.wait(lambda: watcher.last_sound_at > 0, FLOW_LIMIT_S)
        yield


async def _vanishing(tell: Tell) -> None:
    """Sound stops, a question is asked, sound comes back."""
    config = make_config({"model": {"model": "embedded"}, "decode": {"max_tokens": 8}})
    with Camera(Feed()) as camera, followed(camera.url, STALL_S) as follower:
        async with StreamSession(camera.url, config) as session:
            await session.ready()
            await asyncio.to_thread(follower.wait, lambda: len(follower.seen) >= 2, FLOW_LIMIT_S)
            camera.sound(False)
            gone_s, chunks = time.monotonic(), len(follower.seen)
            await asyncio.to_thread(_tell_absent, tell, "sound vanishes", follower, gone_s)
            told = await _status_says(session, gone_s)
            await asyncio.sleep(AWAY_S - min(AWAY_S, time.monotonic() - gone_s))
            *_, answer = [event async for event in session.ask("What happened?")]
            _tell_answer(tell, answer, follower.seen[chunks:], told)
            back = lambda: camera.sound(True)  # noqa: E731
            await asyncio.to_thread(_tell_back, tell, "sound vanishes", follower, back)


async def _status_says(session: StreamSession, gone_s: float) -> float:
    """Seconds until the session itself says ``audio: false``."""
    while time.monotonic() - gone_s < 2 * TOLD_LIMIT_S:
        if session.status().audio is False:
            return time.monotonic() - gone_s
        await asyncio.sleep(0.05)
    return float("inf")


def _tell_answer(tell: Tell, answer: object, seen: list[Seen], told_s: float) -> None:
    assert isinstance(answer, Answer)
    pictured = sum(s.size is not None and not s.flags.partial for s in seen)
    gaps = [gap for gap in answer.coverage.gaps if gap.reason == "audio_absent"]
    tell(
        Row(
            "sound vanishes: chunks with pictures meanwhile, an answer, and what it says",
            f"{pictured} chunks, answer of {answer.answer_tokens} tokens, sound named absent in "
            f"{len(gaps)} spans; the session's own audio: false after {told_s:.2f} s",
            f">= 3 chunks, an answer, >= 1; within {TOLD_LIMIT_S:g} s",
            pictured >= 3 and answer.answer_tokens > 0 and bool(gaps) and told_s <= TOLD_LIMIT_S,
        )
    )


def _server_dies(tell: Tell) -> None:
    """A camera without sound and a microphone beside it, whose sound server is killed."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        server = stack.enter_context(running(Path(folder)))
        camera = stack.enter_context(Camera(Feed(sound=None)))
        with _paired(camera.url) as follower:
            follower.wait(
                lambda: len(follower.seen) >= 3 and follower.seen[-1].samples is not None,
                FLOW_LIMIT_S,
            )
            server.kill()
            killed_s, before = time.monotonic(), len(follower.seen)
            what = "sound server killed (microphone beside a camera)"
            _tell_absent(tell, what, follower, killed_s)
            time.sleep(max(0.0, AWAY_S - (time.monotonic() - killed_s)))
            pictured = sum(s.size is not None for s in follower.seen[before:])
            tell(
                Row(
                    f"{what}: chunks with pictures in {AWAY_S:g} s",
                    str(pictured),
                    ">= 3",
                    pictured >= 3,
                )
            )
            _tell_back(tell, what, follower, server.start)


def _paired(url: str) -> Follower:
    options = SourceOptions(microphone="default", wait_for_first=True)
    source = open_source(url, options=options)
    assert isinstance(source, LiveSource)
    return Follower(source)


def _tell_absent(tell: Tell, what: str, follower: Follower, since_s: float) -> None:
    found = follower.wait_state(lambda s: s.audio is False, since_s, 3 * TOLD_LIMIT_S)
    took_s = float("inf") if found is None else found[0] - since_s
    state = None if found is None else (found[1].name, found[1].code)
    tell(
        Row(
            f"{what}: audio: false is shown",
            f"after {took_s:.2f} s {state}",
            f"within {TOLD_LIMIT_S:g} s",
            took_s <= TOLD_LIMIT_S,
            {"seconds": took_s},
        )
    )


def _tell_back(tell: Tell, what: str, follower: Follower, back: Callable[[], object]) -> None:
    back()
    back_s = time.monotonic()
    found = follower.wait_chunk(lambda s: s.samples is not None and s.level > 0, back_s, 30.0)
    if what.startswith("sound server"):  # the room is silent: zeros are what it hears
        found = follower.wait_chunk(lambda s: s.samples is not None, back_s, 30.0)
    told = follower.wait_state(lambda s: s.audio is not False, back_s, 30.0)
    without = [s for s in follower.seen if s.at_s > back_s and s.samples is None]
    chunks = float("inf") if found is None else len([s for s in without if s.at_s < found.at_s])
    shown_s = float("inf") if told is None else told[0] - back_s
    tell(
        Row(
            f"{what}: back in use",
            f"{chunks:g} chunks without it before the first with it; shown after {shown_s:.1f} s",
            f"<= {BACK_LIMIT_CHUNKS} chunks",
            chunks <= BACK_LIMIT_CHUNKS and told is not None,
            {"chunks": chunks},
        )
    )


def _tokens(tell: Tell) -> None:
    """What the model gets of a chunk whose sound is absent, and of one that is truly silent."""
    absent, silent = _one_chunk(Feed(), mute=True), _one_chunk(Feed(wave="silence"), mute=False)
    model = load(ModelConfig())
    counts = []
    for chunk in (absent, silent):
        stream = OmniStream(model, make_config({"model": {"model": "embedded"}}))
        stream.push(chunk)
        segment = stream.snapshot()[-1]
        modality = np.asarray(segment.tokens.modality)
        counts.append(
            (int((modality == Modality.AUDIO).sum()), int((modality == Modality.VIDEO).sum()))
        )
    level = float(np.abs(silent.audio).max()) if silent.audio is not None else float("nan")
    tell(
        Row(
            "audio and video tokens of a chunk whose sound is absent, and of true silence",
            f"{counts[0]} (flag audio_absent: {absent.flags.audio_absent}), {counts[1]} "
            f"(largest sample {level:.4f})",
            "0 audio tokens and the flag; more than 0",
            counts[0][0] == 0 and absent.flags.audio_absent and counts[1][0] > 0 and level < 0.01,
        )
    )


def _one_chunk(feed: Feed, *, mute: bool) -> Chunk:
    """A whole chunk of a real feed, with its sound held back or not."""
    with Camera(feed) as camera, _running(camera):
        camera.sound(not mute)
        with followed(camera.url, STALL_S, keep=True) as follower:
            found = follower.wait_chunk(
                lambda s: s.whole and (s.samples is None) == mute, 0.0, 2 * FLOW_LIMIT_S
            )
    assert found is not None
    assert found.chunk is not None
    return found.chunk
