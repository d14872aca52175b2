"""A server that freezes, says nothing, or sends one medium of two: told and stopped in time."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from runtime.sources import SourceOptions, open_source
from runtime.sources.base import LiveSource, SourceState
from tests.faults import measure
from tests.faults.cameras import Camera
from tests.faults.feeds import Feed
from tests.faults.follow import Follower
from tests.faults.report import Row, Tell
from tests.faults.scale import Scale

STALL_S = 3.0
SLACK_S, SHUTDOWN_S = 1.0, 2.0
FLOW_LIMIT_S = 20.0


def followed(url: str, stall_s: float = STALL_S, *, keep: bool = False) -> Follower:
    """A follower of a live source that waits for its camera."""
    options = SourceOptions(stall_timeout_s=stall_s, open_timeout_s=stall_s, wait_for_first=True)
    source = open_source(url, options=options)
    assert isinstance(source, LiveSource)
    return Follower(source, keep=keep)


@dataclass(frozen=True, slots=True)
class Outcome:
    """One time: the state that was told, after how long, and how long stopping took."""

    state: SourceState | None
    after_s: float
    stop_s: float
    threads_left: int


Case = Callable[[], Outcome]


def run(tell: Tell, scale: Scale) -> None:
    """Each way to be silent, three times (once where quick), and stopping in the middle of it."""
    threads, files = threading.active_count(), measure.open_files()
    cases: dict[str, tuple[Case, tuple[str, str]]] = {
        "server frozen (SIGSTOP)": (_frozen, ("offline", "timeout")),
        "server accepts and says nothing": (_says_nothing, ("offline", "timeout")),
        "only sound comes": (lambda: _one_medium(pictures=False), ("degraded", "no_video")),
        "only pictures come": (lambda: _one_medium(pictures=True), ("degraded", "no_audio")),
    }
    times = scale.pick(3, 1)
    for what, (case, wanted) in cases.items():
        outcomes = [case() for _ in range(times)]
        _tell_state(tell, what, outcomes, wanted)
        _tell_stop(tell, what, outcomes)
    _tell_stop(tell, "blocked in a read (time-out 60 s)", [_blocked() for _ in range(times)])
    left = threading.active_count() - threads, measure.open_files() - files
    tell(
        Row(
            "threads and open files left after all of it",
            f"{left[0]} threads, {left[1]} files",
            "0, 0",
            left == (0, 0),
        )
    )


def _frozen() -> Outcome:
    with Camera(Feed()) as camera, followed(camera.url) as follower:
        follower.wait(lambda: len(follower.seen) > 0, FLOW_LIMIT_S)
        began_s = time.monotonic()
        camera.freeze()
        outcome = _outcome(follower, lambda s: s.name != "live", began_s)
        camera.thaw()
    return outcome


def _blocked() -> Outcome:
    """Stopped while FFmpeg waits for the frozen server, long before any time-out."""
    with Camera(Feed()) as camera, followed(camera.url, stall_s=60.0) as follower:
        follower.wait(lambda: len(follower.seen) > 0, FLOW_LIMIT_S)
        camera.freeze()
        time.sleep(1.0)
        stop_s, left = _stopped(follower)
        camera.thaw()
    return Outcome(None, 0.0, stop_s, left)


def _says_nothing() -> Outcome:
    with socket.create_server(("127.0.0.1", 0), backlog=8) as listener:
        began_s = time.monotonic()
        with followed(f"rtsp://127.0.0.1:{listener.getsockname()[1]}/live") as follower:
            return _outcome(follower, lambda s: s.name == "offline", began_s)


def _one_medium(*, pictures: bool) -> Outcome:
    with Camera(Feed()) as camera, followed(camera.url) as follower:
        follower.wait(lambda: len(follower.seen) > 0, FLOW_LIMIT_S)
        (camera.sound if pictures else camera.show)(False)
        return _outcome(follower, lambda s: s.name != "live", time.monotonic())


def _outcome(follower: Follower, wanted: Callable[[SourceState], bool], began_s: float) -> Outcome:
    found = follower.wait_state(wanted, began_s, 4 * STALL_S)
    stop_s, left = _stopped(follower)
    if found is None:
        return Outcome(None, float("inf"), stop_s, left)
    return Outcome(found[1], found[0] - began_s, stop_s, left)


def _stopped(follower: Follower) -> tuple[float, int]:
    took_s = follower.stop()
    return took_s, sum(name != "omnidrop-stop" for name in measure.capture_threads())


def _tell_state(tell: Tell, what: str, outcomes: list[Outcome], wanted: tuple[str, str]) -> None:
    worst_s = max(outcome.after_s for outcome in outcomes)
    told = sorted(
        {f"{o.state.name} / {o.state.code}" if o.state else "still live" for o in outcomes}
    )
    tell(
        Row(
            f"{what}, {len(outcomes)}x",
            f"{', '.join(told)} after {worst_s:.2f} s at most",
            f"{' / '.join(wanted)} within {STALL_S + SLACK_S:g} s (time-out {STALL_S:g} s)",
            told == [" / ".join(wanted)] and worst_s <= STALL_S + SLACK_S,
            {"seconds": [outcome.after_s for outcome in outcomes]},
        )
    )


def _tell_stop(tell: Tell, what: str, outcomes: list[Outcome]) -> None:
    worst_s = max(outcome.stop_s for outcome in outcomes)
    left = max(outcome.threads_left for outcome in outcomes)
    tell(
        Row(
            f"stopped while: {what}, {len(outcomes)}x",
            f"{worst_s:.2f} s at most, {left} threads left",
            f"<= {SHUTDOWN_S:g} s, 0",
            worst_s <= SHUTDOWN_S and left == 0,
            {"seconds": [outcome.stop_s for outcome in outcomes]},
        )
    )
