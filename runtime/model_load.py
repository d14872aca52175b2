"""What the model's time goes to, measured: whether it can carry one more stream or standing
question.

One for each model. A chunk, and the judgements of one chunk, count with the time of their own
turns; what they waited for others does not count. Answers are left out: they come now and then, and
a share is kept free for them.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field
from statistics import mean, median

from omnidrop_stream.types import CHUNK_SECONDS

KEPT = 32
"""Chunks whose cost is remembered."""
MEASURED_CHUNKS = 3
"""So many chunks tell what a stream costs; the first one of all also warms things up."""


@dataclass(slots=True)
class _Costs:
    """Seconds of the model for each of the last chunks of one stream, and for each standing
    question about one.
    """

    chunks: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))
    judgements: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))
    watches: int = 0

    @property
    def chunk_s(self) -> float:
        return median(self.chunks) if self.chunks else 0.0

    @property
    def watches_s(self) -> float:
        return self.watches * median(self.judgements) if self.judgements else 0.0


@dataclass(frozen=True, slots=True)
class Load:
    """Shares of a chunk's period that all streams of a model take, and their standing questions."""

    chunks: float
    watches: float
    count: int

    @property
    def total(self) -> float:
        """Both."""
        return self.chunks + self.watches


class ModelLoad:
    """The ledger; safe from any thread. A stream is named by any object of its own."""

    def __init__(self, period_s: float = CHUNK_SECONDS) -> None:
        self._lock = threading.Lock()
        self._period_s = period_s
        self._streams: dict[int, _Costs] = {}

    def chunk(self, stream: object, spent_s: float) -> None:
        """One chunk was taken in."""
        with self._lock:
            self._of(stream).chunks.append(spent_s)

    def judged(self, stream: object, spent_s: float, watches: int) -> None:
        """So many standing questions of a stream were judged about one chunk."""
        with self._lock:
            self._of(stream).judgements.append(spent_s / watches)

    def carries(self, stream: object, watches: int) -> None:
        """A stream has so many standing questions from now on."""
        with self._lock:
            self._of(stream).watches = watches

    def drop(self, stream: object) -> None:
        """A stream has gone."""
        with self._lock:
            self._streams.pop(id(stream), None)

    def chunk_s(self, stream: object) -> float:
        """The model's time for a chunk of that stream, median of the last ones; 0 before the
        first.
        """
        with self._lock:
            costs = self._streams.get(id(stream))
            return 0.0 if costs is None else costs.chunk_s

    def now(self) -> Load:
        """The present shares."""
        with self._lock:
            streams = list(self._streams.values())
            return Load(
                chunks=sum(s.chunk_s for s in streams) / self._period_s,
                watches=sum(s.watches_s for s in streams) / self._period_s,
                count=sum(s.watches for s in streams),
            )

    def refusal(self, one_more_s: float, limit: float) -> str:
        """Why a standing question that takes ``one_more_s`` for each chunk cannot be carried; empty
        where it can. limit: share of the time for chunks and standing questions together.
        """
        now, more = self.now(), one_more_s / self._period_s
        with self._lock:
            streams = sum(bool(costs.chunks) for costs in self._streams.values())
        total = now.chunks + now.watches + more
        if total <= limit:
            return ""
        plural = "" if now.count == 1 else "s"
        others = f" and {now.count} standing question{plural} {now.watches:.0%}" * (now.count > 0)
        advice = ["remove one"] * (now.count > 0) + ["watch fewer streams"] * (streams > 1)
        advice += ["free the processor of other work", "use a smaller model"]
        return (
            f"the model cannot carry one more standing question: of each {self._period_s:g} s, "
            f"chunks take {now.chunks:.0%} of its time{others}; with this one "
            f"({one_more_s * 1e3:.0f} ms a chunk, measured) that is {total:.0%}, and watches.share "
            f"allows {limit:.0%}; {', '.join(advice[:-1])} or {advice[-1]}"
        )

    def refusal_of_stream(self, limit: float, stream: object = None) -> str:
        """Why one more stream cannot be carried; empty where it can, where it is the only one, and
        where nothing is measured yet. stream: one that runs, by its own cost; None: one to come,
        by the mean of the others'. limit: share of the time for chunks and standing questions.
        """
        with self._lock:
            streams = self._streams.items()
            costs = {k: c.chunk_s for k, c in streams if len(c.chunks) >= MEASURED_CHUNKS}
            watches = sum(c.watches_s for _, c in streams) / self._period_s
        own = costs.pop(id(stream), None) if stream is not None else None
        if not costs or (stream is not None and own is None):
            return ""
        one_s = mean(costs.values()) if own is None else own
        total = (sum(costs.values()) + one_s) / self._period_s + watches
        if total <= limit:
            return ""
        others = f"{len(costs)} other stream{'' if len(costs) == 1 else 's'}"
        told = "the mean of theirs" if own is None else "measured"
        return (
            f"the model cannot carry one more stream: of each {self._period_s:g} s, the chunks of "
            f"{others} take {sum(costs.values()) / self._period_s:.0%} of its time and standing "
            f"questions {watches:.0%}; with this one ({one_s * 1e3:.0f} ms a chunk, {told}) "
            f"that is {total:.0%}, and stream.share allows {limit:.0%}; watch fewer streams, "
            "lower stream.prefill_depth or stream.frame_tokens, or use a smaller model"
        )

    def _of(self, stream: object) -> _Costs:
        return self._streams.setdefault(id(stream), _Costs())
