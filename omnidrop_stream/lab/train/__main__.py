"""`python -m omnidrop_stream.lab.train configs/train/world.yaml`: train the embedded model,
resuming where it stopped.
"""

from __future__ import annotations

import sys
from pathlib import Path

from omnidrop_stream.errors import ConfigError
from omnidrop_stream.lab.train.recipe import run_recipe


def _report(line: str) -> None:
    sys.stdout.write(f"{line}\n")


def main(arguments: list[str]) -> int:
    """Run the recipe named on the command line; the exit code."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m omnidrop_stream.lab.train RECIPE.yaml\n")
        return 2
    try:
        run_recipe(Path(arguments[0]), _report)
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
