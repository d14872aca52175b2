"""The synthetic world of the embedded model: an endless seeded stream, and questions about it.

Arrays only; media files and live sources are made of it in `runtime/`. `weights/` holds the model.
"""

from omnidrop_stream.world.items import ChunkTruth, Event, Split
from omnidrop_stream.world.questions import ALL_KINDS, QUESTION_KINDS, Question, ask
from omnidrop_stream.world.stream import World, WorldChunk

__all__ = [
    "ALL_KINDS",
    "QUESTION_KINDS",
    "ChunkTruth",
    "Event",
    "Question",
    "Split",
    "World",
    "WorldChunk",
    "ask",
]
