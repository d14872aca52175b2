"""Training on what pruning leaves: who sees what, and what is learnt from."""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from omnidrop_stream.config import PruningConfig
from omnidrop_stream.errors import ConfigError
from omnidrop_stream.lab.train.batches import IGNORE, QuestionWriter
from omnidrop_stream.lab.train.corpus import text_corpus
from omnidrop_stream.lab.train.language import LanguageTask
from omnidrop_stream.lab.train.late import (
    ENTERING_SHARE,
    Batch,
    LateSettings,
    answerable,
    draw_batch,
    first_named,
    leaving_of,
    losses_of,
    train_late,
)
from omnidrop_stream.lab.train.look import looking_layers, raised_loss
from omnidrop_stream.lab.train.packed import packed_forward
from omnidrop_stream.lab.train.pruned import ByLot, BySchedule, KeepAll, pruned_forward
from omnidrop_stream.lab.train.recipe import ModelShape, thinker_of
from omnidrop_stream.lab.train.state import StageFiles
from omnidrop_stream.lab.train.symbols import Symbols, SymbolSource
from omnidrop_stream.model.build import build_tokenizer
from omnidrop_stream.plan import policy_for, schedule_for
from omnidrop_stream.world import ALL_KINDS

SMALL = ModelShape(
    width=32, heads=2, ffn=48, layers=4, audio_width=16, audio_layers=1, vision_width=16,
    vision_layers=1,
)  # fmt: skip
SETTINGS = LateSettings(
    name="late", steps=4, early=(0,), looking=(1,), stands_for=((0,), (1, 2, 3), (4,), (5,)),
    size=500, questions=3, most_chunks=4, rolled=0.0, report_every=2, neighbour_layer=0,
    side_warm=2, retention=(0.3, 0.4),
)  # fmt: skip
EVENLY = [1.0] * len(ALL_KINDS)


def make_task() -> LanguageTask:
    tokenizer = build_tokenizer(text_corpus())
    thinker: Any = thinker_of(SMALL, SMALL.layers, tokenizer, seed=3)
    language, writer = thinker.model.language_model, QuestionWriter(tokenizer)
    for part in (language.layers[1].self_attn.o_proj, language.layers[1].mlp.down_proj):
        torch.nn.init.zeros_(part.weight)
    symbols = Symbols(SMALL.width, writer.name_ids(), torch.Generator().manual_seed(0))
    source = SymbolSource(symbols, language.embed_tokens, 0.3, 0.3, 3, 3, seed=0)
    return LanguageTask(thinker, writer, source)


@pytest.fixture(scope="module")
def task() -> LanguageTask:
    return make_task()


def batch_of(task: LanguageTask, rolled: float = 0.0) -> Batch:
    settings = SETTINGS.model_copy(update={"rolled": rolled, "first_chunks": 4})
    return draw_batch(task, settings, EVENLY, np.random.default_rng(0), random.Random(0))


@torch.no_grad()
@pytest.mark.parametrize("rolled", [0.0, 1.0])
def test_a_pass_in_which_nothing_leaves_equals_the_packed_pass(
    task: LanguageTask, rolled: float
) -> None:
    batch = batch_of(task, rolled)
    packed = batch.packed
    ours = pruned_forward(task.language, packed, KeepAll(), (1,), tap=0)
    left = len(batch.block.cells) - batch.chunks
    hidden, drop = task.leave(batch.block, left) if left else (None, None)
    states, tapped = packed_forward(
        task.language,
        packed.prefix,
        packed.positions,
        batch.asked.ids,
        packed.start,
        hidden,
        0,
        drop,
    )
    on = batch.asked.labels != IGNORE
    assert bool(packed.gone.any()) == bool(rolled)
    assert torch.allclose(ours.states[on], states[on], atol=1e-5)
    assert torch.allclose(ours.tapped, tapped[:, packed.block], atol=1e-5)


@torch.no_grad()
def test_what_has_left_gets_no_attention_and_never_comes_back(task: LanguageTask) -> None:
    batch = batch_of(task)
    lot = ByLot(1, (0.5, 0.5), torch.Generator().manual_seed(0))
    passed = pruned_forward(task.language, batch.packed, lot, (1,))
    assert passed.visible[1].all()
    for layer in (2, 3):
        seen, before = passed.visible[layer], passed.visible[layer - 1]
        assert seen.sum() < before.sum()
        assert (before | ~seen).all()
        assert not passed.scores[layer][~seen].any()
        assert passed.scores[layer][seen].all()


def by_schedule(batch: Batch, helped: float) -> BySchedule:
    settings = SETTINGS.model_copy(update={"retention": (0.3, 0.3)})
    leaving = leaving_of(
        "schedule", settings, batch, helped, np.random.default_rng(0), random.Random(0)
    )
    assert isinstance(leaving, BySchedule)
    return leaving


@torch.no_grad()
def test_the_schedule_leaves_the_counts_and_the_tokens_of_the_policy(task: LanguageTask) -> None:
    batch = batch_of(task)
    leaving = by_schedule(batch, 0.0)
    pruning = PruningConfig(policy="omnidrop", retention=0.3)
    policy = policy_for(pruning, schedule_for(pruning, 6, ENTERING_SHARE))
    n, chunk = batch.packed.gone.numel(), leaving.chunk
    entering = leaving.entering
    passed = pruned_forward(task.language, batch.packed, leaving, (1,))
    assert entering == policy.counts(n, 6, 4 * 178)
    for layer, number in enumerate((0, 1, 4, 5)):
        assert (passed.visible[layer].sum(-1) == entering[number]).all()
    left = passed.visible[2][0, 1].nonzero()[:, 0]
    gone = policy.drop(
        4, 6, passed.scores[2][0, 1, left], chunk[left] - chunk[left[0]],
        leaving.modality[left], entering[4] - entering[5],
    )  # fmt: skip
    stay = sorted(set(range(len(left))) - set(gone.tolist()))
    assert torch.equal(left[stay], passed.visible[3][0, 1].nonzero()[:, 0])


@torch.no_grad()
def test_helped_questions_keep_their_evidence(task: LanguageTask) -> None:
    batch = batch_of(task)
    few = batch.items & (batch.items.cumsum(-1) <= 2)  # as many as the schedule leaves room for
    leaving = replace(by_schedule(batch, 0.0), best=few)
    passed = pruned_forward(task.language, batch.packed, leaving, (1,))
    assert few.any()
    assert passed.visible[3][few].all()


@torch.no_grad()
def test_a_question_whose_evidence_has_left_is_not_learnt_from(task: LanguageTask) -> None:
    batch = batch_of(task)
    whole = torch.ones_like(batch.items)
    rests = batch.items.any(-1)
    assert answerable(batch, whole).all()
    assert torch.equal(answerable(batch, whole & ~batch.items), ~rests)
    assert rests.any()


def test_early_layers_learn_to_leave_the_stream_alone_and_looking_ones_to_find_it(
    tmp_path: Path,
) -> None:
    task = make_task()
    batch = batch_of(task)
    settings = SETTINGS.model_copy(
        update={"steps": 30, "aside": 3.0, "look": 3.0, "lr": 3e-3, "look_lr": 1e-2}
    )

    def measured() -> tuple[float, float]:
        with torch.no_grad():
            passed = pruned_forward(task.language, batch.packed, KeepAll(), (1,))
        looked = passed.scores[1]
        return float(passed.mass[0]), float(looked[batch.items].sum() / looked.sum())

    mass, found = measured()
    train_late(task, settings, StageFiles(tmp_path, "late"))
    assert measured()[0] < 0.7 * mass
    assert measured()[1] > 1.2 * found
    assert looking_layers(task.language) == [1]


def test_a_target_out_of_reach_is_refused_before_anything_is_trained(
    task: LanguageTask, tmp_path: Path
) -> None:
    settings = SETTINGS.model_copy(update={"steps": 1, "retention": (0.05, 0.4)})
    with pytest.raises(ConfigError, match=r"retention = 5%: .* cannot be reached"):
        train_late(task, settings, StageFiles(tmp_path, "late"))
    assert not list(tmp_path.iterdir())


def test_raising_does_not_depend_on_how_much_attention_there_is() -> None:
    items = torch.tensor([[[True, False, False, False]]])
    high, low = torch.tensor([[[0.4, 0.1, 0.1, 0.1]]]), torch.tensor([[[0.1, 0.2, 0.2, 0.2]]])
    assert raised_loss(high, items) < raised_loss(low, items)
    assert raised_loss(high * 1e-3, items).item() == pytest.approx(raised_loss(high, items).item())
    assert raised_loss(high, ~items & items).item() == 0.0


@torch.no_grad()
def test_the_chunk_named_first_is_where_the_late_layers_look(task: LanguageTask) -> None:
    batch = batch_of(task)
    passed = pruned_forward(task.language, batch.packed, KeepAll(), (1,))
    for layer in passed.scores:
        passed.scores[layer] = batch.items.float() if layer else 1e3 * (~batch.items).float()
    assert first_named(SETTINGS, batch, passed).all()


def test_nothing_is_learnt_where_no_question_can_be_answered(task: LanguageTask) -> None:
    batch = batch_of(task)
    passed = pruned_forward(task.language, batch.packed, KeepAll(), (1,))
    passed.visible[2] = torch.zeros_like(passed.visible[2])
    loss, learnt, _ = losses_of(task, SETTINGS, batch, passed, side=False)
    assert torch.isfinite(loss)
    assert torch.equal(learnt, ~batch.items.any(-1))


@torch.no_grad()
def test_hidden_layers_are_as_if_the_whole_stream_had_left(task: LanguageTask) -> None:
    packed = batch_of(task).packed
    nothing = ByLot(0, (0.0,), torch.Generator())
    hidden = pruned_forward(task.language, packed, KeepAll(), (1,), hidden=(1, 2, 3))
    left = pruned_forward(task.language, packed, nothing, (1,))
    whole = pruned_forward(task.language, packed, KeepAll(), (1,))
    on = packed.asked.labels != IGNORE
    assert set(hidden.scores) == {0}
    assert torch.allclose(hidden.states[on], left.states[on], atol=1e-6)
    assert not torch.allclose(hidden.states[on], whole.states[on], atol=1e-6)


@torch.no_grad()
def test_after_hidden_layers_the_schedule_catches_up(task: LanguageTask) -> None:
    batch = batch_of(task)
    leaving = by_schedule(batch, 0.0)
    passed = pruned_forward(task.language, batch.packed, leaving, (1,), hidden=(0,))
    assert passed.visible[1].all()
    assert (passed.visible[2].sum(-1) == leaving.entering[4]).all()
