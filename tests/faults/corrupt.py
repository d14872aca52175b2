"""Ten thousand damaged segments of H.264 and HEVC with AAC and G.711, through the decode path."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from typing import Any

from tests.conftest import REPOSITORY
from tests.faults.clips import FPS, GOP
from tests.faults.report import Row, Tell
from tests.faults.scale import Scale

SEGMENTS, IN_A_BATCH = 10_000, 250
VIDEO, SOUND = ("h264", "hevc"), ("aac", "pcm_alaw")
GOOD_AFTER_S = GOP / FPS + 2.0
BATCH_LIMIT_S = 300


def run(tell: Tell, scale: Scale) -> None:
    """Batches, each in a process of its own, so that a crash is seen and costs one batch."""
    size = scale.pick(IN_A_BATCH, 20)
    pairs = list(product(VIDEO, SOUND))
    rounds = scale.pick(SEGMENTS // IN_A_BATCH // len(pairs), 1)
    batches = [(*pair, number) for number in range(rounds) for pair in pairs]
    with ThreadPoolExecutor(1) as pool:
        found = list(pool.map(lambda batch: _batch(*batch, size), batches))
    for video in VIDEO:
        pairs_of = zip(batches, found, strict=True)
        _tell_codec(tell, video, [counts for batch, counts in pairs_of if batch[0] == video], size)


def _batch(video: str, sound: str, seed: int, size: int) -> dict[str, Any] | str:
    """The worker's counts, or how it ended."""
    command = [sys.executable, "-m", "tests.faults.corrupt_worker", video, sound]
    try:
        done = subprocess.run(
            [*command, str(seed), str(size)],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=BATCH_LIMIT_S,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"{video} {sound} {seed}: hangs"
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [""])[-1]
        return f"{video} {sound} seed {seed}: exit status {done.returncode} {last}"
    counts: dict[str, Any] = json.loads(done.stdout)
    return counts


def _tell_codec(tell: Tell, video: str, found: Iterable[dict[str, Any] | str], size: int) -> None:
    found = list(found)
    crashes = [entry for entry in found if isinstance(entry, str)]
    whole = [entry for entry in found if isinstance(entry, dict)]
    total = {
        key: sum(e[key] for e in whole)
        for key in (whole[0] if whole else {})
        if key != "good_after_s"
    }
    what = f"{size * len(found)} damaged segments, {video} with AAC and G.711"
    tell(
        Row(
            f"{what}: crashes and uncaught errors",
            f"{len(crashes)} {'; '.join(crashes[:3])}".strip(),
            "0",
            not crashes,
            {"crashes": crashes},
        )
    )
    if not whole:
        return
    tell(
        Row(
            f"{what}: pictures that are not what was sent ({total['wrong']}), of which FFmpeg "
            f"noticed {total['wrong_noticed']}, and that are not flagged",
            f"{total['noticed_unflagged']} of the noticed ones; of all wrong ones "
            f"{total['wrong_flagged']} are flagged (the others decode without any complaint: "
            "neither codec has a checksum)",
            "0 of the noticed ones",
            total["noticed_unflagged"] == 0,
            total,
        )
    )
    tell(
        Row(
            f"{what}: chunks with a wrong picture that was flagged, not flagged themselves",
            f"{total['spoilt_chunks_unflagged']}; of {total['wrong_chunks']} chunks with a wrong "
            f"picture {total['wrong_chunks_flagged']} are flagged",
            "0",
            total["spoilt_chunks_unflagged"] == 0,
        )
    )
    after_s = [after for entry in whole for after in entry["good_after_s"]]
    held = max(entry["most_delayed"] for entry in whole)
    tell(
        Row(
            f"{what}: good pictures again after",
            f"at most {max(after_s):.1f} s; the decoder held back {held} pictures at most",
            f"<= {GOOD_AFTER_S:g} s (one GOP + 2 s)",
            max(after_s) <= GOOD_AFTER_S,
            {"worst_s": max(after_s), "held_back": held},
        )
    )
    tell(
        Row(
            f"{what}: sound outside of [-1, 1], whole chunks without exactly 32,000 samples",
            f"{total['loud']}, {total['odd_chunks']} of {total['chunks']}",
            "0, 0",
            total["loud"] == 0 and total["odd_chunks"] == 0,
        )
    )
