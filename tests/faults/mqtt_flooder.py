"""One client that asks far too much: ``python -m tests.faults.mqtt_flooder PORT PER_S SECONDS``.

Prints how many questions a second it really sent.
"""

from __future__ import annotations

import sys
import time

from tests.faults.mqtt_parts import Device


def main() -> None:
    """Send evenly, in groups of what is due every 5 ms."""
    port, per_s, seconds = int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
    device = Device(port, "bell", inflight=2000)
    device.start()
    began_s, sent = time.monotonic(), 0
    while (now_s := time.monotonic() - began_s) < seconds:
        while sent < now_s * per_s:
            device.ask(f"f{sent}")
            sent += 1
        time.sleep(0.005)
    print(f"{sent / seconds:.0f}", flush=True)  # noqa: T201
    device.stop()


if __name__ == "__main__":
    main()
