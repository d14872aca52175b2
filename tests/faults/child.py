"""One fault, told row by row as lines of JSON: what the suite starts for each of them."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

from tests.faults.catalogue import load
from tests.faults.report import Row
from tests.faults.scale import Scale


def main() -> None:
    """``child NAME MINUTES [--quick]``."""
    name, minutes, *rest = sys.argv[1:]

    def tell(row: Row) -> None:
        print(json.dumps(asdict(row)), flush=True)  # noqa: T201

    load(name)(tell, Scale(quick="--quick" in rest, minutes=float(minutes)))


if __name__ == "__main__":
    main()
