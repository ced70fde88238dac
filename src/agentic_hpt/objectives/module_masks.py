"""Dropout in a stack: each model at its own rate, by masks drawn outside the vectorised pass."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from agentic_hpt.objectives.module_shapes import dropout_kinds

if TYPE_CHECKING:
    import torch

    from agentic_hpt.objectives.module_training import Member

__all__ = ["Masks", "fed"]


class Masks:
    """The masks of members whose modules have one shape, of which `template` is the one that runs.

    On the CPU a member's masks are those that its own dropout layers would draw from its own random numbers.
    """

    def __init__(self, template: torch.nn.Module, members: Sequence[Member]) -> None:
        self._template = template
        self._calls: dict[int, list[tuple[int, tuple[int, ...], torch.dtype]]] = {}
        """By the rows of a batch: layer, shape and type of each mask that a pass takes, in order."""
        self._columns: dict[torch.device, tuple[torch.Tensor, torch.Tensor]] = {}
        """The rates, (K, layers), and what is left is multiplied by."""
        self.keep(members)

    def draw(self, x: torch.Tensor, *, apart: bool = False) -> tuple[torch.Tensor, ...]:
        """Draw the masks of a pass over batches `x`, (K, rows, ...); `apart`: from other random numbers."""
        import torch

        if not any(any(rates) for rates in self._rates):
            return ()
        rows = x.shape[1]
        if rows not in self._calls:
            self._calls[rows] = self._recorded(x[0])
        if x.device.type != "cpu":
            return tuple(
                self._drawn_at_once(layer, shape, dtype, x.device) for layer, shape, dtype in self._calls[rows]
            )
        random = [torch.Generator().manual_seed(k) for k in range(len(x))] if apart else self._random
        masks = []
        for layer, shape, dtype in self._calls[rows]:
            mask = torch.ones(len(x), *shape, dtype=dtype)
            for own, rates, generator in zip(mask, self._rates, random, strict=True):
                if (rate := rates[layer]) >= 1:
                    own.zero_()
                elif rate:
                    own.bernoulli_(1 - rate, generator=generator).div_(1 - rate)
            masks.append(mask)
        return tuple(masks)

    def _drawn_at_once(
        self, layer: int, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
    ) -> torch.Tensor:
        import torch

        if device not in self._columns:
            rates = torch.tensor(self._rates, device=device)
            self._columns[device] = rates, torch.where(rates < 1, 1 / (1 - rates), 0.0)
        rate, scale = (c[:, layer].view(-1, *[1] * len(shape)) for c in self._columns[device])
        return ((torch.rand(len(rate), *shape, device=device) >= rate) * scale).to(dtype)

    def _recorded(self, x: torch.Tensor) -> list[tuple[int, tuple[int, ...], torch.dtype]]:
        """Run the template once to see which masks it takes."""
        import torch

        calls: list[tuple[int, tuple[int, ...], torch.dtype]] = []
        layers = {id(layer): number for number, layer in enumerate(_layers(self._template))}

        def note(layer: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
            calls.append((layers[id(layer)], _mask_shape(layer, x), x.dtype))
            return x

        with _replaced(self._template, note), torch.no_grad(), torch.random.fork_rng():
            self._template(x)
        return calls

    def keep(self, members: Sequence[Member]) -> None:
        """Draw for these from now on."""
        self._random = [member.random for member in members]
        self._rates = [[float(layer.p) for layer in _layers(member.model)] for member in members]  # type: ignore[arg-type]
        self._columns.clear()


@contextlib.contextmanager
def fed(model: torch.nn.Module, masks: Sequence[torch.Tensor]) -> Iterator[None]:
    """Let a model's dropout layers take these masks, in the order in which they run; without any, change nothing."""
    left = iter(masks)
    with _replaced(model if masks else None, lambda layer, x: x * next(left)):
        yield


@contextlib.contextmanager
def _replaced(
    model: torch.nn.Module | None, does: Callable[[torch.nn.Module, torch.Tensor], torch.Tensor]
) -> Iterator[None]:
    layers = [] if model is None else [layer for layer in _layers(model) if layer.training]
    for layer in layers:
        layer.forward = partial(does, layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _layers(model: torch.nn.Module) -> list[torch.nn.Module]:
    return [module for module in model.modules() if isinstance(module, dropout_kinds())]


def _mask_shape(layer: torch.nn.Module, x: torch.Tensor) -> tuple[int, ...]:
    """Give the shape of what PyTorch draws: a number an entry, or a number a channel."""
    from torch import nn

    if isinstance(layer, nn.Dropout):
        return tuple(x.shape)
    unbatched = (isinstance(layer, nn.Dropout1d) and x.dim() == 2) or (isinstance(layer, nn.Dropout3d) and x.dim() == 4)
    channels = tuple(x.shape[: 1 if unbatched else 2])
    return channels + (1,) * (x.dim() - len(channels))
