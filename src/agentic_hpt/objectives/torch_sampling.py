"""Where the random numbers of networks that are trained together come from: data order and dropout masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from agentic_hpt.objectives.mlp import Hyperparameters

if TYPE_CHECKING:
    import torch

__all__ = ["AsAlone", "OnDevice", "Sampling"]


class Sampling(Protocol):
    """Draws for K networks at once."""

    def begin(self, hp: Sequence[Hyperparameters], masks: torch.Tensor | None) -> None:
        """Draw for these networks from now on; what dropout leaves, 0 or 1 / (1 - p), goes to `masks`.

        `masks` are (hidden layers, K, rows, width); `None` where no network has dropout.
        """

    def order(self, out: torch.Tensor) -> None:
        """Draw each network's order of the rows, (K, rows)."""

    def masks(self, counts: Sequence[int]) -> None:
        """Draw the masks of one step, in which network k sees `counts[k]` rows."""

    def keep(self, left: Sequence[int]) -> None:
        """Forget all networks but these; `begin` follows."""


class AsAlone:
    """Each network's own random numbers, drawn on the CPU one after another: just those that it would draw alone."""

    def __init__(self, generators: Sequence[torch.Generator]) -> None:
        self.generators = list(generators)
        self._hp: Sequence[Hyperparameters] = ()
        self._masks: torch.Tensor | None = None
        self._drawn: torch.Tensor | None = None
        self._scale: torch.Tensor | None = None
        self._views: dict[tuple[int, ...], list[tuple[torch.Tensor, float, torch.Generator]]] = {}

    def begin(self, hp: Sequence[Hyperparameters], masks: torch.Tensor | None) -> None:
        """See `Sampling`."""
        import torch

        self._hp, self._masks, self._views = hp, masks, {}
        if masks is not None:
            self._drawn = torch.ones(masks.shape, dtype=masks.dtype)
            self._scale = _scale(hp, masks)

    def order(self, out: torch.Tensor) -> None:
        """See `Sampling`."""
        import torch

        own = out if out.device.type == "cpu" else torch.empty(out.shape, dtype=out.dtype)
        for row, generator in zip(own, self.generators, strict=True):
            torch.randperm(len(row), generator=generator, out=row)
        if own is not out:
            out.copy_(own)

    def masks(self, counts: Sequence[int]) -> None:
        """See `Sampling`."""
        import torch

        if self._masks is None or self._drawn is None or self._scale is None:
            return
        wanted = tuple(counts)
        if wanted not in self._views:
            self._views[wanted] = self._parts(self._drawn, wanted)
        for part, keeps, generator in self._views[wanted]:
            part.bernoulli_(keeps, generator=generator)
        if self._masks.device.type == "cpu":
            torch.mul(self._drawn, self._scale, out=self._masks)
        else:
            self._masks.copy_(self._drawn).mul_(self._scale)

    def _parts(self, drawn: torch.Tensor, counts: Sequence[int]) -> list[tuple[torch.Tensor, float, torch.Generator]]:
        """Give what each network draws, in its order: a layer after the other."""
        return [
            (drawn[layer, k, :rows, : hp.hidden_dim], 1 - hp.dropout, generator)
            for k, (hp, rows, generator) in enumerate(zip(self._hp, counts, self.generators, strict=True))
            if 0 < hp.dropout < 1 and rows  # for 1 nothing is drawn: a layer alone does not either
            for layer in range(len(drawn))
        ]

    def keep(self, left: Sequence[int]) -> None:
        """See `Sampling`."""
        self.generators = [self.generators[k] for k in left]


class OnDevice:
    """The same distributions, drawn for all networks at once where they are trained, without a word of the host's.

    A CUDA graph can replay it, so on CUDA it draws from the device's own generator.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        import torch

        self._generator: torch.Generator | None = None
        if device.type == "cuda":
            torch.cuda.manual_seed(seed)
        else:
            self._generator = torch.Generator(device).manual_seed(seed)
        self._masks: torch.Tensor | None = None
        self._keeps: torch.Tensor | None = None
        self._scale: torch.Tensor | None = None

    def begin(self, hp: Sequence[Hyperparameters], masks: torch.Tensor | None) -> None:
        """See `Sampling`."""
        self._masks = masks
        if masks is not None:
            self._scale = _scale(hp, masks)
            self._keeps = _column([1 - own.dropout for own in hp], masks)

    def order(self, out: torch.Tensor) -> None:
        """See `Sampling`."""
        import torch

        keys = torch.rand(out.shape, device=out.device, generator=self._generator)
        out.copy_(keys.argsort(1))

    def masks(self, counts: Sequence[int]) -> None:
        """See `Sampling`."""
        if self._masks is not None and self._keeps is not None and self._scale is not None:
            self._masks.bernoulli_(self._keeps, generator=self._generator).mul_(self._scale)

    def keep(self, left: Sequence[int]) -> None:
        """See `Sampling`."""


def _scale(hp: Sequence[Hyperparameters], like: torch.Tensor) -> torch.Tensor:
    # Where everything is dropped nothing is left to scale.
    return _column([1 / (1 - own.dropout) if own.dropout < 1 else 0.0 for own in hp], like)


def _column(numbers: Sequence[float], like: torch.Tensor) -> torch.Tensor:
    import torch

    return torch.tensor(numbers, dtype=like.dtype, device=like.device).view(-1, 1, 1)
