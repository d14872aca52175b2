"""Every tunable of the library, validated. An error names the key, the value and what is allowed.

``load_config`` reads YAML; the faces add their own sections in their own files. Values are frozen.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from omnidrop_stream.allowed import allowed, field_at
from omnidrop_stream.errors import ConfigError, QuestionError
from omnidrop_stream.types import StreamKind
from omnidrop_stream.watch_config import WatchConfig, WatchesConfig
from omnidrop_stream.yaml_file import read_values

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
_NO_MAPPING = ("model_type", "model_attributes_type", "dict_type")
_OF_A_NODE = ("cameras", "mqtt", "http")
DepthName = Literal["exact", "auto", "half", "read_side"]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelConfig(_Section):
    """Which checkpoint, and how it runs."""

    model: str = "embedded"
    """Hub id, folder, or ``embedded``."""
    dtype: Literal["auto", "bf16", "fp32"] = "auto"
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    attention: Literal["auto", "sdpa", "flash"] = "auto"
    weights: Literal["auto", "int8", "int4"] = "auto"
    """The decoder's linears: as ``dtype`` says, or quantised (needs torchao) for smaller cards."""
    engine: Literal["auto", "plain", "fast"] = "auto"
    """How a stream's states are kept and read; plain is the slow one that fast is tested against.
    auto: fast on a processor, plain elsewhere, where nobody has measured fast yet.
    """
    compile: bool = False
    """Whether torch compiles the decoder's feed-forward networks; it needs a compiler, and minutes
    at the first chunk. On a processor it does not pay.
    """
    graphs: bool = False
    """Whether an answer's steps, and the passes of questions at full depth (but for long ones of
    long windows), are recorded once and replayed, as CUDA graphs; for a CUDA device alone, where
    nobody has measured it yet. It takes the memory of two to three windows at full depth besides,
    of the largest stream's.
    """
    overlap: bool = False
    """Whether the towers have a CUDA stream of their own, so that a question need not wait for a
    chunk that is being encoded; for a CUDA device alone, where nobody has measured it yet.
    """
    threads: Annotated[int, Field(ge=1, le=1024)] | Literal["auto"] = "auto"
    """Of the processor, for one pass. auto: one for small models (``model/threads.py``), else
    torch's own choice, which the environment's ``OMP_NUM_THREADS`` sets.
    """


class ScheduleConfig(_Section):
    """Equation 3 and 4's values, given outright instead of a target retention."""

    kind: Literal["sigmoid", "exponential"] = "sigmoid"
    p_init: Annotated[float, Field(ge=0.0, le=0.95)] = 0.0
    p_final: Annotated[float, Field(ge=0.0, le=0.95)] = 0.2
    t_mid: Fraction = 0.5
    beta: Annotated[float, Field(gt=0.0, le=200.0)] = 20.0

    @model_validator(mode="after")
    def _rising(self) -> ScheduleConfig:
        if self.p_init > self.p_final:
            raise ValueError(
                f"p_init = {self.p_init:g} is above p_final = {self.p_final:g}; a schedule never "
                "falls with depth: lower p_init or raise p_final"
            )
        return self


class PruningConfig(_Section):
    """The question's pruning: the paper's sections 3.1 to 3.3."""

    policy: str = "omnidrop"
    retention: Annotated[float, Field(gt=0.0, le=1.0)] | None = 0.30
    """Target mean entering retention over all layers; None where ``schedule`` is given."""
    schedule: ScheduleConfig | None = None
    diversity_weight: Annotated[float, Field(ge=0.0, le=10.0)] = 0.2
    diversity_from_layer: Annotated[int, Field(ge=0)] | None = None
    """First layer with the temporal diversity score; None: the middle layer."""
    diversity_normalise: Literal["none", "max", "mean"] = "max"
    diversity_guard: bool = True
    """Never let the diversity score drop the key chunk first; False is the paper as printed."""
    guidance: Literal["question", "all_text", "last"] = "question"
    seed: int = 0

    @model_validator(mode="after")
    def _one_way_to_say_it(self) -> PruningConfig:
        if (
            self.schedule is not None
            and "retention" in self.model_fields_set
            and self.retention is not None
        ):
            raise ValueError("give either retention or schedule, not both")
        return self


class IntraConfig(_Section):
    """Pruning within each modality before the language model (section 3.4)."""

    enabled: bool = True
    audio_keep: Annotated[float, Field(gt=0.0, le=1.0)] = 0.7
    video_keep: Annotated[float, Field(gt=0.0, le=1.0)] = 0.2


class EvictionConfig(_Section):
    """What a full cache gives up first (``cache/eviction.py``)."""

    policy: Literal["oldest_window", "thin_even", "thin_salient", "separate"] = "oldest_window"
    keep_share: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.25
    """Of a thinned window's tokens, those that stay."""
    whole_share: Fraction = 0.5
    """Of the tokens held, those in windows that are not thinned yet."""
    audio_share: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.5
    """Of the tokens held, those of sound, with ``separate``."""


class StreamConfig(_Section):
    """One stream: its kind, its cache and how much is done ahead of a question."""

    kind: StreamKind = StreamKind.AV
    fps: Annotated[float, Field(ge=1.0, le=8.0)] = 2.0
    frame_tokens: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Tokens of a temporal patch at most; None: 144, or less where the checkpoint's pictures are
    smaller.
    """
    prefill_depth: Annotated[int, Field(ge=0)] | DepthName = "exact"
    budget_tokens: Annotated[int, Field(ge=1)] = 12_000
    budget_bytes: Annotated[int, Field(ge=1)] | None = None
    eviction: EvictionConfig = Field(default_factory=EvictionConfig)
    fork_bytes: Annotated[int, Field(ge=1)] = 8 * 2**30
    """What all answers in progress may hold together; past it a question is refused as busy."""
    share: Annotated[float, Field(gt=0.0, le=100.0)] = 1.0
    """Share of the model's time that the chunks of all streams, and standing questions, may take
    before one more live stream is refused; above 1: even more than there is.
    """
    open_chunk: Literal["include", "skip"] = "include"
    history_tokens: Annotated[int, Field(ge=0, le=8192)] = 512
    sessions: Annotated[int, Field(ge=1, le=10_000)] = 64
    system_prompt: str = "You are a helpful assistant."
    watches: WatchesConfig = Field(default_factory=WatchesConfig)
    """Standing questions."""

    @field_validator("fps")
    @classmethod
    def _whole_patches(cls, value: float) -> float:
        if value not in (1.0, 2.0, 4.0, 8.0):
            raise ValueError(
                "merging windows of 4 temporal patches must fit whole chunks: use 1, 2, 4 or 8"
            )
        return value


class DecodeConfig(_Section):
    """How an answer's words are chosen, and its bounds."""

    max_tokens: Annotated[int, Field(ge=1, le=8192)] = 256
    min_tokens: Annotated[int, Field(ge=0, le=8192)] = 0
    """No answer ends by itself before so many; for benchmarks."""
    question_chars: Annotated[int, Field(ge=1, le=100_000)] = 2_000
    temperature: Annotated[float, Field(ge=0.0, le=5.0)] = 0.0
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    seed: int = 0

    @model_validator(mode="after")
    def _least_is_less(self) -> DecodeConfig:
        if self.min_tokens > self.max_tokens:
            raise ValueError(
                f"min_tokens = {self.min_tokens} is above max_tokens = {self.max_tokens}; lower it"
            )
        return self

    def check_question(self, text: str) -> None:
        """Raise QuestionError for a question that is empty, too long or no text."""
        if not text.strip():
            raise QuestionError("the question is empty; give at least one word")
        if len(text) > self.question_chars:
            raise QuestionError(
                f"the question has {len(text)} characters; allowed: {self.question_chars}; "
                "shorten it or raise decode.question_chars"
            )
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            raise QuestionError(
                "the question is no valid text: some of its bytes are not UTF-8; type it again"
            )


class Config(_Section):
    """Everything together, as a file under ``configs/`` gives it."""

    model: ModelConfig = Field(default_factory=ModelConfig)
    stream: StreamConfig = Field(default_factory=StreamConfig)
    intra: IntraConfig = Field(default_factory=IntraConfig)
    pruning: PruningConfig = Field(default_factory=PruningConfig)
    decode: DecodeConfig = Field(default_factory=DecodeConfig)


def _known_keys(model: type[BaseModel], path: tuple[str | int, ...]) -> list[str]:
    named = False
    for part in path:
        if named:  # the name of one of several, no key
            named = False
            continue
        field = model.model_fields.get(str(part))
        if field is None:
            return list(model.model_fields)
        named = get_origin(field.annotation) in (dict, tuple)
        for candidate in (field.annotation, *get_args(field.annotation)):
            if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                model = candidate
    return list(model.model_fields)


def explain(
    error: ValidationError,
    model: type[BaseModel],
    origin: str,
    environment: Mapping[str, str] | None = None,
) -> ConfigError:
    """One plain sentence for each mistake: key, value, what is allowed.

    environment: keys that a variable of the environment gives instead, and its name.
    """
    lines: list[str] = []
    refused: dict[str, tuple[Any, list[str]]] = {}
    kinds: dict[str, str] = {}
    variables = environment or {}
    origins = []
    for item in error.errors():
        # pydantic names the branches of a union as if they were keys
        loc = [p for p in item["loc"] if not str(p).startswith(("constrained-", "literal["))]
        plain = ".".join(str(part) for part in loc if part != "[key]")
        key = variables.get(plain, plain)
        origins.append("the environment" if plain in variables else origin)
        if item["type"] == "extra_forbidden":
            lines.append(f"{key} is no setting; {_nearest(model, item['loc'])}")
        elif item["type"] == "missing":
            lines.append(f"{key} is missing: it has no default.")
        elif item["input"] is None and item["type"] in _NO_MAPPING:
            lines.append(
                f"{key} is empty: give its settings, one `key: value` a line, or remove it."
            )
        else:
            kinds[key or "settings"] = item["type"]
            reason = allowed(item, field_at(model, loc))
            refused.setdefault(key or "settings", (item["input"], []))[1].append(reason)
    for key, (value, reasons) in refused.items():
        told = ", or ".join(dict.fromkeys(reasons)).replace(", or give ", " or ")
        whole = isinstance(value, dict) and kinds[key] == "value_error"
        shown = key if whole else f"{key} = {value!r} is not allowed"
        lines.append(f"{shown}: {told}.")
    return ConfigError(f"{' and '.join(dict.fromkeys(origins))}: " + " ".join(lines))


def _nearest(model: type[BaseModel], path: tuple[str | int, ...]) -> str:
    """What may have been meant by a key that there is not."""
    known = _known_keys(model, path[:-1])
    near = difflib.get_close_matches(str(path[-1]), known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(known)}."


def make_config(values: dict[str, Any], origin: str = "settings") -> Config:
    """Validate ``values``; raises ConfigError naming key, value and allowed range."""
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise explain(error, Config, origin) from None


def make_watch(values: dict[str, Any], origin: str = "watch") -> WatchConfig:
    """A standing question; raises ConfigError naming key, value and what is allowed."""
    try:
        return WatchConfig.model_validate(values)
    except ValidationError as error:
        raise explain(error, WatchConfig, origin) from None


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; raises ConfigError for anything else."""
    try:
        values = read_values(path)
    except FileNotFoundError:
        raise ConfigError(
            f"there is no configuration file {path}; give a YAML file, as those under configs/"
        ) from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(
            f"{path} holds a {type(values).__name__}; a mapping of sections (model, stream, ...) "
            "is needed"
        )
    return values


def load_config(path: Path) -> Config:
    """Read and validate a YAML configuration."""
    values = read_yaml(path)
    if found := [name for name in _OF_A_NODE if name in values]:
        raise ConfigError(
            f"{path} is a node's file (it has {found[0]}), for omnidrop serve; here give one with "
            f"the sections {', '.join(Config.model_fields)} alone"
        )
    return make_config(values, str(path))


def merged(config: Config, changes: dict[str, dict[str, Any]], origin: str = "settings") -> Config:
    """``config`` with some keys of some sections replaced, validated again."""
    values = config.model_dump(exclude_unset=True)
    for section, new in changes.items():
        values[section] = {**values.get(section, {}), **new}
    return make_config(values, origin)
