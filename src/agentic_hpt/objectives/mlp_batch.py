"""Trials of the built-in job trained together: their reports, who leaves, and their checkpoints."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from agentic_hpt.errors import FailureKind
from agentic_hpt.objectives.mlp import Hyperparameters, blank, make_optimizer, make_schedule, rate, weights
from agentic_hpt.objectives.side_by_side import OneAtATime, side_by_side
from agentic_hpt.objectives.torch_checkpoint import Checkpoint, Pace, Stateful
from agentic_hpt.objectives.torch_stack import Data, Stack
from agentic_hpt.protocols import Batch, TrialHandle

if TYPE_CHECKING:
    import torch

__all__ = ["train_together"]

_AS_ALONE = ("cpu",)
"""Devices on which a network is drawn what it draws alone; on others that would keep them waiting."""
_WORTH_SHRINKING = 0.75
"""A stack that a graph replays is made smaller when this share of it is left: recording again takes its time."""


Known = tuple[TrialHandle, Hyperparameters]
Measure = Callable[["torch.nn.Sequential"], Mapping[str, float]]
"""Gives what else belongs to a trial's answer, of its network, whose standardisation is not set."""


def train_together(
    batch: Batch, stacks: Sequence[Sequence[Known]], data: Data, workers: int, measure: Measure | None = None
) -> None:
    """Train lists of networks of one depth and activation to their ends, `workers` at once; tell the batch of each."""
    import torch

    def train(known: Sequence[Known]) -> None:
        together = _Together(told, known, data)
        together.resume()
        while together.running:
            together.finish(measure)
            if together.running:
                together.shrink()
                together.epoch()

    told, precision = OneAtATime(batch), torch.get_float32_matmul_precision()
    if data.x.device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32; bench/gpu.py sees to it that the figures keep their means
    try:
        side_by_side(train, stacks, workers)
    finally:
        torch.set_float32_matmul_precision(precision)


class _Together:
    """A stack whose networks are trials."""

    def __init__(self, batch: Batch, known: Sequence[Known], data: Data) -> None:
        trials, as_alone = [trial for trial, _ in known], data.x.device.type in _AS_ALONE
        self._batch, self._trials = batch, trials
        self._stack = Stack([(hp, trial.seed) for trial, hp in known], data, as_alone=as_alone)
        self._rows, self._sizes = len(data.x), (data.x.shape[1], data.classes)
        self._shrinks_at = 1.0 if as_alone else _WORTH_SHRINKING
        self.running = set(range(len(trials)))
        """Numbers of the networks whose trials have not ended."""
        self._behind: list[list[dict[str, float]]] = [[] for _ in trials]
        self._pace = Pace()

    def _places(self) -> dict[int, int]:
        """Give where in the stack the running networks are, by number."""
        return {number: place for place, number in enumerate(self._stack.numbers) if number in self.running}

    def resume(self) -> None:
        """Take over what trials have left that were stopped or killed before, and report their curves again."""
        for number, place in self._places().items():
            folder = self._trials[number].checkpoint_dir
            if Checkpoint.lies_in(folder):
                self._behind[number] = self._load(number, place)
                self._stack.epochs_done[place] = len(self._behind[number])
        for epoch in range(max(map(len, self._behind))):
            self._report({n: self._behind[n][epoch] for n in self.running if epoch < len(self._behind[n])}, epoch)

    def epoch(self) -> None:
        """Train by one epoch and report it; those that stop leave a checkpoint, those that diverge have failed."""
        figures = self._stack.epoch()
        places = self._places()
        by_epoch: dict[int, dict[int, dict[str, float]]] = {}
        for number, place in places.items():
            found = figures[place]
            if math.isfinite(found["loss"]):
                by_epoch.setdefault(len(self._behind[number]), {})[number] = found
                self._behind[number].append(found)
            else:
                text = f"the training diverged: the loss is {found['loss']}"
                self._batch.fail(self._trials[number].id, FailureKind.NAN, text)
                self.running.discard(number)
        self._pace.keep(self._save_all)
        for epoch, told in sorted(by_epoch.items()):
            for number in self._report(told, epoch):  # it may go on later
                self._save(number, places[number])

    def _report(self, figures: Mapping[int, Mapping[str, float]], epoch: int) -> list[int]:
        """Report by number; give who was stopped."""
        if not figures:
            return []
        ended = self._batch.report({self._trials[n].id: known for n, known in sorted(figures.items())}, epoch)
        stopped = [number for number in figures if self._trials[number].id in ended]
        self.running.difference_update(stopped)
        return stopped

    def finish(self, measure: Measure | None) -> None:
        """Complete the trials that have all their epochs."""
        for number, place in self._places().items():
            if self._stack.epochs_done[place] >= self._stack.hp[place].epochs:
                trial, figures = self._trials[number], self._behind[number][-1] if self._behind[number] else {}
                found = {"parameters": weights(self._stack.hp[place], *self._sizes)}
                more = measure(self._stack.network(place)) if measure is not None else {}
                self._batch.complete(trial.id, {**figures, **found, **more})
                self.running.discard(number)
                Checkpoint(trial.checkpoint_dir, {}, ()).remove()

    def shrink(self) -> None:
        """Let go of the networks whose trials have ended, where that pays."""
        stay = [number in self.running for number in self._stack.numbers]
        if sum(stay) < len(stay) and sum(stay) <= self._shrinks_at * len(stay):
            self._stack.keep(stay)

    def _save_all(self) -> None:
        for number, place in self._places().items():
            self._save(number, place)

    def _save(self, number: int, place: int) -> None:
        """Leave what a training alone would leave; a full disk costs the trial its head start, no more."""
        import torch

        stack = self._stack
        parts = body, optimizer, schedule = self._parts(place)
        steps = self._steps(place)
        taken = len(self._behind[number]) * steps
        trained = list(body.parameters())
        for parameter, held in zip(trained, stack.of(place), strict=True):
            parameter.data.copy_(held.value)
            if stack.hp[place].optimizer == "sgd":
                optimizer.state[parameter]["momentum_buffer"] = held.first.cpu().contiguous()
            else:
                optimizer.state[parameter] = {
                    "step": torch.tensor(float(taken)),
                    "exp_avg": held.first.cpu().contiguous(),
                    "exp_avg_sq": held.second.cpu().contiguous(),
                }
        now = rate(stack.hp[place], taken, stack.hp[place].epochs * steps)
        optimizer.param_groups[0]["lr"] = now
        schedule.load_state_dict(
            {**schedule.state_dict(), "last_epoch": taken, "_step_count": taken + 1, "_last_lr": [now]}
        )
        with contextlib.suppress(OSError, RuntimeError):  # torch's word for a full disk
            self._checkpoint(number, place, parts).save(self._behind[number])

    def _load(self, number: int, place: int) -> list[dict[str, float]]:
        """Take a network's checkpoint over, whoever wrote it; give the figures of the epochs behind it."""
        parts = body, optimizer, _ = self._parts(place)
        behind = self._checkpoint(number, place, parts).load()
        if behind:
            for parameter, held in zip(body.parameters(), self._stack.of(place), strict=True):
                state = optimizer.state[parameter]
                held.value.copy_(parameter.data)
                for into, name in (
                    (held.first, "exp_avg"),
                    (held.second, "exp_avg_sq"),
                    (held.first, "momentum_buffer"),
                ):
                    if state.get(name) is not None:
                        into.copy_(state[name])
        return behind

    def _parts(self, place: int) -> tuple[torch.nn.Module, torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
        body = blank(self._stack.hp[place], *self._sizes)[1:]
        optimizer = make_optimizer(self._stack.hp[place], body)
        return body, optimizer, make_schedule(self._stack.hp[place], optimizer, self._steps(place))

    def _steps(self, place: int) -> int:
        """Give the steps of one epoch."""
        return math.ceil(self._rows / self._stack.hp[place].batch_size)

    def _checkpoint(self, number: int, place: int, parts: Sequence[Stateful]) -> Checkpoint:
        of = {**asdict(self._stack.hp[place]), "seed": self._trials[number].seed}
        return Checkpoint(self._trials[number].checkpoint_dir, of, parts, self._stack.generators[place])
