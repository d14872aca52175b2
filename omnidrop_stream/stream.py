"""`OmniStream`: push chunks, ask at any moment. The one owner of a stream's state.

No threads, no sockets, no waiting: each method that takes long is a generator, one ``next()`` is
one short turn, and whoever owns the model decides whose turn it is. Between turns a stream is
always consistent: a chunk joins the trunk in one step at the end of its ingest, and a question
works on a snapshot.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

from omnidrop_stream.answer import AnswerRun
from omnidrop_stream.auto_depth import AutoDepth
from omnidrop_stream.cache import Segment, expected_bytes
from omnidrop_stream.config import Config, DecodeConfig, DepthName, PruningConfig
from omnidrop_stream.conversations import Conversations
from omnidrop_stream.errors import Busy, ConfigError, NothingHeld
from omnidrop_stream.evidence import coverage_of
from omnidrop_stream.forgetting import cache_for, next_undone
from omnidrop_stream.ledger import with_gap
from omnidrop_stream.look_back import check_look_back, within
from omnidrop_stream.model.base import OmniModel, Prompt
from omnidrop_stream.model.template import ChatTemplate, Turn
from omnidrop_stream.model.towers import EncodeCarry, Encoded, EncodeSettings, IntraSettings
from omnidrop_stream.plan import (
    describe_schedule,
    intra_for,
    needs_depth_zero,
    nominal_r0,
    resolve_depth,
    schedule_for,
    slots_within,
)
from omnidrop_stream.segments import bare_segment, deepening
from omnidrop_stream.stream_status import StreamStatus
from omnidrop_stream.types import Answer, Chunk, Coverage, Delta, Gap, Query, Step
from omnidrop_stream.wanted import Wanted, alone
from omnidrop_stream.wants import encode_wanted
from omnidrop_stream.watch import Judgement, Judging, Standing, newest_pair, standing_question
from omnidrop_stream.watch_config import WatchConfig

Turns = Generator[Delta | Answer | Step, None, None]


class OmniStream:
    """One audiovisual stream on a model that may serve many."""

    def __init__(
        self,
        model: OmniModel,
        config: Config | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Prefill the prompt. Raises ConfigError for settings that this model cannot meet."""
        self._model = model
        self._config = config or Config()
        self._clock = clock
        spec, stream = model.spec, self._config.stream
        self._frame_tokens = min(stream.frame_tokens or spec.frame_tokens, spec.pixels.max_tokens)
        self._template = ChatTemplate(model.tokenizer, stream.kind)
        ids, markers = self._template.prompt(stream.system_prompt)
        self._prompt: Prompt = model.prefill_prompt(ids, markers)
        decode = self._config.decode
        intra = self._intra = intra_for(self._config.pruning, self._config.intra)
        self._encode_settings = self._full_settings = EncodeSettings(
            IntraSettings(intra.enabled, intra.audio_keep, intra.video_keep),
            self._frame_tokens,
            spec.ids_per_second,
        )
        self._deepened = deepening(model, self._prompt, stream, intra, self._frame_tokens)
        self._nominal = nominal_r0(stream, intra, self._frame_tokens)
        self._depth = self.layers_of(stream.prefill_depth)
        self.auto_depth = AutoDepth(self._depth, spec.n_layers)
        self._wanted_depth = self._depth
        slots = slots_within(
            spec.max_positions, self._prompt.base, spec.ids_per_chunk, stream, decode
        )
        self._cache = cache_for(stream, slots)
        self._carry = EncodeCarry()
        self._ledger: list[Gap] = []
        self._conversations = Conversations(
            self._template.turn_tokens, stream.history_tokens, stream.sessions
        )
        self._forks: dict[int, int] = {}
        self._fork_number = 0
        self._generation = 0
        self._pushed = 0
        self._dropped = 0
        self._last_push_s = 0.0

    # -- what it is

    @property
    def model(self) -> OmniModel:
        """The model, shared by all its streams."""
        return self._model

    @property
    def config(self) -> Config:
        """The settings this stream was opened with."""
        return self._config

    @property
    def depth(self) -> int:
        """Decoder layers that a chunk passes on arrival, as served now."""
        return self._depth

    @property
    def depth_pending(self) -> bool:
        """Whether ``background_steps`` has something to do."""
        return self._wanted_depth != self._depth

    def snapshot(self) -> tuple[Segment, ...]:
        """The segments held now; free, immutable, undisturbed by later pushes."""
        return self._cache.snapshot()

    def status(self) -> StreamStatus:
        """Counters of what is held and what happened."""
        held = self._cache.snapshot()
        return StreamStatus(
            chunks_held=len(held),
            tokens=self._cache.tokens,
            budget_tokens=self._cache.budget.tokens,
            nbytes=self._cache.nbytes,
            fork_bytes=sum(self._forks.values()),
            depth=self._depth,
            depth_reason=self.auto_depth.reason,
            pushed=self._pushed,
            evicted=self._cache.evicted_chunks,
            dropped=self._dropped,
            answers_in_progress=len(self._forks),
            last_push_s=self._last_push_s,
            end_s=held[-1].end_s if held else None,
        )

    # -- chunks

    def push(self, chunk: Chunk) -> None:
        """Encode, prune within modalities and prefill one chunk, all its turns at once."""
        for _ in self.push_steps(chunk):
            pass

    def push_steps(self, chunk: Chunk) -> Generator[None, None, None]:
        """The same in turns. Room is made at the second one, and the chunk joins at the last."""
        return alone(self.push_together(chunk))

    def push_together(self, chunk: Chunk) -> Generator[Wanted | None, Any, None]:
        """The same, where what the model has to do is `Wanted`. Abandoned, it adds nothing."""
        started, generation = self._clock(), self._generation
        encoded: Encoded = yield encode_wanted(
            self._model, chunk, self._carry, self._encode_settings
        )
        yield None
        spec = self._model.spec
        kv_width = spec.n_kv_heads * spec.head_dim
        size = expected_bytes(encoded.tokens, self._depth, spec.n_layers, kv_width)
        self._cache.make_room(encoded.tokens.count, size, 2, encoded.window)
        held, depth = self._cache.snapshot(), self._depth
        segment = yield from self._extended(chunk, encoded, held, depth)
        while segment.depth != self._depth and generation == self._generation:
            # The depth changed between two turns; the trunk is uniform, so do it again.
            held, depth = self._cache.snapshot(), self._depth
            segment = yield from self._extended(chunk, encoded, held, depth)
        if generation != self._generation:
            self.note_gap(Gap(chunk.start_s, chunk.end_s, "forgotten"))
            return
        self._cache.append(segment)
        self._carry = encoded.carry
        self._pushed += 1
        self._last_push_s = self._clock() - started
        self._adapt(chunk)

    def lighten(self, pictures: float = 1.0, merging: float = 1.0) -> None:
        """From the next chunk on: shares of a picture's tokens, and of what merging keeps. Pictures
        of another size must begin an epoch.
        """
        self._encode_settings = self._full_settings.lighter(pictures, merging)

    def note_drop(self, from_s: float, to_s: float, reason: str, chunks: int = 1) -> None:
        """Name a stretch of stream that never became a chunk, for the coverage of later answers."""
        self._dropped += chunks
        self.note_gap(Gap(from_s, to_s, reason))

    def note_gap(self, gap: Gap) -> None:
        """Name a hole that the source or the chunker reported; one that goes on is one hole."""
        self._ledger = with_gap(self._ledger, gap)

    def _extended(
        self, chunk: Chunk, encoded: Encoded, held: tuple[Segment, ...], depth: int
    ) -> Generator[Wanted, Any, Segment]:
        bare = bare_segment(self._prompt, chunk, encoded, held)
        hidden, layers = encoded.tokens.embeds, range(depth)
        return (yield from self._deepened(bare, held, hidden, layers))

    # -- depth

    def set_depth(self, depth: int) -> None:
        """Ask for another depth. To 0 it is served at once; otherwise ``background_steps`` gets
        there.
        """
        limit = self._model.spec.n_layers
        if not 0 <= depth <= limit:
            raise ConfigError(
                f"prefill_depth = {depth} is not allowed: 0 to {limit} for this model"
            )
        self._wanted_depth = depth
        if depth == 0 and self._depth:
            self._cache.replace(tuple(s.bare() for s in self._cache.snapshot()))
            self._depth = 0

    def layers_of(self, depth: int | DepthName) -> int:
        """A depth by name as a number of layers; raises ConfigError where it is not allowed."""
        stream = self._config.stream.model_copy(update={"prefill_depth": depth})
        pruning, layers = self._config.pruning, self._model.spec.n_layers
        return resolve_depth(stream, self._intra, pruning, layers, self._frame_tokens)

    def schedule_text(self) -> str:
        """A full window's schedule in words: what the budget solver moved, its closed form."""
        return describe_schedule(self._config.pruning, self._model.spec.n_layers, self._nominal)

    def check_reachable(self, pruning: PruningConfig) -> None:
        """Raise ConfigError, with what is reachable, where this model cannot prune like that."""
        schedule_for(pruning, self._model.spec.n_layers, self._nominal)

    def background_steps(self) -> Generator[None, None, None]:
        """Turns that bring the held segments to the wanted depth, oldest first; until the last, the
        old depth serves.
        """
        wanted = self._wanted_depth
        if wanted == self._depth:
            return
        deeper = wanted > self._depth
        done: dict[int, Segment] = {}
        generation = self._generation
        while wanted == self._wanted_depth != self._depth and generation == self._generation:
            held = self._cache.snapshot()
            todo, past = next_undone(held, done)
            if todo is None:
                self._switch(held, past, wanted)
                return
            source = todo if deeper else todo.bare()
            hidden = todo.hidden if deeper and todo.hidden is not None else todo.tokens.embeds
            layers = range(self._depth, wanted) if deeper else range(wanted)
            done[todo.chunk] = yield from alone(self._deepened(source, past, hidden, layers))

    def _switch(self, held: tuple[Segment, ...], done: tuple[Segment, ...], depth: int) -> None:
        """Serve ``done``; where the byte budget cannot hold one window of it, stay as it was."""
        self._cache.replace(done)
        try:
            self._cache.make_room(0, 0, 0, held[-1].window if held else -1)
            self._depth = depth
        except ConfigError:
            self._cache.replace(held)
            self._wanted_depth = self._depth

    def _adapt(self, chunk: Chunk) -> None:
        """``auto``: one layer deeper or shallower, by load and questions."""
        auto = self._config.stream.prefill_depth == "auto"
        free = auto and not (self.depth_pending or needs_depth_zero(self._config.pruning))
        share = self._last_push_s / chunk.duration_s
        if (wanted := self.auto_depth.after_chunk(self._depth, share, free=free)) != self._depth:
            self.set_depth(wanted)

    # -- questions

    def ask(
        self,
        query: Query | str,
        pruning: PruningConfig | None = None,
        decode: DecodeConfig | None = None,
        open_chunk: Chunk | None = None,
    ) -> Iterator[Delta | Answer]:
        """Pieces of text, then one `Answer`; ``ask_steps`` without the turns between."""
        for event in self.ask_steps(query, pruning, decode, open_chunk):
            if not isinstance(event, Step):
                yield event

    def ask_steps(
        self,
        query: Query | str,
        pruning: PruningConfig | None = None,
        decode: DecodeConfig | None = None,
        open_chunk: Chunk | None = None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Turns:
        """Turns of an answer: `Step` where only work was done, `Delta` for text, one `Answer` last.

        ``open_chunk`` is the part of the current chunk that exists; it is used by this answer
        alone. ``cancelled`` is looked at between turns. The question is checked at the first turn:
        QuestionError, NothingHeld, Busy, ConfigError.
        """
        return alone(self.ask_together(query, pruning, decode, open_chunk, cancelled))

    def ask_together(
        self,
        query: Query | str,
        pruning: PruningConfig | None = None,
        decode: DecodeConfig | None = None,
        open_chunk: Chunk | None = None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Generator[Delta | Answer | Step | Wanted, Any, None]:
        """The same, where each token after the first is `Wanted`."""
        query = Query(query) if isinstance(query, str) else query
        decode = decode or self._config.decode
        started, generation, depth = self._clock(), self._generation, self._depth
        decode.check_question(query.text)
        check_look_back(query.look_back_s)
        self.auto_depth.asked()
        segments = self._cache.snapshot()
        provisional = False
        if open_chunk is not None and self._joins(open_chunk):
            newest = yield from self._opened(open_chunk, segments, depth, cancelled)
            segments, provisional = (*segments, *newest), bool(newest)
            del newest
        if not segments:
            raise NothingHeld(
                "nothing of this stream is held yet, so there is nothing to answer about; wait "
                "for the first chunk (2 s) and ask again"
            )
        segments = within(segments, query)
        run = AnswerRun(
            model=self._model,
            prompt=self._prompt,
            template=self._template,
            segments=segments,
            provisional=provisional,
            query=query,
            history=self._conversations.of(query.session),
            pruning=pruning or self._config.pruning,
            decode=decode,
            depth=depth,
            nominal_r0=self._nominal,
            coverage=self._ledger,
            dropped=self._dropped,
            clock=self._clock,
            started=started,
        )
        del segments  # the run lets them go when it no longer needs them
        ticket = self._reserve(run.estimated_bytes())
        try:
            yield from run.turns(cancelled)
        finally:
            self._forks.pop(ticket, None)
            run.free()
        forgotten = generation != self._generation  # the answer may tell of it
        if run.answer is not None and run.answer.finish != "cancelled" and not forgotten:
            turn = Turn(query.text, run.answer.text, run.answer.asked_at_s)
            self._conversations.remember(query.session, turn)

    def _opened(
        self,
        chunk: Chunk,
        held: tuple[Segment, ...],
        depth: int,
        cancelled: Callable[[], bool],
    ) -> Generator[Step, None, tuple[Segment, ...]]:
        """The open chunk's segment for one answer; none where it has no tokens or is cancelled."""
        encoded = self._model.encode(chunk, self._carry, self._encode_settings)
        yield Step.PREFILL
        if not encoded.tokens.count:
            return ()
        turns = alone(self._extended(chunk, encoded, held, depth))
        while not cancelled():
            try:
                next(turns)
            except StopIteration as done:
                return (done.value,)
            yield Step.PREFILL
        return ()

    def _joins(self, open_chunk: Chunk) -> bool:
        """Whether the open chunk follows what is held; behind unfinished ingest it would not."""
        follows = open_chunk.index == self._carry.next_chunk or not self._cache.snapshot()
        return follows and self._config.stream.open_chunk == "include"

    def control_tokens_in(self, text: str) -> list[str]:
        """The model's control tokens spelt out in ``text``; they are read as plain characters."""
        return self._template.control_tokens_in(text)

    def _reserve(self, nbytes: int) -> int:
        limit, used = self._config.stream.fork_bytes, sum(self._forks.values())
        if used + nbytes > limit:
            raise Busy(
                f"answers in progress hold {used / 2**20:.1f} MiB and this one needs "
                f"{nbytes / 2**20:.1f} MiB; "
                f"stream.fork_bytes allows {limit / 2**20:.1f} MiB; ask again when another answer "
                "has ended"
            )
        self._fork_number += 1
        self._forks[self._fork_number] = nbytes
        return self._fork_number

    # -- standing questions

    def standing(self, watch: WatchConfig) -> Standing:
        """A standing question in this model's tokens; raises ConfigError, ModelMismatch."""
        stream = self._config.stream
        return standing_question(watch, stream.watches, self._model, stream.kind)

    def judge_steps(
        self,
        questions: Sequence[Standing],
        pair: tuple[Segment, ...] | None = None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Generator[Step | Judgement, None, None]:
        """Turns that judge ``pair`` (None: the last two chunks), a `Judgement` for each question.
        The trunk is only read. NothingHeld; Busy where answers in progress leave no room.
        """
        pair = newest_pair(self._cache.snapshot()) if pair is None else pair
        if not pair:
            raise NothingHeld("nothing of this stream is held yet, so there is nothing to judge")
        judging = Judging(self._model, self._prompt, pair, self._clock)
        ticket = self._reserve(judging.estimated_bytes(questions))
        try:
            yield from judging.turns(questions, cancelled)
        finally:
            self._forks.pop(ticket, None)

    # -- memory of conversations, and forgetting

    def forget(self, last_s: float | None = None) -> int:
        """Remove the last seconds (None: everything) from trunk and history; returns how many
        chunks left.

        Older segments never saw newer ones, so nothing of the removed material remains in them.
        """
        held = self._cache.snapshot()
        end = held[-1].end_s if held else 0.0
        since = float("-inf") if last_s is None else end - last_s
        kept = tuple(s for s in held if s.end_s <= since + 1e-6)
        if len(kept) < len(held):
            self.note_gap(Gap(held[len(kept)].start_s, end, "forgotten"))
        self._cache.replace(kept)
        self._generation += 1  # whatever is between two turns now may have seen it
        carry = self._carry
        # The next chunk must not be compared with a forgotten picture or levelled by a forgotten
        # sound.
        self._carry = EncodeCarry(epoch=carry.epoch, window=carry.window)
        self._conversations.forget(since)
        return len(held) - len(kept)

    def coverage(self) -> Coverage | None:
        """What a question asked now could see."""
        held = self._cache.snapshot()
        return coverage_of(held, self._ledger) if held else None
