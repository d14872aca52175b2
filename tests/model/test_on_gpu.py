"""On a CUDA device (``-m gpu``): every way to compute says what the plain one says, and that what a
processor says. Where these were written there was none; they have run with the processor in its
place.
"""

from __future__ import annotations

import pytest
import torch

from omnidrop_stream.config import make_config
from omnidrop_stream.lab.bench_feed import QUESTION, make_chunks, open_stream, push_all
from omnidrop_stream.lab.bench_ways import USUAL, WaysSettings, run
from omnidrop_stream.model.load import random_model
from omnidrop_stream.model.shapes import shape_of
from omnidrop_stream.types import Query
from tests.helpers import ENGINES

DEVICE = "cuda"
FAR = {"fp32": 1e-3, "bf16": 0.1}
"""How far logits may be from each other, by their length: rounding of a few layers."""

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]


def configured(device, dtype, engine="plain"):
    model = {"device": device, "dtype": dtype, "engine": engine}
    return make_config({"model": model, "pruning": {"retention": 0.3}})


@pytest.mark.parametrize("depth", ["exact", "read_side"])
@pytest.mark.parametrize("dtype", FAR)
def test_every_way_says_what_the_plain_one_says(dtype, depth):
    settings = WaysSettings(configured(DEVICE, dtype), "tiny", depth=depth, chunks=6, repeats=3)
    *_, report = run(settings)
    missing = {row.name: row.missing for row in report.rows if row.missing}
    assert set(missing) <= {"flash"}, missing  # its package may not be there, and takes bf16 alone
    assert {row.name for row in report.rows} == set(USUAL)
    for row in report.rows:
        if row.name != "plain" and not row.missing:
            assert row.logits_distance < FAR[dtype], row.name


def first_logits(device, engine, depth):
    """Of a question that is asked of the same stream there."""
    config = configured(device, "fp32", engine)
    model = random_model("tiny", shape_of("tiny"), config.model, 3)
    found, original = [], model.pruned_prefill

    def watched(*args):
        fork = yield from original(*args)
        found.append(fork.logits.float().cpu())
        return fork

    model.pruned_prefill = watched
    stream = open_stream(model, config, depth, 1000, lambda: 0.0)
    push_all(stream, make_chunks(8))  # it has rolled by then
    for _ in stream.ask(Query(QUESTION)):
        pass
    return found[0]


@pytest.mark.parametrize("depth", [0, "exact", "half", "read_side"])
@pytest.mark.parametrize("engine", ENGINES)
def test_it_says_what_a_processor_says(engine, depth):
    here, there = (first_logits(device, engine, depth) for device in ("cpu", DEVICE))
    assert float((there - here).norm() / here.norm()) < FAR["fp32"]
    assert torch.equal(here.topk(1).indices, there.topk(1).indices)
