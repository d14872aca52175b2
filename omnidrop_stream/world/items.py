"""What can be seen and heard in the synthetic world, and the splits that keep training and test
apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Split = Literal["train", "test"]
Modality = Literal["video", "audio"]

CHUNK_S = 2.0
SAMPLE_RATE = 16_000
CHUNK_SAMPLES = 32_000
FRAMES_PER_CHUNK = 4
FRAME_STEP_S = 0.5

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 40, 40),
    "green": (40, 180, 60),
    "blue": (50, 80, 230),
    "yellow": (235, 220, 50),
    "purple": (150, 50, 190),
    "orange": (245, 140, 30),
    "white": (240, 240, 240),
    "cyan": (50, 210, 220),
}
COLOUR_NAMES = tuple(COLOURS)
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
DIGITS = ("2", "3", "4", "7")
KINDS = SHAPES + DIGITS
WORDS = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "cat",
    "dog",
    "bird",
    "fish",
    "horse",
    "apple",
    "bread",
    "water",
    "house",
    "tree",
]
BELL = "bell"
SOUNDS = (*WORDS, BELL)
NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that can be asked about, with the time span in which its evidence lies (seconds of
    stream).
    """

    what: str
    modality: Modality
    from_s: float
    to_s: float


@dataclass(frozen=True, slots=True)
class ChunkTruth:
    """What one chunk holds: indices into COLOUR_NAMES / KINDS / SOUNDS, None where there is
    nothing.

    `seen` and `heard` are the same facts as events with their spans.
    """

    colour: int | None
    kind: int | None
    sound: int | None
    seen: Event | None
    heard: Event | None

    @property
    def thing(self) -> str | None:
        """The picture's name ("red circle"), or None for a blank picture."""
        return None if self.seen is None else self.seen.what

    @property
    def word(self) -> str | None:
        """The sound's name ("seven", "bell"), or None for silence."""
        return None if self.heard is None else self.heard.what
