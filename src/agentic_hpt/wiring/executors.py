"""Where a study's trials run, and how many at once."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, cast

from agentic_hpt.config import StudyConfig
from agentic_hpt.errors import ConfigError
from agentic_hpt.feasible import random_configuration
from agentic_hpt.protocols import BatchObjective, EarlyStopping, Executor, Objective

if TYPE_CHECKING:
    from agentic_hpt.executors.ray import Cluster

_FEW_TRIALS, _FEW_MINUTES = 100, 5.0
"""Below these a measurement takes too much of what it may save."""
_WORTH_IT = 1.5
"""How many times as fast batches must be: they ask for more trials at once, which learn less from each other."""
_ON_GPU = 256
"""Trials that a batch usefully holds on a GPU."""


def make_executor(
    config: StudyConfig, objective: Objective, pruner: EarlyStopping, remark: Callable[[str], None] = lambda text: None
) -> Executor:
    """Build the executor; it starts nothing yet. Raises `ConfigError` for an objective that it can't run.

    `remark` is told what the objective says of how it runs trials, again and again.
    """
    if config.executor == "inline":
        from agentic_hpt.executors.inline import InlineExecutor

        return InlineExecutor(objective, config.goal.metric)
    if config.executor == "batched":
        from agentic_hpt.executors.batched import BatchedExecutor

        return BatchedExecutor(
            _batching(objective),
            config.goal.metric,
            config.slots,
            hear=pruner.hear,
            remark=remark,
            gpus=config.limits.gpus,
        )
    if config.executor == "ray":
        from agentic_hpt.executors.ray import RayExecutor

        return RayExecutor(
            sent_to_nodes(config, objective),
            config.goal.metric,
            config.slots,
            cluster=_cluster(config),
            limits=config.limits_of_trial,
            growing=config.ray.autoscaling,
        )
    from agentic_hpt.executors.processes import ProcessExecutor

    return ProcessExecutor(objective, config.goal.metric, config.slots, gpus=config.limits.gpus)


def with_slots(config: StudyConfig) -> StudyConfig:
    """Settle how many trials of a new study run at once, where a cluster or a GPU says it: rounds are planned by that.

    Raises `ConfigError` when the cluster does not answer, `MissingExtra` without Ray.
    """
    if config.executor == "batched" and config.parallel is None:
        from agentic_hpt.executors.gpus import visible_gpus

        useful = _ON_GPU if visible_gpus(os.environ) else config.slots
        return config.model_copy(update={"parallel": config.batch_slots(useful)})
    if config.executor != "ray":
        return config
    cluster = _cluster(config)
    if config.parallel is not None:
        return config
    return config.model_copy(update={"parallel": min(cluster.slots(config.limits_of_trial), 4096)})


async def choose_executor(config: StudyConfig, objective: Objective, told: Callable[[str], None]) -> StudyConfig:
    """Choose where trials run, for a study without any and with `executor: auto`, and tell why.

    Where there is nothing to choose, or too little to run for a measurement to pay, the description stays as it is.
    """
    if not _batches(objective):
        return config
    budget = config.budget
    if (
        config.measured
        or (budget.trials or _FEW_TRIALS) < _FEW_TRIALS
        or (budget.minutes or _FEW_MINUTES) < _FEW_MINUTES
    ):
        why = (
            f"{config.measured[0]} is measured of a process"
            if config.measured
            else "the budget is too small to measure"
        )
        told(f"executor: processes, by auto: {why}; executor: batched asks for batches")
        return config
    from agentic_hpt.executors.calibrating import measured_speeds

    told("executor: auto: measuring for some seconds whether batches of trials pay here")
    chosen = {where: with_slots(config.model_copy(update={"executor": where})) for where in ("processes", "batched")}
    alone, together = chosen["processes"].slots, chosen["batched"].slots
    dice = random.Random(config.seed)
    drawn = [random_configuration(config.space, dice) for _ in range(max(together, alone, 8))]
    speeds = await measured_speeds(_batching(objective), config.goal.metric, drawn, alone, config.limits_of_trial)
    if speeds.batched is None or speeds.processes is None:
        told("executor: processes, by auto: the objective reports too rarely for its speed to be measured")
        return chosen["processes"]
    ratio = speeds.batched / speeds.processes
    where = "batched" if ratio >= _WORTH_IT else "processes"
    told(
        f"executor: {where}, by auto: batches of {together} make {speeds.batched:.3g} steps a second here, {alone} "
        f"processes {speeds.processes:.3g}: {ratio:.2g}x"
    )
    return chosen[where]


def where_trials_run(config: StudyConfig) -> tuple[str, ...]:
    """Say where trials run, where that is not this process's own affair."""
    return (_cluster(config).told,) if config.executor == "ray" else ()


def sent_to_nodes(config: StudyConfig, objective: Objective) -> Objective:
    """Give the objective as nodes can build it: with `ray.working_dir` its folder is inside the copy of that one."""
    described, copied = config.objective, config.ray.working_dir
    if copied is None or described is None or described.task is not None or described.folder is None:
        return objective
    folder = "." if "://" in copied else os.path.relpath(Path(described.folder).resolve(), Path(copied).resolve())
    if folder.startswith(".."):
        raise ConfigError(
            f"ray.working_dir: {copied} does not hold the objective's folder {described.folder}",
            "name a folder that holds it: nodes get a copy of that one and nothing else",
        )
    from agentic_hpt.objectives.rebuilt import RebuiltObjective

    if described.python is not None:
        from agentic_hpt.objectives.function import load_function

        return RebuiltObjective(objective, load_function, described.python, folder, described.final)
    from agentic_hpt.objectives.command import CommandObjective

    return RebuiltObjective(
        objective, CommandObjective, described.command, folder, config.space.names, config.goal.metric
    )


def _batches(objective: Objective) -> bool:
    return callable(getattr(objective, "run_batch", None))


def _batching(objective: Objective) -> BatchObjective:
    """Give an objective as one that can evaluate many trials together. Raises `ConfigError` where it can't."""
    if not _batches(objective):
        raise ConfigError(
            f"executor: batched: the objective {objective!r} runs one trial at a time",
            "give a built-in task, or a PyTorch module by hpt.torch_batch(...); or set executor: processes",
        )
    return cast(BatchObjective, objective)


def _cluster(config: StudyConfig) -> Cluster:
    from agentic_hpt.executors.ray import Cluster

    return Cluster(config.ray.address, config.ray.env, config.ray.working_dir)
