"""A step of PyTorch's Adam, AdamW and SGD for many networks at once, each with its own rate, decay and momentum.

One formula holds for all three, with nine coefficients a network and step:
    g += c0 p;  p *= c1;  m = c2 m + c3 g;  v = c4 v + c5 g g;  p -= c6 m / (c7 sqrt(v) + c8)
All steps of an epoch are worked out at its begin, so that a step asks nothing of the host.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Protocol

from agentic_hpt.objectives.mlp import BETAS, EPSILON, HowToTrain, Hyperparameters

if TYPE_CHECKING:
    import torch

__all__ = ["Descent", "coefficients", "fused"]

_COLUMNS = 9
_THREADS = 256
_KERNEL = """
extern "C" __global__ void descend(
    float* p, const float* gradient, float* m, float* v, const float* table, const long long* cursor,
    int numbers, int networks
) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    int k = blockIdx.y;
    if (i >= numbers) return;
    const float* c = table + cursor[0] * 9 * networks + k;
    long long at = (long long)k * numbers + i;
    float was = p[at];
    float g = gradient[at] + c[0] * was;
    float first = c[2 * networks] * m[at] + c[3 * networks] * g;
    float second = c[4 * networks] * v[at] + c[5 * networks] * g * g;
    m[at] = first;
    v[at] = second;
    p[at] = was * c[networks] - c[6 * networks] * first / (c[7 * networks] * sqrtf(second) + c[8 * networks]);
}
"""


class _Kernel(Protocol):
    def __call__(self, grid: tuple[int, int, int], block: tuple[int, int, int], args: list[object]) -> None: ...


class Descent:
    """Changes `parameters`, each (K, a, b), in place; `gradients` may be overwritten."""

    def __init__(self, hp: Sequence[HowToTrain], steps: Sequence[int], like: torch.Tensor) -> None:
        import torch

        self._hp, self._steps, self._like = list(hp), list(steps), like
        self._table = torch.zeros(max(steps), _COLUMNS, len(hp), dtype=like.dtype, device=like.device)
        self._terms = _Terms(
            coupled=any(own.weight_decay and own.optimizer != "adamw" for own in hp),
            shrinks=any(own.weight_decay and own.optimizer == "adamw" for own in hp),
            adaptive=any(own.optimizer != "sgd" for own in hp),
        )
        self._kernel = fused() if like.device.type == "cuda" and like.dtype == torch.float32 else None

    def begin_epoch(self, epochs: Sequence[int]) -> None:
        """Work out the steps of the epoch behind `epochs[k]` others."""
        self._table.copy_(coefficients(self._hp, self._steps, epochs, self._like.device))

    def step(
        self,
        cursor: torch.Tensor,
        parameters: Sequence[torch.Tensor],
        gradients: Sequence[torch.Tensor],
        first: Sequence[torch.Tensor],
        second: Sequence[torch.Tensor],
    ) -> None:
        """Take the epoch's step that `cursor`, a tensor with one number, says."""
        rows = list(zip(parameters, gradients, first, second, strict=True))
        if self._kernel is not None:
            for p, g, m, v in rows:
                numbers = p[0].numel()
                self._kernel(
                    grid=(math.ceil(numbers / _THREADS), len(p), 1),
                    block=(_THREADS, 1, 1),
                    args=[p, g, m, v, self._table, cursor, numbers, len(p)],
                )
            return
        own = self._table.index_select(0, cursor).view(_COLUMNS, -1, 1, 1).unbind(0)
        for p, g, m, v in rows:
            self._terms.descend(own, p, g, m, v)


@dataclass(frozen=True, slots=True)
class _Terms:
    """What of the formula some network needs."""

    coupled: bool = True
    """A weight decay that is part of the gradient."""
    shrinks: bool = True
    """One that is not."""
    adaptive: bool = True
    """Second moments."""

    def descend(
        self, c: Sequence[torch.Tensor], p: torch.Tensor, g: torch.Tensor, m: torch.Tensor, v: torch.Tensor
    ) -> None:
        """Take a step by plain operations, with coefficients (K, 1, 1)."""
        import torch

        if self.coupled:
            g.addcmul_(p, c[0])
        if self.shrinks:
            p.mul_(c[1])
        m.mul_(c[2]).addcmul_(g, c[3])
        if not self.adaptive:
            p.addcmul_(m, c[6], value=-1)
            return
        v.mul_(c[4]).addcmul_(g.mul_(g), c[5])
        torch.sqrt(v, out=g)
        g.mul_(c[7]).add_(c[8])
        p.addcmul_(torch.div(m, g, out=g), c[6], value=-1)


def coefficients(
    hp: Sequence[HowToTrain], steps: Sequence[int], epochs: Sequence[int], device: torch.device
) -> torch.Tensor:
    """Give the coefficients (steps, 9, K) of an epoch in which network k takes `steps[k]` steps, `epochs[k]` behind it.

    A network that has taken its steps stays as it is.
    """
    import torch

    def column(numbers: Sequence[float]) -> torch.Tensor:
        return torch.tensor(numbers, dtype=torch.float64, device=device)

    own, behind = column(steps), column(epochs)
    step = torch.arange(max(steps), dtype=torch.float64, device=device).unsqueeze(1)
    taken = behind * own + step
    gone = (taken / (column([max(1, h.epochs) for h in hp]) * own)).clamp(max=1.0)
    shares = {"cosine": (1 + torch.cos(math.pi * gone)) / 2, "linear": 1 - gone, "constant": torch.ones_like(gone)}
    rate = torch.zeros_like(gone)
    for name, share in shares.items():
        rate += share * column([h.learning_rate * (h.schedule == name) for h in hp])
    adam, shrinks = column([h.optimizer != "sgd" for h in hp]), column([h.optimizer == "adamw" for h in hp])
    decay, momentum = column([h.weight_decay for h in hp]), column([h.momentum for h in hp])
    first, second = 1 - BETAS[0] ** (taken + 1), (1 - BETAS[1] ** (taken + 1)).sqrt()
    one = torch.ones_like(gone)
    table = [
        (1 - shrinks) * decay * one,
        1 - shrinks * rate * decay,
        adam * BETAS[0] + (1 - adam) * momentum * one,
        adam * (1 - BETAS[0]) + (1 - adam) * one,
        adam * BETAS[1] * one,
        adam * (1 - BETAS[1]) * one,
        rate / (adam * first + (1 - adam)),
        adam / second,
        adam * EPSILON + (1 - adam) * one,
    ]
    still = (0.0, 1.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
    active = step < own
    return torch.stack([torch.where(active, c, s * one) for c, s in zip(table, still, strict=True)], 1)


@cache
def fused() -> _Kernel | None:
    """Compile the formula into one pass over memory; `None` where this PyTorch can't, or what it gives differs."""
    import torch

    try:
        compiled = _compiled()
        hp = [Hyperparameters(weight_decay=0.1, optimizer=kind) for kind in ("adam", "adamw", "sgd")]
        numbers = [torch.rand(3, 7, 11, device="cuda") for _ in range(4)]
        table = coefficients(hp, [2, 2, 2], [1, 0, 3], torch.device("cuda")).float()
        cursor = torch.ones(1, dtype=torch.long, device="cuda")
        mine, theirs = ([t.clone() for t in numbers] for _ in range(2))
        _Terms().descend(table[1].view(_COLUMNS, -1, 1, 1).unbind(0), *theirs)
        compiled(grid=(1, 3, 1), block=(_THREADS, 1, 1), args=[*mine, table, cursor, 77, 3])
        agree = all(torch.allclose(mine[i], theirs[i], rtol=1e-5, atol=1e-6) for i in (0, 2, 3))
    except Exception:  # a private part of PyTorch: whatever is wrong with it, there is another way
        return None
    return compiled if agree else None


def _compiled() -> _Kernel:
    """Compile the kernel. PyTorch asks where CUDA's headers are, of which it needs none: any place will do."""
    import torch
    from torch.utils import cpp_extension

    home = cpp_extension.CUDA_HOME
    cpp_extension.CUDA_HOME = home or "/usr"
    try:
        compiled: _Kernel = torch.cuda._compile_kernel(_KERNEL, "descend")
    finally:
        cpp_extension.CUDA_HOME = home
    return compiled
