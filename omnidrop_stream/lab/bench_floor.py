"""What the machine can do at best, measured in the same run: how fast memory is copied and matrices
multiplied. A figure with its floor beside it says how much is left to win.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from omnidrop_stream.lab.bench_cost import Stopwatch

COPY_BYTES = {"cpu": 64 * 2**20, "cuda": 2**30}
"""Larger than any cache that the weights could stay in."""
SIDE = {"cpu": 1024, "cuda": 8192}
ROUNDS = 5


@dataclass(frozen=True, slots=True)
class Rates:
    """The best of a few rounds, on this device in this type; on a CPU in processor time, which
    other programs disturb less.
    """

    copy_bytes_per_s: float
    """Bytes read and written together, by a copy of one large tensor."""
    matmul_flops_per_s: float
    """Operations of one product of two large square matrices, 2 n^3."""

    def read_ms(self, nbytes: int) -> float:
        """The time below which ``nbytes`` are not read once."""
        return nbytes / self.copy_bytes_per_s * 1e3

    def compute_ms(self, flops: int) -> float:
        """The time below which so many operations are not done."""
        return flops / self.matmul_flops_per_s * 1e3

    def floor_ms(self, read_bytes: int, flops: int) -> float:
        """The time below which what reads so much and computes so much is not done: the larger of
        the bytes as fast as a copy reads, which writes as many, and the operations.
        """
        return max(2 * self.read_ms(read_bytes), self.compute_ms(flops))


def measure_rates(device: torch.device, dtype: torch.dtype) -> Rates:
    """Copy and multiply on ``device``; a second or so."""
    watch = Stopwatch(device)
    source = torch.zeros(COPY_BYTES[device.type], dtype=torch.uint8, device=device)
    target = torch.ones_like(source)
    copied = _best_s(watch, lambda: target.copy_(source))
    side = SIDE[device.type]
    left = torch.randn(side, side, device=device, dtype=dtype)
    right = torch.randn(side, side, device=device, dtype=dtype)
    multiplied = _best_s(watch, lambda: left @ right)
    return Rates(2 * COPY_BYTES[device.type] / copied, 2 * side**3 / multiplied)


def _best_s(watch: Stopwatch, work: Callable[[], object]) -> float:
    work()
    costs = [watch.time(work)[1] for _ in range(ROUNDS)]
    return min(cost.cpu_ms or cost.wall_ms for cost in costs) / 1e3


def flops_of(work: Callable[[], object]) -> int:
    """Operations of the matrix products, convolutions and attention that ``work`` launches; a
    multiplication and an addition are two, causal attention of a square counts as its half.
    """
    aten = torch.ops.aten
    mapping = {
        aten._scaled_dot_product_flash_attention_for_cpu: _attention(1),
        aten._scaled_dot_product_flash_attention: _attention(1),
        aten._scaled_dot_product_efficient_attention: _attention(3),
        aten._scaled_dot_product_cudnn_attention: _attention(3),
    }
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        work()
    return int(counter.get_total_flops())


def _attention(causal_at: int) -> Callable[..., int]:
    """Counts one kernel, whose argument ``is_causal`` is so many after query, key and value."""

    def count(
        query: Any,
        key: Any,
        value: Any,
        *rest: Any,
        is_causal: bool = False,
        out_shape: Any = None,
        **_: Any,
    ) -> int:
        whole = int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]
        causal = is_causal or (len(rest) > causal_at and bool(rest[causal_at]))
        return whole // 2 if causal else whole

    return count
