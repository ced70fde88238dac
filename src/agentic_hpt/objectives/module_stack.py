"""Many modules of one shape trained together by torch.func: stacked weights, one vectorised pass for all of them.

Each keeps its own learning rate, weight decay, momentum, optimizer, schedule, dropout rates, seed and data order. On
the CPU each also draws its own random numbers, in the order in which it would alone, so that it comes out as it does
alone; on a GPU those for data order and dropout are drawn for all at once: other numbers, the same distribution.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from agentic_hpt.objectives.module_masks import Masks, fed
from agentic_hpt.objectives.module_memory import lacks_memory
from agentic_hpt.objectives.module_training import Member, Task
from agentic_hpt.objectives.module_vectorising import Steps, vectorising
from agentic_hpt.objectives.torch_descent import Descent
from agentic_hpt.objectives.torch_seeding import seeded

if TYPE_CHECKING:
    import torch

    from agentic_hpt.objectives.module_training import Score

__all__ = ["ModuleStack", "NotStackable"]

_ROWS_AT_ONCE = 4096
"""Of the validation part, times the models."""
_CLOSE = {"cpu": 1e-3, "cuda": 2e-2}
"""How far a stack's step may be from a plain one: a GPU's convolutions round at ten bits."""


class NotStackable(Exception):
    """Says why these modules can't be trained together; each alone they can."""


class ModuleStack:
    """K members whose modules have one shape, and one batch size, in training.

    `verify` comes first; `epoch` trains all by one epoch, `keep` drops members, one at least stays.
    """

    def __init__(self, members: Sequence[Member], task: Task) -> None:
        import torch

        self.members = list(members)
        self._task = task
        self._batches = task.batches(members[0].recipe)
        self._size = min(members[0].recipe.batch_size, len(task.train.x))
        self._left = len(task.train.x) % self._size
        """The rows of an epoch's last step, where that is no whole batch."""
        self.draws = False
        """Whether the modules draw other random numbers than those of dropout layers, which they then share."""
        model = members[0].model
        named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        if len({p.dtype for p in named.values()}) != 1 or not all(p.is_floating_point() for p in named.values()):
            raise NotStackable("its weights have several types of number, or none")
        self._names, self._shapes = list(named), [p.shape for p in named.values()]
        self._weights = torch.stack([_flat(_trained(m.model)) for m in members]).to(task.device).requires_grad_()
        self._moments = [
            torch.stack([_flat(held) for held in own]).to(task.device)
            for own in zip(*map(_moments, members), strict=True)
        ]
        others = [_others(m.model) for m in members]
        self._buffers = {name: torch.stack([o[name] for o in others]).to(task.device) for name in others[0]}
        self._template = copy.deepcopy(model).to(task.device)
        named_twice = (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False))
        self._tied = len(named_twice) > len([*model.parameters(), *model.buffers()])
        self._masks = Masks(self._template, members)
        self._loops: set[str] = set()
        """The metrics that can't be vectorised."""
        self._lay_out()

    def _lay_out(self) -> None:
        """Make what a step works in, for the members that are left; its tensors stay where they are."""
        import torch

        device, count = self._task.device, len(self.members)
        self._orders = torch.empty(count, len(self._task.train.x), dtype=torch.long, device=device)
        self._cursor = torch.zeros(1, dtype=torch.long, device=device)
        self._descent = Descent([m.recipe for m in self.members], [self._batches] * count, self._weights.detach())
        self._full_steps, self._last_steps = Steps(device), Steps(device)

    def epoch(self) -> list[dict[str, float]]:
        """Train every member by one epoch, and give its figures on the validation part, in order of `members`."""
        self._draw_orders()
        self._descent.begin_epoch([len(m.behind) for m in self.members])
        self._cursor.zero_()
        self._template.train()
        for _ in range(len(self._task.train.x) // self._size):
            self._full_steps.step(self._full_step)
        if self._left:
            self._last_steps.step(self._last_step)
        figures = self._figures()
        for member, own in zip(self.members, figures, strict=True):
            member.behind.append(own)
        return figures

    def _draw_orders(self) -> None:
        """Draw each member's order of the rows."""
        import torch

        if self._orders.device.type == "cpu":
            for own, member in zip(self._orders, self.members, strict=True):
                torch.randperm(len(own), generator=member.random, out=own)
        else:
            self._orders.copy_(torch.rand(self._orders.shape, device=self._orders.device).argsort(1))

    def _full_step(self) -> None:
        """Take the step that the cursor says, on a whole batch."""
        whole = self._orders[:, : self._orders.shape[1] - self._left]
        steps = whole.unflatten(1, (-1, self._size))  # type: ignore[no-untyped-call]
        self._step(steps.index_select(1, self._cursor).squeeze(1))

    def _last_step(self) -> None:
        """Take the step on the rows that are left at an epoch's end."""
        self._step(self._orders[:, -self._left :])

    def _step(self, index: torch.Tensor) -> None:
        import torch

        x, y = self._task.train.x[index], self._task.train.y[index]
        losses, buffers = self._losses(self._views(), self._buffers, self._masks.draw(x), x, y)
        (gradient,) = torch.autograd.grad(losses.sum(), self._weights)
        with torch.no_grad():
            for name, held in self._buffers.items():
                if held.data_ptr() != buffers[name].data_ptr():
                    held.copy_(buffers[name])
            own = (self._weights, gradient.contiguous(), *self._moments)
            parts = ([tensor.detach().unsqueeze(1)] for tensor in own)
            self._descent.step(self._cursor, *parts)
            self._cursor.add_(1)

    def _views(self) -> dict[str, torch.Tensor]:
        """Give the weights by name, (K, *shape)."""
        parts = self._weights.split([shape.numel() for shape in self._shapes], dim=1)  # type: ignore[no-untyped-call]
        return {
            name: part.unflatten(1, shape) if shape else part.squeeze(1)
            for name, shape, part in zip(self._names, self._shapes, parts, strict=True)
        }

    def _losses(
        self,
        weights: dict[str, torch.Tensor],
        buffers: dict[str, torch.Tensor],
        masks: tuple[torch.Tensor, ...],
        x: torch.Tensor,
        y: torch.Tensor,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Give each member's loss on its batch, (K,), and its buffers behind it."""
        from torch.func import functional_call, vmap

        def of_one(
            weights: dict[str, torch.Tensor],
            buffers: dict[str, torch.Tensor],
            masks: tuple[torch.Tensor, ...],
            x: torch.Tensor,
            y: torch.Tensor,
        ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
            state = {**weights, **buffers}
            with fed(self._template, masks):
                outputs = functional_call(self._template, state, (x,), tie_weights=self._tied)
                loss = self._task.loss(outputs, y)
            return loss, {name: state[name] for name in buffers}

        found: tuple[torch.Tensor, dict[str, torch.Tensor]] = vmap(of_one, randomness="different")(
            weights, buffers, masks, x, y
        )
        return found

    def _figures(self) -> list[dict[str, float]]:
        """Give each member's figures on the validation part."""
        import torch

        self._template.eval()
        y = self._task.validation.y
        rows = max(self._size, _ROWS_AT_ONCE // len(self.members))
        with torch.no_grad():
            given = torch.cat([self._outputs(part) for part in self._task.validation.x.split(rows)], dim=1)  # type: ignore[no-untyped-call]
            told = [self._scores(name, score, given, y) for name, score in self._task.metrics.items()]
            columns = torch.stack(told).tolist()
        return [dict(zip(self._task.metrics, row, strict=True)) for row in zip(*columns, strict=True)]

    def _outputs(self, x: torch.Tensor) -> torch.Tensor:
        """Give each member's outputs, (K, rows, ...), for rows that all see."""
        from torch.func import functional_call, vmap

        def of_one(weights: dict[str, torch.Tensor], buffers: dict[str, torch.Tensor]) -> torch.Tensor:
            state = {**weights, **buffers}
            return functional_call(self._template, state, (x,), tie_weights=self._tied)  # type: ignore[no-any-return]

        found: torch.Tensor = vmap(of_one, randomness="different")(self._views(), self._buffers)
        return found

    def _scores(self, name: str, score: Score, outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        import torch
        from torch.func import vmap

        if name not in self._loops:
            try:
                return torch.as_tensor(vmap(score, in_dims=(0, None))(outputs, y)).double()
            except (RuntimeError, TypeError, ValueError) as error:  # it reads a number, say
                if lacks_memory(error):
                    raise
                self._loops.add(name)
        return torch.tensor([float(score(own, y)) for own in outputs], dtype=torch.float64, device=y.device)

    def verify(self) -> None:
        """See that a step comes out as in the plain loop: the first member's and the last one's, unless by chance.

        Raises `NotStackable` when it does not, and for what can't be vectorised. Nothing is changed by it.
        """
        import torch

        first = self._task.train.first(self._size)
        x, y = (part.expand(len(self.members), *part.shape) for part in (first.x, first.y))
        rows = self._task.validation.x[: self._size]
        try:
            with vectorising(self._task.device):
                self._template.train()
                masks, _ = (self._masks.draw(part, apart=True) for part in (x, x[:, : self._left or None]))
                buffers = {name: held.clone() for name, held in self._buffers.items()}
                losses, after = self._losses(self._views(), buffers, masks, x, y)
                (gradient,) = torch.autograd.grad(losses.sum(), self._weights)
                self._template.eval()
                with torch.no_grad():
                    outputs = self._outputs(rows)
        except Exception as error:  # whatever a module does that can't be vectorised
            if lacks_memory(error):
                raise
            raise NotStackable(str(error).strip().split("\n")[0]) from error
        for k in {0, len(self.members) - 1}:
            own = tuple(mask[k] for mask in masks)
            alone = [self._plain(k, own, x[k], y[k], rows, seed) for seed in (0, 1)]
            if not torch.equal(alone[0][0], alone[1][0]) or not alone[0][0].isfinite():
                self.draws = bool(alone[0][0].isfinite())
                break  # one draw is as good as the other
            together = losses[k], gradient[k], outputs[k], *(held[k] for held in after.values())
            if not all(_alike(a, b) for a, b in zip(together, alone[0], strict=True)):
                raise NotStackable("a step does not come out as in a plain loop: a state outside its buffers, perhaps")

    def _plain(
        self, k: int, masks: Sequence[torch.Tensor], x: torch.Tensor, y: torch.Tensor, rows: torch.Tensor, seed: int
    ) -> tuple[torch.Tensor, ...]:
        """Give a member's loss, gradient, outputs and buffers without vectorising."""
        import torch

        model = copy.deepcopy(self.members[k].model).to(self._task.device)
        weights = _trained(model)
        with seeded(seed):
            with torch.no_grad():
                outputs = model.eval()(rows)
            model.train()
            with fed(model, masks):
                loss = self._task.loss(model(x), y)
            gradients = torch.autograd.grad(loss, weights, allow_unused=True)
        known = [torch.zeros_like(p) if g is None else g for p, g in zip(weights, gradients, strict=True)]
        return loss.detach(), _flat(known), outputs, *_others(model).values()

    def keep(self, stay: Sequence[bool]) -> None:
        """Drop the members that don't stay; the stack becomes smaller."""
        left = [k for k, keeps in enumerate(stay) if keeps]
        self.members = [self.members[k] for k in left]
        self._weights = self._weights.detach()[left].requires_grad_()
        self._moments = [held[left] for held in self._moments]
        self._buffers = {name: held[left] for name, held in self._buffers.items()}
        self._masks.keep(self.members)
        self._lay_out()

    def give_back(self, position: int) -> Member:
        """Give a member with its model, optimizer and random numbers as they stand."""
        import torch

        member = self.members[position]
        with torch.no_grad():
            held = {name: part[position] for name, part in {**self._views(), **self._buffers}.items()}
            for name, tensor in (*member.model.named_parameters(), *member.model.named_buffers()):
                tensor.copy_(held[name])
        trained = _trained(member.model)
        rows = [held[position].split([p.numel() for p in trained]) for held in self._moments]  # type: ignore[no-untyped-call]
        for p, *own in zip(trained, *rows, strict=True):
            first, second = (moment.view_as(p).to(p.device, copy=True) for moment in own)
            if member.recipe.optimizer != "sgd":
                steps = torch.tensor(float(len(member.behind) * self._batches))
                member.optimizer.state[p] = {"step": steps, "exp_avg": first, "exp_avg_sq": second}
            elif member.recipe.momentum:
                member.optimizer.state[p] = {"momentum_buffer": first}
        return member


def _trained(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


def _moments(member: Member) -> Iterator[list[torch.Tensor]]:
    """Give a member's first and second moments, of a training that was stopped perhaps."""
    import torch

    state = member.optimizer.state
    for names in (("exp_avg", "momentum_buffer"), ("exp_avg_sq",)):
        rows = []
        for p in _trained(member.model):
            rows.append(next((state[p][n] for n in names if state[p].get(n) is not None), torch.zeros_like(p)))
        yield rows


def _others(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Give what is no trained weight: weights that are held, and buffers."""
    held = {name: p.detach() for name, p in model.named_parameters() if not p.requires_grad}
    return {**held, **dict(model.named_buffers())}


def _flat(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    import torch

    return torch.cat([t.detach().reshape(-1) for t in tensors])


def _alike(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Say whether two tensors are the same but for rounding."""
    import torch

    one, other, close = one.detach().double(), other.detach().double(), _CLOSE.get(one.device.type, 1e-3)
    size = float(torch.linalg.vector_norm(other))
    return one.shape == other.shape and float(torch.linalg.vector_norm(one - other)) <= close * size + 1e-6
