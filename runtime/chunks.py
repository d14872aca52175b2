"""From a source to chunks in one plain loop, as fast as the source gives; for files and tools."""

from __future__ import annotations

from collections.abc import Iterator

from omnidrop_stream.chunker import Chunker
from omnidrop_stream.types import Chunk
from runtime.sources.base import Interruption, Source


def chunks_of(source: Source, chunker: Chunker) -> Iterator[Chunk]:
    """Every chunk of an open source, the partial rest included."""
    for item in source:
        if isinstance(item, Interruption):
            yield from chunker.start_epoch(item.reason, source_s=item.at_s)
        else:
            yield from chunker.push(item)
    yield from chunker.flush()
