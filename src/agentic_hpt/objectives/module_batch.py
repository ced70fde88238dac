"""Trials whose modules have one shape, trained together: their reports, who leaves, and their checkpoints."""

from __future__ import annotations

import math
import traceback
from collections.abc import Mapping, Sequence

from agentic_hpt.errors import ConfigError, FailureKind, Pruned, TrialFailure
from agentic_hpt.objectives.module_memory import lacks_memory
from agentic_hpt.objectives.module_stack import ModuleStack
from agentic_hpt.objectives.module_training import Member, Task, train
from agentic_hpt.objectives.module_vectorising import vectorising
from agentic_hpt.objectives.side_by_side import OneAtATime, side_by_side
from agentic_hpt.objectives.torch_checkpoint import Pace
from agentic_hpt.protocols import Batch

__all__ = ["answer", "fail", "train_alone", "train_together"]

_FRAMES = 3
_WORTH_SHRINKING = 0.75
"""A stack whose steps are recorded is made smaller when this share of it is left: recording again takes its time."""


def train_together(batch: Batch, task: Task, members: Sequence[Member], workers: int) -> None:
    """Train members of one shape. Raises `NotStackable` before any of them took a step or was told."""
    stacks = [ModuleStack(members[start::workers], task) for start in range(min(workers, len(members)))]
    for stack in stacks:
        stack.verify()
    if len(stacks) > 1 and any(stack.draws for stack in stacks):  # threads would take their numbers in any order
        stacks = [ModuleStack(members, task)]
    told = OneAtATime(batch)
    with vectorising(task.device):
        side_by_side(lambda stack: _train(told, stack, task), stacks, len(stacks))


def _train(batch: Batch, stack: ModuleStack, task: Task) -> None:
    """Train a stack until all its trials have ended."""
    running = {member.id for member in stack.members if _goes_on(batch, member)}
    most = 1.0 if task.device.type == "cpu" else _WORTH_SHRINKING
    pace = Pace()

    def save_all() -> None:
        for position, member in enumerate(stack.members):
            if member.id in running:
                stack.give_back(position).save()

    while running:
        if len(running) < len(stack.members) and len(running) <= most * len(stack.members):
            stack.keep([member.id in running for member in stack.members])
        stack.epoch()
        latest: dict[int, dict[int, dict[str, float]]] = {}
        for member in stack.members:
            if member.id in running:
                latest.setdefault(len(member.behind) - 1, {})[member.id] = member.behind[-1]
        for epoch, figures in sorted(latest.items()):
            ended = batch.report(figures, epoch)
            running -= ended
            for position, member in enumerate(stack.members):
                if member.id not in figures:
                    continue
                if member.id in ended:
                    if all(map(math.isfinite, figures[member.id].values())):
                        stack.give_back(position).save()  # it may go on later
                elif member.done:
                    batch.complete(member.id, answer(member, figures[member.id]))
                    member.forget()
                    running.discard(member.id)
        pace.keep(save_all)


def _goes_on(batch: Batch, member: Member) -> bool:
    """Report the epochs that a member has behind it, and say whether there are more to come."""
    for epoch, known in enumerate(member.behind):
        if member.id in batch.report({member.id: known}, epoch):
            return False
    if member.done:
        batch.complete(member.id, answer(member, member.behind[-1]))
        member.forget()
    return not member.done


def train_alone(batch: Batch, task: Task, member: Member) -> None:
    """Train one in a plain loop, and tell the batch of it."""

    def report(figures: dict[str, float], epoch: int) -> None:
        if member.id in batch.report({member.id: figures}, epoch):
            raise Pruned(f"trial {member.id} was stopped at step {epoch}")

    try:
        batch.complete(member.id, answer(member, train(task, member, report)))
    except Pruned:
        pass  # it is told already
    except Exception as error:
        fail(batch, member.id, error)


def answer(member: Member, figures: Mapping[str, float]) -> dict[str, float]:
    """Give a trial's metrics: its figures and the number of its weights."""
    return {**figures, "parameters": sum(p.numel() for p in member.model.parameters())}


def fail(batch: Batch, trial: int, error: Exception) -> None:
    """Say that a trial failed by an error of its own."""
    if isinstance(error, TrialFailure):
        batch.fail(trial, error.kind, error.message)
        return
    if isinstance(error, ConfigError):
        batch.fail(trial, FailureKind.INVALID_OUTPUT, str(error))
        return
    text = "".join(traceback.format_exception_only(error)) + "".join(traceback.format_tb(error.__traceback__, -_FRAMES))
    batch.fail(trial, FailureKind.OUT_OF_MEMORY if lacks_memory(error) else FailureKind.CRASH, text.rstrip())
