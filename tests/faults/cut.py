"""The network is cut for a minute, by a proxy that stops forwarding, and healed."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

from runtime.backoff import GOOD_S
from runtime.sources import SourceOptions
from tests.faults import measure
from tests.faults.cameras import Camera
from tests.faults.feeds import Feed
from tests.faults.follow import Follower
from tests.faults.report import Row, Tell
from tests.faults.scale import Scale
from tests.faults.silence import FLOW_LIMIT_S, followed

OFFLINE_LIMIT_S, FRESH_LIMIT_S = 15.0, 10.0
FASTEST_RATE, WATCHED_S = 1.1, 8.0
"""Media seconds a wall second in the first seconds after healing; a burst of old ones is faster."""
STALL_S = SourceOptions().stall_timeout_s


def run(tell: Tell, scale: Scale) -> None:
    """Feeds side by side, each cut several times."""
    cut_s = scale.pick(60, 8)
    feeds, rounds = scale.pick(6, 1), scale.pick(2, 1)
    with ThreadPoolExecutor(feeds) as pool:
        cuts = [
            cut for cuts in pool.map(lambda _: _feed(cut_s, rounds), range(feeds)) for cut in cuts
        ]
    offline, fresh, rates, old = (list(column) for column in zip(*cuts, strict=True))
    told = f"network cut {cut_s} s, {len(cuts)}x (proxy stops forwarding; time-out {STALL_S:g} s)"
    tell(
        Row(
            f"{told}: offline",
            f"worst {max(offline):.1f} s",
            f"within {OFFLINE_LIMIT_S:g} s",
            max(offline) <= OFFLINE_LIMIT_S,
            {"seconds": offline},
        )
    )
    tell(
        Row(
            f"{told}: first whole chunk filmed after healing",
            f"p95 {measure.p95(fresh):.2f} s, worst {max(fresh):.2f} s",
            f"p95 <= {FRESH_LIMIT_S:g} s",
            measure.p95(fresh) <= FRESH_LIMIT_S,
            {"seconds": fresh},
        )
    )
    tell(
        Row(
            f"{told}: burst of old pictures in the {WATCHED_S:g} s after the first",
            f"at most {max(rates):.2f} media seconds a second, at most {max(old)} chunks of before",
            f"<= {FASTEST_RATE:g}; 1 (what was being cut when the network went)",
            max(rates) <= FASTEST_RATE and max(old) <= 1,
            {"rates": rates},
        )
    )


def _feed(cut_s: float, rounds: int) -> list[tuple[float, float, float, int]]:
    with Camera(Feed(), proxied=True) as camera, followed(camera.url, STALL_S) as follower:
        follower.wait(lambda: len(follower.seen) > 1, FLOW_LIMIT_S)
        cuts = []
        for number in range(rounds):
            if number:
                time.sleep(GOOD_S + 2)  # else it would count as one long outage
            cuts.append(_cut(camera, follower, cut_s))
    return cuts


def _cut(camera: Camera, follower: Follower, cut_s: float) -> tuple[float, float, float, int]:
    """Seconds to offline, seconds to a fresh chunk, media rate after it, old chunks after it."""
    camera.cut()
    cut_at_s, cut_source_s = time.monotonic(), follower.media[-1][1]
    found = follower.wait_state(lambda s: s.name == "offline", cut_at_s, 2 * OFFLINE_LIMIT_S)
    time.sleep(max(0.0, cut_s - (time.monotonic() - cut_at_s)))
    camera.heal()
    healed_s = time.monotonic()
    # Stream time goes on by the clock: what was filmed after healing lies after this.
    new_from_s = cut_source_s + (healed_s - cut_at_s) - 1.0
    chunk = follower.wait_chunk(
        lambda seen: seen.whole and seen.start_s >= new_from_s, healed_s, 60.0
    )
    time.sleep(WATCHED_S)
    fresh = [(at, media) for at, media in list(follower.media) if at > healed_s]
    # The first half second is how a shared server begins: with the last keyframe.
    rate = (fresh[-1][1] - fresh[0][1]) / (fresh[-1][0] - fresh[0][0]) if len(fresh) > 2 else 0.0
    old = [s for s in follower.seen if s.at_s > healed_s and not s.flags.partial]
    return (
        float("inf") if found is None else found[0] - cut_at_s,
        float("inf") if chunk is None else chunk.at_s - healed_s,
        rate,
        sum(seen.end_s < new_from_s for seen in old),
    )
