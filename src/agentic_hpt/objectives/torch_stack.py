"""Many multilayer perceptrons of one depth trained together: stacked weights, one batched matrix product a layer.

Each network of the stack keeps its own learning rate, dropout, weight decay, optimizer, schedule, batch size, seed and
data order. Widths differ: a narrower network's weights are padded with zeros, which stay zero, since every activation
here is 0 at 0. Gradients are written out by hand, and a step works on tensors alone, so a CUDA graph can replay it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

from agentic_hpt.objectives.mlp import SMOOTHING, Hyperparameters, blank, draw
from agentic_hpt.objectives.torch_descent import Descent
from agentic_hpt.objectives.torch_replay import Replay
from agentic_hpt.objectives.torch_sampling import AsAlone, OnDevice, Sampling

if TYPE_CHECKING:
    import torch

__all__ = ["Data", "Moments", "Stack"]

_JUDGED = 2**26
"""So many numbers a layer's outputs have at most while networks are judged; more rows are judged in parts."""


@dataclass(frozen=True)
class Data:
    """What networks are trained and judged on, on one device: standardised features and class numbers."""

    x: torch.Tensor
    """(rows, features)"""
    y: torch.Tensor
    x_val: torch.Tensor
    y_val: torch.Tensor
    classes: int


@dataclass(frozen=True)
class Moments:
    """One parameter of one network, shaped as its module has it, and the optimizer's two moments; all are views."""

    value: torch.Tensor
    first: torch.Tensor
    second: torch.Tensor


class Stack:
    """K networks with as many layers and the same activation each, in training.

    `numbers` are what the caller knows the networks by, in the order of `of`. `epoch` trains all by one epoch, `keep`
    drops networks; one whose loss is no number any more harms no other. `as_alone` draws for each network what it
    would draw alone; without it order and masks are drawn on the device, from the first network's seed. `replayed`: on
    CUDA, steps are recorded once, which only those can be that are drawn on the device.
    """

    def __init__(
        self,
        of: Sequence[tuple[Hyperparameters, int]],
        data: Data,
        *,
        as_alone: bool = True,
        replayed: bool = True,
    ) -> None:
        import torch

        self.numbers = list(range(len(of)))
        self.hp = [hp for hp, _ in of]
        self.epochs_done = [0] * len(of)
        """Of each network: one that was stopped before may be ahead of the others."""
        self._data = data
        self._replayed = replayed and not as_alone and data.x.device.type == "cuda"
        kept = (1 - SMOOTHING) * torch.nn.functional.one_hot(data.y, data.classes)
        self._targets = (kept + SMOOTHING / data.classes).to(data.x)
        self.generators = [torch.Generator().manual_seed(seed) for _, seed in of]
        """Each network's random numbers, as they stand behind its first weights, or its last epoch with `as_alone`."""
        self._weights, self._biases = self._drawn()
        self._moments = [[torch.zeros_like(p) for p in self._parameters] for _ in range(2)]
        self._sampling: Sampling
        if as_alone:
            self._sampling = AsAlone(self.generators)
        else:
            self._sampling = OnDevice(of[0][1], data.x.device)
        self._lay_out()

    @property
    def _sizes(self) -> list[int]:
        widest = max(hp.hidden_dim for hp in self.hp)
        return [self._data.x.shape[1], *[widest] * self.hp[0].num_layers, self._data.classes]

    @property
    def _parameters(self) -> list[torch.Tensor]:
        return [*self._weights, self._biases]

    def _drawn(self) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Draw the weights, a layer's (K, inputs, outputs), and all biases, (K, 1, outputs of all layers)."""
        import torch

        sizes, dtype, device = self._sizes, self._data.x.dtype, self._data.x.device
        weights = [torch.zeros(len(self.hp), b, a, dtype=dtype) for a, b in pairwise(sizes)]
        biases = torch.zeros(len(self.hp), 1, sum(sizes[1:]), dtype=dtype)
        parts = biases.split(sizes[1:], 2)  # type: ignore[no-untyped-call]

        def fill(k: int) -> None:
            for layer, (weight, bias) in enumerate(draw(self.hp[k], sizes[0], sizes[-1], self.generators[k])):
                weights[layer][k, : weight.shape[0], : weight.shape[1]] = weight
                parts[layer][k, 0, : len(bias)] = bias

        if device.type == "cpu":
            for k in range(len(self.hp)):
                fill(k)
        else:  # a thousand networks would keep a GPU waiting for longer than it trains
            with ThreadPoolExecutor() as pool:
                list(pool.map(fill, range(len(self.hp))))
        return [w.to(device).transpose(1, 2).contiguous() for w in weights], biases.to(device)

    def _lay_out(self) -> None:
        """Make all that a step works in, for the networks that are left."""
        import torch

        data, hp, sizes, like = self._data, self.hp, self._sizes, self._data.x
        rows, count = len(data.x), len(hp)
        self._width = min(max(own.batch_size for own in hp), rows)
        self._steps = [math.ceil(rows / own.batch_size) for own in hp]

        def room(*shape: int) -> torch.Tensor:
            return torch.empty(count, *shape, dtype=like.dtype, device=like.device)

        self._gradients = [torch.empty_like(p) for p in self._parameters]
        self._parts = [list(t.split(sizes[1:], 2)) for t in (self._biases, self._gradients[-1])]  # type: ignore[no-untyped-call]
        self._inputs = room(self._width, sizes[0])
        self._sums = [room(self._width, size) for size in sizes[1:]]
        self._outputs = [room(self._width, size) for size in sizes[1:-1]]
        self._slopes = [room(self._width, size) for size in sizes[1:-1]]
        dropout = any(own.dropout for own in hp) and len(sizes) > 2
        self._masks = like.new_ones(len(sizes) - 2, count, self._width, sizes[1]) if dropout else None
        self._sampling.begin(hp, self._masks)
        self._order = torch.empty(count, rows, dtype=torch.long, device=like.device)
        self._places, self._shares = self._windows()
        self._rows = torch.empty(count, max(self._steps) * self._width, dtype=torch.long, device=like.device)
        self._cursor = torch.zeros(1, dtype=torch.long, device=like.device)
        self._descent = Descent(hp, self._steps, like)
        self._replay = Replay() if self._replayed else None

    def _windows(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Give which places of an order each step sees, (K or 1, steps x width), and each one's weight there."""
        import torch

        rows, like = len(self._data.x), self._data.x
        sizes = [hp.batch_size for hp in self.hp]
        size = torch.tensor(sizes if len(set(sizes)) > 1 else sizes[:1], device=like.device).view(-1, 1, 1)
        within = torch.arange(self._width, device=like.device)
        place = torch.arange(max(self._steps), device=like.device).view(1, -1, 1) * size + within
        seen = (within < size) & (place < rows)
        shares = seen / seen.sum(2, keepdim=True).clamp(min=1)
        return place.clamp(max=rows - 1).flatten(1), shares.to(like.dtype).unsqueeze(3)

    def epoch(self) -> list[dict[str, float]]:
        """Train every network by one epoch; give each one's validation accuracy and loss (cross-entropy, nats)."""
        import torch

        self._sampling.order(self._order)
        torch.gather(self._order, 1, self._places.expand(len(self.hp), -1), out=self._rows)
        self._descent.begin_epoch(self.epochs_done)
        self._cursor.zero_()
        rows = len(self._data.x)
        for step in range(max(self._steps)):
            if self._replay is None:
                counts = [min(hp.batch_size, max(0, rows - step * hp.batch_size)) for hp in self.hp]
                self._step(counts)
            else:
                self._replay.step(self._step)
        self.epochs_done = [done + 1 for done in self.epochs_done]
        return self.figures()

    def _step(self, counts: Sequence[int] = ()) -> None:
        """Take the step that the cursor says, of each network that has rows left in its epoch; move the cursor on."""
        self._sampling.masks(counts)
        self._look_up()
        self._forward()
        self._backward()
        self._descent.step(self._cursor, self._parameters, self._gradients, *self._moments)
        self._cursor.add_(1)

    def _look_up(self) -> None:
        import torch

        index = self._rows.view(len(self.hp), -1, self._width).index_select(1, self._cursor).view(-1)
        self._chosen = self._targets.index_select(0, index).view(len(self.hp), self._width, -1)
        self._share = self._shares.index_select(1, self._cursor).squeeze(1)
        torch.index_select(self._data.x, 0, index, out=self._inputs.view(-1, self._inputs.shape[2]))

    def _forward(self) -> None:
        """Compute each layer's sums, and the outputs of the hidden ones."""
        import torch

        x, act = self._inputs, self.hp[0].activation
        for layer, weight in enumerate(self._weights):
            sums = torch.baddbmm(self._parts[0][layer], x, weight, out=self._sums[layer])
            if layer == len(self._weights) - 1:
                return
            x = self._outputs[layer]
            if act == "relu":
                torch.clamp_min(sums, 0.0, out=x)
            elif act == "tanh":
                torch.tanh(sums, out=sums)
                x.copy_(sums)
            elif act == "gelu":
                torch.ops.aten.gelu.out(sums, out=x)
            else:
                torch.ops.aten.silu.out(sums, out=x)
            if self._masks is not None:
                x.mul_(self._masks[layer])

    def _backward(self) -> None:
        """Write the gradients of the smoothed cross-entropy, in each network the mean over its rows."""
        import torch

        slope = torch.softmax(self._sums[-1], 2).sub_(self._chosen).mul_(self._share)
        act = self.hp[0].activation
        for layer in reversed(range(len(self._weights))):
            inputs = self._outputs[layer - 1] if layer else self._inputs
            torch.bmm(inputs.transpose(1, 2), slope, out=self._gradients[layer])
            torch.sum(slope, 1, keepdim=True, out=self._parts[1][layer])
            if not layer:
                return
            sums, below = self._sums[layer - 1], self._slopes[layer - 1]
            slope = torch.bmm(slope, self._weights[layer].transpose(1, 2), out=below)
            if self._masks is not None:
                slope.mul_(self._masks[layer - 1])
            if act == "relu":
                torch.ops.aten.threshold_backward.grad_input(slope, sums, 0, grad_input=below)
            elif act == "tanh":
                torch.ops.aten.tanh_backward.grad_input(slope, sums, grad_input=below)
            elif act == "gelu":
                torch.ops.aten.gelu_backward.grad_input(slope, sums, grad_input=below)
            else:
                torch.ops.aten.silu_backward.grad_input(slope, sums, grad_input=below)

    def figures(self) -> list[dict[str, float]]:
        """Give each network's validation accuracy and loss (cross-entropy, nats)."""
        import torch

        data, count = self._data, len(self.hp)
        part = max(1, _JUDGED // (count * max(self._sizes[1:])))
        told = torch.zeros(2, count, dtype=torch.float64, device=data.x.device)
        for x, y in zip(data.x_val.split(part), data.y_val.split(part), strict=True):  # type: ignore[no-untyped-call]
            logits = self.logits(x.expand(count, -1, -1))
            told[0] += (logits.argmax(2) == y).sum(1)
            told[1] -= torch.log_softmax(logits, 2).gather(2, y.expand(count, -1).unsqueeze(2)).sum((1, 2))
        return [{"accuracy": right, "loss": loss} for right, loss in (told / len(data.y_val)).T.tolist()]

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """Give the logits, (K, rows, classes), for features (K, rows, features), without dropout."""
        import torch

        act = {"relu": torch.relu_, "tanh": torch.tanh_}.get(self.hp[0].activation) or getattr(
            torch.nn.functional, self.hp[0].activation
        )
        for layer, weight in enumerate(self._weights):
            x = torch.baddbmm(self._parts[0][layer], x, weight)
            if layer < len(self._weights) - 1:
                x = act(x)
        return x

    def keep(self, stay: Sequence[bool]) -> None:
        """Drop the networks that don't stay, one at least does; the stack gets narrower if the widest left."""
        left = [k for k, keeps in enumerate(stay) if keeps]
        before = self._sizes
        self.numbers, self.hp = [self.numbers[k] for k in left], [self.hp[k] for k in left]
        self.epochs_done = [self.epochs_done[k] for k in left]
        self.generators = [self.generators[k] for k in left]
        self._sampling.keep(left)
        held = [self._picked(tensors, left, before) for tensors in (self._parameters, *self._moments)]
        [*self._weights, self._biases], *self._moments = held
        self._lay_out()

    def _picked(
        self, tensors: Sequence[torch.Tensor], left: Sequence[int], before: Sequence[int]
    ) -> list[torch.Tensor]:
        import torch

        sizes = self._sizes
        weights = [w[left][:, :a, :b].contiguous() for w, (a, b) in zip(tensors[:-1], pairwise(sizes), strict=True)]
        begins = accumulate(before[1:-1], initial=0)
        biases = [tensors[-1][left, :, begin : begin + size] for begin, size in zip(begins, sizes[1:], strict=True)]
        return [*weights, torch.cat(biases, 2)]

    def of(self, position: int) -> list[Moments]:
        """Give one network's parameters in their modules' order, a layer's weight (outputs, inputs) and bias each."""
        hp, sizes = self.hp[position], self._sizes
        own = [self._data.x.shape[1], *[hp.hidden_dim] * hp.num_layers, self._data.classes]
        held, begin = (self._parameters, *self._moments), 0
        found = []
        for layer, (a, b) in enumerate(pairwise(own)):
            found.append(Moments(*(tensors[layer][position, :a, :b].T for tensors in held)))
            found.append(Moments(*(tensors[-1][position, 0, begin : begin + b] for tensors in held)))
            begin += sizes[layer + 1]
        return found

    def network(self, position: int) -> torch.nn.Sequential:
        """Give one network as `mlp.build` makes it, on the CPU, with its weights; its standardisation is not set."""
        import torch

        made = blank(self.hp[position], self._data.x.shape[1], self._data.classes)
        with torch.no_grad():
            for parameter, held in zip(made.parameters(), self.of(position), strict=True):
                parameter.copy_(held.value)
        return made
