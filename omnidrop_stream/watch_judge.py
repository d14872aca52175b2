"""When a standing question's odds mean "now": baseline, hysteresis, cool-down. Pure, no torch.

A judge is told one log-odds a judgement, in order of stream time, and says what to make of it:

- **learning**: the first ``learn`` judgements only teach the baseline.
- **quiet**: odds below baseline + ``threshold``. They teach the baseline: a quantile of the last
  ``memory`` of them, never below ``floor``. A quantile, not a mean, so that an event that is learnt
  by mistake, or a near miss, moves it little.
- **on**: from the judgement at or above the threshold, which is the event, until one at or below
  baseline + ``release``. Nothing is learnt, nothing else is told. What stays on for ``settle_s`` is
  the new normal: the baseline is learnt anew.
- **cooling**: above the threshold within ``cool_down_s`` of the last event; told when that time is
  over, if it is still so then.
"""

from __future__ import annotations

import enum
import math
from collections import deque
from dataclasses import dataclass

from omnidrop_stream.watch_config import WatchConfig

INTERRUPTED_AFTER_S = 10.0
"""Without a judgement for so long, what was on has ended, and what comes is another event."""


class State(enum.StrEnum):
    """What a judge makes of a judgement."""

    LEARNING = "learning"
    QUIET = "quiet"
    ON = "on"
    COOLING = "cooling"


@dataclass(frozen=True, slots=True)
class Verdict:
    """One judgement's outcome. ``score``: odds above the baseline that was known before it."""

    state: State
    odds: float
    baseline: float
    score: float
    event: bool = False
    """It has begun: tell whoever waits."""

    @property
    def confidence(self) -> float:
        """0 to 1: the share that yes has at these odds above the baseline."""
        if self.score >= 0:
            return 1.0 / (1.0 + math.exp(-self.score))
        grown = math.exp(self.score)
        return grown / (1.0 + grown)


class WatchJudge:
    """The memory of one standing question."""

    def __init__(self, rule: WatchConfig) -> None:
        self._rule = rule
        self._quiet: deque[float] = deque(maxlen=rule.memory)
        self._to_learn = rule.learn
        self._on_since: float | None = None
        self._last_event_s: float | None = None
        self._last_s = -math.inf

    @property
    def baseline(self) -> float:
        """Odds in quiet time, as learnt up to now; ``floor`` where nothing is."""
        if not self._quiet:
            return self._rule.floor
        ordered = sorted(self._quiet)
        learnt = ordered[math.floor(self._rule.quantile * (len(ordered) - 1))]
        return max(self._rule.floor, learnt)

    @property
    def state(self) -> State:
        """Where it stands before the next judgement."""
        if self._on_since is not None:
            return State.ON
        return State.LEARNING if self._to_learn > 0 else State.QUIET

    def learn(self, odds: float) -> None:
        """Odds of an earlier moment, before the first `step`: they only teach. ValueError if they
        are not finite.
        """
        self._quiet.append(_finite(odds))
        self._to_learn = max(0, self._to_learn - 1)

    def step(self, time_s: float, odds: float) -> Verdict:
        """One judgement at ``time_s`` of stream. ValueError: odds not finite, time going back."""
        odds = _finite(odds)
        if not time_s >= self._last_s:
            raise ValueError(f"judgements go forward in time, but {time_s} follows {self._last_s}")
        if time_s - self._last_s > INTERRUPTED_AFTER_S:
            self._on_since = None
        self._last_s = time_s
        baseline = self.baseline
        state, event = self._judge(time_s, odds, odds - baseline)
        return Verdict(state, odds, baseline, odds - baseline, event)

    def _judge(self, time_s: float, odds: float, score: float) -> tuple[State, bool]:
        rule = self._rule
        if self._on_since is not None:
            if score > rule.release and time_s - self._on_since < rule.settle_s:
                return State.ON, False
            if score > rule.release:  # the new normal
                self._quiet.clear()
                self._to_learn = rule.learn
            self._on_since = None
        elif self._to_learn <= 0 and score >= rule.threshold:
            if self._last_event_s is not None and time_s - self._last_event_s < rule.cool_down_s:
                return State.COOLING, False
            self._on_since = self._last_event_s = time_s
            return State.ON, True
        state = self.state
        self.learn(odds)
        return state, False


def _finite(odds: float) -> float:
    if not math.isfinite(odds):
        raise ValueError(f"odds must be finite, got {odds}")
    return odds
