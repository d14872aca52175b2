"""Muon in fp32, batched by shape: orthogonalised momentum for weight matrices."""

from __future__ import annotations

from collections.abc import Iterable

import torch


class Muon(torch.optim.Optimizer):
    """Momentum whose update is brought near an orthogonal matrix by five Newton-Schulz steps.

    (torch.optim.Muon works in bf16, which is slow on a CPU.)
    """

    def __init__(
        self,
        params: Iterable[torch.Tensor],
        lr: float,
        weight_decay: float = 0.05,
        momentum: float = 0.95,
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every matrix that has a gradient."""
        for group in self.param_groups:
            by_shape: dict[tuple[int, ...], list[tuple[torch.Tensor, torch.Tensor, bool]]] = {}
            mu = group["momentum"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if "velocity" not in state:
                    state["velocity"] = torch.zeros_like(p)
                velocity = state["velocity"].mul_(mu).add_(p.grad, alpha=1 - mu)
                update = p.grad * (1 - mu) + velocity * mu
                tall = update.shape[0] > update.shape[1]
                update = update.t() if tall else update
                by_shape.setdefault(tuple(update.shape), []).append((p, update, tall))
            for members in by_shape.values():
                whole = _orthogonalise(torch.stack([u for _, u, _ in members]))
                for (p, _, tall), x in zip(members, whole, strict=True):
                    p.mul_(1 - group["lr"] * group["weight_decay"])
                    p.add_(x.t() if tall else x, alpha=-group["lr"] * 0.2 * max(p.shape) ** 0.5)


def _orthogonalise(x: torch.Tensor) -> torch.Tensor:
    """[n, rows, cols] with rows <= cols -> nearly orthogonal rows."""
    x = x / (x.flatten(1).norm(dim=1)[:, None, None] + 1e-7)
    for _ in range(5):
        a = x @ x.transpose(1, 2)
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * (a @ a)) @ x
    return x
