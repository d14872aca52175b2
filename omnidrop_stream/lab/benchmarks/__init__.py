"""Published benchmarks, read as their authors lay them out and scored as they score.

Pure but for reading the annotations: clips are played by who can decode them (``runtime/clips.py``)
and come in as chunks.
"""

from omnidrop_stream.lab.benchmarks.avut import AVUT
from omnidrop_stream.lab.benchmarks.items import Benchmark, Choice, Clip
from omnidrop_stream.lab.benchmarks.videomme import VIDEOMME
from omnidrop_stream.lab.benchmarks.worldsense import WORLDSENSE

BENCHMARKS: dict[str, Benchmark] = {b.name: b for b in (VIDEOMME, WORLDSENSE, AVUT)}
"""In the order of the paper's Table 2."""

__all__ = ["AVUT", "BENCHMARKS", "VIDEOMME", "WORLDSENSE", "Benchmark", "Choice", "Clip"]
