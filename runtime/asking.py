"""A stream read as fast as it comes, with questions at moments of stream time: plain, no threads.

`ask_source` is the whole of ``omnidrop ask``: it opens the source, loads the model, cuts and pushes
chunks, and asks each question when the stream reaches its moment, with the part of the open chunk
that exists then. What happens comes out as events. torch is imported with the model, after
everything that can be refused without it.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from omnidrop_stream.chunker import Chunker, ChunkerSettings
from omnidrop_stream.config import Config, ModelConfig, merged
from omnidrop_stream.errors import Busy, NothingHeld, OmniDropError, SourceUnreadable, UsageError
from omnidrop_stream.types import (
    SAMPLE_RATE,
    Answer,
    Chunk,
    Delta,
    Frame,
    Gap,
    Query,
    Samples,
    StreamKind,
)
from runtime.models import TINY, TINY_WARNING, import_torch, load, note_on
from runtime.sources import FileSource, Source, SourceInfo, SourceOptions, open_source
from runtime.sources.base import Interruption
from runtime.status import SessionStatus
from runtime.watch_types import Happened

if TYPE_CHECKING:
    from omnidrop_stream.model.base import OmniModel
    from omnidrop_stream.stream import OmniStream

ENDLESS_ASK_AT_S = 20.0
"""When a question without a moment is asked of a stream that never ends."""
_OUT_OF_STEP_S = 1.0
"""Stream time this far past a moment has reached it whatever the source's own clock says."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question and its moment in stream time (None: the end of the stream)."""

    id: str
    text: str
    at_s: float | None = None
    session: str = ""


@dataclass(frozen=True, slots=True)
class Status:
    """What is going on: ``state`` is one of source, model, stream, reading, note."""

    state: str
    text: str
    done_s: float | None = None
    total_s: float | None = None
    session: SessionStatus | None = None
    """What a live session says of itself, where this tells a change of it."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A question is being asked now; ``control_tokens``: those of the model spelt out in it."""

    question: Question
    at_s: float
    control_tokens: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Answered:
    """A finished answer, with what only the runtime knows: the source and the wall time."""

    answer: Answer
    source: str
    asked_wall_s: float


@dataclass(frozen=True, slots=True)
class Failed:
    """This question could not be answered; the others go on."""

    id: str
    error: OmniDropError


Item = Frame | Samples | Interruption
Event = Status | Asked | Delta | Answered | Failed | Happened


def ask_source(
    source: str,
    questions: Sequence[Question],
    config: Config,
    kind: StreamKind | None = None,
    load_model: Callable[[ModelConfig], OmniModel] = load,
    options: SourceOptions | None = None,
) -> Generator[Event, None, None]:
    """Ask ``questions`` of the source that a text names. ``kind`` None: what the source carries.

    Raises the errors of the source, the model and the settings; those of one question are events.
    """
    for question in questions:
        config.decode.check_question(question.text)
    with open_source(source, fps=config.stream.fps, options=options) as opened:
        info = opened.info
        config = merged(config, {"stream": {"kind": kind_for(info, kind)}})
        import_torch()
        from omnidrop_stream.plan import NOTHING_DROPPED, policy_for

        policy_for(config.pruning, NOTHING_DROPPED)  # refuses an unknown name before the load
        yield Status("source", f"{info.name}: {describe(info)}", total_s=info.duration_s)
        name = config.model.model
        if name == TINY:
            yield Status("note", TINY_WARNING)
        yield Status("model", f"loading {name}")
        model = load_model(config.model)
        for note in filter(None, (note_on(name, question.text) for question in questions)):
            yield Status("note", note)
        spec = model.spec
        yield Status("model", f"{name}: {spec.n_layers} layers, {spec.dtype} on {spec.device}")
        config, note = within_reach(config, model)
        if note:
            yield Status("note", note)
        from omnidrop_stream.stream import OmniStream

        stream = OmniStream(model, config)
        depth = f"{config.stream.kind} stream, prefill depth {stream.depth}"
        yield Status("stream", f"{depth}; {stream.schedule_text()}")
        with closing(_Asking(stream, opened, questions).events()) as events:
            yield from events


def describe(info: SourceInfo) -> str:
    """A source in a few words."""
    words = {StreamKind.AV: "picture and sound", StreamKind.VIDEO: "picture only"}
    parts = [words.get(info.kind, "sound only")]
    if info.width and info.height:
        parts.append(f"{info.width}x{info.height}")
    if info.duration_s is not None:
        parts.append(f"{info.duration_s:.1f} s")
    return ", ".join(parts)


def kind_for(info: SourceInfo, wanted: StreamKind | None) -> StreamKind:
    """The kind of stream to make of a source. Raises SourceUnreadable for what it does not hold."""
    if wanted is None or wanted is info.kind or info.kind is StreamKind.AV:
        return wanted or info.kind
    if wanted is StreamKind.AV:
        return wanted  # what is absent is flagged, chunk by chunk
    missing = "sound" if wanted is StreamKind.AUDIO else "picture"
    raise SourceUnreadable(
        f"{info.name} holds no {missing}, so it cannot be read as a stream of kind {wanted}; "
        f"use {info.kind} or auto"
    )


def within_reach(config: Config, model: OmniModel) -> tuple[Config, str]:
    """The configuration with a default retention that this model can reach, and a note if it moved,
    or if what was asked for is more than there is.

    A retention that was asked for is never changed: one that is too low is refused later, with what
    is reachable.
    """
    from omnidrop_stream.method import UnreachableRetention, solve_budget
    from omnidrop_stream.plan import UNSCHEDULED, nominal_r0

    pruning, spec = config.pruning, model.spec
    target = pruning.retention
    if pruning.schedule is not None or target is None or pruning.policy in UNSCHEDULED:
        return config, ""
    tokens = min(config.stream.frame_tokens or spec.frame_tokens, spec.pixels.max_tokens)
    r0 = nominal_r0(config.stream, config.intra, tokens)
    if "retention" in pruning.model_fields_set:
        note = (
            f"a retention of {target:.0%} is more than pruning within picture and sound leaves "
            f"({r0:.1%}), so a question drops nothing more; for less of that pruning raise "
            "intra.video_keep and intra.audio_keep, or set intra.enabled to false"
        )
        return config, note if target > r0 else ""
    if target >= r0:
        return config, ""
    try:
        solve_budget(target, n_layers=spec.n_layers, r0=r0)
    except UnreachableRetention as error:
        reachable = min(r0, error.minimum + 0.005)
        note = (
            f"the default retention of {target:.0%} is out of reach for {spec.n_layers} layers on "
            f"this kind of stream; using {reachable:.1%}"
        )
        return merged(config, {"pruning": {"retention": reachable}}), note
    return config, ""


class _Asking:
    """One pass over an open source."""

    def __init__(self, stream: OmniStream, source: Source, questions: Sequence[Question]) -> None:
        self._stream = stream
        self._source = source
        info = source.info
        self._endless = info.duration_s is None and not isinstance(source, FileSource)
        settings = stream.config.stream
        self._chunker = Chunker(ChunkerSettings(kind=settings.kind, fps=settings.fps))
        late = ENDLESS_ASK_AT_S if self._endless else float("inf")
        moments = [(late if q.at_s is None else q.at_s, q) for q in questions]
        self._waiting = sorted(moments, key=lambda pair: pair[0])
        self._noted: dict[tuple[float, str], float] = {}

    def events(self) -> Generator[Event, None, None]:
        """Read until the last question is answered or the source ends."""
        info, chunker = self._source.info, self._chunker
        moments = [at_s for at_s, _ in self._waiting if at_s < float("inf")]
        until_s = moments[-1] if len(moments) == len(self._waiting) else info.duration_s
        for item in cut_at(self._source, moments):
            if isinstance(item, Interruption):
                for chunk in chunker.start_epoch(item.reason, source_s=item.at_s):
                    self._push(chunk)
                continue
            while self._waiting and self._reached(self._waiting[0][0], item):
                reached_s = chunker.stream_time_s
                if item.time_s >= self._waiting[0][0] - 1e-9:  # nothing more comes before it
                    reached_s = max(reached_s, self._waiting[0][0])
                yield from self._ask(chunker.open_chunk(), reached_s)
            if not self._waiting:
                return
            for chunk in chunker.push(item):
                self._push(chunk)
                yield Status("reading", "reading", chunk.end_s, until_s)
        for chunk in chunker.flush():
            self._push(chunk)
            yield Status("reading", "reading", chunk.end_s, until_s)
        if self._source.stats.truncated(info):
            ended_s, promised_s = self._source.stats.ended_at_s, info.duration_s or 0.0
            yield Status(
                "note",
                f"{info.name} ends at {ended_s:.1f} s of the {promised_s:.1f} s that it promises: "
                "it is truncated or damaged",
            )
        while self._waiting:
            at_s, question = self._waiting[0]
            if chunker.stream_time_s + 1e-6 < at_s < float("inf"):
                yield Status(
                    "note",
                    f"question {question.id} is to be asked at {at_s:g} s but the stream ends at "
                    f"{chunker.stream_time_s:.1f} s: asked there",
                )
            yield from self._ask(None, chunker.stream_time_s)

    def _reached(self, at_s: float, item: Frame | Samples) -> bool:
        past_s = self._chunker.stream_time_s - at_s
        return item.time_s >= at_s - 1e-9 or past_s > _OUT_OF_STEP_S

    def _push(self, chunk: Chunk) -> None:
        self._stream.push(chunk)
        for _ in self._stream.background_steps():
            pass
        self._note_gaps()

    def _note_gaps(self) -> None:
        """Hand on the holes that the chunker found; of one that grew, what is new."""
        for gap in self._chunker.gaps:
            key = (gap.from_s, gap.reason)
            known_s = self._noted.get(key, gap.from_s)
            if key not in self._noted or gap.to_s > known_s:
                self._stream.note_gap(Gap(known_s, gap.to_s, gap.reason))
                self._noted[key] = gap.to_s

    def _ask(self, open_chunk: Chunk | None, at_s: float) -> Iterator[Event]:
        """at_s: how far the stream has come, s."""
        _, question = self._waiting.pop(0)
        asked_wall_s = time.time()
        spelt = tuple(self._stream.control_tokens_in(question.text))
        yield Asked(question, at_s, spelt)
        query = Query(question.text, question.id, at_s, question.session)
        try:
            for event in self._stream.ask(query, open_chunk=open_chunk):
                if isinstance(event, Answer):
                    yield Answered(event, self._source.info.name, asked_wall_s)
                else:
                    yield event
        except (UsageError, Busy, NothingHeld) as error:
            yield Failed(question.id, error)


def cut_at(items: Iterable[Item], moments_s: Sequence[float]) -> Iterator[Item]:
    """The same items in order of time, runs of sound cut where a moment falls into them."""
    held: list[tuple[float, int, Samples]] = []
    count = 0
    for item in items:
        while held and (isinstance(item, Interruption) or held[0][0] <= item.time_s):
            yield heapq.heappop(held)[2]
        if isinstance(item, Samples):
            item, *later = _pieces(item, moments_s)
            for piece in later:
                count += 1
                heapq.heappush(held, (piece.time_s, count, piece))
        yield item
    while held:
        yield heapq.heappop(held)[2]


def _pieces(run: Samples, moments_s: Sequence[float]) -> list[Samples]:
    length = len(run.pcm)
    marks = {round((at_s - run.time_s) * SAMPLE_RATE) for at_s in moments_s}
    cuts = [0, *sorted(mark for mark in marks if 0 < mark < length), length]
    return [Samples(run.pcm[a:b], run.time_s + a / SAMPLE_RATE) for a, b in pairwise(cuts)]
