"""The recipe's batched passes equal the stock modules, and its growth keeps the function."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from omnidrop_stream.lab.train.batches import QuestionWriter, Streams, draw_streams, slots
from omnidrop_stream.lab.train.corpus import text_corpus
from omnidrop_stream.lab.train.features import patches, stream_mel
from omnidrop_stream.lab.train.grow import grow, record_of
from omnidrop_stream.lab.train.language import Block, LanguageTask, one_length
from omnidrop_stream.lab.train.library import FeatureSource, build_library, merge_keep
from omnidrop_stream.lab.train.look import LookSettings, train_looking
from omnidrop_stream.lab.train.neighbours import Neighbours, earlier_alike, previous_index
from omnidrop_stream.lab.train.packed import Watch, aside_loss, evidence_loss, naming_loss
from omnidrop_stream.lab.train.recipe import ModelShape, load_recipe, thinker_of
from omnidrop_stream.lab.train.state import StageFiles
from omnidrop_stream.lab.train.symbols import Symbols, SymbolSource
from omnidrop_stream.lab.train.towers import audio_hidden, vision_hidden
from omnidrop_stream.method import merge_clip
from omnidrop_stream.model.build import build_tokenizer
from omnidrop_stream.world import ALL_KINDS, World

SMALL = ModelShape(
    width=32, heads=2, ffn=48, layers=2, audio_width=16, audio_layers=1, vision_width=16,
    vision_layers=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return build_tokenizer(text_corpus())


@pytest.fixture(scope="module")
def thinker(tokenizer: Any) -> Any:
    return thinker_of(SMALL, SMALL.layers, tokenizer, seed=3)


@torch.no_grad()
def test_the_audio_pass_equals_the_stock_tower(thinker: Any) -> None:
    tower, mel = thinker.model.audio_tower, torch.randn(3, 200, 128)
    ours = tower.proj(audio_hidden(tower, mel)[0]).reshape(150, -1)
    stock = tower(mel.reshape(600, 128).t(), feature_lens=torch.tensor([600])).last_hidden_state
    assert torch.allclose(ours, stock, atol=1e-5)


@torch.no_grad()
def test_the_vision_pass_equals_the_stock_tower(thinker: Any) -> None:
    tower, pixels = thinker.model.visual, torch.randn(2, 64, 1176)
    ours = tower.merger.mlp[-1](vision_hidden(tower, pixels, 8)).reshape(128, -1)
    stock = tower(pixels.reshape(128, -1), grid_thw=torch.tensor([[2, 8, 8]])).pooler_output
    assert torch.allclose(ours, stock, atol=1e-5)


def test_window_merging_in_batches_equals_the_method() -> None:
    window = torch.randn(2, 4, 64, 8)
    kept = merge_keep(window)
    for row in range(2):
        for ours, theirs in zip(kept, merge_clip(list(window[row])), strict=True):
            assert torch.equal(ours[row], theirs)


@torch.no_grad()
def test_a_packed_question_equals_the_stock_forward(thinker: Any, tokenizer: Any) -> None:
    world, chunks = World(1001, "test", things=0.75, sounds=0.75), 3
    library = build_library(thinker.model, "test", [1001], 0.75, 0.75)
    source = FeatureSource(library, thinker.model, 0.5, 0.5, mix=False, pruned=False)
    writer, rng = QuestionWriter(tokenizer), np.random.default_rng(0)
    block = source.draw(rng, 1, chunks)
    asked = writer.write(block.streams, ALL_KINDS, [1.0] * len(ALL_KINDS), 2, rng)
    ours = LanguageTask(thinker, writer, source).forward(block, asked, slots(rng, 1, chunks, 0, 0))
    drawn = [world.chunk(i) for i in range(chunks)]
    mel = stream_mel(np.concatenate([c.audio for c in drawn]))
    pixels = patches(torch.from_numpy(np.stack([c.frames for c in drawn])), 14).flatten(0, 1)
    block_ids = [thinker.config.video_token_id] * 128 + [thinker.config.audio_token_id] * 50
    expected = []
    for ids, labels in zip(asked.ids[0], asked.labels[0], strict=True):
        last = int((labels >= 0).nonzero()[-1]) + 1
        row = torch.tensor(
            [writer.before + block_ids * chunks + writer.after + ids[:last].tolist()]
        )
        stock = thinker(
            input_ids=row,
            attention_mask=torch.ones_like(row),
            input_features=mel.reshape(1, -1, 128).transpose(1, 2),
            feature_attention_mask=torch.ones(1, 200 * chunks, dtype=torch.long),
            pixel_values_videos=pixels,
            video_grid_thw=torch.tensor([[2 * chunks, 8, 8]]),
            video_second_per_grid=torch.tensor([1.0]),
            use_audio_in_video=True,
        ).logits[0, -last:]
        expected.append(stock[labels[:last] >= 0])
    # The library keeps features in half precision.
    assert torch.allclose(ours, torch.cat(expected), atol=5e-3)


@torch.no_grad()
def test_growing_in_depth_keeps_the_function(thinker: Any, tokenizer: Any) -> None:
    plan = ("0", "n", "1z", "1", "n")
    taller = thinker_of(SMALL, len(plan), tokenizer, seed=4)
    old = thinker.model.language_model
    weights = grow(old.state_dict(), plan, torch.Generator().manual_seed(0))
    taller.model.language_model.load_state_dict(weights)
    embeds = torch.randn(1, 7, SMALL.width)
    before = old(inputs_embeds=embeds).last_hidden_state
    after = taller.model.language_model(inputs_embeds=embeds).last_hidden_state
    assert torch.allclose(before, after, atol=1e-6)


def test_old_layers_must_stay_in_order(thinker: Any) -> None:
    with pytest.raises(AssertionError, match="in order"):
        grow(thinker.model.language_model.state_dict(), ("1", "0"), torch.Generator())


@torch.no_grad()
def test_a_layer_that_writes_nothing_may_stand_anywhere(thinker: Any, tokenizer: Any) -> None:
    old = thinker.model.language_model
    once = grow(old.state_dict(), ("0", "1z", "1"), torch.Generator())
    again = grow(once, ("1", "0", "1", "1", "2"), torch.Generator())
    moved = thinker_of(SMALL, 5, tokenizer, seed=4).model.language_model
    moved.load_state_dict(again)
    embeds = torch.randn(1, 7, SMALL.width)
    before, after = (m(inputs_embeds=embeds).last_hidden_state for m in (old, moved))
    assert torch.allclose(before, after, atol=1e-6)


def test_a_layer_that_writes_must_not_be_repeated(thinker: Any) -> None:
    with pytest.raises(AssertionError, match="once"):
        grow(thinker.model.language_model.state_dict(), ("0", "0", "1"), torch.Generator())


def test_a_built_model_says_which_layers_write(thinker: Any) -> None:
    weights = thinker.model.language_model.state_dict()
    assert record_of(weights, False)["kind"] == "trained"
    told = record_of(grow(weights, ("0", "1z", "1"), torch.Generator()), True, ((2, 0),))
    assert told == {
        "kind": "built",
        "layers": 3,
        "writing_layers": [0, 2],
        "looking_layers": [1],
        "looking_heads": ["0 of layer 2"],
        "looking_supervised": True,
    }


def test_a_head_that_only_looks_leaves_the_other_heads_as_they_were(
    tokenizer: Any, tmp_path: Path
) -> None:
    taller = thinker_of(SMALL, 2, tokenizer, seed=5)
    writer = QuestionWriter(tokenizer)
    symbols = Symbols(SMALL.width, writer.name_ids(), torch.Generator().manual_seed(0))
    source = SymbolSource(symbols, taller.model.language_model.embed_tokens, 0.0, 0.0, 2, 2, seed=0)
    attention = taller.model.language_model.layers[1].self_attn
    before = {k: v.clone() for k, v in attention.state_dict().items()}
    settings = LookSettings(steps=2, size=200, questions=2, most_chunks=3, heads=((1, 0),))
    task = LanguageTask(taller, writer, source)
    train_looking(task, settings, StageFiles(tmp_path, "look"))
    after, size = attention.state_dict(), attention.head_dim
    assert not after["o_proj.weight"][:, :size].any()
    assert torch.equal(after["o_proj.weight"][:, size:], before["o_proj.weight"][:, size:])
    for name in ("q_proj.weight", "q_proj.bias", "k_proj.weight", "k_proj.bias"):
        assert not torch.equal(after[name][:size], before[name][:size])
        assert torch.equal(after[name][size:], before[name][size:])


def test_each_item_knows_what_came_before_it() -> None:
    present = torch.tensor([[False, True, False, True, True]])
    assert previous_index(present).tolist() == [[-1, -1, 1, 1, 3]]


def test_a_thing_knows_how_many_before_it_had_its_colour() -> None:
    colour = torch.tensor([[2, 1, 2, 2, 2, 2]])
    assert earlier_alike(colour).tolist() == [[0, 0, 1, 2, 3, 3]]


def test_the_side_tasks_ask_each_token_of_an_item_about_its_surroundings() -> None:
    # Two chunks of one video and one audio token: a thing and a word, then a thing and silence.
    streams = Streams(torch.tensor([[3, 5]]), torch.tensor([[1, 2]]), torch.tensor([[7, 21]]))
    tokens = torch.zeros(1, 4, 2, 2, dtype=torch.bool)
    tokens[0, 0, 0, 0] = tokens[0, 1, 0, 1] = tokens[0, 2, 1, 0] = True
    parts = Neighbours(8).parts(torch.randn(1, 4, 8), streams, tokens)
    labels = {name: part[1].tolist() for name, part in parts.items()}
    assert labels == {
        "colour_before": [8, 3],
        "kind_before": [10, 1],
        "count": [0, 0],
        "word_before": [21],
        "colour_shown": [3],
        "kind_shown": [1],
    }


def test_symbols_mark_the_tokens_that_show_an_item() -> None:
    embed = torch.nn.Embedding(60, 8)
    names = (list(range(8)), list(range(8, 18)), list(range(18, 39)))
    symbols = Symbols(8, names, torch.Generator().manual_seed(0))
    source = SymbolSource(symbols, embed, 0.5, 0.5, 3, 2, seed=0)
    block = source.draw(np.random.default_rng(0), 4, 6)
    video_base = (block.embeds == symbols.video_base).all(-1)
    audio_base = (block.embeds == symbols.audio_base).all(-1)
    assert torch.equal(block.tokens.any((2, 3)), ~(video_base | audio_base))
    shown = torch.stack([block.streams.colour < 8, block.streams.sound < 21], -1)
    assert torch.equal(block.tokens.any(1), shown)


def test_the_evidence_loss_is_least_where_all_attention_is_on_the_evidence() -> None:
    tokens = torch.zeros(1, 2, 2, 2, dtype=torch.bool)
    tokens[0, 0, 0, 0] = tokens[0, 1, 1, 0] = True
    asked = torch.zeros(1, 1, 2, 2, dtype=torch.bool)
    asked[0, 0, 1, 0] = True
    on, off = torch.tensor([[[0.0, 1.0]]]), torch.tensor([[[0.5, 0.5]]])
    assert evidence_loss(on, tokens, asked).item() == 0.0
    assert evidence_loss(off, tokens, asked).item() == pytest.approx(0.6931, abs=1e-3)
    assert evidence_loss(on, tokens, torch.zeros_like(asked)).item() == 0.0


def test_naming_is_lost_to_other_chunks_and_not_to_what_looks_away() -> None:
    cell = torch.tensor([0, 1, 2, 3])  # two chunks of one video and one audio token
    asked = torch.zeros(1, 1, 2, 2, dtype=torch.bool)
    asked[0, 0, 1, 0] = True
    on, away, off = (
        torch.tensor([[row]]) for row in ((0, 0, 1.0, 0), (0, 0, 0.2, 0), (0.5, 0, 0.5, 0))
    )
    assert naming_loss(on, cell, asked).item() == 0.0
    assert naming_loss(away, cell, asked).item() == 0.0
    assert naming_loss(off, cell, asked).item() == pytest.approx(0.6931, abs=1e-3)
    assert naming_loss(off, cell, torch.zeros_like(asked)).item() == 0.0
    assert aside_loss(away).item() == pytest.approx(0.2231, abs=1e-3)


@torch.no_grad()
def test_a_pass_that_ends_early_watches_the_same(thinker: Any, tokenizer: Any) -> None:
    writer, rng = QuestionWriter(tokenizer), np.random.default_rng(0)
    symbols = Symbols(SMALL.width, writer.name_ids(), torch.Generator().manual_seed(0))
    source = SymbolSource(
        symbols, thinker.model.language_model.embed_tokens, 0.0, 0.0, 2, 2, seed=0
    )
    task, block = LanguageTask(thinker, writer, source), source.draw(rng, 1, 3)
    asked = writer.write(block.streams, ALL_KINDS, [1.0] * len(ALL_KINDS), 2, rng)
    slot = slots(rng, 1, 3, 0.0, 0)
    early, whole = Watch((1,), asked.words), Watch((1,), asked.words)
    task.forward_watched(block, asked, slot, early)
    task.forward_tapped(block, asked, slot, watch=whole)
    assert torch.equal(task.scores(early, 1), task.scores(whole, 1))


def test_a_batch_asks_short_questions_or_long_ones() -> None:
    kinds = ("short_heard_when", "heard_when")
    assert one_length(kinds, [0.5, 0.7], True) == [0.5, 0.0]
    assert one_length(kinds, [0.5, 0.7], False) == [0.0, 0.7]
    assert one_length(kinds[1:], [0.7], True) == [0.7]


@torch.no_grad()
def test_chunks_that_left_reach_a_question_only_through_the_first_layer(
    thinker: Any, tokenizer: Any
) -> None:
    writer, rng = QuestionWriter(tokenizer), np.random.default_rng(0)
    symbols = Symbols(SMALL.width, writer.name_ids(), torch.Generator().manual_seed(0))
    embed = thinker.model.language_model.embed_tokens
    source = SymbolSource(symbols, embed, 0.0, 0.0, 2, 2, seed=0)
    task, block = LanguageTask(thinker, writer, source), source.draw(rng, 1, 4)
    asked = writer.write(block.streams.since(2), ALL_KINDS, [1.0] * len(ALL_KINDS), 3, rng)
    hidden, drop = task.leave(block, 2)
    other = Block(block.streams, block.embeds.clone(), block.cells, block.places, block.tokens)
    other.embeds[:, :4] += 1.0  # one of the chunks that leave
    slot = slots(rng, 1, 4, 0.0, 0)
    never = (-1, drop[1])  # as if they had left before the first layer
    ours, theirs = (
        task.forward_tapped(b, asked, slot, hidden, drop=never)[0] for b in (block, other)
    )
    assert torch.allclose(ours, theirs, atol=1e-6)
    ours, theirs = (
        task.forward_tapped(b, asked, slot, hidden, drop=drop)[0] for b in (block, other)
    )
    assert not torch.allclose(ours, theirs, atol=1e-6)


def test_every_answer_and_every_word_of_the_world_is_one_token(tokenizer: Any) -> None:
    for text in text_corpus():
        assert tokenizer.decode(tokenizer.encode(text)) == text
    for word in ("seven", " seven", "circle", " circle", "nothing", "yes", "no"):
        assert len(tokenizer.encode(word)) == 1


def test_streams_with_repeats_blanks_and_gaps_are_drawn() -> None:
    rng = np.random.default_rng(0)
    streams = draw_streams(rng, 16, 12, blank=0.7, repeat=0.5)
    assert (streams.colour == 8).any()
    assert (streams.sound == 21).any()
    gaps = slots(rng, 16, 12, 0.5, 64)
    assert (gaps.diff(dim=1) > 0).all()
    assert gaps.max() > 12


@pytest.mark.parametrize("name", ["world", "late", "longer", "regrow"])
def test_the_shipped_recipes_are_valid(repository: Path, name: str) -> None:
    recipe = load_recipe(repository / "configs" / "train" / f"{name}.yaml")
    assert recipe.stages or recipe.start
    assert len(recipe.shipped_depth) >= 10
