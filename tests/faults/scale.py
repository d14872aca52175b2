"""How much of a fault is run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scale:
    """``quick``: seconds instead of minutes, the same code. minutes: of the soak."""

    quick: bool = False
    minutes: float = 60.0
    seed: int = 5

    def pick(self, long: int, quick: int) -> int:
        """One of two counts."""
        return quick if self.quick else long
