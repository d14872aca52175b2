"""What every test gets: one torch thread, fixed seeds, and where the shared fixtures lie."""

from __future__ import annotations

import random
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch

hypothesis.settings.register_profile(
    "repository", deadline=None, derandomize=True, max_examples=50, database=None
)
hypothesis.settings.load_profile("repository")
torch.set_num_threads(1)

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def fixed_seeds() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_fixtures() -> Path:
    """Real clips and the real tokenizer, beside the repository; not part of it."""
    folder = REPOSITORY.parent / "shared" / "fixtures"
    if not folder.is_dir():
        pytest.skip("../shared/fixtures (real clips) is not beside this checkout")
    return folder
