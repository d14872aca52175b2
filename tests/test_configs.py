"""Every file under configs/ loads, and the paper's settings reach the paper's figures."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from omnidrop_stream.config import Config, load_config
from omnidrop_stream.method import mean_entering
from omnidrop_stream.plan import Plan, plan_question, resolve_depth
from tests.conftest import REPOSITORY
from tests.faults.__main__ import ENVIRONMENT

CONFIGS = Path(__file__).parent.parent / "configs"
N0, UNPRUNED = 9_734, 21_632  # 64 chunks of 338 tokens, 45 % of which enter the decoder
PAPER = [
    # file, layers, mean entering retention, tokens in the last layer, first layer that drops
    ("qwen2.5-omni-7b-r30.yaml", 28, 0.288, 497, 4),
    ("qwen2.5-omni-7b-r20.yaml", 28, 0.206, 2, 0),
    ("qwen2.5-omni-3b-r30.yaml", 36, 0.292, 583, 5),
    ("qwen2.5-omni-3b-r20.yaml", 36, 0.206, 2, 0),
]


def plan(config: Config, layers: int) -> Plan:
    return plan_question(config.pruning, N0, UNPRUNED, layers, 0, 0.45, remembers=False)


@pytest.mark.parametrize("name", [row[0] for row in PAPER])
def test_a_published_setting_loads_and_names_its_checkpoint(name: str) -> None:
    config = load_config(CONFIGS / name)
    size = "7B" if "7b" in name else "3B"
    assert config.model.model == f"Qwen/Qwen2.5-Omni-{size}"
    assert config.stream.frame_tokens == 144
    assert (config.pruning.diversity_normalise, config.pruning.diversity_guard) == ("none", False)


@pytest.mark.parametrize(("name", "layers", "mean", "last", "first"), PAPER)
def test_a_published_setting_reaches_the_papers_retention(
    name: str, layers: int, mean: float, last: int, first: int
) -> None:
    entering = plan(load_config(CONFIGS / name), layers).entering
    # The paper's figures are rounded; 3B at 30 % is 29.15 and prints as 29.2 with half rounded up.
    assert mean_entering(entering, UNPRUNED) == pytest.approx(mean, abs=5.1e-4)
    assert entering[-1] == last
    assert next(n for n in range(layers) if entering[n + 1] < N0) == first


@pytest.mark.parametrize(("name", "layers", "mean", "last", "first"), PAPER)
def test_a_published_setting_can_open_a_stream_with_its_exact_head_start(
    name: str, layers: int, mean: float, last: int, first: int
) -> None:
    config = load_config(CONFIGS / name)
    depth = resolve_depth(config.stream, config.intra, config.pruning, layers, 144)
    assert 0 < depth <= first + 1


def test_every_setting_is_in_the_list() -> None:
    published = {path.name for path in CONFIGS.glob("qwen2.5-omni-*.yaml")}
    assert published == {row[0] for row in PAPER}


@pytest.mark.parametrize("name", ["omnidrop.service", "Dockerfile"])
def test_a_deployment_sets_the_allocator_as_the_fault_suite_does(name: str) -> None:
    text = (REPOSITORY / "configs" / "deploy" / name).read_text(encoding="utf-8")
    given = dict(re.findall(r"\b((?:MALLOC|GLIBC)_\w+)=(\S+)", text))
    assert given == {k: v for k, v in ENVIRONMENT.items() if k != "OMP_NUM_THREADS"}
