"""Token after token: the growing store, greedy text against recomputing, sampling."""

from __future__ import annotations

import pytest
import torch

from omnidrop_stream.model.fork import LayerStore
from omnidrop_stream.model.sampling import pick_token
from omnidrop_stream.stream import OmniStream
from omnidrop_stream.types import Answer, StreamKind
from tests.helpers import ENGINES, UNPRUNED, make_chunks, settings, small_model, stock_inputs

QUESTION = "what rang?"


def test_a_store_returns_everything_held_after_each_append():
    keys, values = torch.randn(2, 2, 3, 4)
    store = LayerStore(keys, values, spare=2)
    new = torch.randn(2, 2, 2, 4)
    for step in range(2):
        all_keys, all_values = store.append(new[0][:, step : step + 1], new[1][:, step : step + 1])
        assert torch.equal(all_keys, torch.cat([keys, new[0][:, : step + 1]], dim=1))
        assert torch.equal(all_values, torch.cat([values, new[1][:, : step + 1]], dim=1))


def test_a_full_store_refuses_another_position():
    store = LayerStore(torch.zeros(2, 3, 4), torch.zeros(2, 3, 4), spare=0)
    with pytest.raises(IndexError, match="full at 3 positions"):
        store.append(torch.zeros(2, 1, 4), torch.zeros(2, 1, 4))


def test_a_store_counts_what_it_allocated():
    store = LayerStore(torch.zeros(2, 3, 4), torch.zeros(2, 3, 4), spare=5)
    assert store.nbytes == 2 * 2 * 8 * 4 * 4


def test_a_store_does_not_share_memory_with_what_it_was_made_of():
    keys = torch.ones(2, 3, 4)
    store = LayerStore(keys, keys, spare=1)
    keys.zero_()
    held, _ = store.append(torch.zeros(2, 1, 4), torch.zeros(2, 1, 4))
    assert bool((held[:, :3] == 1).all())


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("depth", [0, 3])
def test_greedy_decoding_equals_recomputing_from_scratch_with_the_stock_layers(depth, engine):
    model = small_model(layers=4, seed=11, engine=engine)
    chunks = make_chunks(2)
    config = settings(**UNPRUNED, stream={"prefill_depth": depth, "frame_tokens": 24})
    stream = OmniStream(model, config)
    for chunk in chunks:
        stream.push(chunk)
    seen, original = [], model.decode_step

    def watched(fork, token):
        logits = original(fork, token)
        seen.append((token, logits.clone()))
        return logits

    model.decode_step = watched
    answer = list(stream.ask(QUESTION))[-1]
    assert isinstance(answer, Answer)
    assert len(seen) == 7
    inputs = stock_inputs(model, chunks, QUESTION, StreamKind.AV)
    for token, logits in seen:
        inputs["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([[token]])], dim=1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        with torch.no_grad():
            stock = model.thinker(**inputs).logits[0, -1]
        assert torch.allclose(logits, stock, atol=2e-5, rtol=1e-4)


def test_no_temperature_means_the_largest_logit():
    logits = torch.tensor([0.1, 3.0, 2.9])
    assert pick_token(logits, 0.0, 0.1, None) == 1


@pytest.mark.parametrize("temperature", [1e-45, 1e-38, 1e-9])
def test_a_temperature_too_small_to_divide_by_is_greedy(temperature):
    assert pick_token(torch.tensor([1.0, 30.0, 2.9]), temperature, 1.0, None) == 1


@pytest.mark.parametrize(
    ("top_p", "allowed"), [(0.05, {0}), (0.5, {0}), (0.51, {0, 1}), (0.8, {0, 1}), (1.0, {0, 1, 2})]
)
def test_top_p_draws_from_the_fewest_tokens_that_hold_the_mass(top_p, allowed):
    logits = torch.tensor([0.5, 0.3, 0.2]).log()
    generator = torch.Generator().manual_seed(0)
    drawn = {pick_token(logits, 1.0, top_p, generator) for _ in range(200)}
    assert drawn == allowed


def test_draws_follow_the_probabilities():
    logits = torch.tensor([0.5, 0.3, 0.2]).log()
    generator = torch.Generator().manual_seed(0)
    drawn = [pick_token(logits, 1.0, 1.0, generator) for _ in range(3000)]
    shares = [drawn.count(token) / 3000 for token in range(3)]
    assert shares == pytest.approx([0.5, 0.3, 0.2], abs=0.03)


def test_a_high_temperature_flattens_and_a_low_one_sharpens():
    logits = torch.tensor([0.6, 0.4]).log()
    counts = []
    for temperature in (0.2, 1.0, 5.0):
        generator = torch.Generator().manual_seed(0)
        drawn = [pick_token(logits, temperature, 1.0, generator) for _ in range(500)]
        counts.append(drawn.count(0))
    assert counts[0] > counts[1] > counts[2] > 230


def test_the_same_seed_gives_the_same_answer_and_another_seed_another():
    model = small_model(layers=4)
    chunks = make_chunks(1)
    texts = []
    for seed in (1, 1, 2):
        decode = {"temperature": 1.0, "seed": seed, "max_tokens": 24, "question_chars": 200}
        stream = OmniStream(model, settings(decode=decode, pruning={"retention": 0.5}))
        stream.push(chunks[0])
        texts.append(list(stream.ask(QUESTION))[-1].text)
    assert texts[0] == texts[1]
    assert texts[0] != texts[2]


def test_rows_fed_forward_piece_by_piece_come_out_as_together(monkeypatch):
    decoder = small_model()._decoder
    hidden, attended = torch.randn(19, 64), torch.randn(4, 19, 16)
    together = decoder.finish(1, hidden, attended)
    monkeypatch.setattr("omnidrop_stream.model.decoder.MLP_ROWS", 7)
    pieces = decoder.finish(1, hidden, attended)
    assert torch.allclose(pieces, together, atol=1e-6, rtol=1e-5)
    assert decoder.finish(1, hidden[:0], attended[:, :0]).shape == (0, 64)
