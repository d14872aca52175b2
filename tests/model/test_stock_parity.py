"""With no pruning of any kind the stream computes what the stock transformers model computes."""

import pytest
import torch

from omnidrop_stream.stream import OmniStream
from omnidrop_stream.types import Answer, StreamKind
from tests.helpers import ENGINES, UNPRUNED, make_chunks, settings, small_model, stock_inputs

QUESTION = "what was shown when it rang?"
KINDS = [StreamKind.AV, StreamKind.VIDEO, StreamKind.AUDIO]
SHAPES = [(4, 2, 4), (4, 4, 3), (6, 1, 5)]


def streamed(model, chunks, kind, depth, max_tokens=1):
    config = settings(
        **UNPRUNED,
        stream={"frame_tokens": 24, "kind": kind, "prefill_depth": depth},
        decode={"max_tokens": max_tokens, "question_chars": 200},
    )
    stream = OmniStream(model, config)
    for chunk in chunks:
        stream.push(chunk)
    return stream


def first_logits(model, stream):
    """Logits that the stream's own question pass ends with."""
    seen = []
    original = model.pruned_prefill

    def watched(*args):
        fork = yield from original(*args)
        seen.append(fork.logits.clone())
        return fork

    model.pruned_prefill = watched
    try:
        answer = list(stream.ask(QUESTION))[-1]
    finally:
        del model.pruned_prefill
    assert isinstance(answer, Answer)
    return seen[0], answer


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("depth", [0, 2, "read_side"])
def test_an_unpruned_stream_has_the_stock_models_logits(kind, depth, engine):
    model = small_model(engine=engine)
    chunks = make_chunks(3, kind)
    logits, _ = first_logits(model, streamed(model, chunks, kind, depth))
    with torch.no_grad():
        stock = model.thinker(**stock_inputs(model, chunks, QUESTION, kind)).logits[0, -1]
    assert torch.allclose(logits, stock, atol=2e-5, rtol=1e-4), (logits - stock).abs().max()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("heads", "kv_heads", "layers"), SHAPES)
def test_parity_holds_for_other_head_counts_and_depths(heads, kv_heads, layers, engine):
    model = small_model(heads, kv_heads, layers, seed=heads, engine=engine)
    chunks = make_chunks(2)
    logits, _ = first_logits(model, streamed(model, chunks, StreamKind.AV, 1))
    with torch.no_grad():
        stock = model.thinker(**stock_inputs(model, chunks, QUESTION, StreamKind.AV)).logits[0, -1]
    assert torch.allclose(logits, stock, atol=2e-5, rtol=1e-4), (logits - stock).abs().max()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", KINDS)
def test_greedy_text_equals_stock_generate(kind, engine):
    model = small_model(seed=3, engine=engine)
    chunks = make_chunks(2, kind, seed=5)
    stream = streamed(model, chunks, kind, 2, max_tokens=12)
    answer = list(stream.ask(QUESTION))[-1]
    inputs = stock_inputs(model, chunks, QUESTION, kind)
    with torch.no_grad():
        out = model.thinker.generate(
            **inputs,
            max_new_tokens=12,
            do_sample=False,
            eos_token_id=list(model.spec.eos_ids),
            pad_token_id=0,
        )
    new = out[0, inputs["input_ids"].shape[1] :].tolist()
    new = [t for t in new if t not in model.spec.eos_ids]
    assert answer.answer_tokens == len(new)
    assert answer.text == model.tokenizer.decode(new, skip_special_tokens=True)
