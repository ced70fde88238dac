"""The graph's state: plain data and ids only. Trials live in the ledger, metrics in the tracker."""

from __future__ import annotations

from typing import Annotated, Any, TypedDict


class WorkerReport(TypedDict):
    """What a worker says when its assignment is done."""

    round: int
    worker: str
    trials: int
    """How many trials of the assignment have ended."""
    error: str
    """Why the worker itself failed; empty when it did not."""


def latest_round(held: list[WorkerReport] | None, new: list[WorkerReport] | None) -> list[WorkerReport]:
    """Gather the reports of parallel workers, those of the round under way only, so that the state stays small.

    The round under way is that of the new reports, whatever its number: a thread may have run another study before.
    """
    merged = [*(held or []), *(new or [])]
    return [report for report in merged if report["round"] == merged[-1]["round"]]


class StudyInput(TypedDict, total=False):
    """What starts a run: the fields of a study, as in a study file. `study` and `objective` are enough for a task."""

    study: str
    objective: dict[str, Any]
    metric: str | list[str]
    direction: str | list[str]
    target: float | dict[str, float] | None
    reference: dict[str, float]
    space: dict[str, Any]
    budget: dict[str, Any]
    strategy: str
    parallel: int
    executor: str
    coordinator: dict[str, Any]
    seed: int
    trials_per_round: int
    pruner: str
    pruning: dict[str, Any]
    limits: dict[str, Any]
    fresh_seeds: int
    description: str
    job: dict[str, Any]
    mlflow: dict[str, Any]
    optuna_storage: str
    import_optuna: dict[str, Any]
    initial: list[dict[str, Any]]
    constraints: list[str]
    transfer: list[dict[str, Any]]


class StudyState(StudyInput, total=False):
    """The fields of the study, and where the loop stands."""

    uid: str
    """The study's unique id in the ledger."""
    round: int
    """The round under way, or the one just ended; 0 before the first."""
    assignments: list[dict[str, Any]]
    """The round's assignments, as plain data."""
    reports: Annotated[list[WorkerReport], latest_round]
    opening: bool
    """Whether there is a decision before the first round."""
    proposed: dict[str, Any]
    """A decision that waits for a person's word, as plain data; empty when none does."""
    finalize: bool
    """Whether the coordinator's last decision ends the search."""
    status: str
    result: dict[str, Any]
    """The final figures, once there are any."""


class TuneInput(TypedDict):
    """What one worker is sent."""

    uid: str
    assignment: dict[str, Any]
