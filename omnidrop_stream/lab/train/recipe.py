"""The whole recipe: a validated configuration, and the stages run one after the other, each
resumable.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Self

import torch
import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from omnidrop_stream.errors import ConfigError
from omnidrop_stream.lab.train.batches import QuestionWriter
from omnidrop_stream.lab.train.corpus import text_corpus
from omnidrop_stream.lab.train.encoders import EncoderSettings, train_encoder
from omnidrop_stream.lab.train.grow import grow, record_of
from omnidrop_stream.lab.train.language import LanguageSettings, LanguageTask, train_language
from omnidrop_stream.lab.train.late import LateSettings, train_late
from omnidrop_stream.lab.train.library import FeatureSource, Library, build_library, ridge_start
from omnidrop_stream.lab.train.look import LookSettings, train_looking
from omnidrop_stream.lab.train.mimetic import mimetic_start
from omnidrop_stream.lab.train.neighbours import Neighbours
from omnidrop_stream.lab.train.state import Paused, StageFiles
from omnidrop_stream.lab.train.symbols import Symbols, SymbolSource
from omnidrop_stream.model.build import (
    build_thinker,
    build_tokenizer,
    finished_thinker,
    save_checkpoint,
    special_ids,
    thinker_config,
)
from omnidrop_stream.world.items import Split

_STRICT = ConfigDict(frozen=True, extra="forbid")
TRAIN_SEED, TEST_SEED = 50_000_000, 1000


class ModelShape(BaseModel):
    """Sizes of the model; the towers share the language model's output width.

    nearby, turned: start values, see `mimetic.mimetic_start`.
    """

    model_config = _STRICT

    width: int
    heads: int
    ffn: int
    layers: int
    audio_width: int = 128
    audio_layers: int = 2
    vision_width: int = 128
    vision_layers: int = 3
    patch: int = 14
    frame: int = 112
    temporal_frequencies: int = 5
    rope_theta: float = 10_000.0
    nearby: float = 6.0
    turned: float = 1.0


class Stage(BaseModel):
    """A stage of the language model: on symbols with so many tokens a chunk, or on features
    (thinned or as deployed).

    grow: first bring the model to this depth plan (see `grow.grow`).
    """

    model_config = _STRICT

    name: str
    input: Literal["symbols", "thin", "features"]
    symbol_tokens: int = 1
    grow: tuple[str, ...] = ()
    settings: LanguageSettings


class LibrarySettings(BaseModel):
    """How many streams of 32 chunks are rendered and encoded, and how full they are."""

    model_config = _STRICT

    train_streams: int = 250
    test_streams: int = 12
    things: float = 0.75
    sounds: float = 0.75


class Recipe(BaseModel):
    """Everything `python -m omnidrop_stream.lab.train` does.

    start: a finished checkpoint of this shape to go on from, towers and all; without it the towers
    are trained first and the language model begins with its start values. late: stages after the
    others, at the depth plan `late_depth`.
    """

    model_config = _STRICT

    seed: int = 0
    threads: int = 1
    work: Path
    out: Path
    start: Path | None = None
    model: ModelShape
    audio: EncoderSettings | None = None
    vision: EncoderSettings | None = None
    library: LibrarySettings
    stages: tuple[Stage, ...] = ()
    late_depth: tuple[str, ...] = ()
    late: tuple[LateSettings, ...] = ()
    shipped_depth: tuple[str, ...]
    look: LookSettings | None = None

    @model_validator(mode="after")
    def _towers_come_from_somewhere(self) -> Self:
        if self.start is None and (self.audio is None or self.vision is None):
            raise ValueError("give audio and vision, the towers' stages, or start, a checkpoint")
        return self


def load_recipe(path: Path) -> Recipe:
    """Read and check a recipe; raises ConfigError that names the key and the value."""
    try:
        return Recipe.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{path}: {key} = {first['input']!r}: {first['msg']}") from None


def thinker_of(m: ModelShape, layers: int, tokenizer: Any, seed: int) -> Any:
    """A stock thinker of this shape with untrained weights and so many decoder layers."""
    half = m.width // m.heads // 2
    rest = half - m.temporal_frequencies
    audio = {
        "num_mel_bins": 128,
        "encoder_layers": m.audio_layers,
        "encoder_attention_heads": 4,
        "encoder_ffn_dim": 3 * m.audio_width,
        "d_model": m.audio_width,
        "output_dim": m.width,
        "n_window": 100,
        "max_source_positions": 1500,
    }
    vision = {
        "depth": m.vision_layers,
        "hidden_size": m.vision_width,
        "intermediate_size": 3 * m.vision_width,
        "num_heads": 4,
        "patch_size": m.patch,
        "spatial_merge_size": 1,
        "temporal_patch_size": 2,
        "window_size": m.frame,
        "out_hidden_size": m.width,
        "fullatt_block_indexes": [m.vision_layers - 1],
    }
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": m.width,
        "intermediate_size": m.ffn,
        "num_hidden_layers": layers,
        "num_attention_heads": m.heads,
        "num_key_value_heads": m.heads,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": False,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": m.rope_theta,
            "mrope_section": [m.temporal_frequencies, rest - rest // 2, rest // 2],
        },
    }
    torch.manual_seed(seed)
    return build_thinker(thinker_config(audio, vision, text, special_ids(tokenizer)))


class Trainer:
    """Holds the model while the stages run."""

    def __init__(self, recipe: Recipe, until_s: float = math.inf) -> None:
        """until_s: monotonic seconds from which a save ends the run (`state.Paused`)."""
        self.recipe, self.until_s = recipe, until_s
        self.tokenizer = build_tokenizer(text_corpus())
        self.writer = QuestionWriter(self.tokenizer)
        self.generator = torch.Generator().manual_seed(recipe.seed)
        self.thinker = self._begin()
        self.side = Neighbours(recipe.model.width)
        self.symbols = Symbols(recipe.model.width, self.writer.name_ids(), self.generator)

    def _begin(self) -> Any:
        shape, start = self.recipe.model, self.recipe.start
        if start is not None:
            return finished_thinker(start)
        thinker: Any = thinker_of(shape, shape.layers, self.tokenizer, self.recipe.seed)
        mimetic_start(
            thinker.model.language_model,
            thinker.lm_head,
            self.generator,
            self.writer.twins(),
            nearby_bias=shape.nearby,
            turned=shape.turned,
        )
        return thinker

    def run(self) -> None:
        """All stages, then the shipped checkpoint."""
        self._encoders()
        libraries: dict[Split, Library] = {}
        aligned = self.recipe.start is not None
        for stage in self.recipe.stages:
            if stage.grow:
                self._grow(stage.grow)
            if stage.input != "symbols" and not libraries:
                libraries = {"train": self._library("train"), "test": self._library("test")}
            if stage.input != "symbols" and not aligned:
                embed = self.thinker.model.language_model.embed_tokens.weight
                ridge_start(
                    libraries["train"], self.thinker.model, self.symbols, embed, self.generator
                )
                aligned = True
            source, test = self._sources(stage, libraries)
            task = LanguageTask(self.thinker, self.writer, source, self.side)
            train_language(task, stage.settings, self._files(stage.name), {"test": test})
        if self.recipe.late:
            self._late()
        self._grow(self.recipe.shipped_depth)
        if self.recipe.look is not None:
            source = FeatureSource(self._library("train"), self.thinker.model, 0.6, 0.5)
            task = LanguageTask(self.thinker, self.writer, source)
            train_looking(task, self.recipe.look, self._files("look"))
        save_checkpoint(self.thinker, self.tokenizer, self.recipe.out, self.recipe.model.frame)
        weights, look = self.thinker.model.language_model.state_dict(), self.recipe.look
        record = record_of(
            weights, look is not None or bool(self.recipe.late), look.heads if look else ()
        )
        (self.recipe.out / "built.json").write_text(json.dumps(record, indent=2) + "\n")

    def _late(self) -> None:
        self._grow(self.recipe.late_depth)
        library = self._library("train")
        for stage in self.recipe.late:
            source = FeatureSource(library, self.thinker.model, stage.blank, stage.repeat)
            task = LanguageTask(self.thinker, self.writer, source, self.side)
            train_late(task, stage, self._files(stage.name))

    def _sources(
        self, stage: Stage, libraries: dict[Split, Library]
    ) -> tuple[SymbolSource | FeatureSource, SymbolSource | FeatureSource]:
        s = stage.settings
        if stage.input == "symbols":
            embed = self.thinker.model.language_model.embed_tokens
            n = stage.symbol_tokens
            symbols = SymbolSource(self.symbols, embed, s.blank, s.repeat, n, n, s.seed, s.noise)
            return symbols, symbols
        model, thin = self.thinker.model, stage.input == "thin"
        train = FeatureSource(libraries["train"], model, s.blank, s.repeat, thin=thin)
        return train, FeatureSource(libraries["test"], model, s.blank, s.repeat)

    def _encoders(self) -> None:
        model = self.thinker.model
        if self.recipe.audio is not None:
            train_encoder("audio", model.audio_tower, self.recipe.audio, self._files("audio"))
        if self.recipe.vision is not None:
            train_encoder("vision", model.visual, self.recipe.vision, self._files("vision"))
        for tower, last in (
            (model.audio_tower, model.audio_tower.proj),
            (model.visual, model.visual.merger.mlp[-1]),
        ):
            tower.requires_grad_(False)
            last.requires_grad_(True)

    def _library(self, split: Split) -> Library:
        path = self.recipe.work / f"library_{split}.pt"
        names = Library.__slots__
        if path.exists():
            return Library(**torch.load(path, weights_only=True))
        s = self.recipe.library
        begin = (TRAIN_SEED if split == "train" else TEST_SEED) + 1000 * self.recipe.seed
        seeds = range(begin, begin + (s.train_streams if split == "train" else s.test_streams))
        made = build_library(self.thinker.model, split, list(seeds), s.things, s.sounds)
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save({name: getattr(made, name) for name in names}, path)
        return made

    def _grow(self, plan: tuple[str, ...]) -> None:
        language = self.thinker.model.language_model
        if tuple(str(i) for i in range(len(language.layers))) == plan:
            return
        weights = grow(language.state_dict(), plan, self.generator)
        old = self.thinker
        self.thinker = thinker_of(self.recipe.model, len(plan), self.tokenizer, self.recipe.seed)
        new = self.thinker.model
        new.language_model.load_state_dict(weights)
        self.thinker.lm_head.load_state_dict(old.lm_head.state_dict())
        new.audio_tower, new.visual = old.model.audio_tower, old.model.visual

    def _files(self, name: str) -> StageFiles:
        return StageFiles(self.recipe.work, name, self.until_s)


def run_recipe(path: Path, report: Callable[[str], None], minutes: float = math.inf) -> None:
    """Train from a recipe file, from wherever an earlier run stopped; at most so long, and until
    the next save.
    """
    recipe = load_recipe(path)
    torch.set_num_threads(recipe.threads)
    report(f"training into {recipe.work}; the checkpoint goes to {recipe.out}")
    try:
        Trainer(recipe, time.monotonic() + 60 * minutes).run()
    except Paused:
        report(f"paused after {minutes:g} minutes, all saved: the same command goes on")
        return
    report(f"wrote {recipe.out}")
