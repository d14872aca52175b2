"""The quick part of a change in mid-stream: new parameter sets inside one connection."""

from __future__ import annotations

from pathlib import Path

from tests.faults import clips
from tests.faults.changes import FILE
from tests.faults.silence import followed
from tests.runtime.servers import RtspServer

SIZES = [(128, 96), (64, 96)]


def test_a_new_size_inside_a_connection_begins_an_epoch_and_mixes_no_chunk(
    needs_gstreamer: None, tmp_path: Path
) -> None:
    path = tmp_path / "sizes.ts"
    clips.of_two_sizes(str(path), SIZES, each_s=2.5)
    server = RtspServer("--mount", "/sizes", FILE.format(path=path))
    server.start()
    try:
        with followed(server.url("/sizes")) as follower:
            found = follower.wait_chunk(lambda seen: seen.size == SIZES[1], 0.0, 20)
            assert found is not None
            first = follower.seen[0]
            assert first.size == SIZES[0]
            assert found.epoch > first.epoch
            assert not follower.interruptions
    finally:
        server.kill()
