"""Kernels compiled for shapes that never come back are not all kept."""

import os
import subprocess
import sys

import pytest

from omnidrop_stream.config import ModelConfig
from omnidrop_stream.model.kernels import CACHES, KEPT_KERNELS, bound_kernel_caches
from omnidrop_stream.model.load import load_model
from tests.conftest import REPOSITORY
from tests.helpers import small_model

ALLOWED_MIB = 14.0
LENGTHS = """
import sys, torch
from tests.faults.measure import allocated_mib
from tests.helpers import small_model

model = small_model(layers=1)
torch.set_num_threads(1)
with torch.inference_mode():
    convolutions = [torch.nn.Conv1d(128, 128, 3, stride=s, padding=1) for s in (1, 2)]
    def hear(length):
        x = torch.zeros(1, 128, length)
        for convolution in convolutions:
            x = torch.nn.functional.gelu(convolution(x))
    hear(400)
    before = allocated_mib()
    for length in range(30, 330):
        hear(length)
print(allocated_mib() - before)
"""


def test_a_bound_is_set_where_the_user_said_nothing():
    environment = {CACHES[0]: "7"}
    bound_kernel_caches(environment)
    assert environment == {CACHES[0]: "7", CACHES[1]: str(KEPT_KERNELS)}


@pytest.mark.parametrize(
    "load",
    [
        lambda: load_model(ModelConfig(model="embedded", device="cpu")),
        lambda: small_model(layers=1),
    ],
    ids=["checkpoint", "random"],
)
def test_every_model_that_is_made_sets_it(load, monkeypatch):
    for name in CACHES:
        monkeypatch.delenv(name, raising=False)
    load()
    assert [os.environ[name] for name in CACHES] == [str(KEPT_KERNELS)] * 2


def test_sound_of_three_hundred_lengths_leaves_little_behind():
    """Kept, it would be 26 MiB; in a process of its own, since the bound is read once."""
    environment = {key: value for key, value in os.environ.items() if key not in CACHES}
    told = subprocess.run(
        [sys.executable, "-c", LENGTHS],
        cwd=REPOSITORY,
        env={**environment, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    ).stdout
    grown_mib = float(told)
    if grown_mib != grown_mib:
        pytest.skip("not glibc: nobody tells what is in use")
    assert grown_mib < ALLOWED_MIB
