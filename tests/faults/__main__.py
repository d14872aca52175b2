"""``python -m tests.faults``: every fault in a process of its own, some of them side by side."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.conftest import REPOSITORY
from tests.faults import report
from tests.faults.catalogue import FAULTS
from tests.faults.report import Result, Row

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "2",
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "131072",
}
"""One thread for torch; and glibc gives pictures and tensors back to the system as soon as they are
freed. Without that what is in use stays the same, but resident memory rises for an hour or so, as
the heaps of several threads scatter: +38 MiB instead of +4 MiB over fifty restarts. 72 streams of
the embedded model take 63 % of the model thread so, and 52 % without. (With blocks from 16 KiB on
in memory of their own, and without the threads' own stores of small freed blocks, it is more, and
an hour's slope was 1.5 MiB instead of 2.8, with bounds of 3.7 and 4.8.)
"""
LONGEST_S = 2 * 3600.0
"""Besides the soak, which says itself how long it takes."""


def main() -> int:
    """Run what is asked for; 1 where something did not hold."""
    given = _arguments()
    names = given.only or [name for name in FAULTS if name != "soak" or not given.quick]
    unknown = sorted(set(names) - set(FAULTS))
    if unknown:
        sys.stderr.write(f"There is no fault {', '.join(unknown)}. Known: {', '.join(FAULTS)}\n")
        return 2
    printing = threading.Lock()
    results: list[Result] = []

    def one(name: str) -> None:
        def show(row: Row) -> None:
            with printing:
                print(report.line(name, row), flush=True)  # noqa: T201

        result = run_apart(name, given.quick, given.minutes, show)
        with printing:
            results.append(result)
            if result.broke:
                print(f"FAIL {name}: did not finish: {result.broke}", flush=True)  # noqa: T201
            if given.json is not None:
                report.write(_in_order(report.merged(report.read(given.json), results)), given.json)

    with ThreadPoolExecutor(given.jobs) as pool:
        list(pool.map(one, names))
    held = sum(result.passed for result in results)
    print(f"{held} of {len(results)} faults held", flush=True)  # noqa: T201
    return 0 if held == len(results) else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="NAME", help=f"of {', '.join(FAULTS)}")
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes; no soak")
    parser.add_argument("--minutes", type=float, default=60.0, help="length of the soak")
    parser.add_argument("--jobs", type=int, default=3, help="faults side by side")
    parser.add_argument("--json", type=Path, help="write (merge) results there and to a .md beside")
    return parser.parse_args()


def run_apart(name: str, quick: bool, minutes: float, show: report.Tell) -> Result:
    """A fault in a child process: its threads, files and memory are its own, a crash is seen."""
    told = report.conditions()
    command = [sys.executable, "-m", "tests.faults.child", name, str(minutes)]
    began_s, rows = time.monotonic(), []
    with subprocess.Popen(
        [*command, "--quick"] if quick else command,
        cwd=REPOSITORY,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **ENVIRONMENT},
    ) as child:
        limit_s = LONGEST_S + minutes * 60 * (name == "soak")
        watchdog = threading.Timer(limit_s, child.kill)
        watchdog.start()
        assert child.stdout is not None
        for text in child.stdout:
            if text.startswith("{"):
                row = Row(**json.loads(text))
                rows.append(row)
                show(row)
            else:
                sys.stdout.write(f"     {name}: {text}")
                sys.stdout.flush()
        code = child.wait()
        watchdog.cancel()
    broke = "" if code == 0 else f"exit status {code}"
    if not rows and not broke:
        broke = "it told nothing"
    return Result(name, tuple(rows), time.monotonic() - began_s, broke, told)


def _in_order(results: list[Result]) -> list[Result]:
    order = list(FAULTS)
    return sorted(results, key=lambda r: order.index(r.fault) if r.fault in order else len(order))


if __name__ == "__main__":
    sys.exit(main())
