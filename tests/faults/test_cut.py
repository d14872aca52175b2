"""The quick part of the network cut: a real server behind the proxy."""

from __future__ import annotations

import time

from tests.faults.cameras import Camera
from tests.faults.cut import FASTEST_RATE
from tests.faults.feeds import Feed
from tests.faults.silence import followed


def test_after_a_cut_the_stream_goes_on_without_a_burst(needs_gstreamer: None) -> None:
    with Camera(Feed(), proxied=True) as camera, followed(camera.url, 1.0) as follower:
        assert follower.wait(lambda: len(follower.media) > 2, 10) < 10
        camera.cut()
        assert follower.wait_state(lambda s: s.name == "offline", time.monotonic(), 10)
        camera.heal()
        healed_s, before = time.monotonic(), len(follower.media)
        assert follower.wait(lambda: len(follower.media) > before + 8, 15) < 15
        fresh = [entry for entry in follower.media if entry[0] > healed_s]
        assert len(follower.interruptions) == 1
        # Five pictures a second are sent, of which the model's grid takes some: none of before.
        media_s, wall_s = fresh[-1][1] - fresh[0][1], fresh[-1][0] - fresh[0][0]
        assert media_s <= FASTEST_RATE * wall_s + 0.5
