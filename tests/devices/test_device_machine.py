"""Our camera and microphone on a real V4L2 device and a real ALSA card, in a small machine of qemu.

``make test-devices`` runs it and writes ``benchmarks/devices.md``; by default it is left out.
"""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.device, pytest.mark.timeout(500)]

NO_MACHINE = 69
REPORT = "OMNIDROP_DEVICES_REPORT"
CHECKS = (
    *("lists", "camera_reads", "camera_by_opencv", "camera_in_use", "camera_unplugged"),
    *("camera_stalls", "microphone_hears", "microphone_denies_the_rate", "microphone_unplugged"),
    *("paired_holds_together", "no_torch"),
)


@pytest.fixture(scope="module")
def results(repository: Path) -> Iterator[dict[str, dict[str, Any]]]:
    """What the machine said of each check; the report is written where the environment names it."""
    tool, guest = repository / "tests/tools/device-machine", repository / "tests/devices/guest.py"
    command = [str(tool), sys.executable, "-X", "faulthandler", str(guest)]
    ran = subprocess.run(
        command,
        cwd=repository,
        env={**os.environ, "DEVICE_MACHINE_LIMIT_S": "400"},
        capture_output=True,
        text=True,
        errors="replace",
        timeout=450,
    )
    if ran.returncode == NO_MACHINE:
        pytest.skip(ran.stderr.strip())
    lines = [line.partition("RESULT ")[2] for line in ran.stdout.splitlines()]
    found = {row["check"]: row for row in map(json.loads, filter(None, lines))}
    if os.environ.get(REPORT):
        Path(os.environ[REPORT]).write_text(report(found), "utf-8")
    yield found
    if not found:
        sys.stderr.write(ran.stdout[-2000:] + ran.stderr[-2000:])


@pytest.mark.parametrize("check", CHECKS)
def test_in_the_device_machine(results: dict[str, dict[str, Any]], check: str) -> None:
    assert check in results, f"the machine did not come so far: {list(results)}"
    assert results[check]["ok"], results[check]


def report(found: dict[str, dict[str, Any]]) -> str:
    """The results as a page."""
    day = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    passed = sum(row["ok"] for row in found.values())
    rows = [
        f"| {name} | {'ok' if row['ok'] else 'FAILED'} | {_words(row)} |"
        for name, row in found.items()
    ]
    return "\n".join(
        [
            "# Cameras and microphones: the last run on real devices",
            "",
            f"{day}: {passed} of {len(CHECKS)} checks passed. Written by `make test-devices`.",
            "",
            "Inside a qemu machine (software emulation on one processor, so times are long):",
            "Debian's kernel with `vivid` (a V4L2 camera) and `snd-aloop` (an ALSA card), our own",
            "CameraSource, MicrophoneSource and PairedSource, without torch. Unplugging is vivid's",
            "own Disconnect control and the card's driver being unbound; a stall is vivid dropping",
            "every buffer. Stall time-out in these runs: 2 s.",
            "",
            "| check | result | figures |",
            "|---|---|---|",
            *rows,
            "",
        ]
    )


def _words(row: dict[str, Any]) -> str:
    shown = {key: value for key, value in row.items() if key not in ("check", "ok")}
    return "; ".join(f"{key} {json.dumps(value)}" for key, value in shown.items())
