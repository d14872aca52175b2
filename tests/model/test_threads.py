"""How many threads torch gets."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from omnidrop_stream.config import ModelConfig, make_config
from omnidrop_stream.errors import ConfigError
from omnidrop_stream.model.load import load_model
from omnidrop_stream.model.threads import SMALL, settle_threads
from tests.helpers import small_model

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def two_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What torch starts with, and nothing in the environment."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def settled(threads, thinker, device=CPU) -> int:
    settle_threads(threads, thinker, device)
    return torch.get_num_threads()


def test_a_small_model_runs_on_one_thread():
    load_model(ModelConfig(device="cpu"))
    assert torch.get_num_threads() == 1


def test_a_large_one_on_as_many_as_torch_chooses():
    with torch.device("meta"):
        large = torch.nn.Linear(10_000, SMALL // 10_000)
    assert settled("auto", large) == 2


def test_the_environment_stands_above_the_default(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert settled("auto", small_model().thinker) == 2


def test_what_is_asked_for_stands_above_all(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert settled(2, small_model().thinker) == 2


def test_on_another_device_torch_chooses():
    assert settled("auto", small_model().thinker, torch.device("cuda")) == 2


@pytest.mark.parametrize("threads", [0, -1, "many", 2000])
def test_a_number_that_cannot_be_is_refused(threads):
    with pytest.raises(ConfigError, match=r"model\.threads"):
        make_config({"model": {"threads": threads}})
