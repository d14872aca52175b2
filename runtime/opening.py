"""From a model and a source's description to an open stream, on the model thread."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from omnidrop_stream.config import Config, PruningConfig, merged
from omnidrop_stream.types import StreamKind
from runtime.asking import kind_for, within_reach
from runtime.host import ModelHost
from runtime.overload import Step, steps_for
from runtime.sources.base import SourceInfo

if TYPE_CHECKING:  # torch comes with the model, on its thread
    from omnidrop_stream.model.base import OmniModel
    from omnidrop_stream.stream import OmniStream
    from omnidrop_stream.stream_status import StreamStatus


@dataclass(frozen=True, slots=True)
class OpenStream:
    """A stream and what was settled for it."""

    stream: OmniStream
    status: StreamStatus
    config: Config
    note: str
    """What was settled differently from the settings, in a sentence."""
    steps: tuple[Step, ...]
    """Those of the overload ladder that save anything on it."""


async def open_stream(
    host: ModelHost, config: Config, info: SourceInfo, wanted: StreamKind | None
) -> OpenStream:
    """Wait for the model and open a stream for the source. Raises what either refuses."""
    model = await host.model()
    config = merged(config, {"stream": {"kind": kind_for(info, wanted)}})
    config, note = within_reach(config, model)
    return await asyncio.wrap_future(host.worker.call(lambda: _opened(host, model, config, note)))


def _opened(host: ModelHost, model: OmniModel, config: Config, note: str) -> OpenStream:
    """The first stream of all warms the model up, while no other waits for it."""
    from omnidrop_stream.plan import intra_for
    from omnidrop_stream.stream import OmniStream
    from omnidrop_stream.warming import warm_up

    if not host.warm:
        warm_up(model, config)
        host.warm = True
    stream, settings = OmniStream(model, config), config.stream
    merging = intra_for(config.pruning, config.intra).enabled
    steps = steps_for(settings.kind, settings.fps, merging=merging)
    return OpenStream(stream, stream.status(), config, note, steps)


def with_retention(config: Config, pruning: PruningConfig, fraction: float) -> PruningConfig:
    """``pruning`` with another target mean retention, instead of a schedule where it had one."""
    values = {**pruning.model_dump(exclude_unset=True), "retention": fraction}
    values.pop("schedule", None)
    return merged(config, {"pruning": values}, "retention").pruning


def not_coming(future: asyncio.Future[Any], error: BaseException) -> None:
    """What is waited for will not come. That nobody waits for it is no warning: `ended` tells."""
    if not future.done():
        future.set_exception(error)
        future.exception()
