"""Settings of standing questions ("tell me when ..."). No torch: clients read and write these."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from omnidrop_stream.model.watch_words import valid_template

LONGEST_TEXT = 500
_Odds = Annotated[float, Field(ge=-50.0, le=50.0, allow_inf_nan=False)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class WatchConfig(_Section):
    """One standing question, and when its answer is told.

    Odds are log-odds of yes over no, in nats (0: even, 3: 95 %).
    """

    text: Annotated[str, Field(min_length=1, max_length=LONGEST_TEXT)]
    """In plain words: "a red square is shown", "a bell rings"."""
    sound_only: bool = False
    """Judge by the sound alone: the pictures are not looked at."""
    threshold: Annotated[float, Field(gt=0.0, le=50.0)] = 3.0
    """How far the odds must rise above the baseline to be told. What one waits for is rare: yes has
    to outweigh odds of about 1 to 20 against it, ln 20 = 3.
    """
    release: _Odds = 0.0
    """At most so far above the baseline, it has ended (below ``threshold``: hysteresis)."""
    cool_down_s: Annotated[float, Field(ge=0.0, le=86_400.0)] = 10.0
    """Seconds of stream after an event in which no other is told."""
    ask: Annotated[str, Field(max_length=2_000)] = ""
    """A question to ask when it happens; its answer comes with the event."""
    floor: _Odds = 0.0
    """The baseline never sinks below this: at even odds the model itself denies it."""
    quantile: Annotated[float, Field(ge=0.0, le=1.0)] = 0.8
    """The baseline is this quantile of the odds in quiet time."""
    memory: Annotated[int, Field(ge=1, le=10_000)] = 256
    """How many judgements of quiet time are remembered."""
    learn: Annotated[int, Field(ge=0, le=1_000)] = 7
    """Judgements before the first event; chunks that are already held count."""
    settle_s: Annotated[float, Field(gt=0.0, le=86_400.0)] = 300.0
    """What lasts longer becomes the new quiet."""

    @field_validator("text")
    @classmethod
    def _readable(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("say in plain words what to wait for, such as a bell rings")
        if any("\ud800" <= letter <= "\udfff" for letter in value):
            raise ValueError("some of its bytes are not UTF-8; type it again")
        return value.strip()

    @model_validator(mode="after")
    def _hysteresis(self) -> WatchConfig:
        if self.release >= self.threshold:
            raise ValueError(
                f"release = {self.release:g} must be below threshold = {self.threshold:g}: it "
                "says when it has ended"
            )
        return self


class WatchesConfig(_Section):
    """The standing questions of one stream."""

    limit: Annotated[int, Field(ge=0, le=256)] = 8
    """How many a stream may have."""
    share: Annotated[float, Field(gt=0.0, le=1.0)] = 0.75
    """Share of the model's time that chunks and standing questions may take together; the rest is
    for answers. What does not fit is refused.
    """
    template: str | None = None
    """Question around the watcher's words, with {watch} in their place; None: the checkpoint's own
    (its ``watch.json``), or the one for the published checkpoints.
    """
    template_sound: str | None = None
    """The same for what is judged by sound alone."""
    questions: tuple[WatchConfig, ...] = ()
    """Asked from the start."""

    @model_validator(mode="after")
    def _not_too_many(self) -> WatchesConfig:
        if len(self.questions) > self.limit:
            raise ValueError(
                f"there are {len(self.questions)} questions, and limit allows {self.limit}"
            )
        return self

    @field_validator("template", "template_sound")
    @classmethod
    def _has_a_place(cls, value: str | None) -> str | None:
        return None if value is None else valid_template(value)
