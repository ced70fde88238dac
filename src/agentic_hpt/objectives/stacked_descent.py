"""The steps of PyTorch's Adam, AdamW and SGD for many models at once, each with its own rate, decay and momentum."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from agentic_hpt.objectives.module_training import BETAS, EPSILON, Recipe

if TYPE_CHECKING:
    import torch

__all__ = ["Descent"]

_COLUMNS = 5
"""Rate, decay, momentum, and what corrects the two moments' bias."""


class Descent:
    """Changes `weights`, (K, numbers), in place. Members with one optimizer must lie together."""

    def __init__(
        self, recipes: Sequence[Recipe], optimizers: Sequence[torch.optim.Optimizer], weights: torch.Tensor
    ) -> None:
        import torch

        self._recipes = list(recipes)
        self._weights = weights
        self._first = torch.zeros_like(weights, requires_grad=False)
        self._second = torch.zeros_like(weights, requires_grad=False)
        for k, optimizer in enumerate(optimizers):
            self._take_over(k, optimizer)
        self._coefficients = weights.new_zeros(0)

    def _take_over(self, k: int, optimizer: torch.optim.Optimizer) -> None:
        """Go on from the moments of a training that was stopped."""
        import torch

        trained = optimizer.param_groups[0]["params"]
        for held, names in ((self._first, ("exp_avg", "momentum_buffer")), (self._second, ("exp_avg_sq",))):
            found = [next((optimizer.state[p][n] for n in names if n in optimizer.state[p]), None) for p in trained]
            if any(moment is not None for moment in found):
                rows = [torch.zeros_like(p) if m is None else m for p, m in zip(trained, found, strict=True)]
                held[k] = torch.cat([row.detach().reshape(-1) for row in rows])

    def begin_epoch(self, epochs: Sequence[int], batches: int) -> None:
        """Work out all steps of the epoch that each member is at, so that none of them waits for the host."""
        import torch

        rows = []
        for recipe, epoch in zip(self._recipes, epochs, strict=True):
            adam = recipe.optimizer != "sgd"
            rows.append(
                [
                    (
                        recipe.rate(step, batches),
                        recipe.weight_decay,
                        recipe.momentum,
                        1 - BETAS[0] ** (step + 1) if adam else 1.0,
                        math.sqrt(1 - BETAS[1] ** (step + 1)) if adam else 1.0,
                    )
                    for step in range(epoch * batches, (epoch + 1) * batches)
                ]
            )
        told = torch.tensor(rows, dtype=torch.float64).permute(1, 2, 0).unsqueeze(-1)
        self._coefficients = told.to(self._weights.device, self._weights.dtype)

    def step(self, gradient: torch.Tensor, step: int) -> None:
        """Take a step of the epoch, down each member's gradient."""
        for kind, rows in self._slices():
            rate, decay, momentum, first_bias, second_bias = self._coefficients[step, :, rows]
            weights, first, second, slope = (t[rows] for t in (self._weights, self._first, self._second, gradient))
            if kind == "adamw":
                weights.mul_(1 - rate * decay)
            else:
                slope = slope.addcmul(decay, weights)
            if kind == "sgd":
                first.mul_(momentum).add_(slope)
                weights.sub_(rate * first)
                continue
            first.lerp_(slope, 1 - BETAS[0])
            second.mul_(BETAS[1]).addcmul_(slope, slope, value=1 - BETAS[1])
            weights.sub_((rate / first_bias) * first / (second.sqrt().div_(second_bias).add_(EPSILON)))

    def _slices(self) -> list[tuple[str, slice]]:
        found, begin = [], 0
        for kind, members in groupby(self._recipes, key=lambda r: r.optimizer):
            end = begin + len(list(members))
            found.append((kind, slice(begin, end)))
            begin = end
        return found

    def keep(self, left: Sequence[int], weights: torch.Tensor) -> None:
        """Drop all members but these; `weights` are theirs."""
        self._recipes = [self._recipes[k] for k in left]
        self._weights = weights
        self._first, self._second = self._first[left], self._second[left]

    def give_back(
        self, k: int, trained: Sequence[torch.nn.Parameter], optimizer: torch.optim.Optimizer, steps: int
    ) -> None:
        """Put a member's moments into its own optimizer."""
        import torch

        sizes = [p.numel() for p in trained]
        rows = zip(trained, self._first[k].split(sizes), self._second[k].split(sizes), strict=True)  # type: ignore[no-untyped-call]
        for p, first, second in rows:
            if self._recipes[k].optimizer == "sgd":
                if self._recipes[k].momentum:
                    optimizer.state[p] = {"momentum_buffer": first.view_as(p).to(p.device, copy=True)}
            else:
                optimizer.state[p] = {
                    "step": torch.tensor(float(steps)),
                    "exp_avg": first.view_as(p).to(p.device, copy=True),
                    "exp_avg_sq": second.view_as(p).to(p.device, copy=True),
                }
