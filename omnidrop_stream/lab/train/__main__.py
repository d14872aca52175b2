"""`python -m omnidrop_stream.lab.train configs/train/world.yaml`: train the embedded model,
resuming where it stopped.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

from omnidrop_stream.errors import ConfigError
from omnidrop_stream.lab.train.recipe import run_recipe


def _report(line: str) -> None:
    sys.stdout.write(f"{line}\n")


def main(arguments: list[str]) -> int:
    """Run the recipe named on the command line; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m omnidrop_stream.lab.train")
    parser.add_argument("recipe", type=Path, metavar="RECIPE.yaml")
    parser.add_argument(
        "--minutes",
        type=float,
        default=math.inf,
        help="stop at the first save after so long; the same command goes on",
    )
    given = parser.parse_args(arguments)
    try:
        run_recipe(given.recipe, _report, given.minutes)
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
